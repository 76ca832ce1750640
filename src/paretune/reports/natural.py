"""Scores in the unit that a reader knows, where the record has measured it: the length of an answer in words."""

from __future__ import annotations

import re

from paretune.fronts.record import FrontRecord, Point
from paretune.reports.wording import known, number, places

_IN_WORDS = re.compile(r"\+1 for every (\S+ )?words? (fewer|more)|rule length\b(?!.*\bunit (?!words))")
"""How a rule that counts words is described, today and in records of format 5 and before."""


def counts_words(record: FrontRecord, objective: str) -> bool:
    """Return whether an objective scores the number of words of an answer, which every point has as its mean length."""
    return _IN_WORDS.match(record.objectives_info.get(objective, "")) is not None


def from_to(record: FrontRecord, m: int, starts: list[Point], ends: list[Point]) -> str:
    """Return ``from 71 to 30 words`` where the objective counts words, and ``from 0.8 to 1.9`` elsewhere.

    Args:
        record: The record of the run.
        m: The number of the objective.
        starts, ends: The points before and after, each group by its mean.
    """
    if counts_words(record, record.objectives[m]):
        before, after = (_mean([point.words for point in group]) for group in (starts, ends))
        if known(before) and known(after):
            return f"from {number(before, 0)} to {number(after, 0)} words"
    return scores_from_to(record, m, starts, ends)


def scores_from_to(record: FrontRecord, m: int, starts: list[Point], ends: list[Point]) -> str:
    """Return the mean scores of two groups of points as ``from 0.8 to 1.9``."""
    before, after = (_mean([point.mean[m] for point in group]) for group in (starts, ends))
    digits = places(record)[m]
    return f"from {number(before, digits)} to {number(after, digits)}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
