"""Judging policies on held-out prompts: scores, sense and distance from the base model, all with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from paretune.collapse import is_collapsed
from paretune.errors import DataError
from paretune.figures import hypervolume, knee, mixture_hypervolume
from paretune.front import Comparison, Front, Interval, bootstrap, chord, compare, mean_intervals
from paretune.generate import Response, Sampling, response_logps
from paretune.lm import LanguageModel
from paretune.packing import TokenGroup
from paretune.policy import Policy
from paretune.preference import Preference, simplex_grid
from paretune.rows import Prompt
from paretune.score import Scorer, score_texts
from paretune.score_cache import ScoreCache
from paretune.shard import Team

RESAMPLES = 2000
"""Of prompts, by default, for intervals and paired tests."""

TOGETHER = 16
"""Responses to one prompt in a packed group: a group is never cut, so this bounds the largest forward."""


Draw = Callable[[Sequence[Prompt], Sequence[Preference], Sampling, Sequence[int]], list[Response]]
"""Prompts, preferences, how, and seeds, one each a row -> responses."""


@dataclass(frozen=True, eq=False)
class Point:
    """What a policy answered at one preference: P prompts, S samples each, and how it was judged.

    Attributes:
        scores: ``[P, S, M]`` raw scores, higher is better.
        logps, base_logps: ``[P, S]`` log-probability of each response under the policy and the base model, in nats.
        lengths: ``[P, S]`` tokens, end of turn included.
        truncated, collapsed: ``[P, S]`` cut by the token limit; degenerated (see :func:`paretune.collapse.is_collapsed`).
        conflict: ``[P, S]`` where policies were mixed, how far they disagree: mean of -log Z over tokens, in nats; else 0.
        responses: text of each sample, ``[P][S]``.
        seconds: share of the time taken to sample and score.
    """

    scores: np.ndarray
    logps: np.ndarray
    base_logps: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    collapsed: np.ndarray
    conflict: np.ndarray
    responses: list[list[str]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Point:
        """Read what :meth:`to_dict` made."""
        return cls(
            scores=np.array(value["scores"]),
            logps=np.array(value["logps"]),
            base_logps=np.array(value["base_logps"]),
            lengths=np.array(value["lengths"]),
            truncated=np.array(value["truncated"]),
            collapsed=np.array(value["collapsed"]),
            conflict=np.array(value.get("conflict", np.zeros_like(value["lengths"]))),
            responses=value["responses"],
            seconds=value["seconds"],
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One policy at N preferences on P held-out prompts.

    Attributes:
        name: of the policy.
        objectives: M names.
        preferences: N preferences asked for.
        used: the preferences really served (anchors snap).
        prompts: P ids.
        points: one a preference.
    """

    name: str
    objectives: tuple[str, ...]
    preferences: list[Preference]
    used: list[Preference]
    prompts: tuple[str, ...]
    points: list[Point]

    @property
    def front(self) -> Front:
        """Mean scores ``[N, P, M]`` over the samples of each prompt."""
        weights = np.stack([preference.over(self.objectives).array() for preference in self.preferences])
        return Front(
            self.name,
            self.objectives,
            weights,
            np.stack([point.scores.mean(1) for point in self.points]),
            self.prompts,
            any(preference.extrapolated for preference in self.preferences),
        )


def evaluate(
    policy: Policy,
    preferences: Sequence[Preference],
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[str],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    cache: ScoreCache | None = None,
    known: dict[str, Point] | None = None,
    team: Team = Team(),  # noqa: B008 - it is frozen
    draw: Draw | None = None,
) -> Evaluation:
    """Sample every prompt at every preference in common batches, and judge the answers.

    Sample s of prompt p has the same random numbers at every preference and for every policy, so differences between
    policies are not differences of luck.

    Args:
        policy: what is judged.
        preferences: N preferences.
        prompts: P held-out conversations.
        prompt_ids: their P ids, by which fronts are matched.
        scorers: one an objective, in any order.
        sampling: length, temperature, top-p.
        samples: S, responses a prompt and preference.
        seed: of the sampling.
        cache: of scores, by content.
        known: points judged before on the same prompts and settings, by what the policy computes there; new ones are
            added. Two methods that share a model at some preference then share its answers.
        team: the processes that divide the rows among them; all must call this alike.
        draw: makes the responses in place of the policy; all processes call it.

    Raises:
        DataError: no prompt, or objectives without a scorer.
    """
    if not prompts:
        raise DataError("no held-out prompt to evaluate on; enlarge the test split")
    by_objective = {scorer.objective: scorer for scorer in scorers}
    lacking = [objective for objective in policy.objectives if objective not in by_objective]
    if lacking:
        raise DataError(
            f"no scorer for the objective {lacking[0]!r}; the front cannot be measured without one"
        )
    known = {} if known is None else known
    keys = [policy.effective(preference) for preference in preferences]
    todo = {
        key: preference
        for key, preference in reversed(list(zip(keys, preferences, strict=True)))
        if key not in known
    }
    if todo:
        ordered = [by_objective[objective] for objective in policy.objectives]
        points = _judge_points(
            policy, list(todo.values()), prompts, ordered, sampling, samples, seed, cache, team, draw
        )
        known.update(zip(todo, points, strict=True))
    return Evaluation(
        policy.name,
        policy.objectives,
        list(preferences),
        policy.used(preferences),
        tuple(prompt_ids),
        [known[key] for key in keys],
    )


def _judge_points(
    policy: Policy,
    preferences: Sequence[Preference],
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    samples: int,
    seed: int,
    cache: ScoreCache | None,
    team: Team,
    draw: Draw | None,
) -> list[Point]:
    """Sample and judge at each preference; every row of the common batches follows its own."""
    start = time.perf_counter()
    N, P, S = len(preferences), len(prompts), samples
    rows = [(n, p, s) for n in range(N) for p in range(P) for s in range(S)]
    asked = [prompts[p] for _, p, _ in rows]
    per_row = [preferences[n] for n, _, _ in rows]
    seeds = [seed + p * S + s for _, p, s in rows]
    if draw is None:
        responses = team.divide(lambda a, w, s: policy.generate(a, w, sampling, s), asked, per_row, seeds)
    else:
        responses = draw(asked, per_row, sampling, seeds)
    texts, truncated = [r.text for r in responses], [r.truncated for r in responses]
    scores = team.once(
        lambda: np.stack([score_texts(scorer, asked, texts, truncated, cache) for scorer in scorers], axis=1)
    )
    base_logps = _base_logps(policy.lm, asked, responses, team)
    # The same numbers, not the same up to rounding: the base model is at no distance from itself.
    logps = base_logps if policy.mix == "base" else np.array([response.logp for response in responses])
    columns = {
        "scores": scores,
        "logps": logps,
        "base_logps": base_logps,
        "lengths": np.array([len(r.tokens) for r in responses]),
        "truncated": np.array(truncated),
        "collapsed": np.array([is_collapsed(r.tokens) for r in responses]),
        "conflict": np.array([-sum(r.normalisers) / len(r.tokens) for r in responses]),
    }
    shaped = {name: values.reshape(N, P, S, *values.shape[1:]) for name, values in columns.items()}
    answers = np.array(texts, dtype=object).reshape(N, P, S).tolist()
    seconds = (time.perf_counter() - start) / N
    return [
        Point(**{name: values[n] for name, values in shaped.items()}, responses=answers[n], seconds=seconds)
        for n in range(N)
    ]


def _base_logps(
    lm: LanguageModel, prompts: Sequence[Prompt], responses: Sequence[Response], team: Team
) -> np.ndarray:
    """Return the log-probabilities of the responses under the base model, in nats ``[B]``; equal prompts are read once."""
    rows: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    shared = [
        (prompt, mine[i : i + TOGETHER])
        for prompt, mine in rows.items()
        for i in range(0, len(mine), TOGETHER)
    ]
    groups: list[TokenGroup] = [
        (lm.encode_prompt(prompt), [responses[row].tokens for row in mine]) for prompt, mine in shared
    ]
    values = np.empty(len(responses))
    for (_, mine), found in zip(shared, response_logps(lm, groups, team=team), strict=True):
        values[mine] = found.numpy()
    return values


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
