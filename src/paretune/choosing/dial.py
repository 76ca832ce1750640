"""A dial along the front: one position from 0 to 1 in place of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paretune.core.errors import ParetuneError, suggest
from paretune.core.preference import Preference
from paretune.fronts.indicators import non_dominated
from paretune.fronts.surface import EQUAL, Surface, as_preference

DIAL_POINTS = 1001
"""The number of points at which a dial reads the front; measured preferences on its path are added."""
MOST_STEPS = 10_000
"""Largest number of steps that a dial is divided in."""
FEWEST = 3
"""Fewest different stops for which the steps of a dial are those of scores."""


@dataclass(frozen=True, eq=False)
class Dial:
    """A path along the front. Position 0.5 is halfway in expected scores, not in weights.

    Scores are in units of their range. The dial steps over preferences whose outcome another one on the path dominates; such a
    step adds to the length only where the policy has anchors.

    Attributes:
        objectives: M names.
        positions: Positions ``[L]`` from 0 to 1, never falling.
        preferences: Preferences ``[L, M]`` at these positions.
        outcomes: Expected scores ``[L, M]``.
        joined: Whether the policy answers between one point and the next ``[L - 1]``.
    """

    objectives: tuple[str, ...]
    positions: np.ndarray
    preferences: np.ndarray
    outcomes: np.ndarray
    joined: np.ndarray

    @classmethod
    def of(cls, surface: Surface, start: str | None = None, end: str | None = None) -> Dial:
        """Return the dial from all weight on ``start`` (position 0) to all weight on ``end`` (position 1).

        With two objectives the default starts at the second, so that the position grows with the first. With more objectives,
        name two; the others stay at weight 0.

        Raises:
            ParetuneError: An objective is unknown or named twice, none is named of more than two, or nothing was measured
                between.
        """
        names = surface.objectives
        if start is None and end is None and len(names) <= 2:
            start, end = names[-1], names[0]
        elif start is None or end is None:
            raise ParetuneError(
                f"a dial over {len(names)} objectives ({', '.join(names)}) needs two of them to run between; name both"
            )
        for name in (start, end):
            if name not in names:
                raise ParetuneError(f"unknown objective {name!r}; {suggest(str(name), names)}")
        if start == end and len(names) > 1:
            raise ParetuneError(f"a dial from {start!r} to itself; name two different objectives")
        return cls.between(surface, Preference.one_hot(start, names), Preference.one_hot(end, names))

    @classmethod
    def between(cls, surface: Surface, low: Preference, high: Preference) -> Dial:
        """Return the dial along the straight line of preferences from ``low`` (position 0) to ``high`` (position 1).

        Raises:
            PreferenceError: The front does not have the objectives.
            ParetuneError: Nothing was measured along the line.
        """
        first, last = low.over(surface.objectives).array(), high.over(surface.objectives).array()
        shares = _along(surface, first, last)
        weights = first + shares[:, None] * (last - first)
        if surface.anchored:
            on_path = surface.shares(weights).argmax(axis=1)
            on_path = on_path[np.sort(np.unique(on_path, return_index=True)[1])]
            weights, scores = surface.preferences[on_path], surface.means[on_path]
        else:
            scores = surface.outcomes(weights)
            known = np.isfinite(scores).all(axis=1)
            if not known.any():
                raise ParetuneError(
                    f"front of {surface.policy!r}: nothing was measured between {low} and {high}; measure more preferences"
                )
            weights, scores = weights[known], scores[known]
        scaled = scores / surface.scale
        kept = np.flatnonzero(non_dominated(np.round(scaled, 9)))
        if len(surface.objectives) == 2:
            # A policy may answer against the weights in places; the path along the front is by score.
            rising = 1.0 if last[0] >= first[0] else -1.0
            kept = kept[np.lexsort((kept, np.round(rising * scaled[kept, 0], 9)))]
        joined = (np.abs(np.diff(kept)) == 1) & (not surface.anchored)
        steps = np.linalg.norm(np.diff(scaled[kept], axis=0), axis=1)
        steps = np.where(joined | surface.anchored, steps, 0.0)
        behind = np.concatenate([[0.0], np.cumsum(steps)])
        positions = behind / behind[-1] if behind[-1] > 0 else np.zeros(len(kept))
        return cls(surface.objectives, positions, weights[kept], scores[kept], joined)

    def preference(self, position: float) -> Preference:
        """Return the preference at a position from 0 to 1.

        Raises:
            ParetuneError: The position is outside.
        """
        if isinstance(position, bool) or not (math.isfinite(position) and 0 <= position <= 1):
            raise ParetuneError(f"position {position!r} on the dial; expected a number from 0 to 1")
        after = int(np.clip(np.searchsorted(self.positions, position), 1, max(1, len(self.positions) - 1)))
        if len(self.positions) == 1:
            return as_preference(self.preferences[0], self.objectives)
        gap = self.positions[after] - self.positions[after - 1]
        share = (position - self.positions[after - 1]) / gap if gap > 0 else float(position > 0)
        if not self.joined[after - 1]:
            share = float(share > 0.5 + EQUAL)
        weights = (1 - share) * self.preferences[after - 1] + share * self.preferences[after]
        return as_preference(weights, self.objectives)

    def position(self, preference: Preference) -> float:
        """Return the position of the point on the path whose preference is nearest; the middle of equally near ones."""
        asked = preference.over(self.objectives).array()
        before, after = self.preferences[:-1][self.joined], self.preferences[1:][self.joined]
        span = after - before
        size = (span**2).sum(axis=1)
        share = np.clip(((asked - before) * span).sum(axis=1) / np.where(size > 0, size, 1.0), 0.0, 1.0)
        rise = np.diff(self.positions)[self.joined]
        points = np.concatenate([self.preferences, before + share[:, None] * span])
        positions = np.concatenate([self.positions, self.positions[:-1][self.joined] + share * rise])
        apart = np.linalg.norm(points - asked, axis=1)
        near = positions[apart <= apart.min() + EQUAL]
        return float(np.clip((near.min() + near.max()) / 2, 0.0, 1.0))

    def steps(self, count: int) -> list[tuple[float, Preference]]:
        """Return ``count`` evenly spaced positions with their preferences: equal steps in expected scores.

        Raises:
            ParetuneError: ``count`` is less than 2, or more than :data:`MOST_STEPS`.
        """
        if count < 2:
            raise ParetuneError(f"a dial of {count} steps; give at least 2, its ends")
        if count > MOST_STEPS:
            raise ParetuneError(f"a dial of {count} steps; give at most {MOST_STEPS:,}")
        return [(k / (count - 1), self.preference(k / (count - 1))) for k in range(count)]


@dataclass(frozen=True)
class Stops:
    """The stops of a dial.

    Attributes:
        by: What a step is: ``scores``, along the front, or ``weights``, where the front gives too few stops.
        why: Why steps are of weights; empty by scores.
        stops: Positions from 0 to 1 with their preferences, no two of them equal.
    """

    by: str
    why: str
    stops: tuple[tuple[float, Preference], ...]


def dial_stops(surface: Surface, count: int, start: str | None = None, end: str | None = None) -> Stops:
    """Return at most ``count`` stops of a dial, each another preference.

    Stops that are one preference are merged. Where fewer than :data:`FEWEST` are left, the scores hardly change along the path, or
    one preference is measured as best on everything; steps are then of weights, so that the dial still turns.

    Args:
        surface: The measured front.
        count: Number of even steps, at least 2.
        start, end: See :meth:`Dial.of`.

    Raises:
        ParetuneError: See :meth:`Dial.of` and :meth:`Dial.steps`.
    """
    dial = Dial.of(surface, start, end)
    merged = _merged(dial.steps(count))
    if len(merged) >= FEWEST or len(surface.objectives) < 2:
        return Stops("scores", "", merged)
    names = surface.objectives
    first, last = (names[-1], names[0]) if start is None or end is None else (start, end)
    low, high = (Preference.one_hot(name, names).array() for name in (first, last))
    even = np.linspace(0.0, 1.0, count)
    weights = low + even[:, None] * (high - low)
    if surface.anchored:  # nothing else is served
        weights = surface.preferences[surface.shares(weights).argmax(axis=1)]
    line = _merged([(float(p), as_preference(w, names)) for p, w in zip(even, weights, strict=True)])
    if len(line) <= len(merged):
        return Stops("scores", "", merged)
    if len(merged) == 1:
        found = f"{merged[0][1]} is measured as no worse on every objective than all other preferences of the path"
    else:
        found = f"of the path only {' and '.join(str(preference) for _, preference in merged)} are on the measured front"
    return Stops(
        "weights",
        f"{found}, so that equal steps in scores would give one or two stops; steps are of weights",
        line,
    )


def _merged(steps: list[tuple[float, Preference]]) -> tuple[tuple[float, Preference], ...]:
    """Return stops without those that repeat the one before; the last position stays the last."""
    kept = [step for n, step in enumerate(steps) if n == 0 or step[1] != steps[n - 1][1]]
    if len(kept) > 1:
        kept[-1] = (steps[-1][0], kept[-1][1])
    return tuple(kept)


def _along(surface: Surface, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return increasing shares ``[L]`` of the path from ``first`` to ``last``, measured preferences on it included."""
    path = last - first
    length = float(path @ path)
    if length == 0:
        return np.zeros(1)
    share = (surface.preferences - first) @ path / length
    aside = np.abs(surface.preferences - first - share[:, None] * path).max(axis=1)
    on = share[(aside <= EQUAL) & (share >= 0) & (share <= 1)]
    every = np.concatenate([np.linspace(0, 1, DIAL_POINTS), on])
    every = every[np.argsort(every, kind="stable")]
    return every[np.concatenate([[True], np.diff(every) > EQUAL])]
