"""Training settings for the tiny model, and what comparing adapters takes."""

from __future__ import annotations

import torch

from paretune.training.loop import Training

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


def adapters_equal(first: object, second: object) -> bool:
    a, b = first.factors, second.factors  # type: ignore[attr-defined]
    return all(torch.equal(x, y) for path in a for x, y in zip(a[path], b[path], strict=True))
