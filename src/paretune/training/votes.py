"""Training one adapter on pairs that several objectives label, with the gradient of each objective's loss kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.preference import Preference
from paretune.models.adapter import Adapter
from paretune.models.steering import trained
from paretune.training.apart import Apart
from paretune.training.conflicts import conflicts
from paretune.training.gradients import GradientRule
from paretune.training.lab import Lab
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.preference_pairs import PairLoss, PairTask, reward_metrics
from paretune.training.token_tables import PairTable


@dataclass(frozen=True, eq=False)
class Votes:
    """Pairs that several objectives label.

    Attributes:
        together: The pairs, stamped with the weighted sum of what all objectives say; validation is on this loss.
        alone: The same pairs for each objective, stamped with what it says alone.
        preference: The weights of the sum.
    """

    together: PairTable
    alone: tuple[PairTable, ...]
    preference: Preference


def fit_votes(
    lab: Lab,
    name: str,
    votes: Votes,
    validation: PairTable,
    loss: PairLoss,
    rule: GradientRule,
    info: Mapping[str, Any],
) -> Adapter:
    """Train an adapter whose steps combine the gradients of the objectives, or return the finished one of an earlier run.

    Args:
        lab: The run.
        name: Name of the stage and of its folder under ``adapters/``.
        votes: What is trained on.
        validation: Pairs that choose the best parameters, stamped like ``votes.together``.
        loss: Loss of each pair; the columns of the tables enter it.
        rule: How the gradients become one.
        info: Facts stored with the adapter.
    """
    facts = {**info, "beta": loss.beta, "pairs": len(votes.together), "gradients": asdict(rule)}
    tables = [table.fingerprint for table in (votes.together, *votes.alone, validation)]
    inputs = ["votes", tables, votes.preference.as_dict(), asdict(loss), asdict(rule)]

    def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
        for table in (votes.together, validation):
            table.require_reference(name)
        learner = one_adapter(run)
        with trained(learner.steering, run.settings.checkpointing):
            history = fit(VotesTask(run, learner, votes, validation, loss, rule), run)
            return learner.adapter({**run.info, **conflicts(history, votes.preference)}), history

    return lab.fit_stage(name, inputs, facts, train)


class VotesTask:
    """One adapter on pairs that several objectives label (a :class:`paretune.training.loop.Task`): M losses of one forward."""

    def __init__(
        self,
        run: TrainingRun,
        learner: OneAdapter,
        votes: Votes,
        validation: PairTable,
        loss: PairLoss,
        rule: GradientRule,
    ) -> None:
        self.pairs = PairTask(run, learner, votes.together, validation, loss)
        self.run, self.votes, self.rule, self.share = run, votes, rule, self.pairs.share

    def groups(self) -> list[Group]:
        """Return the trainable parameters."""
        return self.pairs.groups()

    def validate(self) -> Record | None:
        """Return the mean of the weighted loss over the held-out pairs."""
        return self.pairs.validate()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Apart, Record]]:
        """Yield the mean loss of each objective on the next pairs in the order of the data."""
        pairs, votes = self.pairs, self.votes
        (drawn,) = pairs.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        with pairs.learner.steering.at(pairs.gate):
            logps, lengths, tokens = pairs.read(votes.together, rows)
            values = [pairs.values(table, rows, logps, lengths) for table in votes.alone]
            losses = torch.stack(values, dim=1)
            if not bool(losses.isfinite().all()):
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {votes.together.where(rows)}; lower "
                    "train.learning_rate, or look at these rows"
                )
            means: Tensor = self.share.total(losses.mean(0) / self.share.ways)
            reference = votes.together.reference[list(rows)].to(logps.device)
            record: Record = {
                **reward_metrics(pairs.loss.beta * (logps.detach() - reference)),
                "tokens": tokens,
                **pairs.batches.metrics([rows]),
            }
            names = votes.preference.objectives
            record |= {f"loss/{o}": float(v) for o, v in zip(names, means.detach(), strict=True)}
            yield Apart(means, votes.preference.weights, names, self.rule), record
