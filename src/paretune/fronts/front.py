"""Fronts: a policy's scores over preferences and prompts, with intervals and comparisons.

A figure is a function of the mean scores ``[N, M]``, higher is better on each objective. Intervals and
comparisons resample the prompts, for they are the sample; the preferences are chosen. The figures themselves
are in :mod:`paretune.fronts.indicators`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import TOLERANCE
from paretune.fronts.indicators import INDICATORS, Measured, hypervolume, non_dominated

Figure = Callable[[np.ndarray], float]

_BLOCK = 4_000_000  # resampling weights held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its interval at ``level``; NaN where the figure or a bound is undefined."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def apart(self, other: Interval) -> bool:
        """Return whether the two intervals share no number; false where a bound is undefined."""
        return self.low > other.high or other.low > self.high

    def to_dict(self) -> dict[str, float | None]:
        """Return the four numbers for JSON, None for NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "level": self.level}
        return {name: None if math.isnan(number) else number for name, number in numbers.items()}


@dataclass(frozen=True, eq=False)
class Front:
    """Scores ``[N, P, M]`` of a policy at N preferences ``[N, M]`` on P prompts, each a mean over samples.

    Arrays are kept as read-only float64 copies. ``prompts`` are P different ids: a prompt is the unit of
    resampling. ``allow_extrapolation`` admits preferences with weights below 0.

    Raises:
        ParetuneError: Shapes do not fit, or a score is not finite (the message has its preference and prompt).
        PreferenceError: A row of ``preferences`` is off the simplex.
    """

    name: str
    objectives: tuple[str, ...]
    preferences: np.ndarray
    scores: np.ndarray
    prompts: tuple[str, ...]
    allow_extrapolation: bool = False

    def __post_init__(self) -> None:
        for field in ("preferences", "scores"):
            array = np.array(getattr(self, field), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "prompts", tuple(self.prompts))
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        N, P, M = len(np.atleast_1d(self.preferences)), len(self.prompts), len(self.objectives)
        if min(N, P, M) == 0 or self.preferences.shape != (N, M) or self.scores.shape != (N, P, M):
            raise ParetuneError(
                f"front {self.name!r}: preferences {self.preferences.shape} and scores {self.scores.shape} "
                f"do not fit {P} prompts and {M} objectives; expected [N, {M}] and [N, {P}, {M}], none empty"
            )
        for what, names in (("objective", self.objectives), ("prompt", self.prompts)):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ParetuneError(f"front {self.name!r}: {what} {twice!r} is given twice; give each once")

    def _check_values(self) -> None:
        low = self.preferences.min(axis=1)
        off = ~(np.abs(self.preferences.sum(axis=1) - 1.0) <= TOLERANCE) | ~(
            (low >= 0) | self.allow_extrapolation
        )
        if off.any():
            n = int(off.argmax())
            raise PreferenceError(
                f"front {self.name!r}: preference {n} is {self.preferences[n].tolist()}; "
                "expected weights >= 0 that sum to 1"
            )
        bad = np.argwhere(~np.isfinite(self.scores))
        if len(bad):
            n, p, m = bad[0].tolist()
            raise ParetuneError(
                f"front {self.name!r}: the score on {self.objectives[m]!r} at preference {n} "
                f"{self.preferences[n].tolist()} for prompt {self.prompts[p]!r} is {self.scores[n, p, m]} "
                f"({len(bad)} such in all); score every answer, or leave the prompt out at all preferences"
            )

    @property
    def means(self) -> np.ndarray:
        """The points ``[N, M]``: mean scores over the prompts."""
        return self.scores.mean(axis=1)

    def non_dominated(self) -> np.ndarray:
        """Return ``bool [N]``, true where no other preference's means dominate."""
        return non_dominated(self.means)

    def hypervolume(self, reference: np.ndarray) -> float:
        """Return the hypervolume of the means above ``reference [M]``."""
        return hypervolume(self.means, reference)

    def summary(
        self,
        reference: np.ndarray,
        resamples: int = 2000,
        seed: int = 0,
        level: float = 0.95,
        target: np.ndarray | None = None,
    ) -> dict[str, Interval]:
        """Return the figures of :data:`paretune.fronts.indicators.INDICATORS` with their intervals over prompts.

        Undefined figures (sparsity of one point, control of a constant score) are NaN.

        Args:
            reference: The reference point ``[M]``; a hypervolume says nothing without it, so keep both together.
            resamples: The number of resamples of the prompts.
            seed: The seed of the resampling.
            level: The level of the intervals.
            target: The best points known ``[T, M]``; by default those of this front.
        """
        best = self.means[self.non_dominated()] if target is None else target
        draws = _resampled_means(self.scores, resamples, seed)

        def interval(
            figure: Callable[[Measured], float | np.ndarray], most: int | None
        ) -> tuple[np.ndarray, ...]:
            def value(points: np.ndarray) -> np.ndarray:
                return np.atleast_1d(figure(Measured(self.preferences, points, reference, best)))

            low, high = _bounds(
                np.array([value(points) for points in draws[:most]]), level, len(self.prompts)
            )
            return value(self.means), low, high

        found: dict[str, Interval] = {}
        for key, indicator in INDICATORS.items():
            if names := indicator.names(key, self.objectives):
                rows = zip(*interval(indicator.of, indicator.most_resamples), strict=True)
                figures = [Interval(float(v), float(low), float(high), level) for v, low, high in rows]
                found.update(zip(names, figures, strict=True))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the whole front for JSON; :meth:`from_dict` gives back the same numbers, bit for bit."""
        return {
            "name": self.name,
            "objectives": list(self.objectives),
            "preferences": self.preferences.tolist(),
            "prompts": list(self.prompts),
            "scores": self.scores.tolist(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Front:
        """Read what :meth:`to_dict` returned; anything else is a ParetuneError."""
        fields = ("name", "objectives", "preferences", "scores", "prompts")
        missing = [field for field in fields if field not in value]
        if missing:
            raise ParetuneError(
                f"a front without {', '.join(missing)}; expected the fields {', '.join(fields)}"
            )
        try:
            return cls(**{field: value[field] for field in fields})
        except (TypeError, ValueError) as error:
            if isinstance(error, ParetuneError):
                raise
            raise ParetuneError(f"front {value['name']!r}: {error}; expected tables of numbers") from error


def bootstrap(
    front: Front, figure: Figure, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return ``figure`` of the means ``[N, M]`` with its percentile interval over resampled prompts.

    Every resample draws P prompts with replacement, the same ones for all preferences, as their scores share
    a prompt's difficulty (Efron 1979, "Bootstrap methods: another look at the jackknife"). The value is the
    figure at the full means. A bound is NaN where there is only one prompt, or where the figure is undefined
    on some resample.

    Example: ``bootstrap(front, functools.partial(hypervolume, reference=[0.0, 0.0]))``
    """
    draws = np.array([float(figure(points)) for points in _resampled_means(front.scores, resamples, seed)])
    low, high = _bounds(draws, level, len(front.prompts))
    return Interval(float(figure(front.means)), float(low), float(high), level)


def mean_intervals(
    front: Front, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (low, high) of the means, both ``[N, M]``, by the resamples of :func:`bootstrap`."""
    return _bounds(_resampled_means(front.scores, resamples, seed), level, len(front.prompts))


@dataclass(frozen=True)
class Comparison:
    """The difference of a figure between two fronts, first minus second, its two-sided p-value, the verdict.

    ``verdict`` is ``"<first> above"`` or ``"<second> above"``, the one with the larger figure, or
    ``"no difference shown"``.
    """

    first: str
    second: str
    difference: Interval
    p_value: float
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return {**vars(self), "difference": self.difference.to_dict()}


def compare(
    first: Front, second: Front, figure: Figure, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compare ``figure`` of two fronts by a paired bootstrap: both are resampled on the same prompts.

    The p-value is twice the smaller share of resamples on which the difference is ``<= 0`` or ``>= 0``, each
    share counted with one more such resample (Davison and Hinkley 1997), so it is never 0. No difference is
    shown where the interval contains 0. Differences within rounding (1e-12 of the figures) count as 0.

    Raises:
        ParetuneError: Prompts or objectives differ, there are fewer than two prompts, or the figure is undefined on a
            resample.
    """
    _check_comparable(first, second)
    draws = _differences(
        figure,
        _resampled_means(first.scores, resamples, seed),
        _resampled_means(second.scores, resamples, seed),
    )
    value = _differences(figure, first.means[None], second.means[None])[0]
    if not np.all(np.isfinite(draws)) or not np.isfinite(value):
        raise ParetuneError(
            f"the figure is undefined (NaN) for {first.name!r} or {second.name!r} on some resample; "
            "compare a figure that always exists, such as the hypervolume"
        )
    low, high = _bounds(draws, level, len(first.prompts))
    share = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)) + 1
    if low <= 0 <= high:
        verdict = "no difference shown"
    else:
        verdict = f"{first.name if low > 0 else second.name} above"
    difference = Interval(float(value), float(low), float(high), level)
    return Comparison(first.name, second.name, difference, min(1.0, 2 * share / (len(draws) + 1)), verdict)


def mixture(corners: Front, preferences: np.ndarray) -> Front:
    """Return the front of a mixture of policies: policy m of ``corners`` answers with chance ``preferences[n, m]``.

    The expected scores are ``preferences @ scores of the corners``, prompt by prompt: the baseline every front has
    to beat. ``corners`` holds the M single-objective policies, so its preferences are the M one-hot ones, in any order.

    Raises:
        ParetuneError: Other preferences than the M one-hot ones, or chances of another shape.
    """
    M = len(corners.objectives)
    order = corners.preferences.argmax(axis=0)
    if len(corners.preferences) != M or not np.allclose(
        corners.preferences[order], np.eye(M), atol=TOLERANCE
    ):
        raise ParetuneError(
            f"front {corners.name!r} has the preferences {corners.preferences.tolist()}; a mixture needs exactly "
            f"one policy for each of {', '.join(corners.objectives)}, with all weight on it"
        )
    chances = np.asarray(preferences, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] != M:
        raise ParetuneError(f"preferences {chances.shape} for {M} objectives; expected [N, {M}]")
    scores = np.einsum("nk,kpm->npm", chances, corners.scores[order])
    return Front(f"mixture of {corners.name}", corners.objectives, chances, scores, corners.prompts)


def reference_point(*fronts: Front, margin: float = 0.1) -> np.ndarray:
    """Return ``[M]``: the worst mean over all fronts minus ``margin`` times the range of the means.

    It is a default for hypervolumes that are compared with each other: pass every front of the comparison, and
    report it beside them. Where all means of an objective are equal, its range counts as 1.
    """
    if not fronts or not (math.isfinite(margin) and margin >= 0):
        raise ParetuneError(
            f"a reference point from {len(fronts)} fronts with margin {margin}; "
            "give at least one front and a margin >= 0"
        )
    for front in fronts[1:]:
        _check_objectives(fronts[0], front)
    means = np.concatenate([front.means for front in fronts])
    span = np.ptp(means, axis=0)
    return means.min(axis=0) - margin * np.where(span > 0, span, 1.0)


def _resampled_means(scores: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means ``[S, N, M]`` of ``scores [N, P, M]``; the draws depend on P, S and the seed alone."""
    if resamples < 1:
        raise ParetuneError(f"{resamples} resamples; give at least 1, for a 95 % interval at least 1000")
    N, P, M = scores.shape
    by_prompt = scores.transpose(1, 0, 2).reshape(P, N * M)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, N * M))
    rows = max(1, _BLOCK // P)
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        drawn = random.integers(P, size=(len(block), P)) + P * np.arange(len(block))[:, None]
        weights = np.bincount(drawn.ravel(), minlength=len(block) * P).reshape(len(block), P) / P
        block[:] = weights @ by_prompt
    return means.reshape(resamples, N, M)


def _bounds(draws: np.ndarray, level: float, num_prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return percentile bounds of ``draws [S, ...]`` over S; NaN for one prompt, which shows no spread."""
    if not 0 < level < 1:
        raise ParetuneError(f"level {level}; give a number between 0 and 1, such as 0.95")
    if num_prompts < 2:
        draws = np.full_like(draws, np.nan)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _differences(figure: Figure, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a = np.array([float(figure(points)) for points in first])
    b = np.array([float(figure(points)) for points in second])
    return np.where(np.abs(a - b) <= 1e-12 * np.maximum(np.abs(a), np.abs(b)), 0.0, a - b)


def _check_comparable(first: Front, second: Front) -> None:
    _check_objectives(first, second)
    if first.prompts != second.prompts:
        P, Q = len(first.prompts), len(second.prompts)
        pairs = zip(first.prompts, second.prompts, strict=False)
        at = next((p for p, (a, b) in enumerate(pairs) if a != b), min(P, Q))
        raise ParetuneError(
            f"fronts {first.name!r} ({P} prompts) and {second.name!r} ({Q} prompts) differ from prompt "
            f"number {at} on; evaluate both on the same prompts in the same order"
        )
    if len(first.prompts) < 2:
        raise ParetuneError("one prompt shows no spread; compare fronts on at least two, better hundreds")


def _check_objectives(first: Front, second: Front) -> None:
    if first.objectives != second.objectives:
        raise ParetuneError(
            f"front {first.name!r} has the objectives {', '.join(first.objectives)}, {second.name!r} has "
            f"{', '.join(second.objectives)}; only the same objectives in the same order compare"
        )
