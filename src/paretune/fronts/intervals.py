"""What the luck of prompts and seeds does to the points of a front, and how it is taken off again.

Means ``[N, M]`` carry an error, drawn by resampling the prompts. From it come the interval of a
hypervolume, bands that hold all means at once, the chance of each point to be on the front, and means shrunk towards
each other, which are not flattered by choosing the best. Verdicts are in :mod:`paretune.fronts.inference`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from paretune.core.errors import ParetuneError
from paretune.fronts.front import Front, Interval, resampled
from paretune.fronts.indicators import hypervolume

Fronts = Front | Sequence[Front]
"""One trained policy, or one front a training seed of the same method."""

NEAR = (1.0, 2.0, 4.0, math.inf)
"""Kernel widths at which points are drawn together, in standard errors of a difference; the last makes all one."""
DRAWS = 1000
"""Of the means' error."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores ``[T, N, P, M]`` of a method: T training seeds, or one policy (``seeds`` 0) that stands for itself."""

    name: str
    objectives: tuple[str, ...]
    preferences: np.ndarray
    scores: np.ndarray
    prompts: tuple[str, ...]
    seeds: int

    @property
    def means(self) -> np.ndarray:
        """The points ``[N, M]``."""
        return self.scores.mean(axis=(0, 2))

    @property
    def unit(self) -> np.ndarray:
        """The standard deviation of all scores ``[M]``."""
        return deviation(self.scores.reshape(-1, len(self.objectives)))


def gather(fronts: Fronts) -> Sample:
    """Return the scores of a front, or of one front a training seed, matched by prompt.

    Raises:
        ParetuneError: fewer than two prompts or seeds, or seeds with other objectives, preferences or prompts.
    """
    several = [fronts] if isinstance(fronts, Front) else list(fronts)
    if not several or (len(several) == 1 and not isinstance(fronts, Front)):
        raise ParetuneError(
            f"{len(several)} training seed(s) given as a sequence; two or more show what the luck of training does: "
            "give one front a seed, or the front by itself to judge that one policy"
        )
    first = several[0]
    if len(first.prompts) < 2:
        raise ParetuneError(
            f"front {first.name!r} has one prompt, which shows no spread; measure on at least two, better hundreds"
        )
    for other in several[1:]:
        same = other.preferences.shape == first.preferences.shape
        if not same or not np.allclose(other.preferences, first.preferences, rtol=0, atol=1e-6):
            raise ParetuneError(
                f"the seeds {first.name!r} and {other.name!r} are measured at {len(first.preferences)} and "
                f"{len(other.preferences)} preferences that differ; measure every seed at the same ones in the same order"
            )
    scores = np.stack([matched(first, other) for other in several])
    seeds = 0 if isinstance(fronts, Front) else len(several)
    return Sample(first.name, first.objectives, first.preferences, scores, first.prompts, seeds)


def matched(first: Front | Sample, second: Front | Sample) -> np.ndarray:
    """Return the scores of the second ``[..., P, M]`` in the order of the prompts of the first.

    Raises:
        ParetuneError: other objectives, or other prompts.
    """
    if first.objectives != second.objectives:
        raise ParetuneError(
            f"front {first.name!r} has the objectives {', '.join(first.objectives)}, {second.name!r} has "
            f"{', '.join(second.objectives)}; only the same objectives in the same order compare"
        )
    place = {prompt: i for i, prompt in enumerate(second.prompts)}
    missing = [prompt for prompt in first.prompts if prompt not in place]
    if missing or len(place) != len(first.prompts):
        raise ParetuneError(
            f"fronts {first.name!r} ({len(first.prompts)} prompts) and {second.name!r} ({len(place)} prompts) have "
            f"different prompts, such as {next(iter(missing), None) or next(iter(place.keys() - set(first.prompts)))!r}; "
            "evaluate both on the same prompts"
        )
    return second.scores[..., [place[prompt] for prompt in first.prompts], :]


def check_level(level: float) -> None:
    """Refuse a level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise ParetuneError(f"level {level}; give a number between 0 and 1, such as 0.95")


def reference_of(reference: np.ndarray, objectives: Sequence[str]) -> np.ndarray:
    """Return the reference ``[M]`` as numbers, or refuse it."""
    point = np.asarray(reference, dtype=np.float64)
    if point.shape != (len(objectives),) or not np.isfinite(point).all():
        raise ParetuneError(
            f"reference point {point.tolist()} for the objectives {', '.join(objectives)}; give each one finite number"
        )
    return point


def deviation(scores: np.ndarray) -> np.ndarray:
    """Return the standard deviation ``[M]`` of scores ``[n, M]``, exactly 0 where all are the same."""
    return np.where(np.ptp(scores, axis=0) > 0, scores.std(axis=0), 0.0)


@dataclass(frozen=True, eq=False)
class Noise:
    """Means ``[N, M]`` with draws ``[S, N, M]`` of their error, and its size ``[N, M]``.

    Points are in the order of their scores, so that listing them in another changes nothing; ``order`` leads back.
    """

    means: np.ndarray
    draws: np.ndarray
    errors: np.ndarray
    order: np.ndarray
    level: float

    @classmethod
    def of(
        cls,
        sample: Sample,
        level: float,
        resamples: int = DRAWS,
        seed: int = 0,
        unit: np.ndarray | None = None,
    ) -> Noise:
        """Draw the error of a sample's means: prompts are resampled (Efron 1979), the luck of seeds is normal.

        The draws are widened to Student's t by one factor that is right for the bounds at ``level``, 4 % with 32 prompts.
        No error is smaller than if one prompt differed from the others by one deviation: prompts that all score the same
        do not make a mean certain. That deviation ``[M]`` is ``unit``, by default the sample's own.
        """
        check_level(level)
        unit = sample.unit if unit is None else unit
        order = np.lexsort((*sample.preferences.T, *sample.means.T))
        T, N, P, M = sample.scores.shape
        scores = sample.scores[:, order]
        prompts = scores.mean(axis=0).transpose(1, 0, 2).reshape(P, -1)
        prompts = prompts[np.lexsort(prompts.T)] - prompts.mean(axis=0)
        seeds = scores.mean(axis=2).reshape(T, -1) - scores.mean(axis=(0, 2)).ravel()
        parts = [(prompts**2).sum(axis=0) / (P * (P - 1)), (seeds**2).sum(axis=0) / (T * max(1, T - 1))]
        unit = np.tile(np.where(unit > 0, unit, 1.0), N)
        lacking = np.maximum((unit / P) ** 2 - sum(parts), 0)
        random = np.random.default_rng(seed)
        drawn = resampled(random, prompts, resamples) * math.sqrt(P / (P - 1))
        if sample.seeds:
            drawn += random.normal(size=(resamples, T)) @ seeds / math.sqrt(T * (T - 1))
        if lacking.any():
            drawn += random.normal(size=drawn.shape) * np.sqrt(lacking)
        freedom = satterthwaite([float((part / unit**2).sum()) for part in parts], [P - 1, max(1, T - 1)])
        size = special.stdtrit(freedom, (1 + level) / 2) / special.ndtri((1 + level) / 2)
        draws = (size * (drawn - drawn.mean(axis=0))).reshape(-1, N, M)
        return cls(sample.means[order], draws, np.sqrt(sum(parts) + lacking).reshape(N, M), order, level)

    @cached_property
    def reach(self) -> float:
        """The standard errors within which all means are at once, at ``level`` (max-t, White 2000)."""
        return float(np.quantile(np.abs(self.draws / self.errors).max(axis=(1, 2)), self.level))

    def plausible(self) -> list[np.ndarray]:
        """Return the means ``[N, M]`` as measured and with near points drawn together, where data do not reject it."""
        apart = np.sqrt(2 * (self.errors**2).mean(axis=0))
        square = (((self.means[:, None] - self.means) / apart) ** 2).sum(axis=-1)
        found = [self.means]
        for width in NEAR:
            kernel = np.exp(-square / (2 * width**2))
            drawn = kernel @ self.means / kernel.sum(axis=1, keepdims=True)
            if np.abs((drawn - self.means) / self.errors).max() <= self.reach:
                found.append(drawn)
        return found


def satterthwaite(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Return the degrees of freedom of a sum of estimated variances (Satterthwaite 1946).

    >>> satterthwaite([1.0, 1.0], [10, 10])
    20.0
    """
    total = sum(variances)
    share = sum(v**2 / n for v, n in zip(variances, freedoms, strict=True))
    return total**2 / share if share > 0 else float(freedoms[0])


def sides(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the M-th root ``[S]`` of the hypervolumes of ``points [S, N, M]``: the side of a cube as large."""
    M = points.shape[-1]
    if M == 2:
        return np.sqrt(_areas(points - reference))
    return np.array([hypervolume(each, reference) for each in points]) ** (1 / M)


def _areas(points: np.ndarray) -> np.ndarray:
    """Return the hypervolumes ``[S]`` of ``[S, N, 2]`` above 0, all at once."""
    above = np.maximum(points, 0.0)
    order = np.argsort(-above[..., 0], axis=-1)
    across, up = (np.take_along_axis(above[..., m], order, axis=-1) for m in (0, 1))
    steps = np.diff(np.maximum.accumulate(up, axis=-1), axis=-1, prepend=0.0)
    return np.asarray((across * steps).sum(axis=-1))


def interval(
    front: Fronts, reference: np.ndarray, level: float = 0.95, resamples: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the hypervolume above ``reference [M]``, corrected for luck, with an interval that covers the true one.

    A maximum over noisy points is too large on average, the more so the closer the points are. How much is found by
    adding the means' error to fronts that the data do not reject: the measured one, and those with points drawn
    together that lie within 1, 2, 4 or any number of standard errors (in the spirit of Andrews and Soares 2010,
    "Inference for parameters defined by moment inequalities"). The value takes off their mean excess, the lower bound
    the largest quantile of it; the upper bound takes no credit for ties that are not there. All is reckoned with the
    M-th root, the side of a cube as large, which grows as scores do. Several seeds: of the mean front over seeds.

    Raises:
        ParetuneError: fewer than two prompts, an objective on which no score varies, or no point that could be above
            the reference.
    """
    sample = gather(front)
    reference = reference_of(reference, sample.objectives)
    _check_spread(sample)
    noise = Noise.of(sample, level, resamples, seed)
    side, excess = _excess(noise, reference)
    tail = (1 - level) / 2
    low = side - max(np.quantile(each, 1 - tail) for each in excess)
    high = _highest(noise, reference, tail)
    if not high > 0:
        raise ParetuneError(
            f"no point of {sample.name!r} is above the reference {reference.tolist()} on every objective, "
            "not even by chance; give a reference point below the front"
        )
    value = side - np.mean([each.mean() for each in excess])
    low = max(low, 0.0)
    M = len(sample.objectives)
    value, low, high = (float(each) ** M for each in (np.clip(value, low, high), low, high))
    return Interval(value, low, high, level)


def volume(sample: Sample, reference: np.ndarray, resamples: int = 200, seed: int = 0) -> float:
    """Return the value of :func:`interval`, without its bounds and with fewer draws."""
    reference = reference_of(reference, sample.objectives)
    side, excess = _excess(Noise.of(sample, 0.95, resamples, seed), reference)
    return float(max(0.0, side - np.mean([each.mean() for each in excess]))) ** len(sample.objectives)


def _excess(noise: Noise, reference: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Return the side of the measured front, and by how much each draw exceeds it on each plausible front ``[S]``."""
    plausible = noise.plausible()
    own = sides(np.stack(plausible), reference)
    drawn = [sides(points + noise.draws, reference) for points in plausible]
    return float(own[0]), [each - side for each, side in zip(drawn, own, strict=True)]


def _highest(noise: Noise, reference: np.ndarray, tail: float) -> float:
    """Return the upper bound of the side: the measured one and the wider half of its draws, about their middle.

    The middle's own excess is no credit, for the points may be apart, but where it is below 0 it is made good. Points
    just below the reference are first put on it, as far as two standard errors allow: below it a volume is flat, and
    would hide how far the true mean may be above.
    """
    lifted = np.minimum(np.maximum(noise.means, reference), noise.means + 2 * noise.errors)
    own = sides(lifted[None], reference)[0]
    below, middle, above = np.quantile(sides(lifted + noise.draws, reference) - own, [tail, 0.5, 1 - tail])
    return float(own + max(above - middle, middle - below) - min(middle, 0.0))


def bands(
    front: Fronts, level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds (low, high) ``[N, M]`` that hold all true means at once, so also that of the point one chooses.

    By the largest standardised error of all (max-t; Montiel Olea and Plagborg-Moller 2019, "Simultaneous confidence
    bands"). An interval of one point by itself is for a point chosen before its scores were seen.
    """
    sample = gather(front)
    _check_spread(sample)
    noise = Noise.of(sample, level, resamples, seed)
    back = np.argsort(noise.order)
    width = noise.reach * noise.errors[back]
    return sample.means - width, sample.means + width


def on_front(
    front: Fronts, tolerance: float | np.ndarray = 0.1, resamples: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Return for each point ``[N]`` the chance that no other is better by more than ``tolerance`` on every objective.

    The chance is the share of draws of the means' error around the measured means. ``tolerance`` is in deviations of
    an answer's score, one number or ``[M]``; 0 is plain dominance (epsilon-efficiency, Loridan 1984).
    """
    sample = gather(front)
    _check_spread(sample)
    slack = np.asarray(tolerance, dtype=np.float64)
    if not (np.isfinite(slack) & (slack >= 0)).all():
        raise ParetuneError(f"tolerance {tolerance!r}; give a number of deviations, 0 or more")
    noise = Noise.of(sample, 0.95, resamples, seed)
    points = noise.means + noise.draws
    beaten = np.stack(
        [
            (points - points[:, n, None] > slack * sample.unit).all(axis=-1).any(axis=-1)
            for n in range(len(noise.means))
        ]
    )
    return np.asarray(1 - beaten.mean(axis=1))[np.argsort(noise.order)]


def shrunk(front: Fronts) -> np.ndarray:
    """Return the means ``[N, M]`` without most of what is luck, so that the best of them is flattered far less.

    Each objective's means are split into their middle, a plane in the preferences, a quadratic surface and the rest; all
    but the middle shrink by the share of their squares that the error of the means explains (the positive part of James
    and Stein 1961, Efron and Morris 1973). What is well above the noise stays as measured.
    """
    sample = gather(front)
    N = len(sample.means)
    noise = Noise.of(sample, 0.95)
    errors = noise.draws[:, np.argsort(noise.order)]
    flat, plane, surface = _surfaces(sample.preferences)
    columns = []
    for m, mean in enumerate(sample.means.T):
        parts = [
            _less(part, mean, errors[..., m]) for part in (plane - flat, surface - plane, np.eye(N) - surface)
        ]
        columns.append(flat @ mean + np.sum(parts, axis=0))
    return np.stack(columns, axis=1)


def _surfaces(preferences: np.ndarray) -> list[np.ndarray]:
    """Return the projections ``[N, N]`` on constants, on planes and on quadratic surfaces in preferences ``[N, M]``."""
    N, M = preferences.shape
    left, right = np.triu_indices(M)
    products = preferences[:, left] * preferences[:, right]
    return [design @ np.linalg.pinv(design) for design in (np.ones((N, 1)), preferences, products)]


def _less(part: np.ndarray, mean: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the part (a projection ``[N, N]``) of means ``[N]``, less the share of its squares that errors ``[S, N]`` have."""
    found = part @ mean
    square = float(found @ found)
    error = float(((errors @ part.T) ** 2).sum(axis=1).mean())
    return np.asarray(found * (max(0.0, 1 - error / square) if square > 0 else 0.0))


def _check_spread(sample: Sample) -> None:
    for objective, unit in zip(sample.objectives, sample.unit, strict=True):
        if unit == 0:
            raise ParetuneError(
                f"front {sample.name!r} has the same score on {objective!r} for every answer, so nothing shows how far "
                "its mean may be off; check the scorer, measure more prompts, or leave the objective out"
            )
