"""What a killed training continues from: parameters and moments in one file, and the records of all steps in another that grows.

The file of records is appended to first. The checkpoint, which is replaced as a whole, says how many of its bytes count; so a kill
between the two leaves the older checkpoint with the records that belong to it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from paretune.core.errors import TrainingError
from paretune.core.files import append, atomic_path
from paretune.core.meter import Spent, current
from paretune.core.validator import validator


class Facts(TypedDict):
    """What the header of the file says.

    Attributes:
        key: Fingerprint of everything that decides the run.
        step: Optimiser steps that are done.
        best_loss: Lowest validation loss so far; None before the first.
        held_out: Losses of the last validation.
        bytes: Bytes of the file of records that count.
        history: The records themselves, in checkpoints of version 0.1.
        memory: Numbers that the task keeps from step to step, where it keeps any.
        seconds, spent: What the stage took until here, over all processes that worked on it.
    """

    key: str
    step: int
    best_loss: float | None
    held_out: dict[str, float]
    bytes: NotRequired[int]
    history: NotRequired[list[dict[str, float]]]
    memory: NotRequired[dict[str, list[float]]]
    seconds: NotRequired[float]
    spent: NotRequired[Spent]


@dataclass
class Progress:
    """How far a training is, beside its parameters.

    Attributes:
        step: Optimiser steps that are done.
        best_loss: Lowest validation loss so far, inf before the first.
        held_out: Losses of the last validation.
        history: One record for each step.
        learned: Whether the training may end.
        best: Parameters of the lowest validation loss.
        saved: Records that are in the file.
        bytes: Bytes they take there.
        memory: Name -> numbers that the task keeps from step to step.
        seconds, spent: What earlier processes took for the stage until here; None where that is unknown.
    """

    step: int = 0
    best_loss: float = math.inf
    held_out: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    learned: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)
    saved: int = 0
    bytes: int = 0
    memory: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    spent: Spent | None = None


def history_of(checkpoint: Path) -> Path:
    """Return the file of records beside a checkpoint."""
    return checkpoint.with_suffix(".history.jsonl")


def save(checkpoint: Path, key: str, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Append the new records, then replace the checkpoint, which also says what the stage took by the present meter.

    Raises:
        ParetuneError: The disk is full, or cannot be written.
    """
    raw = "".join(json.dumps(record) + "\n" for record in progress.history[progress.saved :]).encode()
    append(history_of(checkpoint), raw, progress.bytes)
    facts = Facts(
        key=key,
        step=progress.step,
        best_loss=progress.best_loss if math.isfinite(progress.best_loss) else None,
        held_out=progress.held_out,
        bytes=progress.bytes + len(raw),
    )
    if progress.memory:
        facts["memory"] = progress.memory
    if (meter := current()) is not None:
        facts["seconds"], facts["spent"] = meter.seconds, meter.spent
    with atomic_path(checkpoint) as temporary:
        save_file(dict(tensors), temporary, metadata={"paretune": json.dumps(facts)})
    progress.saved, progress.bytes = len(progress.history), facts["bytes"]


def restore(
    checkpoint: Path, key: str, steps: int, shapes: Mapping[str, Tensor], best: Sequence[str]
) -> tuple[Progress, dict[str, Tensor]]:
    """Return what :func:`save` wrote.

    Args:
        checkpoint: The file.
        key: Fingerprint of everything that decides the run.
        steps: Optimiser steps of the whole run.
        shapes: Name -> a tensor of the shape and number format that the checkpoint has under this name.
        best: Names that stand in it once a validation loss was the lowest, and not before.

    Raises:
        TrainingError: It is damaged, or of another run; names it and the cure.
    """
    try:
        with safe_open(checkpoint, framework="pt") as opened:
            text = opened.metadata()["paretune"]
            validator(Facts).validate_json(text)
            facts: Facts = json.loads(text)  # as they are: whole numbers stay whole
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        if facts["key"] == key:
            progress = _progress(checkpoint, facts, steps)
            _check(tensors, shapes, best, progress)
    except Exception as error:
        raise TrainingError(
            f"{checkpoint}: cannot read the checkpoint ({' '.join(str(error).split())}); delete it to start this run again"
        ) from error
    if facts["key"] != key:
        raise TrainingError(
            f"{checkpoint}: this checkpoint is of a run with other settings; delete it to start again"
        )
    return progress, tensors


CANNOT_GO_ON = (
    "is the checkpoint of a run with other settings or data; it cannot be continued, so training starts at step 1 (set the old "
    "settings to finish that run, or delete the file)"
)


def of_other_runs(checkpoint: Path, name: str) -> list[Path]:
    """Return the checkpoints beside ``checkpoint`` of trainings with the same ``name`` and another key."""
    beside = sorted(checkpoint.parent.glob(f"{escape(name)}-*.safetensors"))
    return [
        other
        for other in beside
        if other != checkpoint and re.fullmatch(r"[0-9a-f]+", other.stem[len(name) + 1 :])
    ]


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint with its file of records."""
    checkpoint.unlink(missing_ok=True)
    history_of(checkpoint).unlink(missing_ok=True)


def _progress(checkpoint: Path, facts: Facts, steps: int) -> Progress:
    loss = facts["best_loss"]
    progress = Progress(facts["step"], math.inf if loss is None else loss, facts["held_out"])
    progress.memory = facts.get("memory", {})
    progress.seconds, progress.spent = facts.get("seconds", 0.0), facts.get("spent")
    if "history" in facts:
        progress.history = facts["history"]
    else:
        progress.bytes = facts.get("bytes", 0)
        if progress.bytes < 0:
            raise ValueError(f"{progress.bytes} bytes of records")
        with history_of(checkpoint).open("rb") as opened:
            raw = opened.read(progress.bytes)
        if len(raw) < progress.bytes:
            raise ValueError(f"{history_of(checkpoint)} is cut")
        progress.history = [json.loads(line) for line in raw.splitlines()]
        progress.saved = len(progress.history)
    if not 0 < progress.step <= steps or len(progress.history) != progress.step:
        raise ValueError(f"step {progress.step} with {len(progress.history)} records, of {steps} steps")
    validator(list[dict[str, float]]).validate_python(progress.history)
    return progress


def _check(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Tensor], best: Sequence[str], progress: Progress
) -> None:
    """Raise a ValueError unless the tensors are those that are expected."""
    validated = math.isfinite(progress.best_loss)
    for name, like in shapes.items():
        if name in best and not validated:
            continue
        if name not in tensors:
            raise ValueError(f"no {name} in it")
        if tensors[name].shape != like.shape or tensors[name].dtype != like.dtype:
            raise ValueError(
                f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, expected {like.dtype} {list(like.shape)}"
            )
        if not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{name} has numbers that are NaN or infinite")
        if not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{name} holds numbers that are NaN or infinite")
