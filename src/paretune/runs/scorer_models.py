"""The models of a run's scorers in its plan: which are in memory at once, how large each is, and what a batch of texts adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paretune.models.embedded import EMBEDDED
from paretune.models.head import HEAD_CHUNK
from paretune.planning.cost import Decoding, Model
from paretune.planning.memory import WORKING, decoding_parts, frozen_bytes, logit_bytes, matrix_at_work
from paretune.planning.scorer_shapes import ENCODER, find
from paretune.planning.work import SCORING_TOKENS, Stage
from paretune.runs.asking import Asking
from paretune.runs.config import RunConfig
from paretune.runs.plan import Plan
from paretune.runs.principles import judge_of
from paretune.scoring.scorer import kinds_of

READ = {"head": 32, "prototype": 32, "model": 16}
"""Kind of scorer -> texts that it reads together, where its entry states none."""


@dataclass(frozen=True)
class ScorerModel:
    """A model that scorers of a run share.

    Attributes:
        model: Its shape, number format and quantisation, as a plan counts them.
        working: Bytes of its largest batch of texts.
        fits: Whether the encoder of heads that are fitted reads by it.
        labels: Whether it labels the responses that heads are fitted on, and scores nothing.
        note: What was assumed, for people.
    """

    model: Model
    working: float
    fits: bool = False
    labels: bool = False
    note: str = ""

    @property
    def weights(self) -> float:
        """Bytes of its parameters."""
        return frozen_bytes(self.model)

    def used(self, stage: Stage) -> bool:
        """Return whether it is in memory in a stage."""
        if stage.name == "labels":
            return self.labels
        return (stage.judged > 0 and not self.labels) or (stage.embedded > 0 and self.fits)

    def lighter(self) -> ScorerModel:
        """Return it with its matrices in 8 bits, unless it has them in fewer already."""
        return self if self.model.quantised else replace(self, model=replace(self.model, quantization="int8"))


def scorer_models(planned: Plan, config: RunConfig, model: Model) -> list[ScorerModel]:
    """Return the models that the scorers of a run load on the device of ``model``, one for all scorers that share it.

    Args:
        planned: Plan of the run.
        config: Settings of the run.
        model: Model of the run.

    Raises:
        ModelError: A scorer's folder is damaged.
    """
    found: dict[tuple[object, ...], ScorerModel] = {}
    for spec in config.score:
        for entry, labels in _loading(spec):
            device = entry.get("device") or ("cpu" if model.host else None)
            if (device == "cpu") != model.host:
                continue  # beside the device that is planned
            key = _identity(entry, str(device))
            one = replace(_made(entry, planned, model), labels=labels, fits=entry.get("head") == "fit")
            known = found.get(key)
            if known is not None:
                one = replace(
                    one,
                    working=max(one.working, known.working),
                    labels=one.labels and known.labels,
                    fits=one.fits or known.fits,
                )
            found[key] = one
    return list(found.values())


def loads_models(config: RunConfig) -> bool:
    """Return whether a scorer of a run loads a model in the process of the run."""
    return any(_loading(spec) for spec in config.score)


def _loading(spec: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], bool]]:
    """Return the parts of an entry of ``score`` that load a model here, each with whether it labels alone."""
    judge = judge_of(spec)
    parts: list[tuple[Mapping[str, Any], bool]] = []
    if judge is not None and not judge.get("url"):
        parts.append((judge, "labels" in spec))
    if kinds_of(spec)[0] in ("model", "head", "prototype", "implicit", "reward"):
        parts.append((spec, False))
    return parts


def _identity(entry: Mapping[str, Any], device: str) -> tuple[object, ...]:
    """Return what scorers that share a model have in common."""
    (kind,) = kinds_of(entry)
    if kind in ("head", "prototype"):
        return "encoder", device
    if kind == "model":
        return kind, entry["model"], entry.get("quantization"), device
    name = entry["model"] if kind == "judge" else entry.get("base", EMBEDDED)
    return "language model", name, entry.get("dtype", "auto"), entry.get("quantization", "auto"), device


def _made(entry: Mapping[str, Any], planned: Plan, model: Model) -> ScorerModel:
    (kind,) = kinds_of(entry)
    plain = replace(model, targets=(), rank=0, checkpointing=False)
    if kind in ("head", "prototype"):
        encoder = replace(plain, shape=ENCODER, dtype="float32", quantization="none", host=False)
        return ScorerModel(encoder, _reading(encoder, _rows(entry, kind), min(planned.longest_judged, 256)))
    if kind == "model":
        found = find(str(entry["model"]), model.shape)
        dtype = "float32" if model.host else found.dtype or model.dtype
        held = str(entry.get("quantization") or found.shape.stored)
        # Only the run's own model has copies of its matrices on a processor.
        judge = replace(plain, shape=found.shape, dtype=dtype, quantization=held, host=False)
        length = min(planned.longest_judged, float(entry.get("max_length") or planned.longest_judged))
        return ScorerModel(judge, _reading(judge, _rows(entry, kind), length), note=found.note)
    name = str(entry["model"] if kind == "judge" else entry.get("base", EMBEDDED))
    found = find(name, model.shape)
    dtype = str(entry.get("dtype", "auto"))
    held = str(entry.get("quantization", "auto"))
    held = found.shape.stored if held == "auto" else held
    judge = replace(
        plain, shape=found.shape, dtype=model.dtype if dtype == "auto" else dtype, quantization=held
    )
    if kind in ("implicit", "reward"):
        read = _reading(judge, 1, max(SCORING_TOKENS, planned.longest_judged)) + logit_bytes(
            judge, HEAD_CHUNK
        )
        return ScorerModel(judge, read, note=found.note)
    asking = next(one for one in planned.asked if one.objective == entry["objective"])
    return ScorerModel(judge, _writing(judge, entry, asking), note=found.note)


def _rows(entry: Mapping[str, Any], kind: str) -> float:
    return float(entry.get("batch_size") or READ[kind])


def _reading(model: Model, rows: float, tokens: float) -> float:
    """Return the bytes of one block's activations over a batch of texts."""
    shape = model.shape
    return rows * tokens * (WORKING * shape.intermediate + 8 * shape.hidden) * model.size + matrix_at_work(
        model
    )


def _writing(model: Model, entry: Mapping[str, Any], asking: Asking) -> float:
    """Return the bytes of a batch of a judge's answers."""
    questions = max(1.0, asking.questions)
    rows, longest = float(entry.get("batch_size", 16)), float(entry.get("max_new_tokens", 512))
    read, written = asking.input_tokens / questions, asking.output_tokens / questions
    return sum(decoding_parts(model, Decoding(rows, read, written, longest, rows)).values())


def together(models: Sequence[ScorerModel], stage: Stage) -> float:
    """Return the bytes of the models that are in memory in a stage; they are given back at its end."""
    return sum(one.weights for one in models if one.used(stage))


def busiest(models: Sequence[ScorerModel], stage: Stage) -> float:
    """Return the bytes of the largest batch of texts of these models in a stage; they score one after the other."""
    return max((one.working for one in models if one.used(stage)), default=0.0)
