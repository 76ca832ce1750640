"""Rows of scores as another tool would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def score_rows(
    policies: Sequence[str] = ("a", "b"),
    prompts: int = 20,
    base: bool = True,
    corners: bool = True,
    lift: float = 0.0,
) -> list[dict[str, Any]]:
    """Return one row for each answer: policies at three preferences; the first scores ``lift`` higher than all others."""
    random = np.random.default_rng(0)
    points: list[tuple[str, float | None]] = [(name, w) for name in policies for w in (1.0, 0.5, 0.0)]
    points += [("base", None)] if base else []
    points += [("corners", 1.0), ("corners", 0.0)] if corners else []
    rows = []
    for name, w in points:
        for p in range(prompts):
            warm, concise = random.normal(size=2) + (lift if name == policies[0] else 0.0)
            row = {"policy": name, "prompt": f"q{p}"}
            if w is not None:
                row["preference"] = {"warm": w, "concise": 1 - w}
            rows.append({**row, "warm": warm + (w or 0), "concise": concise + 1 - (1 if w is None else w)})
    return rows
