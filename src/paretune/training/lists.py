"""Training one adapter on lists of responses that each objective ranks, with one forward and backward of the policy per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import preferred
from paretune.models.adapter import Adapter
from paretune.models.packing import TokenGroup, pack, packed_logps
from paretune.models.steering import trained
from paretune.training.batches import Batches, held_out
from paretune.training.lab import Lab
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.list_losses import Form, alignment_loss, best_of, plackett_luce_loss
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.token_tables import Limit


@dataclass(frozen=True, eq=False)
class ListTable:
    """N tokenised lists of responses, each ranked by some of M objectives.

    Attributes:
        objectives: M names.
        prompts: Token ids of the N prompts.
        responses: Token ids of the K_n responses of each list, two or more; they end with the end of turn unless they were cut.
        wheres: Their origins, for messages.
        better: For each list bool ``[M, K_n, K_n]``: whether an objective ranks response i above response j. Ties and responses
            that are not compared are not ranked, and a truncated response is above none.
        weights: fp32 ``[N, M]``, factors of an objective's loss of a list.
        reference: Log-probabilities ``[K_n]`` of each list under the reference, in nats; empty where the loss reads none.
    """

    objectives: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[tuple[int, ...], ...], ...]
    wheres: tuple[str, ...]
    better: tuple[Tensor, ...]
    weights: Tensor
    reference: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of ``rows``: one prompt shared by all responses of a list."""
        return [(self.prompts[row], self.responses[row]) for row in rows]

    @property
    def ranked(self) -> Tensor:
        """Which objectives rank which lists, bool ``[N, M]``."""
        return torch.stack([better.flatten(1).any(1) for better in self.better])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        columns = (*self.better, self.weights, *self.reference)
        return fingerprint(self.prompts, self.responses, *(column.numpy().tobytes() for column in columns))

    def padded(self, rows: Sequence[int], columns: Sequence[Tensor]) -> Tensor:
        """Return values of lists as one tensor ``[B, K]`` with zeros behind the end of each, K being the longest of ``rows``."""
        return torch.nn.utils.rnn.pad_sequence([columns[row] for row in rows], batch_first=True)

    def relations(self, rows: Sequence[int]) -> Tensor:
        """Return :attr:`better` of ``rows`` as one tensor ``[B, M, K, K]``, False behind the end of a list."""
        K = max(len(self.responses[row]) for row in rows)
        made = torch.zeros(len(rows), len(self.objectives), K, K, dtype=torch.bool)
        for n, row in enumerate(rows):
            own = self.better[row]
            made[n, :, : own.shape[1], : own.shape[1]] = own
        return made


def list_table(lab: Lab, dataset: ScoredDataset, reference: bool) -> ListTable:
    """Tokenise the lists of a data set; what is left out is said.

    A response that is too long is left out of its list, or cut, as ``data.too_long`` has it.

    Args:
        lab: The run.
        dataset: Rows with scores or labels.
        reference: Whether the log-probabilities of the base model are read (cached).

    Raises:
        TrainingError: No list is left.
    """
    limit, kept, alone, unranked, short = lab.limit, [], 0, 0, 0
    for number, row in enumerate(dataset.rows):
        where = row.source or f"row {number}"
        if len(set(row.responses)) < 2:
            alone += 1
            continue
        fitted, among = _fitted(
            limit, row.prompt, list(zip(row.responses, row.truncated, strict=True)), where
        )
        short += len(row.responses) - len(among)
        better = torch.from_numpy(preferred(row, dataset.objectives)[:, among][:, :, among])
        if len(among) < 2 or not better.any():
            unranked += len(among) > 1
            continue
        kept.append((fitted[0], tuple(fitted[1]), where, better, row.weight))
    if alone:
        lab.leave_out(
            f"{alone} of {len(dataset.rows)} lists hold one response (or one text alone), and were left out: nothing is ranked"
        )
    if unranked:
        lab.leave_out(
            f"{unranked} of {len(dataset.rows)} lists have responses that no objective tells apart, and were left out"
        )
    if short:
        lab.leave_out(
            f"{short} responses with their prompt are longer than {limit} and were left out of their lists"
        )
    if not kept:
        raise TrainingError(
            f"none of {len(dataset.rows)} prompts has two responses that some objective ranks and that fit {limit}: {alone} have "
            "one response; give two or more responses to a prompt with scores that differ, or comparisons"
        )
    limit.say_cut(sum(len(responses) for _, responses, *_ in kept), "responses", lab.leave_out)
    prompts, responses, wheres, relations, weights = zip(*kept, strict=True)
    column = torch.tensor(weights, dtype=torch.float32)[:, None].repeat(1, len(dataset.objectives))
    table = ListTable(dataset.objectives, prompts, responses, wheres, relations, column)
    if not reference:
        return table
    return replace(table, reference=tuple(lab.response_logps(table.groups(range(len(table))))))


def _fitted(
    limit: Limit, prompt: Any, responses: Sequence[tuple[str, bool]], where: str
) -> tuple[tuple[tuple[int, ...], list[tuple[int, ...]]], list[int]]:
    """Return prompt and responses as token ids, and which of the responses they are."""
    ids = tuple(limit.lm.encode_prompt(prompt, where))
    encoded = [tuple(limit.lm.encode_response(text, cut)) for text, cut in responses]
    among = list(range(len(encoded)))
    if limit.too_long == "drop":
        among = [k for k in among if len(ids) + len(encoded[k]) <= limit.most]
    found = limit.fit(prompt, [encoded[k] for k in among], where, ids) if among else None
    return (found, among) if found else ((ids, []), [])


@dataclass(frozen=True)
class ListLoss:
    """The loss of a list that M objectives rank.

    Attributes:
        form: ``knowpat`` or ``plackett-luce``, see :mod:`paretune.training.list_losses`.
        beta: Factor of the log-ratios in the Plackett-Luce form.
        align: Weight of the ranking loss.
        sft: Weight of imitating an objective's best response, per mean nat of a token.
        adaptive: Whether the terms of KnowPAT's form are weighed by the scores of their responses.
    """

    form: Form = "knowpat"
    beta: float = 0.1
    align: float = 1.0
    sft: float = 1.0
    adaptive: bool = True


def fit_lists(
    lab: Lab, name: str, table: ListTable, validation: ListTable, loss: ListLoss, info: dict[str, Any]
) -> Adapter:
    """Train an adapter on lists, or return the finished one of an earlier run with the same inputs.

    Args:
        lab: The run.
        name: Name of the stage and of its folder under ``adapters/``.
        table: Weighted lists.
        validation: Lists that choose the best parameters, weighted alike.
        loss: Loss of each list.
        info: Facts stored with the adapter.
    """
    inputs = ["lists", table.fingerprint, validation.fingerprint, asdict(loss)]

    def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
        learner = one_adapter(run)
        with trained(learner.steering, run.settings.checkpointing):
            history = fit(ListTask(run, learner, table, validation, loss), run)
            return learner.adapter(run.info), history

    return lab.fit_stage(name, inputs, info | {"lists": len(table), "form": loss.form}, train)


class ListTask:
    """One adapter under a constant gate on one table of lists (a :class:`paretune.training.loop.Task`).

    ``train.batch_pairs`` counts lists here.
    """

    def __init__(
        self, run: TrainingRun, learner: OneAdapter, table: ListTable, validation: ListTable, loss: ListLoss
    ) -> None:
        self.run, self.learner, self.loss = run, learner, loss
        self.table, self.validation = table, validation
        self.share, self.gate = run.share(), learner.gate
        self.batches = Batches.of_table(run, table)

    def groups(self) -> list[Group]:
        """Return the trainable parameters."""
        return self.learner.groups()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the mean weighted loss of the next lists in the order of the data, and each objective's own."""
        (drawn,) = self.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        with self.learner.steering.at(self.gate):
            losses, tokens = self.losses(self.table, rows)
            if not bool(losses.isfinite().all()):
                named = "; ".join(self.table.wheres[row] for row in rows)
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {named}; lower train.learning_rate, or look "
                    "at these lists"
                )
            weights = self.table.weights[list(rows)].to(losses.device)
            means = losses.detach().mean(0).tolist()
            record = {f"loss/{name}": mean for name, mean in zip(self.table.objectives, means, strict=True)}
            yield (
                self.share.mean((weights * losses).sum(1)),
                {
                    **record,
                    "tokens": tokens,
                    **self.batches.metrics([rows]),
                },
            )

    def losses(self, table: ListTable, rows: Sequence[int]) -> tuple[Tensor, int]:
        """Return the loss ``[B, M]`` of ``rows`` under each objective (0 where it ranks nothing), and the tokens of the forward."""
        batch = pack(table.groups(rows), self.run.lm.device)
        logps = packed_logps(self.run.lm.model, batch)
        counts = [len(table.responses[row]) for row in rows]
        sums = torch.nn.utils.rnn.pad_sequence(list(logps.split(counts)), batch_first=True)
        lengths = torch.nn.utils.rnn.pad_sequence(
            list(batch.lengths.split(counts)), batch_first=True, padding_value=1
        )
        mask = torch.arange(sums.shape[1])[None] < torch.tensor(counts)[:, None]
        better, mask = table.relations(rows).to(sums.device), mask.to(sums.device)
        means = sums / lengths
        if self.loss.form == "plackett-luce":
            scores = self.loss.beta * (sums - table.padded(rows, table.reference).to(sums.device))
            aligned = plackett_luce_loss(scores, better)
        else:
            aligned = alignment_loss(means, better, mask, self.loss.adaptive)
        ranked = better.flatten(2).any(2)
        imitated = -(best_of(better) * means[:, None]).sum(2)
        return self.loss.align * aligned + self.loss.sft * imitated * ranked, batch.input_ids.numel()

    @torch.no_grad()
    def validate(self) -> Record:
        """Return the mean weighted loss over the held-out lists."""
        total = torch.zeros((), device=self.run.lm.device)
        for rows in self.share.team.part(held_out(self.run.settings, self.validation)):
            with self.learner.steering.at(self.gate):
                losses, _ = self.losses(self.validation, rows)
            total += (self.validation.weights[list(rows)].to(losses.device) * losses).sum()
        return {"validation_loss": float(self.share.reduce_sums(total)) / len(self.validation)}


def weighed(table: ListTable, weights: np.ndarray) -> ListTable:
    """Return the table with the lists of objective j weighed by ``w_j N / n_j``.

    n_j of its N lists are ranked by j, so the mean over all lists is ``sum_j w_j`` times the mean over j's own.

    Args:
        table: N lists.
        weights: ``[M]``, those of a preference.
    """
    ranked = table.ranked
    factor = torch.from_numpy(weights).float() * len(table) / ranked.sum(0).clamp(min=1)
    return replace(table, weights=table.weights * factor * ranked)
