"""How far a policy's answers move from the base model's: along what was asked for, and across it.

Movements are in standard deviations of the base model's answers. The wanted direction at a preference w is w itself: over
standardised scores, utility ``<w, score>`` rises fastest that way, and attributes that are no objective have no weight. What
is left of the movement is the side effect, the orthogonal part of "Evaluating Steerability of Language Models" (arXiv
2505.23816).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.core.errors import ParetuneError
from paretune.fronts.front import Interval
from paretune.fronts.intervals import DRAWS, Noise, Sample


@dataclass(frozen=True, eq=False)
class Movements:
    """Movements of N points in A attributes, all on the same P prompts.

    Attributes:
        moved, low, high: Movements ``[N, A]``; their bounds hold all N x A true movements at once.
        along: The movement in the wanted direction at each point, with its own 95 % interval.
        across: The size of the movement in all other directions, without what noise adds to a length, with its own interval.
    """

    moved: np.ndarray
    low: np.ndarray
    high: np.ndarray
    along: list[Interval]
    across: list[Interval]


def wanted_direction(weights: np.ndarray, attributes: int) -> np.ndarray:
    """Return unit vectors ``[N, attributes]`` along weights ``[N, M]``; the attributes after the M objectives have none.

    >>> wanted_direction(np.array([[0.6, 0.8], [0.5, 0.5]]), 3).round(3).tolist()
    [[0.6, 0.8, 0.0], [0.707, 0.707, 0.0]]
    """
    directions = np.zeros((len(weights), attributes))
    directions[:, : weights.shape[1]] = weights
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def movements(
    scores: np.ndarray,
    base: np.ndarray,
    unit: np.ndarray,
    directions: np.ndarray,
    resamples: int = DRAWS,
    level: float = 0.95,
) -> Movements:
    """Return how far N points are from the base model, paired by prompt.

    The length of the part across is too large on average, as it is that of a noisy vector: the value takes the mean square of
    the noise off, and the bounds are the measured length with the ``level`` quantile of the noise's length on either side,
    which hold by the triangle inequality. With one prompt all bounds are NaN.

    Args:
        scores: Mean scores ``[N, P, A]`` of each prompt's answers at each point.
        base: Those of the base model ``[P, A]``.
        unit: The standard deviations ``[A]`` of the base model's answers, above 0.
        directions: Unit vectors ``[N, A]``, see :func:`wanted_direction`.
        resamples: Draws of the means' error.
        level: The level of each interval.

    Raises:
        ParetuneError: A unit is not above 0.
    """
    if not (unit > 0).all():
        raise ParetuneError(
            f"deviations {unit.tolist()} of the base model's answers; leave out attributes on which they do not vary"
        )
    differences = (scores - base) / unit
    N, P, A = differences.shape
    moved = differences.mean(axis=1)
    along = (moved * directions).sum(axis=1)
    across = np.linalg.norm(moved - along[:, None] * directions, axis=1)
    if P < 2:
        unknown = np.full((N, A), math.nan)
        rows = [
            [Interval(float(value), math.nan, math.nan, level) for value in part] for part in (along, across)
        ]
        return Movements(moved, unknown, unknown, *rows)
    names = tuple(map(str, range(A)))
    sample = Sample("movement", names, directions, differences[None], tuple(map(str, range(P))), 0)
    noise = Noise.of(sample, level, resamples, unit=np.ones(A))
    back = np.argsort(noise.order)
    errors, draws = noise.reach * noise.errors[back], noise.draws[:, back]
    forth = np.einsum("sna,na->sn", draws, directions)
    aside = np.linalg.norm(draws - forth[..., None] * directions, axis=-1)
    reach = np.quantile(np.abs(forth), level, axis=0)
    width = np.quantile(aside, level, axis=0)
    size = np.sqrt(np.maximum(across**2 - (aside**2).mean(axis=0), 0.0))
    return Movements(
        moved,
        moved - errors,
        moved + errors,
        [Interval(float(v), float(v - r), float(v + r), level) for v, r in zip(along, reach, strict=True)],
        [
            Interval(float(np.clip(v, max(0.0, m - w), m + w)), float(max(0.0, m - w)), float(m + w), level)
            for v, m, w in zip(size, across, width, strict=True)
        ],
    )


def end_to_end(
    weights: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    unit: np.ndarray,
    resamples: int = DRAWS,
    level: float = 0.95,
) -> list[list[Interval]]:
    """Return what turning the dial from end to end does: each objective's score at its largest weight less that at its smallest.

    The two are paired by prompt. Points that share the largest or the smallest weight count by their mean. The bounds hold for all
    objectives of all policies at once; with one prompt they are NaN.

    Args:
        weights: Weights ``[N, M]`` of the points of each policy.
        scores: Mean scores ``[N, P, M]`` of each prompt's answers there; N may differ between policies, P and M not.
        unit: The standard deviations ``[M]`` in which differences are given, above 0.
        resamples: Draws of the means' error.
        level: The level of the bounds together.

    Returns:
        M figures for each policy; a positive one follows the weight.
    """
    if not scores:
        return []
    differences = np.stack([_differences(w, s) for w, s in zip(weights, scores, strict=True)]) / unit
    K, P, M = differences.shape
    found = differences.mean(axis=1)
    if P < 2:
        return [[Interval(float(value), math.nan, math.nan, level) for value in row] for row in found]
    sample = Sample(
        "ends", tuple(map(str, range(M))), np.eye(K), differences[None], tuple(map(str, range(P))), 0
    )
    noise = Noise.of(sample, level, resamples, unit=np.ones(M))
    reach = noise.reach * noise.errors[np.argsort(noise.order)]
    return [
        [Interval(float(v), float(v - r), float(v + r), level) for v, r in zip(row, wide, strict=True)]
        for row, wide in zip(found, reach, strict=True)
    ]


def _differences(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each prompt's score ``[P, M]`` at the largest weight on each objective less that at the smallest."""
    ends = [
        scores[np.isclose(column, column.max()), :, m].mean(axis=0)
        - scores[np.isclose(column, column.min()), :, m].mean(axis=0)
        for m, column in enumerate(weights.T)
    ]
    return np.stack(ends, axis=-1)
