"""Choosing a preference on a measured front: floors (minimum scores), and the knee.

Distances and margins are in units of `Surface.scale`, the range of each objective over the front. So no result depends on an
objective's unit or on the order in which objectives are listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from paretune.core.errors import ParetuneError, suggest
from paretune.core.numbers import number_in
from paretune.core.preference import Preference
from paretune.fronts.indicators import knee
from paretune.fronts.surface import EQUAL, Expected, Surface, as_preference

_FLOOR = re.compile(
    r"\s*(?P<name>[^<>=≥≤\s].*?)\s*(?P<sign>>=|=>|≥|>|<=|=<|≤|<|==?)\s*(?P<number>[^\s,;&]*)\s*(?P<rest>.*)",
    re.DOTALL,
)
_JOIN = re.compile(r"(?:and\b|,|;|&&?)", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The preference that meets floors, or that comes nearest to them.

    Attributes:
        preference: The preference whose smallest margin is largest.
        expected: The scores that the front expects there, with intervals that hold after the choice.
        floors: Objective -> minimum score, as requested.
        margin: Objective with a floor -> (expected mean - floor) / range of the objective; below 0 where it is missed.
        reachable: Whether no margin is below 0.
        sure: Whether the lower ends of the intervals meet the floors as well; false where they are unknown.
        nearest: What is nearest, in words, where the floors are not reachable; else empty.
    """

    preference: Preference
    expected: Expected
    floors: dict[str, float]
    margin: dict[str, float]
    reachable: bool
    sure: bool
    nearest: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "preference": self.preference.as_dict(),
            "expected": self.expected.to_dict(),
            "floors": self.floors,
            "margin": self.margin,
            "reachable": self.reachable,
            "sure": self.sure,
            "nearest": self.nearest,
        }


def parse_floors(text: str, objectives: Sequence[str]) -> dict[str, float]:
    """Read ``"warm >= 0.5 and concise >= -6"``; ``>``, ``≥``, ``=``, commas and semicolons work as well.

    Raises:
        ParetuneError: An objective is unknown or repeated, a bound is an upper one or no number, or the text is empty.
    """
    if not isinstance(text, str) or not text.strip():
        raise ParetuneError(f"no floors given; write for example {_example(objectives)!r}")
    floors: dict[str, float] = {}
    rest = text
    while rest:
        match = _FLOOR.fullmatch(rest)
        if match is None:
            raise ParetuneError(
                f"floors {text!r}: {rest.strip()!r} is not OBJECTIVE >= NUMBER; write for example {_example(objectives)!r}"
            )
        name, sign, given, rest = match.group("name", "sign", "number", "rest")
        if "<" in sign or sign == "≤":
            raise ParetuneError(
                f"floors {text!r}: {name} {sign} {given} is an upper bound, and every score is better higher; "
                f"ask for {name} >= NUMBER, or leave it out"
            )
        if name not in objectives:
            raise ParetuneError(f"floors {text!r}: unknown objective {name!r}; {suggest(name, objectives)}")
        if name in floors:
            raise ParetuneError(f"floors {text!r}: objective {name!r} has two floors; give the higher one")
        floors[name] = _floor(name, given)
        if rest:
            joined = _JOIN.match(rest)
            if joined is None or not rest[joined.end() :].strip():
                raise ParetuneError(
                    f"floors {text!r}: cannot read {rest.strip()!r} after {name} {sign} {given}; join floors with 'and', "
                    f"for example {_example(objectives)!r}"
                )
            rest = rest[joined.end() :]
    return floors


def check_floors(floors: Mapping[str, float], objectives: Sequence[str]) -> dict[str, float]:
    """Return floors in the order of the objectives.

    Raises:
        ParetuneError: There is no floor, an objective is unknown, or a floor is not a finite number.
    """
    if not floors:
        raise ParetuneError(
            f"no floors given; give at least one objective a number, such as {_example(objectives)!r}"
        )
    for name in floors:
        if name not in objectives:
            raise ParetuneError(f"unknown objective {name!r}; {suggest(str(name), objectives)}")
    return {name: _floor(name, floors[name]) for name in objectives if name in floors}


def choose(surface: Surface, floors: Mapping[str, float]) -> Choice:
    """Return the preference whose smallest margin above the floors is largest, in units of each objective's range.

    Scores are those of :attr:`paretune.fronts.surface.Surface.for_choosing`: the best of several measured points is better by
    luck, and here its mean and its interval are not.

    An objective without a floor gets one at the worst of these scores, so that the room to spare is spread over all objectives.
    It does not change which floors can be reached, as no preference is below it. Ties are broken by the larger sum of margins,
    then by nearness to equal weights. Where the policy answers between measured preferences, the result is exact for scores
    that are linear there: the best vertex of a linear programme in every cell.

    Raises:
        ParetuneError: See :func:`check_floors`.
    """
    asked, surface = check_floors(floors, surface.objectives), surface.for_choosing
    worst = surface.means.min(axis=0)
    bounds = np.array([asked.get(name, low) for name, low in zip(surface.objectives, worst, strict=True)])
    margins = (surface.means - bounds) / surface.scale
    shares = _most_even(surface, margins)
    weights = shares @ surface.preferences
    preference = as_preference(weights, surface.objectives)
    if shares.max() >= 1 - EQUAL:
        preference = surface.preference(int(shares.argmax()))
    # The margins are those at the vertex found; the preference is the same up to the rounding of its text.
    reached = shares @ margins
    margin = {name: _tidy(reached[m]) for m, name in enumerate(surface.objectives) if name in asked}
    expected = surface.expected(preference)
    reachable = min(margin.values()) >= 0
    sure = reachable and all(_at_least(expected.low[name], floor) for name, floor in asked.items())
    nearest = "" if reachable else _nearest(preference, expected, asked, margin)
    return Choice(preference, expected, asked, margin, reachable, sure, nearest)


def knee_preference(surface: Surface) -> Preference:
    """Return the measured preference at the knee of the front, see :func:`paretune.fronts.indicators.knee`.

    Scores are taken as linear between measured preferences, so no other preference can bulge more.
    """
    surface = surface.for_choosing
    # Ties are broken by a fixed order, not by the order of measuring.
    rank = np.lexsort(surface.preferences[:, surface.order].T)
    return surface.preference(int(rank[knee(surface.means[rank])]))


def _most_even(surface: Surface, margins: np.ndarray) -> np.ndarray:
    """Return shares ``[N]`` of the measured preferences that maximise the smallest of ``margins [N, M]``, then their sum."""
    candidates = _vertices(surface.cells, margins)
    reached = candidates @ margins
    smallest, total = reached.min(axis=1), reached.sum(axis=1)
    kept = np.flatnonzero(smallest >= smallest.max() - EQUAL)
    kept = kept[total[kept] >= total[kept].max() - EQUAL]
    weights = (candidates[kept] @ surface.preferences)[:, surface.order]
    uneven = ((weights - 1 / weights.shape[1]) ** 2).sum(axis=1)
    best = np.lexsort([*np.round(-weights.T[::-1], 9), np.round(uneven, 9)])[0]
    return candidates[kept[best]]


def _vertices(cells: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return the vertices ``[V, N]`` of ``{(x, v): x in a cell, x A >= v}`` that could hold the largest v.

    Each vertex has a support of k preferences and k margins that are equal there (a basis of the linear programme), so
    all pairs of such sets are solved for; k <= M.
    """
    N, M = margins.shape
    vertices = [np.eye(N)[np.unique(cells)]]
    # A cell whose best margins, each at another corner, do not all beat the best single preference cannot win.
    ceiling = margins[cells].max(axis=1).min(axis=1)
    live = cells[ceiling >= margins.min(axis=1).max() - EQUAL]
    for k in range(2, min(cells.shape[1], M) + 1):
        for support in combinations(range(cells.shape[1]), k):
            chosen = np.unique(live[:, support], axis=0)
            chosen = chosen[(np.diff(np.sort(chosen, axis=1), axis=1) > 0).all(axis=1)]
            for tied in combinations(range(M), k):
                system = np.zeros((len(chosen), k + 1, k + 1))
                system[:, :k, :k] = margins[chosen][:, :, tied].transpose(0, 2, 1)
                system[:, :k, k] = -1.0
                system[:, k, :k] = 1.0
                regular = np.abs(np.linalg.det(system)) > 1e-12
                right = np.zeros((int(regular.sum()), k + 1, 1))
                right[:, k] = 1.0
                shares = np.linalg.solve(system[regular], right)[:, :k, 0]
                inside = (shares >= -1e-12).all(axis=1)
                full = np.zeros((int(inside.sum()), N))
                np.put_along_axis(full, chosen[regular][inside], np.clip(shares[inside], 0, None), axis=1)
                vertices.append(full / full.sum(axis=1, keepdims=True))
    return np.concatenate(vertices)


def _nearest(
    preference: Preference, expected: Expected, floors: dict[str, float], margin: dict[str, float]
) -> str:
    missed = [
        f"{name} {expected.mean[name]:.4g} instead of {floors[name]:.4g} ({-value:.0%} of its range short)"
        for name, value in margin.items()
        if value < 0
    ]
    return f"not reachable; nearest is {preference} with {' and '.join(missed)}"


def _floor(name: str, given: object) -> float:
    try:
        number = number_in(given) if isinstance(given, str) else float(given)  # type: ignore[arg-type]
        number = math.nan if isinstance(given, bool) else number
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ParetuneError(f"floor {given!r} of objective {name!r} is not a finite number")
    return number


def _tidy(margin: float) -> float:
    return 0.0 if abs(margin) <= EQUAL else float(margin)


def _at_least(value: float | None, floor: float) -> bool:
    return value is not None and value >= floor


def _example(objectives: Sequence[str]) -> str:
    names = list(objectives)[:2] or ["helpful"]
    return " and ".join(f"{name} >= 0.5" for name in names)
