"""Runs of training on the tiny model, and a comparison of adapters."""

from __future__ import annotations

from pathlib import Path

import torch

from paretune.models.distributed import start
from paretune.models.language_model import LanguageModel
from paretune.training.loop import Training, TrainingRun

TRAINING = Training(
    steps=6,
    batch_pairs=2,
    learning_rate=5e-3,
    rank=4,
    alpha=8,
    checkpoint_every=2,
    validate_every=3,
    max_tokens=64,
)


def training_run(
    lm: LanguageModel, settings: Training = TRAINING, folder: Path = Path(), **values: object
) -> TrainingRun:
    """Return a run of training called ``t`` with the key ``key``, whose checkpoint is in ``folder``."""
    return TrainingRun(
        lm, settings, start(lm.device), folder / "checkpoint.safetensors", "t", "key", **values
    )  # type: ignore[arg-type]


def adapters_equal(first: object, second: object) -> bool:
    a, b = first.factors, second.factors  # type: ignore[attr-defined]
    return all(torch.equal(x, y) for path in a for x, y in zip(a[path], b[path], strict=True))
