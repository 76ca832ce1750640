"""The test for degenerate responses: very short, or repetitive."""

from __future__ import annotations

from collections.abc import Sequence

COLLAPSE_TOKENS = 5
"""A response with fewer tokens is collapsed."""
COLLAPSE_DISTINCT = 0.5
"""A response with a smaller share of distinct 4-grams is collapsed."""


def is_collapsed(tokens: Sequence[int]) -> bool:
    """Return whether a response is degenerate: it has fewer than 5 tokens, or under half of its 4-grams are distinct."""
    if len(tokens) < COLLAPSE_TOKENS:
        return True
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(grams)) < COLLAPSE_DISTINCT * len(grams)
