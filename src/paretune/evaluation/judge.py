"""Policies side by side: hypervolumes, intervals and paired tests, as the record of a run holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from paretune.core.preference import simplex_grid
from paretune.evaluation.evaluate import RESAMPLES, Evaluation
from paretune.fronts.front import Comparison, Front, Interval, bootstrap, compare, mean_intervals, mixture
from paretune.fronts.indicators import hypervolume, knee, non_dominated
from paretune.fronts.record import BasePoint, CornerMixture, MeasuredPolicy, PairedTest, Point


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean of per-prompt values ``[P]`` with a bootstrap interval over prompts."""
    scores = values[None, :, None]
    single = Front("mean", ("mean",), np.ones((1, 1)), scores, tuple(str(i) for i in range(len(values))))
    low, high = mean_intervals(single)
    return Interval(float(values.mean()), float(low[0, 0]), float(high[0, 0]))


@dataclass(frozen=True, eq=False)
class Judgement:
    """All policies of a run side by side, with the base model, the mixture of corners and the paired tests.

    Attributes:
        evaluations: Policy name -> its evaluation; all on the same prompts.
        base: The base model.
        dense_mixture: What mixing the corners by chance reaches, at many preferences along the simplex.
        mixture: The same at the preferences of the policy that is measured at the most.
        reference_point: ``[M]``, the reference point of every hypervolume here.
        comparisons: Paired tests on hypervolume: each policy against the base model and against the mixture at its own
            preferences (more points of one line would have more hypervolume), and the policies among each other.
        extrapolations: Policy name -> its evaluation off the simplex, which no figure counts.
        resamples: Resamples of the prompts, for intervals and tests.
        shown: The number of prompts whose answers are recorded.
    """

    evaluations: Mapping[str, Evaluation]
    base: Evaluation
    dense_mixture: Front
    mixture: Front
    reference_point: np.ndarray
    comparisons: Sequence[Comparison]
    extrapolations: Mapping[str, Evaluation] = field(default_factory=dict)
    resamples: int = RESAMPLES
    shown: int = 6

    @property
    def objectives(self) -> tuple[str, ...]:
        """M names."""
        return self.mixture.objectives

    @property
    def num_prompts(self) -> int:
        """The number of held-out prompts."""
        return len(self.mixture.prompts)

    def recorded_base(self) -> BasePoint:
        """Return the base model's entry of the record."""
        point = _point(self.base, 0, self.shown)
        return BasePoint(**dict(point), hypervolume=self._hypervolume(self.base.front))

    def recorded_mixture(self) -> CornerMixture:
        """Return the entry of the mixture of corners."""
        points = tuple(map(tuple, self.dense_mixture.means.tolist()))
        return CornerMixture(points=points, hypervolume=self._hypervolume(self.mixture))

    def recorded_tests(self) -> tuple[PairedTest, ...]:
        """Return the entries of the paired tests."""
        return tuple(PairedTest(**vars(comparison)) for comparison in self.comparisons)

    def recorded_policy(self, name: str, anchored: bool) -> MeasuredPolicy:
        """Return the entry of one policy, without what only its method knows.

        Args:
            name: The policy's name.
            anchored: Whether it answers with measured preferences only.
        """
        evaluation = self.evaluations[name]
        front, beyond = evaluation.front, self.extrapolations.get(name)
        return MeasuredPolicy(
            name=name,
            anchored=anchored,
            points=tuple(_point(evaluation, n, self.shown) for n in range(len(evaluation.points))),
            extrapolations=tuple(_point(beyond, n, self.shown) for n in range(len(beyond.points)))
            if beyond
            else (),
            figures=front.summary(self.reference_point, self.resamples, target=self._best),
            non_dominated=tuple(front.non_dominated().tolist()),
            knee=knee(front.means),
            seconds=sum(point.seconds for point in evaluation.points),
            tokens=int(sum(point.lengths.sum() for point in evaluation.points)),
        )

    @cached_property
    def _best(self) -> np.ndarray:
        """The non-dominated points ``[T, M]`` of all policies together."""
        points = np.concatenate([evaluation.front.means for evaluation in self.evaluations.values()])
        return points[non_dominated(points)]

    def _hypervolume(self, front: Front) -> Interval:
        return bootstrap(front, partial(hypervolume, reference=self.reference_point), self.resamples)


def _point(evaluation: Evaluation, n: int, shown: int) -> Point:
    front, point = evaluation.front, evaluation.points[n]
    low, high = mean_intervals(front)
    return Point(
        preference=evaluation.preferences[n].as_dict(),
        used=evaluation.used[n].as_dict(),
        mean=tuple(front.means[n].tolist()),
        low=tuple(low[n].tolist()),
        high=tuple(high[n].tolist()),
        collapse_rate=float(point.collapsed.mean()),
        cut_rate=float(point.truncated.mean()),
        kl=mean_interval((point.logps - point.base_logps).mean(1)),
        conflict=mean_interval(point.conflict.mean(1)),
        base_logp=float(point.base_logps.sum() / point.lengths.sum()),
        words=float(np.mean([len(text.split()) for texts in point.responses for text in texts])),
        responses=tuple(texts[0] for texts in point.responses[:shown]),
    )


def judge(
    evaluations: Mapping[str, Evaluation],
    base: Evaluation,
    corners: Evaluation,
    reference_point: np.ndarray,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Put evaluations side by side and test each pair of them.

    Args:
        evaluations: Policy name -> evaluation, all on the prompts of ``base``.
        base: The base model at one preference.
        corners: The M single-objective models, each at its one-hot preference, for the mixture.
        reference_point: ``[M]``, the reference point of the hypervolumes.
        resamples: Resamples of the prompts, for intervals and tests.
    """
    objectives, ends = corners.front.objectives, corners.front
    line = mixture(ends, simplex_grid(len(objectives), 20 if len(objectives) == 2 else 8))
    figure = partial(hypervolume, reference=reference_point)
    comparisons = []
    fronts = [evaluation.front for evaluation in evaluations.values()]
    for front in fronts:
        mixed = mixture(ends, front.preferences)
        comparisons += [compare(front, other, figure, resamples) for other in (base.front, mixed)]
    for i, first in enumerate(fronts):
        comparisons += [compare(first, second, figure, resamples) for second in fronts[i + 1 :]]
    most = max((front.preferences for front in fronts), key=len, default=ends.preferences)
    return Judgement(
        evaluations, base, line, mixture(ends, most), reference_point, comparisons, resamples=resamples
    )
