"""Policies side by side: hypervolumes, intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from paretune.core.preference import simplex_grid
from paretune.evaluation.evaluate import RESAMPLES, Evaluation
from paretune.fronts.front import Comparison, Front, Interval, bootstrap, chord, compare, mean_intervals
from paretune.fronts.indicators import hypervolume, knee, mixture_hypervolume


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean of per-prompt values ``[P]`` with a bootstrap interval over prompts."""
    scores = values[None, :, None]
    single = Front("mean", ("mean",), np.ones((1, 1)), scores, tuple(str(i) for i in range(len(values))))
    low, high = mean_intervals(single)
    return Interval(float(values.mean()), float(low[0, 0]), float(high[0, 0]))


@dataclass(frozen=True, eq=False)
class Judgement:
    """All policies of a run side by side, with the base model, the chord and the paired tests.

    Attributes:
        evaluations: policy name -> its evaluation; all on the same prompts.
        base: the base model.
        chord: what tossing a coin between the single-objective policies reaches, many points along the simplex.
        coin_toss: the same at the preferences of the policy that is measured at the most.
        reference_point: ``[M]``, of every hypervolume here.
        comparisons: paired tests on hypervolume: each policy against the base model and against the coin toss at its own
            preferences (more points of one line would have more hypervolume), and the policies among each other.
        extrapolations: policy name -> its evaluation off the simplex, which no figure counts.
        resamples: of prompts, for intervals and tests.
    """

    evaluations: Mapping[str, Evaluation]
    base: Evaluation
    chord: Front
    coin_toss: Front
    reference_point: np.ndarray
    comparisons: Sequence[Comparison]
    extrapolations: Mapping[str, Evaluation] = field(default_factory=dict)
    resamples: int = RESAMPLES

    def to_dict(self, prompts: Sequence[str], shown: int = 6) -> dict[str, Any]:
        """Return the judgement as JSON values, with the texts of the first ``shown`` prompts."""
        reference = self.reference_point
        points = self.chord.means
        return {
            "objectives": list(self.chord.objectives),
            "reference_point": reference.tolist(),
            "prompts": list(prompts[:shown]),
            "num_prompts": len(self.chord.prompts),
            "base": {
                **_point(self.base, 0, shown),
                "hypervolume": bootstrap(
                    self.base.front, partial(hypervolume, reference=reference), self.resamples
                ).to_dict(),
            },
            "policies": [
                self._policy(name, evaluation, shown) for name, evaluation in self.evaluations.items()
            ],
            "chord": {
                "points": points.tolist(),
                "hypervolume": bootstrap(
                    self.coin_toss, partial(hypervolume, reference=reference), self.resamples
                ).to_dict(),
            },
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }

    def _policy(self, name: str, evaluation: Evaluation, shown: int) -> dict[str, Any]:
        front, reference = evaluation.front, self.reference_point
        figures = {
            figure: interval.to_dict()
            for figure, interval in front.summary(reference, self.resamples).items()
        }
        if len(reference) == 2:
            hull = partial(mixture_hypervolume, reference=reference)
            figures["hull_hypervolume"] = bootstrap(front, hull, min(500, self.resamples)).to_dict()
        beyond = self.extrapolations.get(name)
        return {
            "name": name,
            "points": [_point(evaluation, n, shown) for n in range(len(front.preferences))],
            "extrapolations": [_point(beyond, n, shown) for n in range(len(beyond.points))] if beyond else [],
            "figures": figures,
            "non_dominated": front.non_dominated().tolist(),
            "knee": int(knee(front.means)),
            "seconds": sum(point.seconds for point in evaluation.points),
            "tokens": int(sum(point.lengths.sum() for point in evaluation.points)),
        }


def _point(evaluation: Evaluation, n: int, shown: int) -> dict[str, Any]:
    front, point = evaluation.front, evaluation.points[n]
    low, high = mean_intervals(front)
    return {
        "preference": evaluation.preferences[n].as_dict(),
        "used": evaluation.used[n].as_dict(),
        "mean": front.means[n].tolist(),
        "low": [None if np.isnan(value) else float(value) for value in low[n]],
        "high": [None if np.isnan(value) else float(value) for value in high[n]],
        "collapse_rate": float(point.collapsed.mean()),
        "cut_rate": float(point.truncated.mean()),
        "kl": mean_interval((point.logps - point.base_logps).mean(1)).to_dict(),
        "conflict": mean_interval(point.conflict.mean(1)).to_dict(),
        "base_logp": float(point.base_logps.sum() / point.lengths.sum()),
        "words": float(np.mean([len(text.split()) for texts in point.responses for text in texts])),
        "responses": [texts[0] for texts in point.responses[:shown]],
    }


def judge(
    evaluations: Mapping[str, Evaluation],
    base: Evaluation,
    endpoints: Evaluation,
    reference_point: np.ndarray,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Put evaluations side by side and test each pair of them.

    Args:
        evaluations: policy name -> evaluation, all on the prompts of ``base``.
        base: the base model at one preference.
        endpoints: a policy at the M one-hot preferences (the single-objective models), for the chord.
        reference_point: ``[M]`` of the hypervolumes.
        resamples: of prompts, for intervals and tests.
    """
    objectives = endpoints.front.objectives
    line = chord(endpoints.front, simplex_grid(len(objectives), 20 if len(objectives) == 2 else 8))
    figure = partial(hypervolume, reference=reference_point)
    comparisons = []
    fronts = [evaluation.front for evaluation in evaluations.values()]
    for front in fronts:
        tossed = chord(endpoints.front, front.preferences)
        comparisons += [compare(front, other, figure, resamples) for other in (base.front, tossed)]
    for i, first in enumerate(fronts):
        comparisons += [compare(first, second, figure, resamples) for second in fronts[i + 1 :]]
    most = max((front.preferences for front in fronts), key=len, default=endpoints.front.preferences)
    tossed = chord(endpoints.front, most)
    return Judgement(evaluations, base, line, tossed, reference_point, comparisons, resamples=resamples)
