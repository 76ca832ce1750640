"""What a run costs on a device: FLOP, time, memory and disk of its plan, with everything that was assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from paretune.core.errors import ModelError
from paretune.models.devices import present
from paretune.models.embedded import EMBEDDED
from paretune.planning.calibrate import here
from paretune.planning.cost import Cost, Decoding, Model, Passes, decoded, packed, total
from paretune.planning.devices import HERE, Device, device_of, several
from paretune.planning.devices import KNOWN as DEVICES
from paretune.planning.memory import OPTIMISER, adapter_bytes, frozen_bytes
from paretune.planning.scorer_shapes import ENCODER, find
from paretune.planning.shapes import shape_of
from paretune.planning.work import SCORING_TOKENS, Stage
from paretune.runs.asking import Asking
from paretune.runs.config import RunConfig
from paretune.runs.memory import HEADROOM, Saving, fitting, held, phases, planned_model, savings, usable
from paretune.runs.plan import Plan
from paretune.runs.principles import judge_of
from paretune.runs.scorer_models import scorer_models
from paretune.scoring.scorer import kinds_of

START_SECONDS, REPORT_SECONDS = 6.0, 1.5
"""Seconds to import the libraries; seconds to draw pictures and write the report."""
LOADING = 1e9
"""Bytes of parameters read from disk in a second."""
RESAMPLE_SECONDS = 3e-4
"""Seconds for one resample of one policy's prompts."""
RULE_SECONDS = 2e-3
"""Seconds for one answer under a rule (sentiment is among the slowest), cache included."""
ENCODER_DTYPE = "float32"
"""Number format in which it computes on a CPU."""
FIT_SECONDS, PAIR_SECONDS = 3.0, 6.5e-4
"""Seconds to load the encoder and to find the weights of a head on few pairs, and those for one more pair."""
STORED = {"answer": 1500, "log-probability": 150, "report": 2_000_000}
"""Bytes on disk of an answer in all files that hold it, of a cached log-probability, and of report and pictures."""


@dataclass(frozen=True)
class CostLine:
    """One stage with its cost."""

    name: str
    what: str
    cost: Cost


@dataclass(frozen=True)
class Estimate:
    """A plan on one model and device.

    Attributes:
        model: name of the shape.
        parameters: Number of parameters of the model.
        device: Device, with its count where the model needs several.
        dtype: Number format.
        fits: Whether the device has the memory of the run.
        rows: Cost of each stage.
        memory: Bytes at the peak, by what holds them; the largest of the stages' needs counts.
        where: Name of the stage with the peak.
        phases: What training, sampling and scoring hold at most beside the base model, by what holds it.
        settings: Settings that decide the memory, as they are in force.
        fitting: Settings with which the run would fit on one device; none where it fits, or where none do.
        savings: What settings would save, the largest first.
        disk: Bytes in the run folder, by what they are.
        assumptions: All that was assumed.
        asked: What judges and scoring servers will be asked.
    """

    model: str
    parameters: int
    device: Device
    dtype: str
    fits: bool
    rows: tuple[CostLine, ...]
    memory: dict[str, float]
    disk: dict[str, float]
    assumptions: tuple[str, ...]
    where: str = ""
    settings: tuple[str, ...] = ()
    fitting: tuple[str, ...] = ()
    savings: tuple[Saving, ...] = ()
    asked: tuple[Asking, ...] = ()
    phases: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """Of all stages."""
        return total([row.cost for row in self.rows])

    @property
    def peak(self) -> float:
        """Bytes of memory at the peak."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: tokens, FLOP, seconds and bytes."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "device": self.device.name,
            "devices": self.device.count,
            "dtype": self.dtype,
            "fits": self.fits,
            "stages": [{"name": row.name, "what": row.what, **vars(row.cost)} for row in self.rows],
            "total": vars(self.cost),
            "memory": {**self.memory, "peak": self.peak, "device": self.device.memory},
            "peak_stage": self.where,
            "memory_by_phase": {name: dict(parts) for name, parts in self.phases.items()},
            "settings": list(self.settings),
            "fitting": list(self.fitting),
            "savings": {one.setting: one.saved for one in self.savings},
            "disk": {**self.disk, "total": sum(self.disk.values())},
            "asked": [asking.to_dict() for asking in self.asked],
            "assumptions": list(self.assumptions),
        }


def check_targets(models: Sequence[str], device: str) -> None:
    """Check what a plan is asked for before its data are read.

    Raises:
        ModelError, ConfigError: An unknown model or device.
    """
    if device != HERE:
        device_of(device)
    for model in models:
        shape_of(model)


def estimate(plan: Plan, config: RunConfig, model: str, device: str = HERE) -> Estimate:
    """Return what a planned run costs.

    Args:
        plan: Plan of ``config``.
        config: Settings of the run.
        model: A size that is known, a folder or a hub name.
        device: A known name, or this machine.

    Raises:
        ModelError, ConfigError: An unknown model or device, or targets that no layer has.
    """
    shape = shape_of(model)
    if device == HERE:
        machine, dtype = here(config.dtype, config.device)
        if machine.host and dtype != ENCODER_DTYPE and any("head" in spec for spec in config.score):
            rates = here(ENCODER_DTYPE, config.device)[0].rates
            machine = replace(machine, rates={**machine.rates, **rates})
    else:
        machine, dtype = device_of(device), "bfloat16" if config.dtype == "auto" else config.dtype
    if dtype not in machine.rates:
        raise ModelError(f"dtype {dtype!r} is not known; expected one of: auto, float32, bfloat16")
    place = present(config.device) if device == HERE else None
    asked = planned_model(config, shape, dtype, machine.host, machine.memory, place)
    room, scorers = usable(machine.memory, machine.host), scorer_models(plan, config, asked)
    if config.train.gradient_checkpointing == "auto" and held(plan, asked, scorers).peak > room:
        asked = replace(asked, checkpointing=True)
    holds = held(plan, asked, scorers)
    assumptions = [*plan.assumptions, *dict.fromkeys(one.note for one in scorers if one.note)]
    if any("@" in target for target in config.train.targets):
        assumptions.append(
            "train.targets adapts some blocks alone; all are counted here, so time and memory are upper bounds"
        )
    if asked.attention == "blocks" and not machine.host:
        assumptions.append(
            "attention=blocks keeps the scores of every head on an accelerator, in memory's attention; attention=auto does not"
        )
    one = machine.memory / machine.count
    needed = ceil(holds.peak / (HEADROOM * one))
    cures = tuple[str, ...]()
    if holds.peak > room:
        cures = tuple(fitting(plan, config, asked, one))
    if not machine.host and needed > machine.count:
        assumptions.append(f"it takes {needed} x {machine.kind}; {machine.count} would not hold it")
        machine = several(machine if machine.count == 1 else DEVICES[machine.kind], needed)
    fits = not machine.host or holds.peak <= machine.memory
    rows = (
        CostLine("start", "libraries, model", Cost(seconds=START_SECONDS + frozen_bytes(asked) / LOADING)),
        *(
            CostLine(stage.name, stage.what, _cost(stage, plan, config, asked, machine))
            for stage in plan.stages
        ),
        CostLine("report", "figures, intervals, pictures", Cost(seconds=_report_seconds(config))),
    )
    disk = _disk(plan, asked)
    return Estimate(
        shape.name,
        shape.parameters,
        machine,
        dtype,
        fits,
        rows,
        dict(holds.parts),
        disk,
        (*assumptions, machine.assumptions),
        holds.where,
        _in_force(config, asked),
        cures,
        tuple(savings(plan, config, asked)),
        plan.asked,
        phases(plan, asked, scorers),
    )


def _in_force(config: RunConfig, model: Model) -> tuple[str, ...]:
    """Return the settings that decide the memory, as the plan has them."""
    train = config.train
    auto = " (auto)" if train.gradient_checkpointing == "auto" else ""
    tokens = [f"train.batch_tokens={train.batch_tokens}"] if train.batch_tokens else []
    return (
        f"quantization={model.quantization}",
        f"train.gradient_checkpointing={str(model.checkpointing).lower()}{auto}",
        f"train.batch_pairs={train.batch_pairs}",
        *tokens,
        f"train.max_tokens={train.max_tokens}",
        f"sampling.batch_size={config.sampling.batch_size}",
        f"attention={model.attention}",
    )


def _cost(stage: Stage, plan: Plan, config: RunConfig, model: Model, device: Device) -> Cost:
    rates = device.rates[model.dtype]
    works = [packed(work, model, rates) for work in stage.passes]
    works += [decoded(work, model, rates) for work in stage.decodings]
    works += [_judging(spec, stage.judged, plan, model, device) for spec in _once_each(config.score)]
    if stage.name == "labels":
        works += [
            _asking(asking, judge, asking.questions, model, device)
            for spec in config.score
            if "labels" in spec and (judge := judge_of(spec)) is not None
            for asking in plan.asked
            if asking.objective == judge["objective"]
        ]
    if stage.embedded:
        fits = sum(spec.get("head") == "fit" for spec in config.score)
        works += [_read_by_encoder(stage.embedded, stage.embedded_tokens, model, device)]
        # Two responses make a pair, and each is read twice.
        works += [Cost(seconds=FIT_SECONDS * fits + PAIR_SECONDS * stage.embedded / 4)]
    return total(works)


def _read_by_encoder(texts: float, tokens: float, model: Model, device: Device) -> Cost:
    """Return the cost of texts that the encoder of heads reads."""
    dtype = ENCODER_DTYPE if device.host else model.dtype
    forwards = texts * tokens / SCORING_TOKENS
    read = Passes(texts * tokens, 0, texts * tokens**2, forwards, 2 * texts)
    return packed(read, replace(model, shape=ENCODER, targets=(), dtype=dtype), device.rates[dtype])


def _once_each(score: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of ``score`` without further heads of a reward model: it reads a text once for all of them."""
    known: set[str] = set()
    entries = []
    for spec in score:
        name = str(spec["model"]) if kinds_of(spec) == ["model"] else ""
        if not name or name not in known:
            entries.append(spec)
        known.add(name)
    return entries


def _judging(spec: dict[str, Any], answers: float, plan: Plan, model: Model, device: Device) -> Cost:
    """Return the cost of one scorer's ratings."""
    if not answers:
        return Cost()
    tokens = plan.judged_tokens
    for asking in plan.asked:
        if asking.objective == spec.get("objective") and "labels" not in spec:
            return _asking(asking, spec, answers, model, device)
    if "head" in spec:
        return _read_by_encoder(2 * answers, plan.encoded_tokens, model, device)
    if {"model", "implicit", "reward"} & set(spec):
        # An implicit reward reads with policy and reference.
        name, passes = str(spec.get("model") or spec.get("base") or EMBEDDED), 2 if "implicit" in spec else 1
        judge = replace(model, shape=find(name, model.shape).shape, targets=(), quantization="none")
    else:
        return Cost(seconds=answers * RULE_SECONDS)
    forwards = answers * tokens / SCORING_TOKENS
    read = Passes(answers * tokens * passes, 0, answers * tokens**2 * passes, forwards, 2 * answers)
    return packed(read, judge, device.rates[model.dtype])


def _asking(asking: Asking, spec: dict[str, Any], answers: float, model: Model, device: Device) -> Cost:
    """Return the cost of the ratings of a judge or a server; a judge here is of the shape that it has."""
    if asking.remote:
        return Cost(seconds=answers * asking.seconds)
    read, written = (
        tokens / max(1.0, asking.questions) for tokens in (asking.input_tokens, asking.output_tokens)
    )
    shape = replace(model, shape=find(str(spec["model"]), model.shape).shape, targets=())
    batch = float(spec.get("batch_size", 16))
    longest = min(2 * written, float(spec.get("max_new_tokens", 512)))
    return decoded(Decoding(answers, read, written, longest, batch), shape, device.rates[model.dtype])


def _report_seconds(config: RunConfig) -> float:
    return REPORT_SECONDS + RESAMPLE_SECONDS * config.evaluate.resamples * (len(config.methods) + 1)


def _disk(plan: Plan, model: Model) -> dict[str, float]:
    """Return what the run folder holds in the end, and the largest checkpoint on the way."""
    trained = [adapter_bytes(model, columns) for stage in plan.stages for columns in stage.columns]
    answers = sum(work.rows for stage in plan.stages for work in stage.decodings)
    read = sum(work.targets for stage in plan.stages for work in stage.passes if not work.backward)
    return {
        "adapters": sum(trained),
        "policies": sum(adapter_bytes(model, columns) for policy in plan.policies for columns in policy),
        "checkpoint, while training": (OPTIMISER - 1) * max(trained, default=0.0),
        "answers, scores and report": answers * STORED["answer"]
        + read / max(1.0, plan.judged_tokens) * STORED["log-probability"]
        + STORED["report"],
    }
