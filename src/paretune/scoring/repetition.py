"""When a response counts as degenerated."""

from __future__ import annotations

from collections.abc import Sequence

COLLAPSE_TOKENS = 5
"""A response of fewer tokens is collapsed."""
COLLAPSE_DISTINCT = 0.5
"""A response of which fewer than this share of 4-grams are distinct is collapsed."""


def is_collapsed(tokens: Sequence[int]) -> bool:
    """Tell whether a response has degenerated: fewer than 5 tokens, or distinct 4-grams below half of all 4-grams."""
    if len(tokens) < COLLAPSE_TOKENS:
        return True
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(grams)) < COLLAPSE_DISTINCT * len(grams)
