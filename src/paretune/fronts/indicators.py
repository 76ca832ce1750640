"""Figures of points: dominance, hypervolume, distances, evenness, control.

Points are ``[N, M]`` arrays of N mean scores on M objectives, higher is better on each. Nothing here knows
prompts or policies; :mod:`paretune.fronts.front` adds the uncertainty. :data:`INDICATORS` lists the figures that every run
measures and the report shows; a new one is a function here and a line there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from paretune.core.errors import ParetuneError
from paretune.core.preference import simplex_grid

MOST_OBJECTIVES = 31
"""Largest number of objectives of a hypervolume: moocore computes no larger one."""

STEERABLE = 0.02
"""A policy is called not steerable where its median of ||s w|| / ||sigma|| over modules is below this (Panacea)."""

SHALLOW = 0.05
"""A front that bulges by no more than this share of the range of its objectives has no knee to speak of."""


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return ``bool [N]``, true where no other point dominates; equal points are kept or dropped together.

    >>> non_dominated(np.array([[1, 3], [2, 2], [1, 2], [2, 2]])).tolist()
    [True, True, False, True]
    """
    import moocore  # 0.1 s, and most commands never judge a front

    return np.asarray(moocore.is_nondominated(-_points(points), keep_weakly=True), dtype=bool)


def layers(points: np.ndarray) -> np.ndarray:
    """Return ``int [N]``: 0 on the front, 1 on the front of what remains without it, and so on.

    >>> layers(np.array([[1, 3], [2, 2], [1, 2], [0, 0]])).tolist()
    [0, 0, 1, 2]
    """
    import moocore

    return np.asarray(moocore.pareto_rank(-_points(points)), dtype=np.int64)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume between ``reference [M]`` and ``points [N, M]``, in the product of their units.

    A point that is not above the reference in every objective adds nothing. Exact; up to 4 objectives it
    takes microseconds to milliseconds, from 6 on it grows steeply with N. M is at most :data:`MOST_OBJECTIVES`.

    >>> hypervolume(np.array([[1, 3], [3, 1], [2, 2], [5, 0]]), np.array([0, 0]))  # 3 columns: 3 + 2 + 1
    6.0
    """
    import moocore

    values = _points(points)
    if values.shape[1] > MOST_OBJECTIVES:
        raise ParetuneError(
            f"a hypervolume over {values.shape[1]} objectives; expected at most {MOST_OBJECTIVES}, so leave some of them out"
        )
    return float(moocore.hypervolume(-values, ref=-_reference(reference, values.shape[1])))


def mixture_hypervolume(points: np.ndarray, reference: np.ndarray, divisions: int = 50) -> float:
    """Return the hypervolume of K policies ``[K, M]`` mixed by chance, one of them drawn for each answer.

    Any average of the points can be had that way for free, so a front has to lie above it. Mixtures are taken in
    steps of ``1 / divisions``, so the volume falls short of the hull's by at most that share of each range. With two
    objectives the hull is made of segments, and pairs of points are mixed; with more, all K points are mixed, on a simplex
    lattice that grows fast with K: 1326 mixtures of 3, 23426 of 4.

    >>> mixture_hypervolume(np.array([[0, 1], [1, 0]]), np.array([0, 0]), divisions=2)  # adds [0.5, 0.5]
    0.25
    """
    values = _points(points)
    if values.shape[1] != 2 or len(values) == 1:
        return hypervolume(simplex_grid(len(values), divisions) @ values, reference)
    corners = values[non_dominated(values)]
    shares = np.linspace(0, 1, divisions + 1)[:, None, None, None]
    mixtures = shares * corners[:, None] + (1 - shares) * corners[None, :]
    return hypervolume(mixtures.reshape(-1, 2), reference)


def igd_plus(points: np.ndarray, target: np.ndarray) -> float:
    """Return the mean distance by which ``points [N, M]`` fall short of ``target [T, M]``; 0 is best (IGD+).

    The distance to a target counts only the objectives in which a point is worse. Ishibuchi et al. 2015,
    "Modified distance calculation in generational distance and inverted generational distance".
    """
    import moocore

    values, goal = _points(points), _points(target, "target")
    _same_objectives(values, goal)
    return float(moocore.igd_plus(-values, ref=-goal))


def inner_product(preferences: np.ndarray, points: np.ndarray) -> float | np.ndarray:
    """Return the mean of ``<preferences[n], points[n]>``, both ``[N, M]``; higher is better.

    For points ``[S, N, M]`` there are S of them. It depends on the scale of each objective. Panacea (Zhong et al. 2024),
    evaluation.

    >>> inner_product(np.array([[1, 0], [0.5, 0.5]]), np.array([[4, 1], [2, 3]]))  # (4 + 2.5) / 2
    3.25
    """
    values, weights = _drawn(preferences, points)
    means = (weights * values).sum(axis=-1).mean(axis=-1)
    return float(means) if values.ndim == 2 else np.asarray(means)


def sparsity(points: np.ndarray) -> float:
    """Return ``sum_m sum_n (f_m(n) - f_m(n+1))^2 / (N - 1)``, each objective sorted; NaN for one point.

    Lower is denser, but a collapsed front is the densest: read it beside the hypervolume. All points given
    count. Panacea (Zhong et al. 2024), evaluation.

    >>> sparsity(np.array([[0, 5], [3, 1], [1, 2]]))  # gaps 1, 2 and 1, 3: (1 + 4 + 1 + 9) / 2
    7.5
    """
    values = _points(points)
    if len(values) < 2:
        return math.nan
    return float((np.diff(np.sort(values, axis=0), axis=0) ** 2).sum() / (len(values) - 1))


def spacing(points: np.ndarray) -> float:
    """Return the deviation (over N - 1) of the L1 distances to the nearest other; NaN for one point.

    0 is even; so is a collapsed front: read it beside the hypervolume. All points given count. Schott 1995,
    "Fault tolerant design using single and multicriteria genetic algorithm optimization".

    >>> round(spacing(np.array([[0, 5], [3, 1], [1, 2]])), 6)  # distances 4, 3, 3: sqrt((4 + 1 + 1) / 9 / 2)
    0.57735
    """
    values = _points(points)
    if len(values) < 2:
        return math.nan
    apart = np.abs(values[:, None] - values[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min(axis=1).std(ddof=1))


def knee(points: np.ndarray) -> int:
    """Return the index of the point that bulges most: past it, giving up one objective buys little else.

    Each objective is scaled to run from 0 to 1 over the non-dominated points. The knee is the non-dominated
    point highest above the hyperplane through the M corners that are 1 in one objective and 0 in the others;
    with two objectives that is the line through the extremes of the front (Das 1999, "On characterizing the
    knee of the Pareto curve"). Among points within 1e-9 of the highest, the one whose worst scaled objective
    is best, then the first. So a front on or below the line yields its middle or an extreme: it has no knee
    to speak of.

    >>> knee(np.array([[0, 10], [6, 9], [8, 5], [10, 0]]))  # scaled sums 1, 1.5, 1.3, 1
    1
    """
    kept, scaled = _scaled(points)
    height = scaled.sum(axis=1)
    tied = np.flatnonzero(height >= height.max() - 1e-9)
    return int(kept[tied[scaled[tied].min(axis=1).argmax()]])


def has_knee(points: np.ndarray) -> bool:
    """Return whether the front bulges outwards: whether :func:`knee` is more than the middle or the end of a straight front.

    The knee must stand above the hyperplane through the corners by a twentieth of the range of the objectives.

    >>> has_knee(np.array([[0, 10], [6, 9], [10, 0]])), has_knee(np.array([[0, 10], [5, 5], [10, 0]]))
    (True, False)
    """
    return bool(_scaled(points)[1].sum(axis=1).max() > 1 + SHALLOW)


def _scaled(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices ``[K]`` of the non-dominated points, and these ``[K, M]`` with each objective from 0 to 1."""
    values = _points(points)
    kept = np.flatnonzero(non_dominated(values))
    front = values[kept]
    span = np.ptp(front, axis=0)
    return kept, (front - front.min(axis=0)) / np.where(span > 0, span, 1.0)


def controllability(preferences: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``[M]`` Spearman correlations of the weight on an objective and its score; 1 is full control.

    For points ``[S, N, M]`` they are ``[S, M]``. NaN where weight or score is the same at all N points. Equal values share their
    mean rank.

    >>> controllability(np.array([[1, 0], [0.5, 0.5], [0, 1]]), np.array([[3, 7], [2, 7], [1, 9]])).round(3)
    array([1.   , 0.866])
    """
    values, weights = _drawn(preferences, points)
    a, b = (_ranks(np.ascontiguousarray(each.swapaxes(-1, -2))) for each in (weights, values))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.full(scale.shape, math.nan), where=scale > 0)


@dataclass(frozen=True, eq=False)
class Measured:
    """What an indicator may look at.

    Attributes:
        preferences: ``[N, M]``, one per point.
        points: ``[N, M]`` mean scores; where an indicator is resampled also ``[S, N, M]``, for as many figures of each.
        reference: ``[M]``, the reference point of hypervolumes.
        target: ``[T, M]``, the best points known: the non-dominated ones of all fronts that are compared.
    """

    preferences: np.ndarray
    points: np.ndarray
    reference: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Indicator:
    """A figure of a front as the report shows it.

    Attributes:
        of: The function: what was measured -> the figure, or ``[M]`` figures where it is ``per_objective``.
        title: The heading of its column; of one per objective, the objective's name follows.
        words: What it says, in one sentence.
        better: Which way is better.
        per_objective: Whether there is a figure for each objective.
        num_objectives: The number of objectives it is measured for; None for any.
        resampled: Whether resampling the prompts gives it an interval. Not where it takes a maximum or squares: noise shifts
            these, and resampling would shift them once more.
    """

    of: Callable[[Measured], float | np.ndarray]
    title: str
    words: str
    better: Literal["higher", "lower"]
    per_objective: bool = False
    num_objectives: int | None = None
    resampled: bool = False

    def names(self, key: str, objectives: Sequence[str]) -> list[str]:
        """Return what its figures are called: ``key``, or ``key:objective`` for each objective; none where it does not apply."""
        if self.num_objectives not in (None, len(objectives)):
            return []
        return [f"{key}:{objective}" for objective in objectives] if self.per_objective else [key]


INDICATORS = {
    "hypervolume": Indicator(
        lambda front: hypervolume(front.points, front.reference),
        "hypervolume",
        "Hypervolume is the volume between the front and the reference point.",
        "higher",
    ),
    "hull_hypervolume": Indicator(
        lambda front: mixture_hypervolume(front.points, front.reference),
        "with mixtures",
        "With mixtures, it is the hypervolume when answers may be drawn from several points of the front by chance.",
        "higher",
        num_objectives=2,  # beyond, mixtures of all points grow too fast
    ),
    "controllability": Indicator(
        lambda front: controllability(front.preferences, front.points),
        "control:",
        "Control is the rank correlation of weight and score, 1 at best.",
        "higher",
        per_objective=True,
        resampled=True,
    ),
    "inner_product": Indicator(
        lambda front: inner_product(front.preferences, front.points),
        "inner product",
        "The inner product is the mean of weights times scores.",
        "higher",
        resampled=True,
    ),
    "igd_plus": Indicator(
        lambda front: igd_plus(front.points, front.target),
        "IGD+",
        "IGD+ is the mean distance by which a front falls short of the best points of all fronts here.",
        "lower",
    ),
    "sparsity": Indicator(
        lambda front: sparsity(front.points),
        "sparsity",
        "Sparsity is the mean squared gap between neighbouring scores.",
        "lower",
    ),
    "spacing": Indicator(
        lambda front: spacing(front.points),
        "spacing",
        "Spacing is the deviation of the distances to the nearest point; a collapsed front is even too.",
        "lower",
    ),
}
"""The figures that every run measures, by their name in ``front.json``, in the order in which the report shows them."""


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of ``values [.., N]`` among those of the last axis, from 1; equal values share their mean rank."""
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    N, step = values.shape[-1], ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*step.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, step], axis=-1), np.arange(N), 0), axis=-1)
    ends = np.where(np.concatenate([step, edge], axis=-1), np.arange(N), N)
    last = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def _drawn(preferences: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points ``[N, M]``, or S times as many ``[S, N, M]``, and the weights ``[N, M]``, both as numbers."""
    if np.ndim(points) != 3:
        return _points(points), _weights(preferences, points)
    S, N, M = np.shape(points)
    values = _points(np.reshape(points, (S * N, M))).reshape(S, N, M)
    return values, _weights(preferences, values[0])


def _points(points: np.ndarray, what: str = "points") -> np.ndarray:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ParetuneError(
            f"{what} of shape {values.shape}; expected [N, M] with at least one point and objective"
        )
    if not np.isfinite(values).all():
        n, m = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ParetuneError(
            f"{what}: number {n} has {values[n, m]} in column {m}; only finite numbers can be judged"
        )
    return values


def _weights(preferences: np.ndarray, points: np.ndarray) -> np.ndarray:
    weights = _points(preferences, "preferences")
    if weights.shape != np.shape(points):
        raise ParetuneError(
            f"preferences {weights.shape} for points {np.shape(points)}; give each point its own"
        )
    return weights


def _reference(reference: np.ndarray, num_objectives: int) -> np.ndarray:
    point = np.asarray(reference, dtype=np.float64)
    if point.shape != (num_objectives,) or not np.isfinite(point).all():
        raise ParetuneError(
            f"reference point {point.tolist()} for {num_objectives} objectives; give each one finite number"
        )
    return point


def _same_objectives(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[-1] != second.shape[-1]:
        raise ParetuneError(
            f"points over {first.shape[-1]} and over {second.shape[-1]} objectives cannot be compared"
        )
