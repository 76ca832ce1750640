"""The answers of finished runs, scored anew by other scorers than those of the run.

What was trained against a scorer is judged too well by it. Another scorer, fitted on other pairs or of another kind, says how much
of a gain is real; the rest is overoptimisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from paretune.core.errors import ConfigError, DataError, suggest
from paretune.data.readers import read_records
from paretune.data.rows import Prompt, prompt_from
from paretune.evaluation.judge import mean_interval
from paretune.fronts.front import Interval
from paretune.fronts.record import FILE, FrontRecord, Point
from paretune.fronts.score_records import read_table
from paretune.fronts.score_table import BASE, SEED_MARK, PolicyScores, ScoreTable
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import Scorer, score_texts

_P = TypeVar("_P", bound=Point)
ANSWERS = Path("data", "answers.jsonl.gz")
"""The file of a run's folder with its measured answers."""
OF_ANSWERS = ("collapse_rate", "cut_rate", "log_ratio", "base_logp", "words", "interpolated")
"""What a point of a record says of answers whoever scores them."""
OF_POLICIES = (
    "title", "paper", "enters", "anchored", "seconds", "tokens", "cost", "steerability", "online", "retention", "soup_kl",
    "conflicts", "floors",
)  # fmt: skip
"""What a record says of a policy whoever scores its answers."""


@dataclass(frozen=True)
class Rescored:
    """The scores of the same answers by the scorers of their run and by others.

    Attributes:
        own: By the run's own scorers.
        other: By the others.
        rows: The rows of ``other``, as a run writes its own to ``scores.jsonl``.
    """

    own: ScoreTable
    other: ScoreTable
    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Gain:
    """What a policy gains over the base model at the preference with most weight on an objective, by either scorer.

    Attributes:
        policy: Its name; policies of several training seeds are one, with the mean of their gains.
        objective: The objective.
        weight: The weight on it.
        own: Mean gain by the run's own scorer, in standard deviations of the base model's scores, with its interval over prompts.
        other: That by the other scorer.
    """

    policy: str
    objective: str
    weight: float
    own: Interval
    other: Interval


def rescored(runs: Sequence[Path], scorers: Sequence[Scorer], cache: ScoreCache | None = None) -> Rescored:
    """Score every answer of some runs by other scorers.

    Args:
        runs: Folders of finished runs.
        scorers: One for each objective of the runs.
        cache: Scores on disk, read and added to.

    Raises:
        ConfigError: A folder has no answers, or the scorers are not one for each objective.
        DataError: A file of answers is damaged.
        ScoreError: A scorer failed.
    """
    found = [pair for run in runs for pair in _answers(run)]
    objectives = list(dict.fromkeys(name for _, record in found for name in record["scores"]))
    named = [scorer.objective for scorer in scorers]
    for name in named:
        if name not in objectives:
            raise ConfigError(f"--scorer: the runs have no objective {name!r}; {suggest(name, objectives)}")
    if sorted(named) != sorted(objectives):
        raise ConfigError(
            f"--scorer is given for {', '.join(named)}; expected one for each objective of the runs: {', '.join(objectives)}"
        )
    prompts: list[Prompt] = [prompt_from(record["prompt"], "prompt", where) for where, record in found]
    texts = [str(record["answer"]) for _, record in found]
    cut = [bool(record["truncated"]) for _, record in found]
    places = [where for where, _ in found]
    columns = [score_texts(scorer, prompts, texts, cut, cache, places) for scorer in scorers]
    values = dict(zip(named, columns, strict=True))
    identity = {scorer.objective: scorer.fingerprint for scorer in scorers}
    own, other = [], []
    for n, (where, record) in enumerate(found):
        row = {
            "policy": record["policy"],
            "preference": record["preference"],
            "prompt": record["prompt_id"],
            "sample": record["sample"],
        }
        own.append((where, {**row, "scores": record["scores"]}))
        new = {name: float(values[name][n]) for name in objectives}
        other.append((where, {**row, "scores": new, "scorer": identity}))
    first, second = (read_table(rows, objectives=objectives) for rows in (own, other))
    return Rescored(first, second, [row for _, row in other])


def gains(found: Rescored) -> list[Gain]:
    """Return what each policy gains at its end of each objective; nothing where the base model has no answers."""
    own, other = found.own.policies(), found.other.policies()
    if BASE not in own:
        return []
    seeds: dict[str, list[str]] = {}
    for name in own:
        if name != BASE:
            seeds.setdefault(name.partition(SEED_MARK)[0], []).append(name)
    result = []
    for method, names in seeds.items():
        for m, objective in enumerate(found.own.objectives):
            ends = {name: _end(own[name], m) for name in names}
            weight = min(
                own[name].preferences[n].over(found.own.objectives).weights[m] for name, n in ends.items()
            )
            by = [
                mean_interval(np.mean([_gain(t[k], t[BASE], n, m) for k, n in ends.items()], axis=0))
                for t in (own, other)
            ]
            result.append(Gain(method, objective, weight, *by))
    return result


def with_facts(record: FrontRecord, runs: Sequence[Path]) -> FrontRecord:
    """Return the record of new scores with what the runs' own records say of the same policies and answers: cost, cuts, collapse.

    A run without a record adds nothing.

    Args:
        record: Made of :attr:`Rescored.other`.
        runs: The folders of the runs.

    Raises:
        ParetuneError: A record of a run cannot be read.
    """
    earlier = [FrontRecord.read(run / FILE) for run in runs if (run / FILE).is_file()]
    known = {policy.name: policy for each in earlier for policy in each.policies}
    policies = []
    for policy in record.policies:
        own = known.get(policy.name)
        if own is not None:
            points = (
                _with_answers(policy.points, own.points),
                _with_answers(policy.extrapolations, own.extrapolations),
            )
            kept = {name: getattr(own, name) for name in OF_POLICIES}
            policy = policy.model_copy(update={**kept, "points": points[0], "extrapolations": points[1]})
        policies.append(policy)
    (base,) = _with_answers((record.base,), [each.base for each in earlier])
    return record.model_copy(update={"policies": tuple(policies), "base": base})


def _with_answers(points: Sequence[_P], known: Sequence[Point]) -> tuple[_P, ...]:
    """Return points with what ``known`` ones at the same preferences say of their answers."""
    found = []
    for point in points:
        for own in known:
            if own.preference.keys() == point.preference.keys() and np.allclose(
                [own.preference[name] for name in point.preference], list(point.preference.values())
            ):
                point = point.model_copy(update={name: getattr(own, name) for name in OF_ANSWERS})
                break
        found.append(point)
    return tuple(found)


def _end(policy: PolicyScores, m: int) -> int:
    """Return the number of the preference with most weight on objective m, of those on the simplex."""
    inside = [n for n, preference in enumerate(policy.preferences) if not preference.extrapolated]
    return max(inside, key=lambda n: policy.preferences[n].over(policy.objectives).weights[m])


def _gain(policy: PolicyScores, base: PolicyScores, at: int, m: int) -> np.ndarray:
    """Return the gain on each prompt ``[P]``, in deviations of the base model's scores."""
    before = base.on(policy.prompts).scores[0][:, :, m]
    spread = float(before.std()) or 1.0
    return np.asarray((policy.scores[at][:, :, m].mean(axis=1) - before.mean(axis=1)) / spread)


def _answers(run: Path) -> list[tuple[str, Mapping[str, Any]]]:
    file = run / ANSWERS
    if not file.is_file():
        raise ConfigError(
            f"{run}: no {ANSWERS}; with --scorer give the folders of finished runs, such as runs/quickstart, whose answers are "
            "scored anew"
        )
    found: list[tuple[str, Mapping[str, Any]]] = []
    for where, record in read_records(file):
        missing = [
            name
            for name in (
                "policy",
                "preference",
                "prompt",
                "prompt_id",
                "sample",
                "answer",
                "truncated",
                "scores",
            )
            if name not in record
        ]
        if missing:
            raise DataError(f"{where}: no {missing[0]!r}; expected a measured answer of a run")
        found.append((where, record))
    return found
