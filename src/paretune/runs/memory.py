"""The memory of a run on a device by its plan, what each setting would save of it, and whether activations are computed again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from paretune.core.errors import ParetuneError, lacks_memory
from paretune.core.files import fingerprint, read_json, write_json
from paretune.data.dataset import ScoredDataset
from paretune.models.devices import memory_of
from paretune.models.packed_attention.backends import Capability, capability_of, choose
from paretune.planning.cost import Model
from paretune.planning.memory import (
    Parts,
    decoding_parts,
    frozen_bytes,
    matrix_at_work,
    training_bytes,
    training_parts,
)
from paretune.planning.shapes import Shape, shape_of
from paretune.planning.work import Stage, Step
from paretune.runs.config import RunConfig
from paretune.runs.plan import Plan, plan
from paretune.runs.run_folder import CHECKPOINTING, VERSIONS
from paretune.runs.scorer_models import ScorerModel, busiest, loads_models, scorer_models, together
from paretune.runs.sizes import in_units
from paretune.training.lab import Lab

LIBRARIES = 0.6e9
"""Bytes of a process that has loaded the libraries and no model."""
SLACK = 1.15
"""Memory of a process over what its tensors need: freed pieces that fit nothing."""
KERNEL_BYTES = 2.5e6
"""Bytes of a product that oneDNN keeps for the next of its shape. Every length of a packed batch has shapes of its own."""
KERNELS = 1024
"""Largest number of kernels that it keeps, unless the variables below set another."""
KERNEL_LIMITS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
SHEET = Capability("cuda", torch.bfloat16, (8, 0))
"""What the devices that a plan knows by their data sheets allow at least: an A100 has compute capability 8.0."""
LIGHTER = "quantization: int8 in each entry of score with a model"
"""Setting that holds the models of scorers in 8 bits; entries of ``score`` have no key on the command line."""
HEADROOM = 0.9
"""Share of an accelerator's memory that tensors can have."""


@dataclass(frozen=True)
class Held:
    """What a run holds at its peak.

    Attributes:
        where: Name of the stage.
        parts: What holds memory -> bytes.
    """

    where: str
    parts: Mapping[str, float]

    @property
    def peak(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Saving:
    """What a setting would save alone.

    Attributes:
        setting: Key and value, as on the command line.
        saved: Bytes less at the peak of ``where``.
        where: ``in training``, ``in sampling``, or ``everywhere``.
    """

    setting: str
    saved: float
    where: str

    def __str__(self) -> str:
        return f"{self.setting} (about {in_units(self.saved)} less {self.where})"


def planned_model(
    config: RunConfig,
    shape: Shape,
    dtype: str,
    host: bool,
    memory: float = 0.0,
    device: torch.device | None = None,
) -> Model:
    """Return the model of a run as a plan counts it; checkpointing that is ``auto`` is off.

    Args:
        config: Settings of the run.
        shape: Shape of the model.
        dtype: Number format.
        host: Whether it runs on a CPU.
        memory: Bytes of the accelerator otherwise.
        device: Device of this machine, None for one that is known by its data sheet.

    Raises:
        ModelError: Targets that no layer has, or an attention that cannot run on the device.
    """
    kind = getattr(torch, dtype)
    has = SHEET if device is None and not host else capability_of(device or torch.device("cpu"), kind)
    attention = choose(config.attention, replace(has, dtype=kind, head_dim=shape.head_dim))[0].name
    quantization = shape.stored if config.quantization == "auto" else config.quantization
    targets = tuple(shape.targeted(config.train.targets))
    rank, checkpointing = config.train.rank, config.train.checkpointing
    held_by, kept = 0.0 if host else memory, 1e9 * config.train.keep_states
    return Model(shape, dtype, targets, rank, checkpointing, host, quantization, held_by, attention, kept)


def held(planned: Plan, model: Model, scorers: Sequence[ScorerModel] = (), shrunk: float = 1.0) -> Held:
    """Return what is held at the peak: the model, and the most that any stage adds.

    Args:
        planned: Plan of the run.
        model: Model of the run.
        scorers: Models of its scorers; where a stage scores they stay in memory while it trains and samples.
        shrunk: Factor on the texts of a step and on the rows of a batch.
    """
    where, most = _most(
        [
            *_trainings(planned, model, shrunk, scorers),
            *_samplings(planned, model, shrunk, scorers),
            *_scorings(planned, scorers),
        ]
    )
    parts = {"weights": frozen_bytes(model), **most}
    if model.host:
        parts["kernels by shape"] = KERNEL_BYTES * min(_kernels(planned, model), _kernel_limit())
        parts["libraries"] = LIBRARIES
        parts["not in use"] = (SLACK - 1) * sum(parts.values())
    return Held(where, parts)


def phases(planned: Plan, model: Model, scorers: Sequence[ScorerModel] = ()) -> dict[str, Parts]:
    """Return what training, sampling and scoring hold at most beside the base model; what a run does not do is left out."""
    found = {
        "training": _trainings(planned, model, 1.0, scorers),
        "sampling": _samplings(planned, model, 1.0, scorers),
        "scoring": _scorings(planned, scorers),
    }
    return {name: _most(stages)[1] for name, stages in found.items() if stages}


def _trainings(
    planned: Plan, model: Model, shrunk: float = 1.0, scorers: Sequence[ScorerModel] = ()
) -> list[tuple[str, Parts]]:
    """Return the name of each stage of training, with what it adds to the model.

    The head's logits count at the chunk of a CPU: an accelerator takes larger chunks only of what is free.
    """
    return [
        (
            stage.name,
            {
                **training_parts(replace(model, rank=int(max(stage.columns))), stage.step.scaled(shrunk)),
                **_beside(scorers, stage),
            },
        )
        for stage in planned.stages
        if stage.columns
    ]


def _samplings(
    planned: Plan, model: Model, shrunk: float = 1.0, scorers: Sequence[ScorerModel] = ()
) -> list[tuple[str, Parts]]:
    """Return the name of each stage that samples, with what a batch of it adds to the model."""
    return [
        (
            stage.name,
            {
                **decoding_parts(model, replace(work, batch=max(1.0, shrunk * min(work.batch, work.rows)))),
                **_beside(scorers, stage),
            },
        )
        for stage in planned.stages
        for work in stage.decodings
    ]


def _scorings(planned: Plan, scorers: Sequence[ScorerModel]) -> list[tuple[str, Parts]]:
    """Return the name of each stage that scores, with what the scorers add to the model while they do."""
    return [
        (stage.name, {**beside, "activations": busiest(scorers, stage)})
        for stage in planned.stages
        if (beside := _beside(scorers, stage))
    ]


def _beside(scorers: Sequence[ScorerModel], stage: Stage) -> Parts:
    """Return what the models of scorers hold in a stage, as a part; none where it has no use for them."""
    weights = together(scorers, stage)
    return {"scorers": weights} if weights else {}


def _most(stages: Sequence[tuple[str, Parts]]) -> tuple[str, Parts]:
    """Return the stage that adds the most, and what it adds."""
    return max(stages, key=lambda one: sum(one[1].values()), default=("", {}))


def _kernels(planned: Plan, model: Model) -> float:
    """Return the shapes of products of a run: those of a block's matrices, and of adapters, for each length of a batch."""
    shapes = len(set(model.shape.linears.values())) + 2 * len(set(model.targets))
    packed_ = sum(work.forwards * (1 + work.backward) for stage in planned.stages for work in stage.passes)
    # Rows leave a batch one by one, so it has every size once.
    sizes = max(
        (min(work.rows, work.batch) for stage in planned.stages for work in stage.decodings), default=0.0
    )
    return shapes * (packed_ + sizes)


def _kernel_limit() -> float:
    # Two caches hold the same kernels, so the larger decides.
    return max(float(os.environ.get(name) or KERNELS) for name in KERNEL_LIMITS)


def usable(memory: float, host: bool) -> float:
    """Return the bytes of a device's memory that a run can have."""
    return memory if host else HEADROOM * memory


def savings(planned: Plan, config: RunConfig, model: Model) -> list[Saving]:
    """Return what the three settings that help most would save, the largest first."""

    def total(stages: Sequence[tuple[str, Parts]]) -> float:
        return sum(_most(stages)[1].values())

    here, rows, rank = "in training", max(1, config.sampling.batch_size // 2), max(1, model.rank // 2)
    _, step = _most(_trainings(planned, model))
    now, sampled = sum(step.values()), total(_samplings(planned, model))
    factors = step.get("adapter", 0.0) + step.get("optimiser", 0.0)
    found = [
        Saving(_smaller_steps(planned, config), now - total(_trainings(planned, model, 0.5)), here),
        Saving(
            f"sampling.batch_size={rows}", sampled - total(_samplings(planned, model, 0.5)), "in sampling"
        ),
        Saving(f"train.rank={rank}", factors * (1 - rank / model.rank), here),
    ]
    if not model.checkpointing:
        less = now - total(_trainings(planned, replace(model, checkpointing=True)))
        found.append(Saving("train.gradient_checkpointing=true", less, here))
    if not model.quantised:
        few = replace(model, quantization="nf4")
        less = frozen_bytes(model) - frozen_bytes(few) - matrix_at_work(few)
        found.append(Saving("quantization=nf4", less, "everywhere"))
    scorers = scorer_models(planned, config, model)
    less = _weights(planned, scorers) - _weights(planned, [one.lighter() for one in scorers])
    found.append(Saving(LIGHTER, less, "in scoring"))
    return sorted((one for one in found if one.saved > 0), key=lambda one: -one.saved)[:3]


def _weights(planned: Plan, scorers: Sequence[ScorerModel]) -> float:
    """Return the bytes of the models of scorers in the stage that has most of them."""
    return max((together(scorers, stage) for stage in planned.stages), default=0.0)


def _smaller_steps(planned: Plan, config: RunConfig) -> str:
    """Return the setting that halves the steps of training."""
    longest = max((stage.step.tokens for stage in planned.stages), default=0.0)
    tokens = max(256, 256 * round(min(longest, config.train.batch_tokens or longest) / 512))
    return f"train.batch_tokens={tokens}"


def fitting(planned: Plan, config: RunConfig, model: Model, memory: float) -> list[str]:
    """Return the settings with which a run fits into ``memory``, tried in the order of what they cost; none where it does not.

    Gradient checkpointing costs time, fewer bits a little accuracy, and smaller steps change what is trained.
    """
    wanted, chosen = usable(memory, model.host), list[str]()
    scorers, last = scorer_models(planned, config, model), list[str]()
    if not model.checkpointing:
        model, chosen = replace(model, checkpointing=True), ["train.gradient_checkpointing=true"]
    if held(planned, model, scorers).peak > wanted and not model.quantised:
        model, chosen = replace(model, quantization="nf4"), [*chosen, "quantization=nf4"]
    lighter = [one.lighter() for one in scorers]
    if held(planned, model, scorers).peak > wanted and lighter != scorers:
        scorers, last = lighter, [LIGHTER]
    factor = 1.0
    while held(planned, model, scorers, factor).peak > wanted and factor > 1 / 64:
        factor /= 2
    if held(planned, model, scorers, factor).peak > wanted:
        return []
    if factor < 1:
        longest = max((stage.step.tokens for stage in planned.stages), default=0.0)
        chosen += [f"train.batch_tokens={max(256, 256 * int(factor * longest / 256))}"]
        chosen += [f"sampling.batch_size={max(1, int(factor * config.sampling.batch_size))}"]
    chosen += last
    return chosen


def settle_checkpointing(
    config: RunConfig, lab: Lab, shape: Shape | None, splits: Mapping[str, ScoredDataset]
) -> None:
    """Decide ``train.gradient_checkpointing: auto`` for a run by its plan, once: later processes in its folder find the choice.

    Args:
        config: Settings of the run.
        lab: Lab of the run, which receives the choice.
        shape: Shape of its model, None where a plan does not know it.
        splits: Its data.
    """
    trainings = [config.training(name) for name in (None, *config.methods)]
    if any(training.gradient_checkpointing == "auto" for training in trainings):
        lab.checkpointing = lab.team.once(lambda: _kept_or_chosen(config, lab, shape, splits))


def _kept_or_chosen(
    config: RunConfig, lab: Lab, shape: Shape | None, splits: Mapping[str, ScoredDataset]
) -> bool:
    bounds = [
        [one.batch_pairs, one.batch_tokens, one.max_tokens, one.rank, list(one.targets)]
        for one in (config.training(name) for name in (None, *config.methods))
    ]
    key = fingerprint(lab.lm.fingerprint, str(lab.lm.model.dtype), bounds)
    file = lab.folder / VERSIONS
    stated = read_json(file, dict[str, Any])
    choices = stated.get(CHECKPOINTING)
    if isinstance(choices, dict) and isinstance(choices.get(key), bool):
        return bool(choices[key])
    chosen = _chosen(config, lab, shape, splits)
    write_json(file, stated | {CHECKPOINTING: {key: chosen}})
    return chosen


def _chosen(config: RunConfig, lab: Lab, shape: Shape | None, splits: Mapping[str, ScoredDataset]) -> bool:
    off = "gradient checkpointing stays off, as the memory of this run is not known"
    device = lab.lm.device
    memory, host = memory_of(device), device.type == "cpu"
    if shape is None:
        lab.say(f"{off}: a plan does not count such a model; train.gradient_checkpointing=true turns it on")
        return False
    try:
        dtype = str(lab.lm.model.dtype).removeprefix("torch.")
        model = planned_model(config, shape, dtype, host, memory, device)
        model = replace(model, quantization=lab.lm.quantization)
        if not loads_models(config) and _bound(config, model) <= usable(memory, host):
            return False
        planned = plan(config, splits)
        model = replace(model, checkpointing=False)
        without = held(planned, model, scorer_models(planned, config, model))
    except ParetuneError as error:
        lab.say(f"{off}: {error}")
        return False
    chosen = without.peak > usable(memory, host)
    if chosen:
        lab.say(
            f"gradient checkpointing is on: without it the plan has {in_units(without.peak)} at the peak, and {device} has "
            f"{in_units(memory)} (train.gradient_checkpointing=false turns it off)"
        )
    return chosen


def _bound(config: RunConfig, model: Model) -> float:
    """Return more bytes than training needs, by the settings alone: where they are there, no plan has to be made."""
    most, columns = 0.0, model.rank
    process = (LIBRARIES + KERNEL_BYTES * _kernel_limit()) * model.host
    objectives = max(2, len(config.objectives or config.score))
    for name in config.methods:
        entry = config.entry(name)
        groups = entry.training.batch_pairs * max(objectives, getattr(entry.settings, "responses", 1))
        tokens = 2.0 * groups * entry.training.max_tokens
        if entry.traits.conditioning is not None:
            columns = max(columns, entry.traits.conditioning.columns(objectives))
        step = Step(tokens, tokens, tokens * entry.training.max_tokens)
        most = max(most, training_bytes(replace(model, rank=columns, checkpointing=False), step))
    return (frozen_bytes(model) + most + process) * (SLACK if model.host else 1.0)


@contextmanager
def memory_told(config: RunConfig, splits: Mapping[str, ScoredDataset]) -> Iterator[None]:
    """End what finds no memory inside the context in one message: the settings that help, and what each saves by the plan.

    Args:
        config: Settings of the run.
        splits: Its data.
    """
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ParetuneError(
            f"out of memory ({reason}); what is finished is kept, and the same command goes on from there. {_help(config, splits)}"
        ) from error


def _help(config: RunConfig, splits: Mapping[str, ScoredDataset]) -> str:
    """Return the three settings that take less memory, with what each saves where that can be planned."""
    from paretune.models.language_model import computing

    try:
        device, kind = computing(config.dtype, config.device)
        dtype = str(kind).removeprefix("torch.")
        host, memory = device.type == "cpu", memory_of(device)
        model = planned_model(config, shape_of(config.model), dtype, host, memory, device)
        model = replace(model, checkpointing=model.checkpointing or _turned_on(config))
        found = savings(plan(config, splits), config, model)
    except (ParetuneError, MemoryError, OSError):
        return (
            "Less is needed with train.batch_tokens (or fewer train.batch_pairs), with train.gradient_checkpointing=true, and with "
            "quantization=nf4; how much less is not known, as this run cannot be planned"
        )
    return f"By the plan of this run, less is needed with {'; '.join(map(str, found))}"


def _turned_on(config: RunConfig) -> bool:
    """Return whether ``gradient_checkpointing: auto`` has turned it on in the run's folder."""
    file = config.run_folder / VERSIONS
    if config.train.gradient_checkpointing != "auto" or not file.is_file():
        return False
    choices = read_json(file, dict[str, Any]).get(CHECKPOINTING)
    return isinstance(choices, dict) and any(choice is True for choice in choices.values())
