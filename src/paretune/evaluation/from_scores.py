"""Policies judged by a table of their scores alone, wherever they were trained, sampled and scored."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from paretune.core.errors import ConfigError, DataError, suggest
from paretune.core.preference import Preference
from paretune.evaluation.judge import Judgement, judge
from paretune.evaluation.judged import RESAMPLES, Evaluation, Judged
from paretune.fronts.front import reference_point
from paretune.fronts.record import FORMAT, FrontRecord
from paretune.fronts.record_facts import ScorerFacts
from paretune.fronts.score_table import BASE, CORNERS, PolicyScores, ScoreTable


@dataclass(frozen=True)
class Roles:
    """Which policies of a table are what.

    Attributes:
        base: The base model, by default ``base`` where there is such a policy.
        corners: Objective -> single-objective model; by default the policy ``corners`` at its one-hot preferences.
    """

    base: str | None = None
    corners: Mapping[str, str] = field(default_factory=dict)

    @property
    def unseeded(self) -> tuple[str, ...]:
        """The policies whose training seeds count as answers."""
        return (self.base or BASE, CORNERS, *self.corners.values())


def judge_scores(
    table: ScoreTable,
    roles: Roles | None = None,
    reference: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    common_prompts: bool = False,
    name: str = "scores",
    model: str = "scores",
) -> FrontRecord:
    """Judge all policies of a table as a run judges its own; return the record that reports are made of.

    What needs more than scores (texts, log-probabilities, cost) is unknown in the record. The same scores give the same verdicts
    as in a run.

    Args:
        table: The scores of single answers.
        roles: Which policies are the base model and the corners.
        reference: Objective -> reference point of the hypervolumes; by default a little below all means.
        resamples: Resamples of the prompts, for intervals.
        common_prompts: Judge on the prompts that all policies answered; else a missing one is an error.
        name, model: What the record is called, and what it says of the base model.

    Raises:
        DataError: The scores show nothing: one prompt, no policy, or all scores the same; or policies do not match.
        ConfigError: A policy, or an objective, that is not there.
    """
    roles = roles or Roles()
    table.check_scorers()
    policies = table.policies(common_prompts)
    _check_told(table, policies)
    objectives = table.objectives
    base = _base(policies, roles.base)
    corners = _corners(policies, objectives, roles.corners)
    named = {roles.base or BASE, CORNERS, *roles.corners.values()}
    rest = {name: scores for name, scores in policies.items() if name not in named}
    if not rest:
        raise DataError(
            f"{table.rows[0].where}: the only policies are {', '.join(policies)}, the base model and the corners; add scores of "
            "the policies to judge"
        )
    inside = {name: found for name, scores in rest.items() if (found := _part(scores, False)) is not None}
    beyond = {name: found for name, scores in rest.items() if (found := _part(scores, True)) is not None}
    if lost := [name for name in beyond if name not in inside]:
        raise DataError(
            f"{policies[lost[0]].where}: {lost[0]!r} is scored at preferences with weights below 0 alone; score it at others too"
        )
    evaluations = {name: _evaluation(scores) for name, scores in inside.items()}
    base_, ends = (None if each is None else _evaluation(each) for each in (base, corners))
    fronts = [each.front for each in (base_, ends, *evaluations.values()) if each is not None]
    point = reference_point(*fronts) if reference is None else _stated(reference, objectives)
    judgement = replace(
        judge(evaluations, base_, ends, point, resamples),
        extrapolations={name: _evaluation(scores) for name, scores in beyond.items()},
        shown=0,
    )
    left = len({row.prompt for row in table.rows}) - judgement.num_prompts
    notes = (
        *table.notes,
        *([f"left out: {left} prompt{'s' * (left > 1)} that not all policies answered"] if left else []),
    )
    return _record(judgement, table, notes, name, model)


def _record(
    judgement: Judgement, table: ScoreTable, notes: Sequence[str], name: str, model: str
) -> FrontRecord:
    scorer = table.rows[0].scorer
    return FrontRecord(
        format=FORMAT,
        name=name,
        version=importlib.metadata.version("paretune"),
        created=date.today().isoformat(),
        model=model,
        objectives=judgement.objectives,
        reference_point=tuple(judgement.reference_point.tolist()),
        prompts=(),
        num_prompts=judgement.num_prompts,
        base=judgement.recorded_base(),
        policies=tuple(judgement.recorded_policy(policy, False) for policy in judgement.evaluations),
        mixture=judgement.recorded_mixture(),
        comparisons=judgement.recorded_tests(),
        uncompared=tuple(judgement.uncompared),
        cautions=(*judgement.cautions, *(f"{note[:1].upper()}{note[1:]}." for note in notes)),
        scorers={each: ScorerFacts(fingerprint=scorer) for each in judgement.objectives} if scorer else {},
    )


def _check_told(table: ScoreTable, policies: Mapping[str, PolicyScores]) -> None:
    """Raise a DataError where the scores can show nothing."""
    where, first = table.rows[0].where, next(iter(policies.values()))
    if len(first.prompts) < 2:
        raise DataError(
            f"{where}: one prompt ({first.prompts[0]!r:.60}) for all policies, which shows no spread; score at least two prompts, "
            "better hundreds"
        )
    scores = np.concatenate([each.scores.reshape(-1, len(table.objectives)) for each in policies.values()])
    if not np.ptp(scores, axis=0).any():
        raise DataError(
            f"{where}: every answer has the scores {dict(zip(table.objectives, scores[0].tolist(), strict=True))}, so they rank "
            "nothing; check what gave them"
        )


def _base(policies: Mapping[str, PolicyScores], asked: str | None) -> PolicyScores | None:
    """Return the scores of the base model, None where there is none."""
    if asked is not None and asked not in policies:
        raise ConfigError(f"--base {asked}: {suggest(asked, policies)}")
    if asked not in (None, BASE) and BASE in policies:
        raise ConfigError(f"--base {asked}: another policy is called {BASE!r}; give that one another name")
    found = policies.get(asked or BASE)
    if found is not None and len(found.preferences) > 1:
        raise DataError(
            f"{found.where}: the base model {found.name!r} is scored at {len(found.preferences)} preferences; it has none, so give "
            "its rows one, or leave the column empty"
        )
    return None if found is None else replace(found, name=BASE)


def _corners(
    policies: Mapping[str, PolicyScores], objectives: Sequence[str], asked: Mapping[str, str]
) -> PolicyScores | None:
    """Return the single-objective models, each at its one-hot preference; None where they are not there."""
    for objective, name in asked.items():
        for what, options in ((objective, objectives), (name, policies)):
            if what not in options:
                raise ConfigError(f"--corner {objective}={name}: {suggest(what, options)}")
    if asked and set(asked) != set(objectives):
        missing = next(objective for objective in objectives if objective not in asked)
        raise ConfigError(
            f"--corner: none for {missing!r}; name the single-objective model of each objective: --corner {missing}=POLICY"
        )
    if asked and CORNERS in {*policies} - {*asked.values()}:
        raise ConfigError(
            f"--corner: a policy is called {CORNERS!r} beside those named; give that one another name"
        )
    if not asked and CORNERS not in policies:
        return None
    ends = [Preference.one_hot(objective, objectives) for objective in objectives]
    parts = [
        _end(policies[asked.get(objective, CORNERS)], end)
        for objective, end in zip(objectives, ends, strict=True)
    ]
    if len({part.shape for part in parts}) > 1:
        raise DataError(
            f"{policies[asked[objectives[0]]].where}: the corners have different numbers of answers to a prompt; give them equally "
            "many"
        )
    first = policies[asked.get(objectives[0], CORNERS)]
    return PolicyScores(CORNERS, first.objectives, tuple(ends), first.prompts, np.stack(parts), first.where)


def _end(policy: PolicyScores, end: Preference) -> np.ndarray:
    """Return a corner's scores ``[P, S, M]``: at its one-hot preference, or at the only one there is."""
    if end in policy.preferences:
        return np.asarray(policy.scores[policy.preferences.index(end)])
    if len(policy.preferences) == 1 and policy.name != CORNERS:
        return np.asarray(policy.scores[0])
    raise DataError(
        f"{policy.where}: the corner {policy.name!r} is not scored at {end}, with all weight on one objective; score it there"
    )


def _part(scores: PolicyScores, extrapolated: bool) -> PolicyScores | None:
    """Return a policy at its preferences off the simplex, or on it; None where it has none."""
    numbers = [n for n, w in enumerate(scores.preferences) if w.extrapolated == extrapolated]
    return scores.at(numbers) if numbers else None


def _evaluation(scores: PolicyScores) -> Evaluation:
    asked = list(scores.preferences)
    points = [Judged.of_scores(table) for table in scores.scores]
    return Evaluation(scores.name, scores.objectives, asked, asked, scores.prompts, points)


def _stated(reference: Mapping[str, float], objectives: Sequence[str]) -> np.ndarray:
    if set(reference) != set(objectives):
        raise ConfigError(
            f"--reference-point is for {', '.join(reference) or 'nothing'}; expected a number for each of {', '.join(objectives)}"
        )
    return np.array([reference[objective] for objective in objectives])
