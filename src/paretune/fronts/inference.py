"""What scores on P prompts allow to say about fronts: which is above, by how much, and what could not be seen.

A policy's *utility* at a preference w is ``<w, standardised scores>``, linear in the scores and so free of the luck
that a maximum over noisy points adds to a hypervolume. Verdicts are tests of the mean utility of people whose tastes
are uniform on the simplex, each served by the nearest preference that both fronts have; hypervolumes are figures, with
the interval of :mod:`paretune.fronts.intervals`. Each choice was made by simulation: ``docs/statistics.md``,
``benchmarks/inference.py``.

A front of one point serves it at every preference: the base model, or a policy without a dial. A sequence of fronts
stands for training seeds of one method, and seeds are then judged as well as prompts; a front by itself stands for the
one policy that was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from paretune.core.errors import ParetuneError
from paretune.core.preference import TOLERANCE, simplex_grid
from paretune.fronts.intervals import (
    Fronts,
    Sample,
    check_level,
    gather,
    matched,
    satterthwaite,
    volume,
)

if TYPE_CHECKING:
    from paretune.fronts.record import PairedTest

NOT_SHOWN = "no difference shown"
POWER = 0.8
"""Chance with which a difference that "could have been seen" is seen."""
MOST_PROMPTS = 100_000
"""Where more prompts would be needed, their number says no more than that the difference is next to nothing."""
ROUNDING = 1e15
"""Number of prompts from which on a difference is one of rounding; none at all would show it."""
_TASTES, _FINEST = 2000, 1679
"""Most points of a lattice of tastes, and its divisions with two objectives: 1680 has the divisors that grids have."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Mean utility of the first minus that of the second, over tastes served by the common preferences.

    Attributes:
        first, second: names.
        preferences: ``[K, M]``, the common ones.
        difference: in deviations: scores are divided by ``unit``, so 0.2 is a fifth of an answer's deviation.
        unit: ``[M]``, the standard deviation of the answers' scores, each front for a half; 0 where none varies.
        prompt_error, seed_error: standard errors from the choice of prompts and from the luck of training.
        freedom: degrees of freedom of the whole error (Satterthwaite 1946).
        skewness: of the whole error, times the square root of P.
        prompts: P.
        seeds: training seeds of the two; 0 where a front stands for itself.
        hypervolumes: of the two at the common preferences, corrected for luck; None without a reference point.
        level: of the interval; in each direction a verdict is false with half of what is left to 1.
        adjusted: the p-value among those of a report, see :func:`holm`; None outside of one.
    """

    first: str
    second: str
    preferences: np.ndarray
    difference: float
    unit: np.ndarray
    prompt_error: float
    seed_error: float
    freedom: float
    skewness: float
    prompts: int
    seeds: tuple[int, int]
    hypervolumes: tuple[float, float] | None
    level: float = 0.95
    adjusted: float | None = None

    @property
    def error(self) -> float:
        """The standard error of the difference, in deviations."""
        return math.hypot(self.prompt_error, self.seed_error)

    @property
    def p_value(self) -> float:
        """The two-sided p-value: of t, or of t corrected for skewness if that is larger."""
        t = self.difference / self.error
        corrected = _corrected(t, self.skewness, self.prompts)
        shown = min(abs(t), abs(corrected)) if t * corrected > 0 else 0.0
        return float(2 * special.stdtr(self.freedom, -shown))

    @property
    def low(self) -> float:
        """The lower bound of the difference."""
        return self.difference - self.error * max(self._t, _uncorrected(self._t, self.skewness, self.prompts))

    @property
    def high(self) -> float:
        """The upper bound of the difference."""
        return self.difference + self.error * max(
            self._t, -_uncorrected(-self._t, self.skewness, self.prompts)
        )

    @property
    def _t(self) -> float:
        return float(special.stdtrit(self.freedom, (1 + self.level) / 2))

    @property
    def verdict(self) -> str:
        """``"NAME above"``, or ``"no difference shown"`` where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return NOT_SHOWN
        return f"{self.first if self.low > 0 else self.second} above"

    @property
    def detectable(self) -> float:
        """The true difference that would have been seen four times in five at this level, in deviations."""
        return self.error * (self._t + float(special.stdtrit(self.freedom, POWER)))

    @property
    def enough_prompts(self) -> int | None:
        """How many prompts would show the observed difference, see :func:`prompts_needed`."""
        return prompts_needed(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        derived = ("low", "high", "p_value", "verdict", "detectable", "enough_prompts")
        fields = {**vars(self), **{name: getattr(self, name) for name in derived}}
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in fields.items()
        }


def compare(
    first: Fronts,
    second: Fronts,
    reference: np.ndarray | None = None,
    level: float = 0.95,
    paired: bool = False,
) -> Comparison:
    """Compare the mean utility of two fronts at the preferences that both serve, paired by prompt.

    Each common preference counts by the share of tastes that are nearest to it, so neither the number of points nor
    where they crowd matters. Anchors measured at 3 preferences meet a policy measured at 5 at the common 3; a front of
    one point (the base model) answers at all of the other's. For the mixture of corners pass
    :func:`paretune.fronts.front.mixture` at the policy's preferences. Prompts are matched by their ids.

    With ``paired`` the training seeds of the two belong together in their order, as where one method starts from what the
    other trained: luck that both share then counts against neither.

    ``reference [M]`` adds the hypervolumes at the common preferences, as figures; the verdict does not rest on them.

    Raises:
        ParetuneError: other prompts or objectives, no common preference, fewer than two prompts, scores that are all
            the same, one training seed where seeds are asked for, or seeds in pairs that are not equally many.

    Example: ``compare(policy, base, reference=np.array([-9.0, 0.0])).verdict``
    """
    a, b = gather(first), gather(second)
    if paired and not a.seeds == b.seeds > 0:
        raise ParetuneError(
            f"{a.name!r} has {a.seeds} training seeds and {b.name!r} {b.seeds}; pairs of seeds need equally many, two or more"
        )
    b = replace(b, scores=matched(a, b), prompts=a.prompts)
    check_level(level)
    preferences = _common(a, b)
    shares = _tastes(preferences)
    answering = [_used(sample, _answering(preferences, sample.preferences)) for sample in (a, b)]
    unit = _unit(answering, shares)
    weights = shares[:, None] * preferences / np.where(unit > 0, unit, np.inf)
    roles = [rows.T @ weights for _, rows in answering]
    scores = [sample.scores for sample, _ in answering]
    utilities = [np.einsum("nm,tnpm->tp", role, each) for role, each in zip(roles, scores, strict=True)]
    volumes = None
    if reference is not None:
        volumes = (volume(answering[0][0], reference), volume(answering[1][0], reference))
    return Comparison(
        a.name,
        b.name,
        preferences,
        float(utilities[0].mean() - utilities[1].mean()),
        unit,
        **_errors(utilities, (a.seeds, b.seeds), _dealt(scores, roles), paired),
        prompts=len(a.prompts),
        seeds=(a.seeds, b.seeds),
        hypervolumes=volumes,
        level=level,
    )


def _common(a: Sample, b: Sample) -> np.ndarray:
    """Return the K preferences ``[K, M]`` that both serve, in the order of their weights."""
    if len(a.preferences) == 1 or len(b.preferences) == 1:
        given = [s.preferences for s in (a, b) if len(s.preferences) > 1] or [a.preferences, b.preferences]
        served = _distinct(np.concatenate(given))
    else:
        served = _distinct(a.preferences)
        served = served[_same(served, b.preferences).any(axis=1)]
    if not len(served):
        raise ParetuneError(
            f"{a.name!r} is measured at {_listed(a.preferences)} and {b.name!r} at {_listed(b.preferences)}: no common "
            "preference; measure both at some of the same"
        )
    return served


def _tastes(preferences: np.ndarray) -> np.ndarray:
    """Return the share ``[K]`` of all tastes, uniform on the simplex, whose nearest preference is each of ``[K, M]``.

    Of an even grid over two objectives the ends have half of what the others have, as in the trapezoid rule.
    """
    M = preferences.shape[1]
    divisions = next(d for d in range(_FINEST, 0, -1) if math.comb(d + M - 1, M - 1) <= _TASTES)
    tastes = (divisions * simplex_grid(M, divisions) + 1 / M) / (divisions + 1)
    apart = ((tastes[:, None] - preferences) ** 2).sum(axis=-1)
    nearest = apart <= apart.min(axis=1, keepdims=True) + 1e-12
    return np.asarray((nearest / nearest.sum(axis=1, keepdims=True)).mean(axis=0))


def _used(sample: Sample, rows: np.ndarray) -> tuple[Sample, np.ndarray]:
    """Return the sample and its shares ``[K, N]`` without the points that answer at none of the preferences."""
    used = rows.any(axis=0)
    part = replace(sample, preferences=sample.preferences[used], scores=sample.scores[:, used])
    return part, rows[:, used]


def _answering(served: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the shares ``[K, N]`` of a front's points at the preferences ``[K, M]``; those that stand twice share."""
    if len(own) == 1:
        return np.ones((len(served), 1))
    same = _same(served, own)
    return np.asarray(same / same.sum(axis=1, keepdims=True))


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(one[:, None] - other[None]) <= TOLERANCE).all(axis=-1))


def _distinct(preferences: np.ndarray) -> np.ndarray:
    """Return the preferences in the order of their weights, those that stand twice once."""
    first = _same(preferences, preferences).argmax(axis=1) == np.arange(len(preferences))
    kept = preferences[first]
    return np.asarray(kept[np.lexsort(kept.T[::-1])])


def _listed(preferences: np.ndarray) -> str:
    shown = ", ".join(str(row.round(3).tolist()) for row in preferences[:4])
    return shown + (", ..." if len(preferences) > 4 else "")


def _unit(answering: Sequence[tuple[Sample, np.ndarray]], tastes: np.ndarray) -> np.ndarray:
    """Return the standard deviation ``[M]`` of the scores of both, each front for a half, by the shares of tastes ``[K]``.

    Exactly 0 where all scores are the same, which rounding could hide.
    """
    shares = [tastes @ rows for _, rows in answering]
    scores = [sample.scores for sample, _ in answering]
    centre = np.mean(
        [share @ each.mean(axis=(0, 2)) for share, each in zip(shares, scores, strict=True)], axis=0
    )
    square = np.mean(
        [
            share @ ((each - centre) ** 2).mean(axis=(0, 2))
            for share, each in zip(shares, scores, strict=True)
        ],
        axis=0,
    )
    first = scores[0][0, 0, 0]
    constant = np.all([(each == first).all(axis=(0, 1, 2)) for each in scores], axis=0)
    if constant.all():
        a, b = (sample.name for sample, _ in answering)
        raise ParetuneError(
            f"every answer of {a!r} and {b!r} has the scores {first.tolist()}; scores that never vary rank nothing, so "
            "check the scorers"
        )
    return np.where(constant, 0.0, np.sqrt(square))


def _errors(
    utilities: Sequence[np.ndarray], seeds: tuple[int, int], dealt: np.ndarray | None, paired: bool
) -> dict[str, float]:
    """Return errors, freedom and skewness of the mean difference of two utilities ``[T, P]`` over seeds and prompts.

    The luck of one answer is counted with the prompts and once more with the seeds: rather too wide than too narrow. The
    error from prompts is never less than if one prompt differed by one deviation: agreement on all is no certainty.
    """
    difference = utilities[0].mean(axis=0) - utilities[1].mean(axis=0)
    P = len(difference)
    prompts = max(float(difference.var(ddof=1)) / P, 1 / P**2)
    one_by_one = [(utilities[0] - utilities[1], seeds[0])] if paired else zip(utilities, seeds, strict=True)
    luck = [(float(u.mean(axis=1).var(ddof=1)) / T, T - 1) for u, T in one_by_one if T]
    variances, freedoms = [prompts, *(v for v, _ in luck)], [P - 1, *(n for _, n in luck)]
    total = sum(variances)
    return {
        "prompt_error": math.sqrt(prompts),
        "seed_error": math.sqrt(total - prompts),
        "freedom": satterthwaite(variances, freedoms),
        "skewness": _skewness(difference if dealt is None else dealt) * (prompts / total) ** 1.5,
    }


def _dealt(scores: Sequence[np.ndarray], roles: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the differences ``[N + 1, P]`` with each answer to a prompt in the place of a front's only one; else None.

    The mean of N answers less one answer is skewed where answers are, and a sample shows it badly. Where nothing was
    trained the N + 1 answers to a prompt are alike, and dealing them round shows it N + 1 times as well.
    """
    if sorted(len(role) == 1 for role in roles) != [False, True] or any(len(each) > 1 for each in scores):
        return None
    answers = np.concatenate([each[0] for each in scores])
    signed = np.concatenate([roles[0], -roles[1]])
    return np.stack(
        [np.einsum("nm,npm->p", signed, np.roll(answers, n, axis=0)) for n in range(len(answers))]
    )


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    square = float((centred**2).mean())
    return float((centred**3).mean()) / square**1.5 if square > 0 else 0.0


def _corrected(t: float, skewness: float, P: int) -> float:
    """Return t on P prompts corrected for skewness: Hall 1992, "On the removal of skewness by transformation"."""
    if abs(skewness) < 1e-9:
        return t
    cubed = ((1 + skewness * t / (3 * math.sqrt(P))) ** 3 - 1) / skewness
    return math.sqrt(P) * (cubed + skewness / (6 * P))


def _uncorrected(t: float, skewness: float, P: int) -> float:
    """Return the t that :func:`_corrected` turns into ``t``."""
    if abs(skewness) < 1e-9:
        return t
    root = np.cbrt(1 + skewness * (t / math.sqrt(P) - skewness / (6 * P)))
    return float(3 * math.sqrt(P) * (root - 1) / skewness)


def holm(comparisons: Sequence[Comparison], level: float = 0.95) -> list[Comparison]:
    """Return the comparisons of one report, in their order, judged together: at ``level`` none is falsely called above.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the j-th smallest of m p-values is judged at
    ``(1 - level) / (m - j + 1)`` until one is too large, and the rest as that one. Each interval, and what could have been
    seen, has the level at which its comparison was judged, and so agrees with the verdict.
    """
    check_level(level)
    judged, m = list(comparisons), len(comparisons)
    adjusted, left = 0.0, m
    for rank, i in enumerate(sorted(range(m), key=lambda i: comparisons[i].p_value)):
        if adjusted < 1 - level:  # all before are shown
            left = m - rank
        adjusted = max(adjusted, min(1.0, (m - rank) * comparisons[i].p_value))
        judged[i] = replace(comparisons[i], level=1 - (1 - level) / left, adjusted=adjusted)
    return judged


def prompts_needed(
    comparison: Comparison, difference: float | None = None, power: float = POWER
) -> int | None:
    """Return how many prompts show a true ``difference`` (in deviations) with chance ``power`` at the same level.

    Without one, the observed difference is taken for true, which it seldom quite is: read the number as a size. None
    where no number would do: there is no difference, or the luck of training hides it and more seeds are needed.
    """
    c = comparison
    wanted = abs(c.difference if difference is None else difference)
    room = (wanted / (c._t + float(special.stdtrit(c.freedom, power)))) ** 2 - c.seed_error**2
    needed = c.prompts * c.prompt_error**2 / room if room > 0 else math.inf
    return max(2, math.ceil(needed)) if needed < ROUNDING else None


def sentence(comparison: Comparison | PairedTest, called: Callable[[str], str] = str) -> str:
    """Return a verdict in words; where no difference is shown, also what could have been seen and how many prompts would do.

    Args:
        comparison: A comparison, or its entry in the record of a run.
        called: Turns the name of a front into what a reader calls it.
    """
    c = comparison
    first, second = called(c.first), called(c.second)
    counts = [f"{len(c.preferences)} preference{'s' * (len(c.preferences) != 1)}", f"{c.prompts} prompts"]
    for name, seeds in zip((first, second), c.seeds, strict=True):
        counts += [f"{seeds} training seeds of {name}"] * (seeds > 0)
    where = f"over {', '.join(counts[:-1])} and {counts[-1]}"
    if c.verdict != NOT_SHOWN:
        size, low, high = (c.difference, c.low, c.high) if c.low > 0 else (-c.difference, -c.high, -c.low)
        above, below = (first, second) if c.low > 0 else (second, first)
        return f"{above} is above {below} by {size:.2f} deviations [{low:.2f}, {high:.2f}], {where}."
    difference, lowest, highest = map(_signed, (c.difference, c.low, c.high))
    return (
        f"{first} and {second}: {NOT_SHOWN} ({difference} deviations [{lowest}, {highest}], {where}); a difference of "
        f"{c.detectable:.2f} deviations could have been seen{_prompts_in_words(c.enough_prompts)}."
    )


def _signed(value: float) -> str:
    """Return a number with its sign and two decimals; 0 has none."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _prompts_in_words(enough: int | None) -> str:
    """Return how many prompts would show the observed difference, to two digits; nothing where no number would."""
    if enough is None:
        return ""
    if enough > MOST_PROMPTS:
        return f"; no {MOST_PROMPTS:,} prompts would show one as small as observed"
    return f"; about {float(f'{enough:.2g}'):,.0f} prompts would show one as small as observed"
