"""Pareto dominance and layers by their definitions."""

from __future__ import annotations

import numpy as np


def dominates(a, b) -> bool:
    """Whether point ``a`` is nowhere worse than ``b`` and somewhere better."""
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def layers(points: np.ndarray) -> np.ndarray:
    """Return the layer of each of N points ``[N, M]``: peel what nothing left dominates."""
    better = np.all(points[:, None] >= points[None], axis=2) & np.any(points[:, None] > points[None], axis=2)
    result = np.full(len(points), -1)
    for depth in range(len(points)):
        left = result < 0
        result[left & ~better[left].any(axis=0)] = depth
    return result
