"""Training one adapter for every preference: a preference is drawn for each batch or row and set on the gates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.preference import simplex_grid
from paretune.models.adapter import Adapter
from paretune.models.packing import TokenGroup, pack, packed_logps
from paretune.models.singular_gates import orthogonality
from paretune.models.steering import trained
from paretune.training.apart import Apart
from paretune.training.batches import Batches, group_tokens, spans
from paretune.training.conditioning import Conditioning, draw_preferences, draw_strengths, without
from paretune.training.conflicts import conflicts
from paretune.training.learner import ConditionedAdapter, conditioned_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit, learned
from paretune.training.losses import (
    anchor_loss,
    contrast_loss,
    log_ratio_gap,
    nll_loss,
    pair_loss,
    policy_gradient_loss,
)
from paretune.training.scalarise import aggregate
from paretune.training.token_tables import PairTable, ResponseTable

VALIDATED = 4
"""Divisions of the grid of preferences at which held-out losses are measured."""
LEAST_WEIGHT = 1e-6
"""Below it MODPO's 1 / w_i is no larger; w_i times the loss is the hinge it tends to."""


@dataclass(frozen=True, eq=False)
class ObjectiveData:
    """What every objective trains on: pairs in a table of its own, or one table for all.

    Attributes:
        objectives: M names.
        tables: M tables, or one with ``labelled``.
        margins: For MODPO's loss, ``[N, M]`` for each table: rewards of chosen less those of rejected (beta times nats).
        labelled: Whether one table serves all: of pairs, which count for each objective by the sign of its label (a tie or a
            missing label is left out), or of responses with an advantage of each objective.
    """

    objectives: tuple[str, ...]
    tables: tuple[PairTable | ResponseTable, ...]
    labelled: bool = False
    margins: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        expected = 1 if self.labelled else len(self.objectives)
        if len(self.tables) != expected:
            raise TrainingError(
                f"{len(self.tables)} tables for {len(self.objectives)} objectives; expected {expected}"
            )

    @property
    def pair_tables(self) -> tuple[PairTable, ...]:
        """The tables, all of pairs."""
        assert all(isinstance(table, PairTable) for table in self.tables)
        return self.tables  # type: ignore[return-value]

    @property
    def labels(self) -> Tensor:
        """Signs ``[N, M]`` of the one labelled table; 0 where an objective has no label."""
        (table,) = self.tables
        assert isinstance(table, PairTable)
        values = torch.tensor([pair.labels for pair in table.pairs], dtype=torch.float32)
        return values.nan_to_num().sign()


def fit_conditioned(
    run: TrainingRun,
    train: ObjectiveData,
    validation: ObjectiveData | None,
    beta: float,
    conditioning: Conditioning,
) -> tuple[Adapter, list[Record]]:
    """Train one adapter for all preferences; return it folded (see :meth:`SingularGates.fold`) with its history.

    A step draws ``batch_pairs`` pairs of every objective (of separate tables), packs them all into one forward, and takes
    one backward of the aggregated loss. ``rank`` and ``alpha`` of the settings are not read.

    Raises:
        TrainingError: A loss or gradient is not finite (objective, step and pairs are named), or reference values are
            missing.
    """
    for part in (train, validation):
        for table in part.tables if part is not None else ():
            table.require_reference(run.name)
    conditioning.check_means()
    learner = conditioned_adapter(run, len(train.objectives), conditioning)
    with trained(learner.steering, run.settings.checkpointing):
        history = fit(ConditionedTask(run, learner, train, validation, beta), run)
        return learner.adapter({**run.info, **conflicts(history)}), history


class ConditionedTask:
    """One adapter whose gates follow the preference drawn for each step (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self,
        run: TrainingRun,
        learner: ConditionedAdapter,
        train: ObjectiveData,
        validation: ObjectiveData | None,
        beta: float,
    ) -> None:
        self.run, self.learner, self.beta = run, learner, beta
        self.train, self.validation = train, validation
        self.share, self.conditioning = run.share(), learner.conditioning
        orders = [run.settings.order(len(table), number) for number, table in enumerate(train.tables)]
        self.batches = Batches.of(run, orders, lambda n: self._cost(train, [order[n] for order in orders]))
        ideal = self.conditioning.ideal or 0.0
        self.ideal = torch.full((len(train.objectives),), ideal, device=run.lm.device)

    def groups(self) -> list[Group]:
        """Return the trainable parameters: U and V, and apart from them sigma and s."""
        return self.learner.groups()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor | Apart, Record]]:
        """Draw preferences, yield the aggregated loss of the next pairs of every objective, and each objective's own.

        Where the gradients of the objectives are kept apart, yield the losses; all forwards of the step have one preference.
        """
        rows = self.batches.rows(step, micro)
        count, M = len(rows[0]), len(self.train.objectives)
        one, rule = self.conditioning.per == "batch", self.conditioning.rule
        # Corners of resting objectives alone leave nothing to learn from: another draw.
        for attempt in itertools.count():
            drawn_for = (step,) if rule.apart else (step, micro)
            seed = (self.run.settings.seed, *drawn_for, *([attempt] if attempt else []))
            drawn = draw_preferences(self.conditioning, 1 if one else count, M, seed)
            weights = torch.tensor(drawn, dtype=torch.float32, device=self.run.lm.device).expand(count, M)
            wanted = self._wanted(weights, held_out)
            if bool(wanted.any()):
                break
        rows = [self.share.rows(numbers) for numbers in rows]
        strengths = self.share.rows(self._strengths(1 if one else count, seed).expand(count))
        weights, wanted = self.share.rows(weights), self.share.rows(wanted)
        with self._losses(self.train, rows, weights, wanted, strengths) as (losses, present, tokens):
            present = present & wanted
            self._require_finite(losses, step, rows)
            count = self.share.total(present.sum(0))
            means = self.share.total((losses * present).sum(0)) / count.clamp(min=1)
            if one:
                loss = self._aggregate(means, weights[0] * (count > 0))
            else:
                loss = self.share.mean(self._aggregate(losses, weights * present))
            loss = loss + self.share.mean(self._penalty())
            taking_part = tuple((weights[0] * wanted[0]).tolist())
            record: Record = {"tokens": tokens, **self.batches.metrics(rows)}
            if self.conditioning.dial:
                record["strength"] = float(strengths.mean())
            weighted = self.share.total((weights * losses.detach() * present).sum(0)) / count.clamp(min=1)
            for i, objective in enumerate(self.train.objectives):
                weight = float(weights[:, i].mean())
                record[f"loss/{objective}"] = float(means[i].detach())
                record[f"weight/{objective}"] = weight
                record[f"weighted_loss/{objective}"] = float(weighted[i])
            yield Apart(means, taking_part, self.train.objectives, rule) if rule.apart else loss, record

    def _strengths(self, count: int, seed: Sequence[int]) -> Tensor:
        """Return the strengths ``[count]`` of the rows; all 1 where no others are trained."""
        if not self.conditioning.dial:
            return torch.ones(count, device=self.run.lm.device)
        drawn = draw_strengths(self.conditioning, count, seed)
        return torch.tensor(drawn, dtype=torch.float32, device=self.run.lm.device)

    def _wanted(self, weights: Tensor, held_out: Record) -> Tensor:
        """Return which losses are to be run, ``[n, M]``, under ``weights`` ``[n, M]``.

        Under linear scalarisation an objective of weight 0 adds nothing. One whose held-out loss is down to ``stop_below``
        rests.
        """
        linear = self.conditioning.aggregation == "linear"
        wanted = weights > 0 if linear else torch.ones_like(weights).bool()
        resting = [
            learned(f"validation_loss/{o}", held_out, self.run.settings) for o in self.train.objectives
        ]
        return wanted & ~torch.tensor(resting, device=weights.device)

    @contextmanager
    def _losses(
        self,
        data: ObjectiveData,
        rows: Sequence[Sequence[int]],
        weights: Tensor,
        wanted: Tensor,
        strengths: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield the loss of every objective on every row, ``[n, M]``, which of them exist, and the tokens of the one forward.

        Row j of each objective's table is steered by ``weights[j]`` at ``strengths[j]`` (1 without).
        """
        n, M = weights.shape
        groups: list[TokenGroup] = []
        owners: list[tuple[int, int]] = []  # (row j, table) of each group
        for t, table in enumerate(data.tables):
            for j, row in enumerate(rows[t]):
                # A process whose rows are all resting runs them for nothing, as sharded weights are run by all together.
                if data.labelled or bool(wanted[j, t]) or not bool(wanted.any()):
                    owners.append((j, t))
                    groups += self._group(table, row)
        contrasted = [
            g for g, (j, t) in enumerate(owners) if self.conditioning.contrast and bool(weights[j, t] > 0)
        ]
        wrong = without(weights[[owners[g][0] for g in contrasted]], [owners[g][1] for g in contrasted])
        groups += [(groups[g][0], groups[g][1][:1]) for g in contrasted]
        seen_by = [*(j for j, _ in owners), *range(n, n + len(contrasted))]
        index = torch.tensor(seen_by, device=self.run.lm.device)
        batch = pack(groups, self.run.lm.device)
        gates = self.learner.gates(torch.cat([weights, wrong]))
        if strengths is not None and self.conditioning.dial:
            each = torch.cat([strengths, strengths[[owners[g][0] for g in contrasted]]])
            gates = {path: gate * each[:, None] for path, gate in gates.items()}
        with self.learner.steering.at(gates, index=index[batch.groups]):
            everything = packed_logps(self.run.lm.model, batch)
            logps, under_wrong = everything.split([len(everything) - len(contrasted), len(contrasted)])
            losses = torch.zeros(n, M, device=logps.device)
            present = torch.zeros(n, M, dtype=torch.bool, device=logps.device)
            for t in range(len(data.tables)):
                mine = [g for g, (_, owner) in enumerate(owners) if owner == t]
                if not mine:
                    continue
                js = [owners[g][0] for g in mine]
                values, exist = self._row_losses(
                    data,
                    t,
                    [rows[t][j] for j in js],
                    weights[js],
                    logps,
                    batch.lengths[: len(logps)],
                    mine,
                    self._beta(strengths, js),
                )
                columns = slice(None) if data.labelled else slice(t, t + 1)
                losses[js, columns], present[js, columns] = values, exist
            if contrasted:
                chosen = logps.view(len(owners), -1)[contrasted, 0]
                place = torch.tensor([owners[g] for g in contrasted]).unbind(1)
                beta = self._beta(strengths, place[0].tolist())
                tables = data.pair_tables
                weight = torch.stack(
                    [tables[t].weight[rows[t][j]] for j, t in (owners[g] for g in contrasted)]
                )
                term = contrast_loss(chosen, under_wrong, beta) * weight.to(logps.device)
                losses = losses.index_put(place, self.conditioning.contrast * term, accumulate=True)
            yield losses, present, batch.input_ids.numel()

    def _beta(self, strengths: Tensor | None, rows: Sequence[int]) -> Tensor | float:
        """Return DPO's beta, of each row where strengths are trained: a stronger steering is that of a smaller beta."""
        return (
            self.beta
            if strengths is None or not self.conditioning.dial
            else self.beta / strengths[list(rows)]
        )

    def _cost(self, data: ObjectiveData, rows: Sequence[int | None]) -> int:
        """Return the tokens of one row of each table, in a forward of them all; None where a table has no further row."""
        tables = zip(data.tables, rows, strict=True)
        groups = [group for table, row in tables if row is not None for group in self._group(table, row)]
        again = [(prompt, responses[:1]) for prompt, responses in groups if self.conditioning.contrast]
        return group_tokens([*groups, *again])

    def _group(self, table: PairTable | ResponseTable, row: int) -> list[TokenGroup]:
        if isinstance(table, ResponseTable):
            return [(table.prompts[row], [table.responses[row]])]
        if self.conditioning.loss == "sft":
            return [(table.prompts[row], [table.chosen[row]])]
        return table.groups([row])

    def _row_losses(
        self,
        data: ObjectiveData,
        t: int,
        rows: Sequence[int],
        weights: Tensor,
        logps: Tensor,
        lengths: Tensor,
        groups: Sequence[int],
        beta: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        """Return the losses ``[n, 1]`` (``[n, M]`` where labelled) of rows of table t, and which exist.

        ``weights`` ``[n, M]`` are the preferences of the rows, ``beta`` that of DPO, one for all or ``[n]``.
        """
        table = data.tables[t]
        if isinstance(table, ResponseTable):
            mine, at = list(groups), list(rows)
            values = policy_gradient_loss(
                logps[mine],
                table.reference[at].to(logps.device),
                lengths[mine],
                table.advantages[at].to(logps.device),
                self.beta,
                self.conditioning.clip,
            )
            return values, torch.ones_like(values).bool()
        if self.conditioning.loss == "sft":
            weight = table.weight[list(rows)].to(logps.device)
            values = (weight * nll_loss(logps[list(groups)], lengths[list(groups)]))[:, None]
            return values, torch.ones_like(values).bool()
        both, tokens = (values.view(-1, 2)[list(groups)] for values in (logps, lengths))
        reference = table.reference[list(rows)].to(logps.device)
        gap = log_ratio_gap(both, reference)
        weight, margin = table.weight[list(rows)].to(logps.device), table.margin[list(rows)].to(logps.device)
        if self.conditioning.loss == "modpo":
            margins = data.margins[t][list(rows)].to(logps.device)
            own = weights[:, t].clamp(min=LEAST_WEIGHT)
            others = (weights * margins).sum(1) - weights[:, t] * margins[:, t]
            values = pair_loss(gap, self.beta, margin=others + own * margin, scale=1 / own, weight=weight)
            values = self._beside(values[:, None], both, reference, tokens, self.beta, weight)
            return values, torch.ones_like(values).bool()
        if not data.labelled:
            values = pair_loss(beta * gap, 1.0, margin=margin, weight=weight)[:, None]
            return self._beside(values, both, reference, tokens, beta, weight), torch.ones_like(values).bool()
        signs = data.labels[list(rows)].to(logps.device)
        values = pair_loss((beta * gap)[:, None] * signs, 1.0, margin=margin[:, None], weight=weight[:, None])
        return self._beside(values, both, reference, tokens, beta, weight, signs < 0), signs != 0

    def _beside(
        self,
        values: Tensor,
        logps: Tensor,
        reference: Tensor,
        lengths: Tensor,
        beta: Tensor | float,
        weight: Tensor,
        second: Tensor | None = None,
    ) -> Tensor:
        """Add imitation and the anchor term of the preferred response to losses ``[n, m]``, each where it is wanted.

        ``weight [n]`` is that of the pairs; ``second [n, m]`` marks where the preferred response is the second of ``[n, 2]``.
        """
        terms: Tensor | float = 0.0  # [n, 2], of either response as the preferred one
        if self.conditioning.nll:
            terms = terms + self.conditioning.nll * nll_loss(logps, lengths)
        if self.conditioning.anchor:
            beta = beta[:, None] if isinstance(beta, Tensor) else beta
            terms = terms + self.conditioning.anchor * anchor_loss(logps, reference, beta)
        if not isinstance(terms, Tensor):
            return values
        preferred = terms[:, :1] if second is None else torch.where(second, terms[:, 1:], terms[:, :1])
        return values + weight[:, None] * preferred

    def _aggregate(self, losses: Tensor, weights: Tensor) -> Tensor:
        c = self.conditioning
        worst = None if c.worst is None else torch.full_like(self.ideal, c.worst)
        return aggregate(losses, weights, c.aggregation, self.ideal, c.shape, worst)

    def _penalty(self) -> Tensor:
        if not self.conditioning.orthogonality:
            return torch.zeros((), device=self.run.lm.device)
        factors = {path: (layer.U, layer.V) for path, layer in self.learner.steering.layers.items()}
        return self.conditioning.orthogonality * orthogonality(factors)

    def _require_finite(self, losses: Tensor, step: int, rows: Sequence[Sequence[int]]) -> None:
        bad = (~losses.isfinite()).any(0).nonzero()[:, 0].tolist()
        if bad:
            t = 0 if self.train.labelled else bad[0]
            raise TrainingError(
                f"{self.run.name}: the loss of {self.train.objectives[bad[0]]!r} is not finite at step {step + 1}, on "
                f"{self.train.tables[t].where(rows[t])}; lower train.learning_rate, or look at these rows"
            )

    @torch.no_grad()
    def validate(self) -> Record | None:
        """Return held-out losses at fixed preferences, one per row from a shuffled grid of 5 points per side.

        ``validation_loss`` is on the scale of the training loss and under the same aggregation: for linear scalarisation the
        sum over objectives of the mean of w_i L_i, else the mean over preferences of the aggregated mean losses.
        ``validation_loss/NAME`` is the mean of L_i weighted by w_i. An objective that has no weight on any row has none.
        """
        if self.validation is None:
            return None
        objectives = self.validation.objectives
        grid = torch.tensor(simplex_grid(len(objectives), VALIDATED), dtype=torch.float32)
        grid = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))].to(
            self.run.lm.device
        )
        sums, weight, count = torch.zeros(3, len(objectives), device=self.run.lm.device)
        by_preference = torch.zeros(2, len(grid), len(objectives), device=self.run.lm.device)
        settings, tables = self.run.settings, self.validation.tables

        def cost(n: int) -> int:
            return self._cost(self.validation, [n if n < len(table) else None for table in tables])  # type: ignore[arg-type]

        most = max(map(len, tables))
        for part in self.share.team.part(spans(most, settings.batch_pairs, settings.batch_tokens, cost)):
            rows = [range(part.start, min(part.stop, len(table))) for table in tables]
            index = torch.arange(part.start, part.stop, device=grid.device) % len(grid)
            weights = grid[index]
            everywhere = torch.ones_like(weights).bool()
            with self._losses(self.validation, rows, weights, everywhere) as (losses, present, _):
                sums += (weights * losses * present).sum(0)
                weight += (weights * present).sum(0)
                count += present.sum(0)
                by_preference.index_add_(1, index, torch.stack([losses * present, present.float()]))
        sums, weight, count = self.share.reduce_sums(torch.stack([sums, weight, count]))
        if self.conditioning.aggregation == "linear":
            record = {"validation_loss": float((sums / count.clamp(min=1)).sum())}
        else:
            totals, counts = self.share.reduce_sums(by_preference)
            seen = (counts > 0).any(1)
            means = (totals / counts.clamp(min=1))[seen]
            record = {"validation_loss": float(self._aggregate(means, (grid * (counts > 0))[seen]).mean())}
        for i, objective in enumerate(objectives):
            if weight[i] > 0:
                record[f"validation_loss/{objective}"] = float(sums[i] / weight[i])
        return record
