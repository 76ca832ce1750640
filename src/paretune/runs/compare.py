"""Finished runs side by side: their policies at common preferences on common held-out prompts, or why they do not compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, ParetuneError, suggest
from paretune.data.score_files import read_scores
from paretune.evaluation.judge import by_method
from paretune.fronts.front import Front
from paretune.fronts.inference import Comparison, compare, holm
from paretune.fronts.intervals import Fronts
from paretune.fronts.record import FILE, FrontRecord, Uncompared
from paretune.fronts.score_table import BASE, CORNERS, PolicyScores, ScoreTable

LEAST = 2
"""The fewest common prompts on which anything is compared."""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run as it lies on the disk.

    Attributes:
        label: What it is called beside others.
        record: Its record.
        table: The scores of its single answers.
    """

    label: str
    record: FrontRecord
    table: ScoreTable

    @classmethod
    def read(cls, folder: Path, label: str) -> FinishedRun:
        """Read the folder of a run.

        Raises:
            ParetuneError: It is no folder of a finished run, or one of an earlier version without ``scores.jsonl``.
        """
        if not (folder / FILE).is_file():
            raise ParetuneError(
                f"{folder}: no {FILE}; expected the folder of a finished run, such as runs/quickstart"
            )
        return cls(label, FrontRecord.read(folder / FILE), read_scores(folder))

    @cached_property
    def policies(self) -> dict[str, PolicyScores]:
        """Policy -> its scores on the simplex, without those of the corners."""
        scored = self.table.policies()
        inside = {
            name: scores.at([n for n, w in enumerate(scores.preferences) if not w.extrapolated])
            for name, scores in scored.items()
            if name != CORNERS
        }
        return {name: scores for name, scores in inside.items() if scores.preferences}

    @property
    def prompts(self) -> tuple[str, ...]:
        """The ids of the held-out prompts."""
        return next(iter(self.policies.values())).prompts

    def fronts(self, prompts: Sequence[str], objectives: Sequence[str], base: bool) -> dict[str, Fronts]:
        """Return method -> its fronts on some prompts, by its name beside other runs; the base model where it is asked for."""
        fronts = {
            name: scores.on(prompts).over(objectives).front
            for name, scores in self.policies.items()
            if base or name != BASE
        }
        return {name: _called(each, f"{self.label}/{name}") for name, each in by_method(fronts).items()}


@dataclass(frozen=True, eq=False)
class ComparedRuns:
    """Runs compared.

    Attributes:
        runs: The runs.
        comparisons: Each policy of one with each of another, all judged together (Holm); the earlier named run is the first.
        uncompared: Pairs that cannot be compared, and why.
        notes: What else differs between them, and what was left out, in words.
    """

    runs: Sequence[FinishedRun]
    comparisons: Sequence[Comparison]
    uncompared: Sequence[Uncompared]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "runs": [
                {
                    "run": run.label,
                    "model": run.record.model,
                    "created": run.record.created,
                    "objectives": list(run.record.objectives),
                    "policies": [policy.name for policy in run.record.policies],
                    "prompts": len(run.prompts),
                }
                for run in self.runs
            ],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "uncompared": [pair.model_dump() for pair in self.uncompared],
            "notes": list(self.notes),
        }


def compare_runs(folders: Sequence[str | Path], policies: Sequence[str] = ()) -> ComparedRuns:
    """Compare the policies of each run with those of each other run, on the held-out prompts that both have.

    Policies meet at the preferences that both were measured at. Runs of other base models compare too; the base models are then
    compared as well.

    Args:
        folders: Two or more folders of finished runs.
        policies: Names of the policies to compare; by default all.

    Raises:
        ConfigError: Fewer than two different runs, or a policy that none of them has.
        ParetuneError: A folder is no run's, or no two runs compare; the message says why.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ConfigError(
            f"runs {', '.join(map(str, paths)) or 'none'}: expected at least two different folders of finished runs"
        )
    names = [path.resolve().name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    runs = [FinishedRun.read(path, label) for path, label in zip(paths, labels, strict=True)]
    known = {name for run in runs for name in run.policies if name != BASE}
    for name in policies:
        if name not in known:
            raise ConfigError(f"--policy {name}: {suggest(name, sorted(known))}")
    found: list[Comparison] = []
    uncompared: list[Uncompared] = []
    notes: list[str] = []
    for first, second in combinations(runs, 2):
        if reason := _reason(first, second):
            uncompared.append(Uncompared(first=first.label, second=second.label, reason=reason))
            continue
        notes += _differences(first, second)
        for each in _pairs(first, second, policies):
            if isinstance(each, Comparison):
                found.append(each)
            else:
                uncompared.append(each)
    if not found:
        raise ParetuneError(
            "; ".join(f"{pair.first} and {pair.second} do not compare: {pair.reason}" for pair in uncompared)
            or f"no run has another's policies {', '.join(policies)} beside its own"
        )
    return ComparedRuns(runs, holm(found), uncompared, list(dict.fromkeys(notes)))


def _reason(first: FinishedRun, second: FinishedRun) -> str:
    """Return why two runs do not compare, empty where they do."""
    a, b = first.record, second.record
    if set(a.objectives) != set(b.objectives):
        return f"the objectives are {', '.join(a.objectives)} and {', '.join(b.objectives)}; only the same ones compare"
    other = [
        name
        for name in a.objectives
        if a.scorers and b.scorers and a.scorers[name].fingerprint != b.scorers[name].fingerprint
    ]
    if other:
        meanings = [f"{run.objectives_info.get(other[0]) or 'another scorer'}" for run in (a, b)]
        return (
            f"{', '.join(other)} {'is' if len(other) == 1 else 'are'} scored otherwise ({meanings[0]}; {meanings[1]}); measure "
            "both under one score: in the config"
        )
    common = len(set(first.prompts) & set(second.prompts))
    if common < LEAST:
        return (
            f"{common} of their {len(first.prompts)} and {len(second.prompts)} held-out prompts are the same; hold the same "
            "prompts out (data.test, or the same data, data.splits and seed)"
        )
    return ""


def _differences(first: FinishedRun, second: FinishedRun) -> Iterator[str]:
    """Yield what a difference between two runs may also come from, and which prompts are left out."""
    a, b, both = first.record, second.record, f"{first.label} and {second.label}"
    if a.model != b.model:
        yield f"{both}: the base models differ ({a.model}; {b.model})"
    keys = [key for key in {**a.sampling, **b.sampling} if key != "batch_size"]
    other = [key for key in keys if a.sampling.get(key) != b.sampling.get(key)]
    if other:
        named = ", ".join(
            f"{key.replace('_', ' ')} {_shown(a.sampling, key)} and {_shown(b.sampling, key)}"
            for key in other
        )
        yield f"{both}: answers were sampled otherwise ({named}), which alone may make a difference"
    common, sizes = len(set(first.prompts) & set(second.prompts)), (len(first.prompts), len(second.prompts))
    if common < max(sizes):
        yield f"{both}: compared on the {common} held-out prompts that both have, of {sizes[0]} and {sizes[1]}"


def _shown(sampling: Mapping[str, Any], key: str) -> str:
    return str(sampling.get(key, "unknown"))


def _pairs(
    first: FinishedRun, second: FinishedRun, policies: Sequence[str]
) -> Iterator[Comparison | Uncompared]:
    """Yield each policy of the first run compared with each of the second; of other base models these too."""
    others = set(second.prompts)
    prompts = [prompt for prompt in first.prompts if prompt in others]
    base = first.record.model != second.record.model
    ours, theirs = (run.fronts(prompts, first.record.objectives, base) for run in (first, second))
    for name, mine in ours.items():
        for other, their in theirs.items():
            if (name == BASE) != (other == BASE):
                continue
            if policies and name != BASE and (name not in policies or other not in policies):
                continue
            try:
                yield compare(mine, their)
            except ParetuneError as error:
                yield Uncompared(
                    first=f"{first.label}/{name}", second=f"{second.label}/{other}", reason=str(error)
                )


def _called(fronts: Fronts, name: str) -> Fronts:
    """Return fronts under another name."""
    if isinstance(fronts, Front):
        return replace(fronts, name=name)
    return [replace(front, name=name) for front in fronts]
