"""The training loop: optimiser, schedule, validation, checkpoints. A :class:`Task` holds what is trained, and on what."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from accelerate import Accelerator
from annotated_types import Gt, Le
from pydantic import BeforeValidator
from torch import Tensor, nn

from paretune.core.bounds import Count, Natural, NotNegative, Positive, Seed, Share, check_bounds
from paretune.core.errors import ConfigError, TrainingError, lacks_memory
from paretune.core.meter import current
from paretune.core.progress import progress
from paretune.core.settings import later
from paretune.models.adapter import Adapter
from paretune.models.distributed import ProcessGroup, WorkSplit
from paretune.models.kept_states import keeping
from paretune.models.language_model import LanguageModel
from paretune.models.steering import Steering
from paretune.training import checkpoint
from paretune.training.apart import Apart, KeptApart
from paretune.training.checkpoint import Progress

Record = dict[str, float]

COUNTS = ("tokens", "sampled_tokens", "pairs")
"""Metrics that are summed over the forwards of a step; every other is their mean."""


def _listed(names: Any) -> Any:
    """Return one name as a list of one."""
    return (names,) if isinstance(names, str) else names


Targets = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
"""Names of linear layers; a file may state one without a list."""


class BatchError(TrainingError):
    """A batch failed. Its step is not applied; the loop saves a checkpoint and re-raises."""


@dataclass(frozen=True)
class Training:
    """How an adapter is trained.

    Attributes:
        steps: Optimiser steps.
        batch_pairs: Most pairs in one forward.
        batch_tokens: Most tokens in one forward, which then has fewer pairs where they are long; 0 for any number. A pair that has
            more alone is a forward by itself.
        accumulate: Forwards per optimiser step.
        learning_rate: Peak of AdamW's learning rate.
        warmup_ratio: Share of ``steps`` with a rising rate; then it falls to 0 by a half cosine.
        weight_decay: Weight decay of AdamW.
        clip_norm: Largest norm of the gradient.
        rank, alpha: Rank and scale of the adapter; the update is scaled by alpha / rank.
        targets: Leaf names of the adapted linear layers, or ``all-linear``; ``all-linear@15-`` adapts blocks from 15 on alone, and
            no backward pass goes below: less time and memory, for another model.
        max_tokens: Longest prompt + response; longer pairs are dropped and counted.
        validate_every: Optimiser steps between validations; 0 means a quarter of ``steps``. The parameters of the lowest
            validation loss are kept.
        stop_below: Validation loss at which an objective counts as learned; a run ends when all its objectives are. Without it
            training on an easy objective (shorter answers) continues long after its pairs are separated, and the text suffers.
            Where one adapter is trained for several objectives, a learned one pauses until its validation loss rises above again.
        checkpoint_every: Optimiser steps between checkpoints, from which a killed run continues.
        gradient_checkpointing: Recompute activations in backward: less memory, about a third more time, the same numbers. ``auto``
            does where the plan of the run needs more memory than the device has; the run keeps to what was chosen first.
        keep_states: Gigabytes of states that are kept where adapters leave the first blocks out (``all-linear@15-``), so that the
            frozen blocks below read a text once and not at every step, preference and seed, see
            :mod:`paretune.models.kept_states`; 0 keeps none.
        seed: Seed of the adapter's start and of the data order.
    """

    steps: Count = 100
    batch_pairs: Count = 4
    batch_tokens: Natural = 0
    accumulate: Count = 1
    learning_rate: Annotated[float, Gt(0), Le(1)] = 2e-4
    warmup_ratio: Share = 0.1
    weight_decay: NotNegative = 0.0
    clip_norm: Positive = 1.0
    rank: Count = 16
    alpha: Positive = 32.0
    targets: Targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    max_tokens: Count = 1024
    validate_every: Natural = 0
    stop_below: Positive | None = None
    checkpoint_every: Count = 25
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    keep_states: NotNegative = later(0.0)
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_bounds(self)
        object.__setattr__(self, "targets", _listed(self.targets))
        if not self.targets or not all(isinstance(name, str) and name.strip() for name in self.targets):
            raise ConfigError(
                f"targets: expected names of linear layers, or all-linear, got {list(self.targets)}"
            )
        for name in self.targets:
            if not re.fullmatch(r"[^@]+(@\d+-\d*)?", name):
                raise ConfigError(
                    f"targets: {name!r}: blocks are given as FIRST- or FIRST-LAST, such as all-linear@15-"
                )

    @property
    def draws(self) -> int:
        """The most rows that all forwards of the run read together."""
        return self.steps * self.accumulate * self.batch_pairs

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again; ``auto`` that nobody has decided is not."""
        return self.gradient_checkpointing is True

    def settled(self, checkpointing: bool) -> Training:
        """Return the settings with ``checkpointing`` in place of ``gradient_checkpointing: auto``."""
        auto = self.gradient_checkpointing == "auto"
        return replace(self, gradient_checkpointing=checkpointing) if auto else self

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide the trained numbers, as the key of a stage has them.

        Checkpoints, and activations that are computed again, change no number. What an earlier version did not know is left out
        where it is not used, so that its stages are found.
        """
        values = asdict(self) | {"gradient_checkpointing": False}
        values.pop("checkpoint_every")
        if not self.batch_tokens:
            values.pop("batch_tokens")
        if not values.pop("keep_states"):
            return values
        return values | {"keep_states": True}  # how many changes no number

    def share(self, team: ProcessGroup, divisible: bool = True) -> WorkSplit:
        """Return the part of each step that this process of ``team`` runs; forwards bounded by tokens are not divided."""
        return WorkSplit.of(team, self.accumulate, self.batch_pairs, divisible and not self.batch_tokens)

    def order(self, count: int, stream: int = 0) -> list[int]:
        """Return the :func:`data_order` of the run for ``count`` rows; each ``stream`` has its own."""
        return data_order(count, self.draws, self.seed + stream)


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """One training of one adapter: everything but its data and its loss.

    Attributes:
        lm: The frozen base model, which is also the reference.
        settings: Optimiser, lengths and the adapter's shape.
        accelerator: Runs the backward pass, and knows the processes.
        checkpoint: File from which a killed run continues. The caller removes it when the stage is finished.
        name: Name of the run, for messages and the progress bar.
        key: Fingerprint of everything that decides the run. A checkpoint with another key is refused.
        start: Adapter to continue from; None starts at the base model.
        info: Facts stored with the adapter.
        log: Receives the number and the record of each step.
        notify: Prints a message to the user.
        memory: Name -> numbers that a task keeps from step to step; checkpoints hold them.
    """

    lm: LanguageModel
    settings: Training
    accelerator: Accelerator
    checkpoint: Path
    name: str
    key: str
    start: Adapter | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    log: Callable[[int, Record], None] = lambda step, record: None
    notify: Callable[[str], None] = print
    memory: dict[str, list[float]] = field(default_factory=dict)

    def share(self, divisible: bool = True) -> WorkSplit:
        """Return the part of each step that this process runs, see :meth:`WorkSplit.of`."""
        return self.settings.share(ProcessGroup.of(self.accelerator, self.lm.model), divisible)


def learning_rate(step: int, settings: Training) -> float:
    """Return the rate of optimiser step ``step`` (from 0): a linear rise over the warm-up, then a half cosine to 0."""
    warmup = math.ceil(settings.warmup_ratio * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def data_order(count: int, draws: int, seed: int) -> list[int]:
    """Return ``draws`` row numbers below ``count``: shuffled passes over the data, a new shuffle each pass."""
    order: list[int] = []
    generator = torch.Generator().manual_seed(seed)
    while len(order) < draws:
        order.extend(torch.randperm(count, generator=generator).tolist())
    return order[:draws]


def attach(lm: LanguageModel, settings: Training, start: Adapter | None = None) -> tuple[Steering, float]:
    """Attach a fresh trainable adapter, or a trainable copy of ``start``; return it with the scale of its update.

    Raises:
        ModelError: ``start`` does not know the tags of the model's prompts; or see :meth:`Steering.attach`.
    """
    if start is None:
        steering = Steering.attach(
            lm.model,
            settings.targets,
            settings.rank,
            lm.fingerprint,
            settings.seed,
            tokens=lm.tag_embeddings(),
        )
        return steering, settings.alpha / settings.rank
    lm.check_tags(start)
    (scale,) = start.scales
    return Steering.attach_adapter(lm.model, start, trainable=True, base=lm.fingerprint), scale


@dataclass(frozen=True)
class Group:
    """Parameters that share a factor on the learning rate and a weight decay."""

    parameters: Mapping[str, nn.Parameter]
    rate_factor: float = 1.0
    weight_decay: float = 0.0


class Task(Protocol):
    """What the loop trains. Its arguments alone decide it, so that a step can be repeated after a kill."""

    share: WorkSplit
    """The part of each step that this process runs."""

    def groups(self) -> list[Group]:
        """Return all trainable parameters, in a fixed order, under names that do not change."""

    def batch(
        self, step: int, micro: int, held_out: Record
    ) -> AbstractContextManager[tuple[Tensor | Apart, Record]]:
        """Run forward ``micro`` of optimiser step ``step`` (both from 0) and yield its mean loss and its metrics.

        Or the losses of several objectives, whose gradients are kept apart until the step is complete.

        Where ``share`` divides its rows the loss is still the mean over all of them (its gradient is of the rows that are run
        here, see :meth:`WorkSplit.total`), and a metric the mean over those of this process.

        ``held_out`` is what the last :meth:`validate` returned (nothing before the first). Among the metrics is
        ``tokens``, those of the forward. The backward pass runs inside the context. The batch is drawn here, so after the
        step before it.

        Raises:
            TrainingError: The loss is not finite; step and rows are named.
            BatchError: The batch could not be made.
        """

    def validate(self) -> Record | None:
        """Return the mean loss on held-out data, or None where there are none.

        Under ``validation_loss``, and where several objectives are trained each one's own under ``validation_loss/NAME``.
        """


def learned(name: str, held_out: Record, settings: Training) -> bool:
    """Return whether the loss ``name`` in ``held_out`` is down to ``settings.stop_below``."""
    return settings.stop_below is not None and held_out.get(name, math.inf) <= settings.stop_below


def fit(task: Task, run: TrainingRun) -> list[Record]:
    """Train the task's parameters in place and return one record of metrics per optimiser step.

    The parameters of the lowest validation loss are kept, or the last ones where nothing is held out. ``settings.stop_below``
    ends the run early. A run that was killed, or found no memory, continues from its checkpoint and ends with the same weights.

    Raises:
        TrainingError: A loss or gradient is not finite, or the checkpoint cannot be used.
        BatchError: The task could not get a batch. A checkpoint was written before.
    """
    settings, team = run.settings, task.share.team
    loop = _Loop(task, run)
    state = _restore(loop, run)
    every = settings.validate_every or max(1, settings.steps // 4)
    with (
        keeping(run.lm.model, settings.keep_states) as none_kept,
        progress(run.name, settings.steps, state.step) as advance,
    ):
        if none_kept:
            run.notify(f"{run.name}: train.keep_states keeps nothing: {none_kept}")
        while state.step < settings.steps and not state.learned:
            try:
                record = loop.step(state.step, state.held_out)
            except Exception as error:
                kept = (isinstance(error, BatchError) or lacks_memory(error)) and not loop.updating
                if kept and state.step and team.first:  # before the first step there is nothing to save
                    _save(loop, state, run)
                raise
            state.step += 1
            last = state.step == settings.steps
            held_out = task.validate() if state.step % every == 0 or last else None
            if held_out is not None:
                held_out = team.tell(held_out)  # all stop, or none
                record |= held_out
                loop.judge(state, held_out)
            state.history.append(record)
            if team.first:
                run.log(state.step, record)
            due = state.step % settings.checkpoint_every == 0 and not (last or state.learned)
            if due and team.first:
                _save(loop, state, run)
            advance(1, float(record["loss"]))
    if state.best:
        loop.load_weights(state.best)
    return state.history


class _Loop:
    """A task with its optimiser.

    Attributes:
        updating: Whether parameters are being changed: what fails meanwhile leaves them half done.
    """

    updating = False

    def __init__(self, task: Task, run: TrainingRun) -> None:
        self.task, self.run, self.settings = task, run, run.settings
        self.groups = task.groups()
        self.parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(group.parameters.values()), "weight_decay": group.weight_decay}
                for group in self.groups
            ],
            lr=run.settings.learning_rate,
        )

    def step(self, step: int, held_out: Record) -> Record:
        """Run one optimiser step and return its metrics: :data:`COUNTS` in all, others the mean over its forwards."""
        rate = learning_rate(step, self.settings)
        for options, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            options["lr"] = rate * group.rate_factor
        self.optimizer.zero_grad(set_to_none=True)
        forwards, share = self.settings.accumulate, self.task.share
        record: Record = {"loss": 0.0}
        apart: KeptApart | None = None
        for micro in share.forwards(forwards):
            with self.task.batch(step, micro, held_out) as (loss, metrics):
                if isinstance(loss, Apart):
                    apart = apart or KeptApart(list(self.parameters.values()), share)
                    apart.add(loss, forwards)
                    loss = loss.value
                else:
                    self.run.accelerator.backward(loss / forwards)
            for name, value in {"loss": float(loss.detach()), **metrics}.items():
                record[name] = record.get(name, 0.0) + value / (1 if name in COUNTS else forwards)
        record = {"step": step + 1, **share.reduce_record(record, COUNTS)}
        if apart is None:
            share.reduce_gradients(self.parameters.values())
        else:
            record |= apart.combine((self.settings.seed, step))
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.clip_norm))
        if not math.isfinite(norm):
            raise TrainingError(
                f"{self.run.name}: the gradient is not finite at step {step + 1}; lower train.learning_rate"
            )
        self.updating = True
        self.optimizer.step()
        self.updating = False
        return record | {"grad_norm": norm, "learning_rate": rate}

    def judge(self, state: Progress, held_out: Record) -> None:
        """Note held-out losses in ``state``: keep the best parameters, and mark the run as learned when it is."""
        state.held_out = held_out
        if held_out["validation_loss"] < state.best_loss:
            state.best_loss, state.best = held_out["validation_loss"], self.weights()
        losses = [name for name in held_out if "/" in name] or ["validation_loss"]
        state.learned = all(learned(name, held_out, self.settings) for name in losses)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the adapter's parameters."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Set the adapter's parameters."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _save(loop: _Loop, state: Progress, run: TrainingRun) -> None:
    """Write parameters, moments and progress; all processes hold the same ones."""
    tensors = {f"weight/{name}": value for name, value in loop.weights().items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for name, parameter in loop.parameters.items():
        for moment in _MOMENTS:
            tensors[f"{moment}/{name}"] = loop.optimizer.state[parameter][moment].cpu().clone()
    state.memory = run.memory
    checkpoint.save(run.checkpoint, run.key, state, tensors)


def _restore(loop: _Loop, run: TrainingRun) -> Progress:
    """Return the state that the checkpoint holds, or a fresh one where there is no checkpoint."""
    file = run.checkpoint
    present = loop.task.share.team.gather(file.is_file())
    if any(present) != all(present):
        raise TrainingError(
            f"{file}: not all processes see this checkpoint; the run folder must be on a file system that all of them share"
        )
    if not file.is_file():
        return Progress()
    kinds = ("weight", "best", *_MOMENTS)
    shapes = {f"{kind}/{name}": parameter for kind in kinds for name, parameter in loop.parameters.items()}
    best = [f"best/{name}" for name in loop.parameters]
    state, tensors = checkpoint.restore(file, run.key, run.settings.steps, shapes, best)
    state.best = {name: tensors[f"best/{name}"] for name in loop.parameters if f"best/{name}" in tensors}
    run.memory.update(state.memory)
    if state.spent is not None and (meter := current()) is not None:
        meter.carry(state.seconds, state.spent)
    loop.load_weights({name: tensors[f"weight/{name}"] for name in loop.parameters})
    for name, parameter in loop.parameters.items():
        loop.optimizer.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            **{moment: tensors[f"{moment}/{name}"].to(parameter.device) for moment in _MOMENTS},
        }
    return state
