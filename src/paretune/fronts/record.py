"""The record of a run: everything that was measured, as ``front.json`` holds it.

:class:`FrontRecord` is what the report, the picture, the model card, choosing, export and serving read, and what a run
writes last. Scores are raw and higher is better; a number that is undefined is NaN here and null in the file. The JSON schema
of each format is committed under ``tests/fronts/schemas``, so that a change of these types asks for a new :data:`FORMAT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from paretune.core.errors import ParetuneError, suggest
from paretune.core.files import read_json, write_json
from paretune.fronts.front import Interval
from paretune.fronts.record_0_1 import upgraded

FORMAT: Literal[2] = 2
"""The format written here. Records of paretune 0.1 say none; they are read, see :mod:`paretune.fronts.record_0_1`."""
FILE = "front.json"
"""The name of the record in a run's folder."""

_NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}]}
_INTERVAL = {
    "type": "object",
    "properties": dict.fromkeys(("value", "low", "high"), _NUMBER) | {"level": {"type": "number"}},
    "required": ["value", "low", "high"],
}


def _defined(value: Any) -> Any:
    return math.nan if value is None else value


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, BeforeValidator(_defined), PlainSerializer(_null), WithJsonSchema(_NUMBER)]
"""A number; NaN where it is undefined, which the file says as null."""
Figure = Annotated[
    Interval,
    BeforeValidator(lambda v: {k: _defined(x) for k, x in v.items()} if isinstance(v, Mapping) else v),
    PlainSerializer(Interval.to_dict),
    WithJsonSchema(_INTERVAL),
]
"""A figure with its 95 % interval over held-out prompts."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _MethodFacts(BaseModel):
    """Facts that a method stores with its adapters: those that the report shows are named, others are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Point(_Value):
    """What one policy answered at one preference on the held-out prompts.

    Attributes:
        preference: The preference asked for, objective -> weight.
        used: The preference really served, which is another one where a policy has anchors.
        mean: Mean scores ``[M]``.
        low, high: Bounds ``[M]`` of their intervals.
        collapse_rate: The share of answers that degenerated.
        cut_rate: The share of answers that the token limit cut.
        kl: The divergence from the base model in nats per answer.
        conflict: How far mixed policies disagree, in nats per token; 0 where none are mixed.
        base_logp: The mean log-probability of the answers under the base model in nats per token.
        words: The mean length of an answer in words.
        responses: One answer to each of the first prompts.
    """

    preference: dict[str, float]
    used: dict[str, float]
    mean: tuple[float, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    collapse_rate: Number
    cut_rate: Number
    kl: Figure
    conflict: Figure
    base_logp: Number
    words: Number
    responses: tuple[str, ...]

    def score(self, m: int) -> Interval:
        """Return the mean score on objective number ``m`` with its interval."""
        return Interval(self.mean[m], self.low[m], self.high[m])


class BasePoint(Point):
    """What the base model answered, and the hypervolume of that one point."""

    hypervolume: Figure


class Cost(_Value):
    """What a policy cost to train and costs to run.

    Attributes:
        adapters: The number of adapters.
        passes: Forward passes per token.
        runs: Training runs; None where the stages are not in the run's folder.
        seconds: The time of training; None likewise.
        tokens: Tokens that went through forward and backward.
    """

    adapters: int
    passes: int
    runs: int | None = None
    seconds: float | None = None
    tokens: int | None = None


class GoalAnswers(_MethodFacts):
    """An online iteration of Rewards-in-Context: answers drawn towards goals, those kept, and how far from what was asked.

    Attributes:
        drawn: Answers drawn.
        kept: Answers trained on.
        gap: Objective -> mean distance of asked and obtained scores, in deviations.
    """

    drawn: int
    kept: int
    gap: dict[str, Number]


class Retention(_MethodFacts):
    """A round of self-improvement (SIPO): how many pairs and responses each step kept.

    Attributes:
        round: The number of the round, from 1.
        pairs, conflicts, taken, survivors: Pairs of the data, those on which objectives disagree, those looked at, and those
            for which a better response was found.
        sampled, rewritten, kept, cut, unread: Responses drawn, rewritten, rewrites kept, responses cut, and reviews without a
            suggestion.
    """

    round: int
    pairs: int
    conflicts: int
    taken: int
    survivors: int
    sampled: int
    rewritten: int
    kept: int
    cut: int
    unread: int


class MeasuredPolicy(_Value):
    """One policy at N preferences.

    Attributes:
        name: The name in the run.
        title: The front's name for people, such as ``DPO soups``.
        paper: The paper of the method.
        enters: Where the preference enters, in words.
        anchored: Whether the policy answers with measured preferences only, never between two.
        points: N points on the simplex.
        extrapolations: Points off the simplex, which no figure counts.
        figures: Indicator -> its value, see :data:`paretune.fronts.indicators.INDICATORS`; those per objective are called
            ``controllability:<objective>``.
        non_dominated: Whether no other point of this policy dominates, for each of the N.
        knee: The number of the point at the knee.
        seconds: The time of sampling and scoring.
        tokens: Tokens sampled.
        cost: What it cost to train.
        steerability: Module -> the size of the singular values that follow the preference over those that do not; None where
            all do. Empty where a policy has none.
        online: The online iterations of Rewards-in-Context.
        retention: The round of self-improvement.
        soup_kl: The divergence of a mixed policy from the soup of its adapters at each point, in nats per token.
    """

    name: str
    title: str = ""
    paper: str = ""
    enters: str = ""
    anchored: bool
    points: tuple[Point, ...]
    extrapolations: tuple[Point, ...] = ()
    figures: dict[str, Figure]
    non_dominated: tuple[bool, ...]
    knee: int
    seconds: Number
    tokens: int
    cost: Cost | None = None
    steerability: dict[str, float | None] = {}
    online: tuple[GoalAnswers, ...] = ()
    retention: Retention | None = None
    soup_kl: tuple[Figure, ...] = ()

    @property
    def label(self) -> str:
        """The title, or the name in the run."""
        return self.title or self.name

    @model_validator(mode="after")
    def _check(self) -> MeasuredPolicy:
        N = len(self.points)
        if len(self.non_dominated) != N or not 0 <= self.knee < max(N, 1):
            raise ValueError(
                f"non_dominated has {len(self.non_dominated)} entries and knee is {self.knee} for {N} points"
            )
        return self


class CornerMixture(_Value):
    """What serving the corners (the single-objective models) by chance reaches: the baseline that is free.

    Attributes:
        points: Mean scores ``[K, M]`` at many chances along the simplex.
        hypervolume: The hypervolume at the preferences of the policy that is measured at the most.
    """

    points: tuple[tuple[float, ...], ...]
    hypervolume: Figure


class PairedTest(_Value):
    """The hypervolumes of two fronts compared on the same prompts, see :func:`paretune.fronts.front.compare`."""

    first: str
    second: str
    difference: Figure
    p_value: Number
    verdict: str


class Stage(_Value):
    """One stage of the run: its time, and whether it was reused."""

    name: str
    seconds: float
    reused: bool


class ScoreSummary(_MethodFacts):
    """The training scores on one objective."""

    objective: str
    missing: int
    mean: Number
    std: Number
    low: Number
    quartiles: tuple[Number, Number, Number]
    high: Number
    comparisons: int


class WordCounts(_MethodFacts):
    """Lengths in words."""

    p50: Number


class DataSummary(_MethodFacts):
    """The training data, as :func:`paretune.data.summary.inspect` counts them."""

    rows: int
    prompts: int
    responses: int
    objectives: tuple[ScoreSummary, ...]
    repeated_prompts: int
    identical_responses: int
    truncated_share: Number
    response_words: WordCounts
    conflicts: tuple[tuple[Number, ...], ...]


class FrontRecord(_Value):
    """Everything a run measured.

    Attributes:
        format: The format of this record.
        name: The run's name.
        version: The version of paretune that wrote it.
        created: The date.
        model: The base model.
        objectives: M names, in the order of all scores.
        reference_point: ``[M]``, the reference point of every hypervolume here.
        prompts: The texts of the first held-out prompts, to which points hold answers.
        num_prompts: The number of held-out prompts.
        base: The base model.
        policies: The policies, in the order of the config.
        mixture: The mixture of the corners.
        comparisons: Paired tests on hypervolume.
        objectives_info: Objective -> what measures it, in words.
        sampling: How answers were sampled.
        data: The training data; None where nothing was trained.
        splits: Split -> number of prompts.
        stages: The stages of the run.
        scoring_forwards: Forward passes that scored data.
        licence: The licence, empty where none was stated.
    """

    format: Literal[2]
    name: str
    version: str
    created: str
    model: str
    objectives: tuple[str, ...]
    reference_point: tuple[float, ...]
    prompts: tuple[str, ...]
    num_prompts: int
    base: BasePoint
    policies: tuple[MeasuredPolicy, ...]
    mixture: CornerMixture
    comparisons: tuple[PairedTest, ...]
    objectives_info: dict[str, str] = {}
    sampling: dict[str, JsonValue] = {}
    data: DataSummary | None = None
    splits: dict[str, int] = {}
    stages: tuple[Stage, ...] = ()
    scoring_forwards: int | None = None
    licence: str = ""

    @classmethod
    def read(cls, path: str | Path) -> FrontRecord:
        """Read a ``front.json``, also one of paretune 0.1.

        Raises:
            ParetuneError: The file cannot be read, is no record (the message names the key), or has a later format.
        """
        return cls.parse(read_json(path), Path(path))

    @classmethod
    def parse(cls, facts: Any, path: Path = Path(FILE)) -> FrontRecord:
        """Make a record of JSON values; ``path`` is named in errors.

        Raises:
            ParetuneError: See :meth:`read`.
        """
        if not isinstance(facts, Mapping):
            raise _not_a_record(path, f"a {type(facts).__name__}, expected an object")
        if "format" not in facts:
            facts = upgraded(facts, path.parent)
        if facts["format"] != FORMAT:
            raise ParetuneError(
                f"{path}: has the format {facts['format']!r}; this version of paretune reads {FORMAT} and those before, "
                "install the one that wrote the file"
            )
        try:
            return cls.model_validate(facts)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise _not_a_record(path, f"{key}: {first['msg']}" if key else first["msg"]) from error

    def write(self, path: str | Path) -> None:
        """Write the record as JSON, atomically; what was not given is left out."""
        write_json(path, self.model_dump(mode="json", exclude_unset=True))

    def policy(self, name: str) -> MeasuredPolicy:
        """Return the policy called ``name``.

        Raises:
            ParetuneError: It was not measured.
        """
        for policy in self.policies:
            if policy.name == name:
                return policy
        raise ParetuneError(f"no policy {name!r}; {suggest(name, [policy.name for policy in self.policies])}")

    @model_validator(mode="after")
    def _check(self) -> FrontRecord:
        M = len(self.objectives)
        if len(self.reference_point) != M:
            raise ValueError(f"reference_point has {len(self.reference_point)} numbers for {M} objectives")
        named: list[tuple[str, Point]] = [("base", self.base)]
        for i, policy in enumerate(self.policies):
            named += [(f"policies.{i}.points.{n}", point) for n, point in enumerate(policy.points)]
            named += [(f"policies.{i}.extrapolations.{n}", p) for n, p in enumerate(policy.extrapolations)]
        for where, point in named:
            for key in ("mean", "low", "high"):
                if len(getattr(point, key)) != M:
                    raise ValueError(
                        f"{where}.{key} has {len(getattr(point, key))} numbers for {M} objectives"
                    )
            if set(point.preference) != set(self.objectives):
                raise ValueError(
                    f"{where}.preference is over {', '.join(point.preference)}; expected {', '.join(self.objectives)}"
                )
        return self


def _not_a_record(path: Path, reason: str) -> ParetuneError:
    return ParetuneError(
        f"{path}: not the {FILE} of a run ({reason}); name another file, or write it anew with paretune run"
    )
