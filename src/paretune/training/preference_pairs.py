"""Training one adapter on stamped pairs: one forward and one backward of the policy a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.models.adapter import Adapter
from paretune.models.distributed import ALONE, ProcessGroup, WorkSplit
from paretune.models.language_model import LanguageModel
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering, trained
from paretune.training.loop import Group, Record, Training, attach, batch_rows, data_order, fit
from paretune.training.losses import Link, log_ratio_gap, nll_loss, pair_loss
from paretune.training.token_tables import PairTable


def fit_pairs(
    lm: LanguageModel,
    table: PairTable,
    validation: PairTable | None,
    beta: float,
    settings: Training,
    accelerator: Accelerator,
    checkpoint: Path,
    *,
    name: str,
    key: str,
    link: Link = "sigmoid",
    nll: float = 0.0,
    start: Adapter | None = None,
    info: dict[str, Any] | None = None,
    log: Callable[[int, Record], None] = lambda step, record: None,
) -> tuple[Adapter, list[Record]]:
    """Train an adapter on stamped pairs and return it with one record of metrics an optimiser step.

    The loss is :func:`paretune.training.losses.pair_loss` with the table's columns, and ``nll`` times the negative log-likelihood a
    token of chosen. The run is decided by its arguments: killed
    and started again with the same ones it goes on from ``checkpoint`` and ends with the same weights.

    Args:
        lm: frozen base model, also the reference.
        table: N pairs to train on.
        validation: pairs by which the best weights are chosen; None keeps the last.
        beta: strength of the KL penalty, > 0.
        settings: optimiser, lengths, adapter shape.
        accelerator: places tensors and runs backward.
        checkpoint: file to go on from; removed by the caller when the stage is finished.
        name: of the run, for messages and progress.
        key: identifies the arguments; a checkpoint of another key is refused.
        link: ``sigmoid`` or ``hinge``.
        nll: weight of imitating chosen, per mean nat a token.
        start: adapter to go on from; None starts at the base model.
        info: facts stored with the adapter.
        log: called with each step's record.

    Raises:
        TrainingError: NaN or infinite loss or gradient, naming run, step and pairs; missing reference values.
    """
    for part in (table, validation):
        if part is not None:
            part.require_reference(name)
    share = WorkSplit.of(ProcessGroup.of(accelerator, lm.model), settings.accumulate, settings.batch_pairs)
    steering, scale = attach(lm, settings, start)
    with trained(steering, settings.gradient_checkpointing):
        task = PairTask(name, lm, steering, scale, table, validation, beta, link, nll, settings, share)
        history = fit(task, settings, accelerator, checkpoint, key, log)
        return steering.adapter(scale, info), history


class PairTask:
    """One adapter under a constant gate on one table of pairs (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        steering: Steering,
        scale: float,
        table: PairTable,
        validation: PairTable | None,
        beta: float,
        link: Link,
        nll: float,
        settings: Training,
        share: WorkSplit = ALONE,
    ) -> None:
        self.name, self.lm, self.steering, self.share = name, lm, steering, share
        self.table, self.validation = table, validation
        self.beta, self.link, self.nll, self.settings = beta, link, nll, settings
        self.gate = torch.full((steering.rank,), scale)
        draws = settings.steps * settings.accumulate * settings.batch_pairs
        self.order = data_order(len(table), draws, settings.seed)

    def groups(self) -> list[Group]:
        """Return U and V of every adapted matrix."""
        return [Group(dict(self.steering.named_parameters()), weight_decay=self.settings.weight_decay)]

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the mean loss of the next pairs in the order of the data, and their rewards."""
        rows = self.share.rows(batch_rows(self.order, step, micro, self.settings))
        with self.steering.at(self.gate):
            loss, reward, tokens = self.losses(self.table, rows)
            if not bool(loss.isfinite().all()):
                raise TrainingError(
                    f"{self.name}: the loss is not finite at step {step + 1}, on {self.table.where(rows)}; "
                    "lower train.learning_rate, or look at these rows"
                )
            yield self.share.mean(loss), {**reward_metrics(reward), "tokens": tokens}

    def losses(self, table: PairTable, rows: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Return the loss ``[B]`` and rewards beta * log-ratio ``[B, 2]`` of ``rows``, and the tokens of the one forward."""
        batch = pack(table.groups(rows), self.lm.device, self.lm.model.dtype)
        logps = packed_logps(self.lm.model, batch).view(-1, 2)
        index = torch.tensor(rows)

        def column(values: Tensor) -> Tensor:
            return values[index].to(logps.device)

        reference = column(table.reference)
        loss = pair_loss(
            log_ratio_gap(logps, reference),
            self.beta,
            margin=column(table.margin),
            scale=column(table.scale),
            weight=column(table.weight),
            reversed_weight=column(table.reversed_weight),
            link=self.link,
        )
        if self.nll:
            loss = loss + self.nll * nll_loss(logps[:, 0], batch.lengths.view(-1, 2)[:, 0])
        return loss, self.beta * (logps.detach() - reference), batch.input_ids.numel()

    @torch.no_grad()
    def validate(self) -> Record | None:
        """Return the mean loss over the held-out pairs."""
        if self.validation is None:
            return None
        total = torch.zeros((), device=self.lm.device)
        for start in self.share.team.part(range(0, len(self.validation), self.settings.batch_pairs)):
            rows = range(start, min(len(self.validation), start + self.settings.batch_pairs))
            with self.steering.at(self.gate):
                total += self.losses(self.validation, rows)[0].sum()
        return {"validation_loss": float(self.share.reduce_sums(total)) / len(self.validation)}


def reward_metrics(reward: Tensor) -> Record:
    """Return the usual metrics of rewards ``[B, 2]`` (chosen, rejected) under their usual names."""
    return {
        "rewards/chosen": float(reward[:, 0].mean()),
        "rewards/rejected": float(reward[:, 1].mean()),
        "rewards/margins": float((reward[:, 0] - reward[:, 1]).mean()),
        "rewards/accuracies": float((reward[:, 0] > reward[:, 1]).float().mean()),
    }
