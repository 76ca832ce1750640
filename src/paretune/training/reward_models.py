"""Fitting a reward model on pairs: a LoRA and one head per objective on one trunk (Bradley and Terry 1952, Ouyang et al. 2022).

For each pair (a, b) and each objective m that has a label of it, with t = (1 + label) / 2: 1 where a is preferred, 1/2 for a tie,

    d = r_m(x, a) - r_m(x, b) - sign(label) margin
    loss = mean of weight * [ -t log sigmoid(d) - (1 - t) log sigmoid(-d) ]

Both responses of a pair share the forward of their prompt, and all objectives share the trunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint
from paretune.core.progress import Advance
from paretune.data.pairs import Pair
from paretune.data.rows import prompt_key
from paretune.generation.generate import attached
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.models.reward_heads import log_lengths, states
from paretune.models.steering import trained
from paretune.training.batches import Batches, group_tokens, held_out
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.token_tables import Limit, fitted_pair

HEAD_RATE = 5.0
"""Factor on the learning rate of the heads, which start at 0 where the LoRA starts from a model."""


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """N tokenised pairs with the labels of M objectives.

    Attributes:
        groups_of: The prompt of each pair with its two responses.
        labels: fp32 ``[N, M]``: above 0 where the first is preferred, -1 to 1; 0 a tie; NaN no label.
        weights, margins: fp32 ``[N]``, those of the data.
        prompts: Key of the prompt of each pair, see :func:`paretune.data.rows.prompt_key`.
    """

    groups_of: tuple[TokenGroup, ...]
    labels: Tensor
    weights: Tensor
    margins: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.groups_of)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of rows."""
        return [self.groups_of[row] for row in rows]

    def spread(self, most: int) -> LabelledTable:
        """Return at most ``most`` pairs, evenly spread over the table."""
        rows = [n * len(self) // most for n in range(most)] if len(self) > most else list(range(len(self)))
        return LabelledTable(
            tuple(self.groups_of[n] for n in rows),
            self.labels[rows],
            self.weights[rows],
            self.margins[rows],
            tuple(self.prompts[n] for n in rows),
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        values = (part.numpy().tobytes() for part in (self.labels, self.weights, self.margins))
        return fingerprint([[list(prompt), *map(list, both)] for prompt, both in self.groups_of], *values)


def labelled_table(limit: Limit, chosen: Sequence[Pair], margins: bool) -> tuple[LabelledTable, int]:
    """Tokenise pairs with their labels; return the table and how many pairs were left out for their length.

    Args:
        limit: The most tokens, and what happens to longer texts.
        chosen: Pairs, see :func:`paretune.data.pairs.labelled_pairs`.
        margins: Whether the margins of the data are kept; otherwise they are 0.

    Raises:
        TrainingError: No pair is left.
    """
    groups, labels, weights, gaps, keys = [], [], [], [], []
    for pair in chosen:
        if fitted := fitted_pair(limit, pair):
            prompt, first, second = fitted
            groups.append((prompt, (first, second)))
            labels.append(pair.labels)
            weights.append(pair.weight)
            gaps.append(pair.margin if margins else 0.0)
            keys.append(prompt_key(pair.prompt))
    if not groups:
        raise TrainingError(f"no pair fits {limit} with its prompt; raise max_tokens, or give shorter texts")
    table = LabelledTable(
        tuple(groups),
        torch.tensor(labels).float(),
        torch.tensor(weights).float(),
        torch.tensor(gaps).float(),
        tuple(keys),
    )
    return table, len(chosen) - len(groups)


def pair_losses(rewards: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
    """Return the loss ``[N, M]`` of each pair under each objective; 0 where there is no label.

    Args:
        rewards: ``[N, 2, M]`` of the two responses.
        labels: ``[N, M]``, NaN without one.
        margins: ``[N]``.
    """
    known = labels.isfinite()
    label = labels.nan_to_num()
    d = rewards[:, 0] - rewards[:, 1] - label.sign() * margins[:, None]
    losses = F.binary_cross_entropy_with_logits(d, (1 + label) / 2, reduction="none")
    return torch.where(known, losses, torch.zeros_like(losses))


def fit_reward(
    run: TrainingRun, table: LabelledTable, validation: LabelledTable
) -> tuple[Adapter, Tensor, list[Record]]:
    """Train a LoRA and the heads; return them, heads ``[M, d]`` on the CPU, with one record of metrics per step.

    The parameters of the lowest loss on ``validation`` are kept.

    Raises:
        TrainingError: A loss or gradient is not finite.
    """
    learner = one_adapter(run)
    with trained(learner.steering, run.settings.checkpointing):
        task = RewardTask(run, learner, table, validation)
        history = fit(task, run)
        return learner.adapter(run.info), task.heads.detach().cpu().clone(), history


class RewardTask:
    """A LoRA and heads on labelled pairs (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self, run: TrainingRun, learner: OneAdapter, table: LabelledTable, validation: LabelledTable
    ) -> None:
        self.run, self.learner, self.table, self.validation = run, learner, table, validation
        self.share, self.gate = run.share(), learner.gate
        self.batches = Batches.of_table(run, table)
        d = int(run.lm.model.get_output_embeddings().weight.shape[1])
        self.heads = nn.Parameter(torch.zeros(table.labels.shape[1], d, device=run.lm.device))

    def groups(self) -> list[Group]:
        """Return the LoRA and the heads, which have a rate of their own and no weight decay."""
        return [*self.learner.groups(), Group({"heads": self.heads}, rate_factor=HEAD_RATE)]

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the mean loss of the labels of the next pairs in the order of the data."""
        (drawn,) = self.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        with self.learner.steering.at(self.gate):
            sums = self._sums(self.table, rows)
            if not bool(sums[0].isfinite()):
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on the pairs {rows}; lower the learning rate"
                )
            count = self.share.total(sums[1].detach())
            right = self.share.total(sums[2].detach())
            record = {
                "tokens": float(group_tokens(self.table.groups(rows))),
                "accuracy": float(right / count),
            }
            yield self.share.total(sums[0]) / count, {**record, **self.batches.metrics([rows])}

    def _sums(self, table: LabelledTable, rows: Sequence[int]) -> Tensor:
        """Return the summed loss, the number of labels, and how many the rewards agree with; equal ones count a half."""
        device, chosen = self.run.lm.device, list(rows)
        read = states(self.run.lm, table.groups(rows))
        rewards = (read @ self.heads.T).unflatten(0, (len(chosen), 2))
        labels, margins = table.labels[chosen].to(device), table.margins[chosen].to(device)
        losses = pair_losses(rewards, labels, margins) * table.weights[chosen].to(device)[:, None]
        gaps = (rewards[:, 0] - rewards[:, 1]).detach()
        strict = labels.nan_to_num() != 0
        agrees = 0.5 + 0.5 * (gaps * labels.nan_to_num()).sign()
        known = labels.isfinite().sum().float()
        return torch.stack([losses.sum(), known, torch.where(strict, agrees, 0.5 * labels.isfinite()).sum()])

    @torch.no_grad()
    def validate(self) -> Record:
        """Return the mean loss of the held-out labels."""
        sums = torch.zeros(3, device=self.run.lm.device)
        for rows in self.share.team.part(held_out(self.run.settings, self.validation)):
            with self.learner.steering.at(self.gate):
                sums += self._sums(self.validation, rows)
        loss, count, right = self.share.reduce_sums(sums).tolist()
        return {"validation_loss": loss / count, "validation_accuracy": right / count}


@torch.no_grad()
def table_rewards(
    lm: LanguageModel, table: LabelledTable, adapter: Adapter, heads: Tensor, batch: int, advance: Advance
) -> tuple[Tensor, Tensor]:
    """Return the rewards ``[N, 2, M]`` of the responses of a table, and their log lengths ``[N, 2]``.

    ``advance`` is told the number of pairs after each ``batch`` of them.
    """
    found, logs = [], []
    with attached(lm, adapter) as steering, steering.at(adapter.gates()):
        for start in range(0, len(table), batch):
            groups = table.groups(range(start, min(len(table), start + batch)))
            found.append((states(lm, groups).cpu() @ heads.T).unflatten(0, (len(groups), 2)))
            logs.append(log_lengths(groups).unflatten(0, (len(groups), 2)))
            advance(len(groups))
    return torch.cat(found), torch.cat(logs)
