"""Runs of training on the tiny model, random adapters, and a comparison of adapters."""

from __future__ import annotations

from pathlib import Path

import torch

from paretune.models.adapter import Adapter
from paretune.models.distributed import start
from paretune.models.language_model import LanguageModel
from paretune.models.targets import target_shapes
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


def random_adapter(lm: LanguageModel, seed: int, size: float = 0.4, info: dict | None = None) -> Adapter:
    """Return an adapter of rank 2, by default strong enough that its texts differ from those of others."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: (
            torch.randn(out, 2, generator=generator) * size,
            torch.randn(2, inputs, generator=generator) * size,
        )
        for path, (out, inputs) in target_shapes(lm.model, ["q_proj", "v_proj"]).items()
    }
    return Adapter(factors, 1.5, lm.fingerprint, info or {})


def adapters_equal(first: object, second: object) -> bool:
    a, b = first.factors, second.factors  # type: ignore[attr-defined]
    return all(torch.equal(x, y) for path in a for x, y in zip(a[path], b[path], strict=True))
