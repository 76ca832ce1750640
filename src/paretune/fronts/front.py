"""Fronts: a policy's scores over preferences and prompts, with intervals of means.

A figure is a function of the mean scores ``[N, M]``, higher is better on each objective. Intervals resample the
prompts, for they are the sample; the preferences are chosen. The figures themselves are in
:mod:`paretune.fronts.indicators`, comparisons of fronts in :mod:`paretune.fronts.inference`, and the interval of a
hypervolume in :mod:`paretune.fronts.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import TOLERANCE
from paretune.fronts.indicators import INDICATORS, Indicator, Measured, hypervolume, non_dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLOCK = 4_000_000  # resampling weights held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its interval at ``level``; NaN where the figure or a bound is undefined."""

    value: float
    low: float
    high: float
    level: float = 0.95

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
        """Return the figures of :data:`paretune.fronts.indicators.INDICATORS` of the means as measured.

        Figures whose indicator is ``resampled`` have an interval over prompts. The others have none: noise shifts them, and
        resampling would shift them once more. Undefined figures (sparsity of one point, control of a constant score) are NaN.

        Args:
            reference: The reference point ``[M]``; a hypervolume says nothing without it, so keep both together.
            resamples: The number of resamples of the prompts.
            seed: The seed of the resampling.
            level: The level of the intervals.
            target: The best points known ``[T, M]``; by default those of this front.
        """
        best = self.means[self.non_dominated()] if target is None else target
        draws = _resampled_means(self.scores, resamples, seed)
        figures: dict[str, Interval] = {}
        for key, indicator in INDICATORS.items():

            def value(points: np.ndarray, of: Indicator = indicator) -> np.ndarray:
                return np.atleast_1d(of.of(Measured(self.preferences, points, reference, best)))

            if names := indicator.names(key, self.objectives):
                values = value(self.means)
                low = high = np.full(len(names), np.nan)
                if indicator.resampled:
                    found = value(draws).reshape(len(draws), len(names))
                    low, high = _bounds(found, level, len(self.prompts))
                rows = zip(values, low, high, strict=True)
                bounded = [Interval(float(v), float(below), float(above), level) for v, below, above in rows]
                figures.update(zip(names, bounded, strict=True))
        return figures

    def plot(self, ax: Axes | None = None, objectives: Sequence[str] | None = None) -> Axes:
        """Draw the front on axes of matplotlib, see :func:`paretune.fronts.drawing.draw_front`."""
        from paretune.fronts.drawing import draw_front

        return draw_front(self, ax, objectives)

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


def mean_intervals(
    front: Front, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (low, high) of the means, both ``[N, M]``, by the percentile bootstrap over prompts.

    Every resample draws P prompts with replacement, the same ones for all preferences, as their scores share a prompt's
    difficulty (Efron 1979, "Bootstrap methods: another look at the jackknife"). No interval is narrower than if one prompt
    differed from the others by one standard deviation of the front's scores: prompts that all score the same do not make a
    mean certain. Bounds are NaN where there is only one prompt, and on an objective on which no score varies.
    """
    P = len(front.prompts)
    low, high = _bounds(_resampled_means(front.scores, resamples, seed), level, P)
    varies = np.ptp(front.scores, axis=(0, 1)) > 0
    unit = np.where(varies, front.scores.std(axis=(0, 1)), np.nan)
    least = NormalDist().inv_cdf((1 + level) / 2) * unit / P
    return np.minimum(low, front.means - least), np.maximum(high, front.means + least)


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
    N, P, M = scores.shape
    by_prompt = scores.transpose(1, 0, 2).reshape(P, N * M)
    return resampled(np.random.default_rng(seed), by_prompt, resamples).reshape(resamples, N, M)


def resampled(random: np.random.Generator, rows: np.ndarray, resamples: int) -> np.ndarray:
    """Return the means ``[S, d]`` of ``rows [P, d]`` drawn with replacement, in blocks that fit into memory."""
    if resamples < 1:
        raise ParetuneError(f"{resamples} resamples; give at least 1, for a 95 % interval at least 1000")
    P = len(rows)
    means = np.empty((resamples, rows.shape[1]))
    together = max(1, _BLOCK // P)
    for start in range(0, resamples, together):
        block = means[start : start + together]
        drawn = random.integers(P, size=(len(block), P)) + P * np.arange(len(block))[:, None]
        weights = np.bincount(drawn.ravel(), minlength=len(block) * P).reshape(len(block), P) / P
        block[:] = weights @ rows
    return means


def _bounds(draws: np.ndarray, level: float, num_prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return percentile bounds of ``draws [S, ...]`` over S; NaN for one prompt, which shows no spread."""
    if not 0 < level < 1:
        raise ParetuneError(f"level {level}; give a number between 0 and 1, such as 0.95")
    if num_prompts < 2:
        draws = np.full_like(draws, np.nan)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _check_objectives(first: Front, second: Front) -> None:
    if first.objectives != second.objectives:
        raise ParetuneError(
            f"front {first.name!r} has the objectives {', '.join(first.objectives)}, {second.name!r} has "
            f"{', '.join(second.objectives)}; only the same objectives in the same order compare"
        )
