"""Policies side by side: intervals, verdicts and movements, as the record of a run holds them.

Policies named ``NAME-seed-1``, ``NAME-seed-2``, ... are training seeds of one method. They are measured one by one and
compared as one method, so that a verdict covers the luck of training too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference, simplex_grid
from paretune.core.thought import without_thought
from paretune.evaluation.judged import RESAMPLES, Evaluation, Judged
from paretune.fronts.front import Front, Interval, mean_intervals, mixture
from paretune.fronts.indicators import knee, non_dominated
from paretune.fronts.inference import Comparison, compare, holm
from paretune.fronts.intervals import Fronts, bands, interval, on_front, shrunk
from paretune.fronts.movement import Movements, end_to_end, movements, wanted_direction
from paretune.fronts.record import (
    BasePoint,
    CornerMixture,
    MeasuredPolicy,
    Movement,
    PairedTest,
    Point,
    Uncompared,
)
from paretune.fronts.score_table import SEED_MARK

SAME_AS_WORDS = 0.9
"""Where an objective's scores of the base model's answers correlate so far with their length, it is the length."""
MIXTURES = 500
"""The most points at which the mixture of corners is recorded. The corners are among them, so their hull is the whole mixture's."""
UNKNOWN = Interval(np.nan, np.nan, np.nan)
"""A figure that was not measured."""


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean of per-prompt values ``[P]`` with a bootstrap interval over prompts; no bounds where none varies.

    NaN where a value is not known.
    """
    if not np.isfinite(values).all():
        return Interval(np.nan, np.nan, np.nan)
    scores = values[None, :, None]
    single = Front("mean", ("mean",), np.ones((1, 1)), scores, tuple(str(i) for i in range(len(values))))
    low, high = mean_intervals(single)
    return Interval(float(values.mean()), float(low[0, 0]), float(high[0, 0]))


@dataclass(frozen=True, eq=False)
class Judgement:
    """All policies of a run side by side, with the base model, the mixture of corners and the verdicts.

    Attributes:
        evaluations: Policy name -> its evaluation; all on the same prompts.
        base: The base model; None where it was not measured.
        corners: The single-objective models, each at its one-hot preference; None likewise.
        dense_mixture: What mixing the corners by chance reaches, at many preferences along the simplex.
        mixture: The same at the preferences of the policy that is measured at the most.
        reference_point: ``[M]``, the reference point of every hypervolume here.
        comparisons: Mean utility of each method against the base model and against the mixture at its own preferences, and
            of the methods among each other at common preferences; judged together (Holm).
        uncompared: Pairs that cannot be compared, and why.
        extrapolations: Policy name -> its evaluation off the simplex, which no figure counts.
        resamples: Resamples of the prompts, for intervals.
        shown: The number of prompts whose answers are recorded.
    """

    evaluations: Mapping[str, Evaluation]
    base: Evaluation | None
    corners: Evaluation | None
    dense_mixture: Front | None
    mixture: Front | None
    reference_point: np.ndarray
    comparisons: Sequence[Comparison]
    uncompared: Sequence[Uncompared]
    extrapolations: Mapping[str, Evaluation] = field(default_factory=dict)
    resamples: int = RESAMPLES
    shown: int = 6

    @property
    def objectives(self) -> tuple[str, ...]:
        """M names."""
        return self._any.objectives

    @property
    def prompts(self) -> tuple[str, ...]:
        """Ids of the held-out prompts."""
        return self._any.prompts

    @property
    def num_prompts(self) -> int:
        """The number of held-out prompts."""
        return len(self._any.prompts)

    @property
    def _any(self) -> Evaluation:
        return next(iter(self.everything.values()))

    @property
    def everything(self) -> dict[str, Evaluation]:
        """Name -> evaluation of all that was measured on the simplex: the policies, the base model and the corners."""
        others = [each for each in (self.base, self.corners) if each is not None]
        return {**self.evaluations, **{each.name: each for each in others}}

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """Sentences on what cannot be said of these scores."""
        if self.num_prompts < 2:
            return (
                "One held-out prompt shows no spread: nothing here has an interval, and nothing is compared. Measure on at "
                "least two prompts, better hundreds.",
            )
        fronts = [each.front for each in self.everything.values() if each is not self.corners]
        scores = np.concatenate([front.scores.reshape(-1, len(self.objectives)) for front in fronts])
        return tuple(
            f"Every answer has the score {scores[0, m]:g} on {objective}, so nothing is known about this objective, and a "
            "hypervolume has no interval. Check its scorer."
            for m, objective in enumerate(self.objectives)
            if np.ptp(scores[:, m]) == 0
        )

    def recorded_base(self) -> BasePoint:
        """Return the base model's entry of the record; NaN where it was not measured."""
        if self.base is None:
            return _unmeasured(self.objectives)
        facts = _facts(self.base, 0, self.shown)
        low, high = mean_intervals(self.base.front)
        return BasePoint(**facts, low=low[0], high=high[0], hypervolume=self._hypervolume(self.base.front))

    def recorded_mixture(self) -> CornerMixture:
        """Return the entry of the mixture of corners; without points where they were not measured."""
        if self.dense_mixture is None or self.mixture is None:
            return CornerMixture(points=(), hypervolume=UNKNOWN)
        points = tuple(map(tuple, self.dense_mixture.means.tolist()))
        return CornerMixture(points=points, hypervolume=self._hypervolume(self.mixture))

    def recorded_tests(self) -> tuple[PairedTest, ...]:
        """Return the entries of the comparisons."""
        return tuple(
            PairedTest(**{name: getattr(comparison, name) for name in PairedTest.model_fields})
            for comparison in self.comparisons
        )

    def recorded_policy(self, name: str, anchored: bool) -> MeasuredPolicy:
        """Return the entry of one policy, without what only its method knows.

        Args:
            name: The policy's name.
            anchored: Whether it answers with measured preferences only.
        """
        evaluation, beyond = self.evaluations[name], self.extrapolations.get(name)
        front = evaluation.front
        return MeasuredPolicy(
            name=name,
            anchored=anchored,
            points=self._points(evaluation, self._movements[name]),
            ends=self._ends.get(name, {}),
            extrapolations=self._points(beyond) if beyond else (),
            figures={
                **front.summary(self.reference_point, self.resamples, target=self._best),
                "hypervolume": self._hypervolume(front),
            },
            non_dominated=tuple(front.non_dominated().tolist()),
            knee=knee(front.means),
            seconds=sum(point.seconds for point in evaluation.points),
            tokens=int(sum(point.lengths.sum() for point in evaluation.points)),
        )

    def _points(self, evaluation: Evaluation, moved: Sequence[Movement | None] = ()) -> tuple[Point, ...]:
        columns = _spread(evaluation.front, self.resamples)
        points = []
        for n in range(len(evaluation.points)):
            facts = {name: column[n] for name, column in columns.items()}
            if moved:
                facts["movement"] = moved[n]
            points.append(Point(**_facts(evaluation, n, self.shown), **facts))
        return tuple(points)

    @cached_property
    def _movements(self) -> dict[str, Sequence[Movement | None]]:
        """Policy name -> the movement of each point; the bounds hold for all points of all policies at once."""
        return _movements(self.base, self.evaluations, self.resamples)

    @cached_property
    def _ends(self) -> dict[str, dict[str, Interval]]:
        """Policy name -> objective -> what turning the dial from end to end does; bounds hold for all of them at once.

        Differences are in deviations of the base model's answers, and of all answers where these do not vary.
        """
        fronts = {name: each.front for name, each in self.evaluations.items() if len(each.points) > 1}
        every = np.concatenate([_answers(each) for each in self.everything.values()]).std(axis=0)
        before = every if self.base is None else _answers(self.base).std(axis=0)
        found = end_to_end(
            [front.preferences for front in fronts.values()],
            [front.scores for front in fronts.values()],
            np.where(before > 0, before, np.where(every > 0, every, 1.0)),
            self.resamples,
        )
        return {
            name: dict(zip(self.objectives, row, strict=True))
            for name, row in zip(fronts, found, strict=True)
        }

    @cached_property
    def _best(self) -> np.ndarray:
        """The non-dominated points ``[T, M]`` of all policies together."""
        points = np.concatenate([evaluation.front.means for evaluation in self.evaluations.values()])
        return points[non_dominated(points)]

    def _hypervolume(self, front: Front) -> Interval:
        """Return the hypervolume corrected for luck; as measured and without bounds where its luck is unknown."""
        try:
            return interval(front, self.reference_point, resamples=self.resamples)
        except ParetuneError:
            return Interval(front.hypervolume(self.reference_point), np.nan, np.nan)


def _unmeasured(objectives: Sequence[str]) -> BasePoint:
    unknown = tuple([np.nan] * len(objectives))
    uniform = Preference.uniform(objectives).as_dict()
    return BasePoint(
        preference=uniform, used=uniform, mean=unknown, low=unknown, high=unknown, collapse_rate=np.nan, cut_rate=np.nan,
        log_ratio=UNKNOWN, conflict=UNKNOWN, base_logp=np.nan, words=np.nan, responses=(), hypervolume=UNKNOWN,
    )  # fmt: skip


def _spread(front: Front, resamples: int) -> dict[str, Any]:
    """Return what is known about how far each of the N points may be off; what nothing shows is NaN or None."""
    low, high = mean_intervals(front)
    try:
        band_low, band_high = bands(front, resamples=resamples)
        chances = on_front(front, resamples=resamples).tolist()
        means = np.clip(shrunk(front), band_low, band_high)
    except ParetuneError:  # one prompt, or a score that never varies
        means, chances = front.means, [None] * len(front.means)
        band_low = band_high = np.full_like(means, np.nan)
    bounds = {"low": low, "high": high, "band_low": band_low, "band_high": band_high}
    return {**bounds, "shrunk": means, "on_front": chances}


def _facts(evaluation: Evaluation, n: int, shown: int) -> dict[str, Any]:
    """Return what was measured at one point."""
    point = evaluation.points[n]
    return {
        "preference": evaluation.preferences[n].as_dict(),
        "used": evaluation.used[n].as_dict(),
        **({"interpolated": True} if any(evaluation.interpolated[n : n + 1]) else {}),
        "mean": point.scores.mean(axis=(0, 1)),
        "collapse_rate": float(point.collapsed.mean()),
        "cut_rate": float(point.truncated.mean()),
        "log_ratio": mean_interval((point.logps - point.base_logps).mean(1)),
        "conflict": mean_interval(point.conflict.mean(1)),
        "base_logp": float(point.base_logps.sum() / max(1, point.lengths.sum())),
        "words": float(_words(point).mean()),
        "responses": tuple(texts[0] for texts in point.responses[:shown]),
        "response_scores": tuple(
            tuple(scores) for scores in point.scores[: min(shown, len(point.responses)), 0].tolist()
        ),
    }


def _words(point: Judged) -> np.ndarray:
    """Return the lengths of the answers, without thought, in words ``[P, S]``; NaN where the texts are not known."""
    if not point.responses:
        return np.full(point.scores.shape[:2], np.nan)
    counts = [[len(without_thought(text).split()) for text in texts] for texts in point.responses]
    return np.array(counts, dtype=np.float64)


def _movements(
    base: Evaluation | None, evaluations: Mapping[str, Evaluation], resamples: int
) -> dict[str, Sequence[Movement | None]]:
    """Return how far each point of each policy is from the base model, in the objectives and in words.

    Attributes on which the base model's answers do not vary are left out, as they have no deviation to count in; so are words
    where an objective is the length.
    """
    if base is None:
        return {name: [None] * len(evaluation.points) for name, evaluation in evaluations.items()}
    objectives, before = base.objectives, _attributes(base.points[0])
    answers = before.reshape(-1, before.shape[-1])
    unit = np.where(np.ptp(answers, axis=0) > 0, answers.std(axis=0), 0.0)
    kept = [a for a in range(len(unit)) if unit[a] > 0]
    M = len(objectives)
    if M in kept and any(
        abs(np.corrcoef(answers[:, m], answers[:, M])[0, 1]) > SAME_AS_WORDS for m in kept if m < M
    ):
        kept.remove(M)
    points = [point for evaluation in evaluations.values() for point in evaluation.points]
    weights = np.concatenate(
        [evaluation.front.preferences for evaluation in evaluations.values()] or [np.eye(M)[:0]]
    )
    wanted = weights[:, [m for m in kept if m < M]]
    if not points or not (wanted.sum(axis=1) > 0).all():
        return {name: [None] * len(evaluation.points) for name, evaluation in evaluations.items()}
    scores = np.stack([_attributes(point).mean(axis=1)[:, kept] for point in points])
    found = movements(
        scores, before.mean(axis=1)[:, kept], unit[kept], wanted_direction(wanted, len(kept)), resamples
    )
    entries = iter(_entries(found, [(*objectives, "words")[a] for a in kept]))
    return {name: [next(entries) for _ in evaluation.points] for name, evaluation in evaluations.items()}


def _answers(evaluation: Evaluation) -> np.ndarray:
    """Return the scores of all answers ``[A, M]``."""
    return np.concatenate([point.scores.reshape(-1, point.scores.shape[-1]) for point in evaluation.points])


def _attributes(point: Judged) -> np.ndarray:
    """Return the scores and the length in words of each answer ``[P, S, M + 1]``."""
    return np.concatenate([point.scores, _words(point)[..., None]], axis=-1)


def _entries(found: Movements, attributes: Sequence[str]) -> list[Movement]:
    return [
        Movement(
            moved={
                attribute: Interval(float(found.moved[n, a]), float(found.low[n, a]), float(found.high[n, a]))
                for a, attribute in enumerate(attributes)
            },
            along=found.along[n],
            across=found.across[n],
        )
        for n in range(len(found.moved))
    ]


def by_method(fronts: Mapping[str, Front]) -> dict[str, Fronts]:
    """Return method -> the fronts of its training seeds, or policy -> its front where it has no other seed."""
    seeds: dict[str, list[str]] = {}
    for name in fronts:
        method, _, seed = name.rpartition(SEED_MARK)
        seeds.setdefault(method if seed.isdigit() and method not in fronts else name, []).append(name)
    methods: dict[str, Fronts] = {}
    for method, names in seeds.items():
        own = [fronts[name] for name in names]
        several = len(own) > 1
        methods[method if several else names[0]] = (
            [replace(front, name=method) for front in own] if several else own[0]
        )
    return methods


def judge(
    evaluations: Mapping[str, Evaluation],
    base: Evaluation | None,
    corners: Evaluation | None,
    reference_point: np.ndarray,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Put evaluations side by side and compare each pair of methods, all judged together.

    Args:
        evaluations: Policy name -> evaluation, all on the prompts of ``base``.
        base: The base model at one preference; None where it was not measured.
        corners: The M single-objective models, each at its one-hot preference, for the mixture; None likewise.
        reference_point: ``[M]``, the reference point of the hypervolumes.
        resamples: Resamples of the prompts, for intervals.
    """
    ends = None if corners is None else corners.front
    methods = list(by_method({name: each.front for name, each in evaluations.items()}).values())
    pairs: list[tuple[Fronts, Fronts]] = []
    for fronts in methods:
        pairs += [(fronts, base.front)] if base is not None else []
        pairs += [(fronts, mixture(ends, _first(fronts).preferences))] if ends is not None else []
    pairs += combinations(methods, 2)
    found = [_compared(first, second, reference_point) for first, second in pairs]
    return Judgement(
        evaluations,
        base,
        corners,
        *_mixtures(ends, [_first(fronts).preferences for fronts in methods]),
        reference_point,
        holm([each for each in found if isinstance(each, Comparison)]),
        [each for each in found if isinstance(each, Uncompared)],
        resamples=resamples,
    )


def _mixtures(corners: Front | None, measured: Sequence[np.ndarray]) -> tuple[Front | None, Front | None]:
    """Return the mixture of corners at many preferences, and at those of the policy that is measured at the most."""
    if corners is None:
        return None, None
    M = len(corners.objectives)
    most = max(measured, key=len, default=corners.preferences)
    return mixture(corners, simplex_grid(M, _divisions(M))), mixture(corners, most)


def _divisions(M: int) -> int:
    """Return the divisions of the grid at which the mixture is recorded: points grow with M to the power of the divisions."""
    most = 20 if M == 2 else 8
    return next((d for d in range(most, 1, -1) if math.comb(d + M - 1, d) <= MIXTURES), 1)


def _first(fronts: Fronts) -> Front:
    return fronts if isinstance(fronts, Front) else fronts[0]


def _compared(first: Fronts, second: Fronts, reference_point: np.ndarray) -> Comparison | Uncompared:
    """Compare two methods, or return why they cannot be."""
    try:
        return compare(first, second, reference_point)
    except ParetuneError as error:
        return Uncompared(first=_first(first).name, second=_first(second).name, reason=str(error))
