"""Training one adapter on stamped pairs, with one forward and one backward of the policy per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.models.adapter import Adapter
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import trained
from paretune.training.batches import Batches, held_out
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.losses import (
    REVERSE_KL,
    Link,
    Penalty,
    anchor_loss,
    divergence_gap,
    nll_loss,
    pair_loss,
)
from paretune.training.smoothing import Smoother, Smoothing
from paretune.training.token_tables import PairTable

TERMS = ("anchor", "smoothing")
"""Terms of the loss that are no part of a stage's identity where they are not used, so that earlier stages are found."""


@dataclass(frozen=True)
class PairLoss:
    """The loss of a stamped pair, see :func:`paretune.training.losses.pair_loss`.

    Attributes:
        beta: Strength of the KL penalty, above 0.
        link: ``sigmoid`` or ``hinge``.
        nll: Weight of imitating the response that is preferred, per mean nat of a token.
        penalty: The divergence from the reference that ``beta`` weighs.
        anchor: Weight of mDPO's anchor term, see :func:`paretune.training.losses.anchor_loss`.
        smoothing: How labels are smoothed that the policy of a step doubts; None leaves them as they are.
    """

    beta: float
    link: Link = "sigmoid"
    nll: float = 0.0
    penalty: Penalty = REVERSE_KL
    anchor: float = 0.0
    smoothing: Smoothing | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is part of a stage's identity; a term that is left out of the loss is no part of it."""
        return {name: value for name, value in asdict(self).items() if name not in TERMS} | self.terms()

    def terms(self) -> dict[str, Any]:
        """Return those of :data:`TERMS` that are used."""
        return {name: value for name, value in asdict(self).items() if name in TERMS and value}

    def beside(self, logps: Tensor, reference: Tensor, lengths: Tensor, votes: Tensor) -> Tensor | float:
        """Return what is added to the loss of pairs ``[B]``: imitation and the anchor term, each where it has weight.

        Both are of the response that is preferred: chosen as much as votes say so, and rejected as much as votes say that.

        Args:
            logps, reference: ``[B, 2]`` sums over response tokens: chosen, rejected.
            lengths: ``[B, 2]`` numbers of these tokens.
            votes: ``[B, 2]`` weights of "chosen is preferred" and of "rejected is preferred".
        """
        added: Tensor | float = 0.0
        if self.nll:
            added = added + self.nll * (votes * nll_loss(logps, lengths)).sum(1)
        if self.anchor:
            added = added + self.anchor * (votes * anchor_loss(logps, reference, self.beta)).sum(1)
        return added


def fit_pairs(
    run: TrainingRun, table: PairTable, validation: PairTable | None, loss: PairLoss
) -> tuple[Adapter, list[Record]]:
    """Train one adapter on stamped pairs; return it with one record of metrics per optimiser step.

    Args:
        run: Model, settings and checkpoint.
        table: N pairs to train on.
        validation: Pairs that choose the best parameters, stamped alike; None keeps the last parameters.
        loss: Loss of each pair; the columns of the table enter it.

    Raises:
        TrainingError: A loss or gradient is not finite (run, step and pairs are named), or reference values are missing.
    """
    for part in (table, validation):
        if part is not None:
            part.require_reference(run.name)
    learner = one_adapter(run)
    with trained(learner.steering, run.settings.checkpointing):
        history = fit(PairTask(run, learner, table, validation, loss), run)
        return learner.adapter(run.info), history


class PairTask:
    """One adapter under a constant gate on one table of pairs (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self,
        run: TrainingRun,
        learner: OneAdapter,
        table: PairTable,
        validation: PairTable | None,
        loss: PairLoss,
    ) -> None:
        self.run, self.learner, self.loss = run, learner, loss
        self.table, self.validation = table, validation
        self.share, self.gate = run.share(), learner.gate
        self.batches = Batches.of_table(run, table)
        self.smoother = Smoother(loss.smoothing, run, loss.beta) if loss.smoothing else None

    def groups(self) -> list[Group]:
        """Return the trainable parameters."""
        return self.learner.groups()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the mean loss of the next pairs in the order of the data, and their rewards."""
        (drawn,) = self.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        with self.learner.steering.at(self.gate):
            loss, reward, tokens = self.losses(self.table, rows, (step, micro))
            if not bool(loss.isfinite().all()):
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {self.table.where(rows)}; "
                    "lower train.learning_rate, or look at these rows"
                )
            yield (
                self.share.mean(loss),
                {
                    **reward_metrics(reward),
                    "tokens": tokens,
                    **({"doubted": self.smoother.doubted} if self.smoother else {}),
                    **self.batches.metrics([rows]),
                },
            )

    def losses(
        self, table: PairTable, rows: Sequence[int], at: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """Return the loss ``[B]`` and beta * log-ratio ``[B, 2]`` (DPO's reward) of ``rows``, and the tokens of the one forward.

        ``at`` is the step and the forward in it, in training, where labels may be smoothed.
        """
        logps, lengths, tokens = self.read(table, rows)
        reference = _column(table.reference, rows, logps)
        doubt = self.smoother.doubt(*at, logps, reference) if self.smoother and at is not None else None
        reward = self.loss.beta * (logps.detach() - reference)
        return self.values(table, rows, logps, lengths, doubt), reward, tokens

    def read(self, table: PairTable, rows: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Return log-probabilities and lengths ``[B, 2]`` of the responses of ``rows``, and the tokens of the one forward."""
        batch = pack(table.groups(rows), self.run.lm.device)
        logps = packed_logps(self.run.lm.model, batch)
        return logps.view(-1, 2), batch.lengths.view(-1, 2), batch.input_ids.numel()

    def values(
        self,
        table: PairTable,
        rows: Sequence[int],
        logps: Tensor,
        lengths: Tensor,
        doubt: Tensor | None = None,
    ) -> Tensor:
        """Return the loss ``[B]`` of ``rows``, as the table is stamped, from what :meth:`read` found.

        ``doubt [B]`` is the share of each label that is reversed.
        """
        reference, margin, scale, weight, reversed_weight = (
            _column(getattr(table, name), rows, logps)
            for name in ("reference", "margin", "scale", "weight", "reversed_weight")
        )
        votes = _column(table.votes, rows, logps)
        if doubt is not None:
            weight, reversed_weight = weight * (1 - doubt), reversed_weight + weight * doubt
        loss = pair_loss(
            divergence_gap(logps, reference, self.loss.penalty),
            self.loss.beta,
            margin=margin,
            scale=scale,
            weight=weight,
            reversed_weight=reversed_weight,
            link=self.loss.link,
        )
        return loss + self.loss.beside(logps, reference, lengths, votes)

    @torch.no_grad()
    def validate(self) -> Record | None:
        """Return the mean loss over the held-out pairs."""
        if self.validation is None:
            return None
        total = torch.zeros((), device=self.run.lm.device)
        for rows in self.share.team.part(held_out(self.run.settings, self.validation)):
            with self.learner.steering.at(self.gate):
                total += self.losses(self.validation, rows)[0].sum()
        return {"validation_loss": float(self.share.reduce_sums(total)) / len(self.validation)}


def _column(values: Tensor, rows: Sequence[int], like: Tensor) -> Tensor:
    """Return a table's values of ``rows`` where a forward of them ran."""
    return values[torch.tensor(rows)].to(like.device)


def reward_metrics(reward: Tensor) -> Record:
    """Return the usual metrics of rewards ``[B, 2]`` (chosen, rejected) under their usual names."""
    return {
        "rewards/chosen": float(reward[:, 0].mean()),
        "rewards/rejected": float(reward[:, 1].mean()),
        "rewards/margins": float((reward[:, 0] - reward[:, 1]).mean()),
        "rewards/accuracies": float((reward[:, 0] > reward[:, 1]).float().mean()),
    }
