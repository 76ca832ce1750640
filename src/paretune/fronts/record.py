"""The record of a run: everything that was measured, as ``front.json`` holds it.

:class:`FrontRecord` is what the report, the picture, the model card, choosing, export and serving read, and what a run
writes last. Scores are raw and higher is better; a number that is undefined is NaN here and null in the file. The JSON schema
of each format is committed under ``tests/fronts/schemas``, so that a change of these types asks for a new :data:`FORMAT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, PrivateAttr, ValidationError, model_validator

from paretune.core.errors import ParetuneError, suggest
from paretune.core.files import read_json, write_json
from paretune.core.meter import Spent
from paretune.fronts.earlier_records import upgraded
from paretune.fronts.front import Interval
from paretune.fronts.record_facts import (
    DataSummary,
    Figure,
    GoalAnswers,
    GradientConflict,
    Number,
    Retention,
    SaidPart,
    ScorerFacts,
    Scores,
    TrainedFloor,
    Value,
)
from paretune.fronts.record_rows import What, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

FORMAT: Literal[8] = 8
"""The format written here. Earlier records are read as well, see :mod:`paretune.fronts.earlier_records`."""
FILE = "front.json"
"""The name of the record in a run's folder."""


class Movement(Value):
    """How far the answers at a point are from the base model's, see :mod:`paretune.fronts.movement`.

    All numbers are in standard deviations of the base model's answers.

    Attributes:
        moved: Attribute -> movement. The attributes are the objectives, and ``words`` where no objective measures the length.
            The bounds hold for all points and attributes of the record at once.
        along: The movement in the wanted direction.
        across: The size of the movement that nobody asked for.
    """

    moved: dict[str, Figure]
    along: Figure
    across: Figure


class Point(Value):
    """What one policy answered at one preference on the held-out prompts.

    Attributes:
        preference: The preference asked for, objective -> weight.
        used: The preference really served, which is another one where a policy has anchors.
        mean: Mean scores ``[M]``.
        low, high: Bounds ``[M]`` of their intervals.
        collapse_rate: The share of answers that degenerated.
        cut_rate: The share of answers that the token limit cut.
        log_ratio: The mean log-probability of an answer less that under the base model, in nats per answer. This is
            KL(policy || base) where answers are sampled at temperature 1 and top-p 1, and no divergence otherwise.
        conflict: How far mixed policies disagree, in nats per token; 0 where none are mixed.
        base_logp: The mean log-probability of the answers under the base model in nats per token.
        words: The mean length of an answer in words.
        responses: One answer to each of the first prompts.
        response_scores: Scores ``[M]`` of each of these answers; empty where they were not kept.
        band_low, band_high: Bounds ``[M]`` that hold the true means of all points of the policy at once, and so also of a point
            that is chosen for its scores; empty where they were not measured.
        shrunk: Mean scores ``[M]`` without most of what is luck, for choosing; empty likewise.
        on_front: The chance that no other point of the policy is better on every objective by a tenth of a
            deviation; None where it was not measured.
        movement: How far the answers are from the base model's; None where no attribute of its answers varies.
        interpolated: Whether a soup of anchors answered, of which none was trained for the preference.
    """

    preference: dict[str, float]
    used: dict[str, float]
    mean: tuple[float, ...]
    low: Scores
    high: Scores
    collapse_rate: Number
    cut_rate: Number
    log_ratio: Figure
    conflict: Figure
    base_logp: Number
    words: Number
    responses: tuple[str, ...]
    response_scores: tuple[Scores, ...] = ()
    band_low: Scores = ()
    band_high: Scores = ()
    shrunk: tuple[float, ...] = ()
    on_front: float | None = None
    movement: Movement | None = None
    interpolated: bool = False

    def score(self, m: int) -> Interval:
        """Return the mean score on objective number ``m`` with its interval."""
        return Interval(self.mean[m], self.low[m], self.high[m])


class BasePoint(Point):
    """What the base model answered, and the hypervolume of that one point; all NaN where it was not measured."""

    mean: Scores
    hypervolume: Figure


class Cost(Value):
    """What a policy cost to train and costs to run.

    Attributes:
        adapters: The number of adapters.
        passes: Forward passes per token.
        runs: Training runs; None where the stages are not in the run's folder.
        seconds: The time of training; None likewise.
        tokens: Tokens that went through forward and backward.
        sampled: Tokens that were sampled to train on; None where a stage does not say it.
    """

    adapters: int
    passes: int
    runs: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    sampled: int | None = None


class MeasuredPolicy(Value):
    """One policy at N preferences.

    Attributes:
        name: The name in the run.
        title: The front's name for people, such as ``DPO soups``.
        paper: The paper of the method.
        enters: Where the preference enters, in words.
        anchored: Whether the policy answers with measured preferences only, never between two.
        points: N points on the simplex.
        ends: Objective -> its score at its largest weight less that at its smallest, in deviations of the base model's answers
            (of all answers, where that was not measured). The bounds hold for all policies and objectives of the record at once.
            Empty where there is one point, and in records of earlier formats.
        extrapolations: Points off the simplex, which no figure counts.
        figures: Indicator -> its value, see :data:`paretune.fronts.indicators.INDICATORS`; those per objective are called
            ``controllability:<objective>``. They are of the points as measured, but ``hypervolume`` is corrected for luck.
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
        conflicts: How the gradients of its objectives stood to each other, where training measured them.
        floors: The floors that its training was held to.
    """

    name: str
    title: str = ""
    paper: str = ""
    enters: str = ""
    anchored: bool
    points: tuple[Point, ...]
    ends: dict[str, Figure] = Field(default_factory=dict)
    extrapolations: tuple[Point, ...] = ()
    figures: dict[str, Figure]
    non_dominated: tuple[bool, ...]
    knee: int
    seconds: Number
    tokens: int
    cost: Cost | None = None
    steerability: dict[str, float | None] = Field(default_factory=dict)
    online: tuple[GoalAnswers, ...] = ()
    retention: Retention | None = None
    soup_kl: tuple[Figure, ...] = ()
    conflicts: tuple[GradientConflict, ...] = ()
    floors: tuple[TrainedFloor, ...] = ()

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


class CornerMixture(Value):
    """What serving the corners (the single-objective models) by chance reaches: the baseline that is free.

    Attributes:
        points: Mean scores ``[K, M]`` at many chances along the simplex.
        hypervolume: The hypervolume at the preferences of the policy that is measured at the most, corrected for luck. Where the
            corners were not measured it is NaN, and there are no points.
    """

    points: tuple[tuple[float, ...], ...]
    hypervolume: Figure


class PairedTest(Value):
    """The mean utility of two methods compared on the same prompts, see :func:`paretune.fronts.inference.compare`.

    Attributes:
        first, second: The names: a policy, or the method of several training seeds, ``base`` or ``mixture of corners``.
        verdict: ``NAME above`` or ``no difference shown``, judged together with all other tests of the record.
        difference, low, high: The first less the second with the bounds of its interval, in deviations of an answer's score.
        level: The level of the interval, at which the verdict was judged.
        p_value: The two-sided p-value of this test by itself.
        adjusted: The p-value among all tests of the record (Holm).
        detectable: The true difference that would have been seen four times in five.
        enough_prompts: How many prompts would show a difference as small as the observed one; None where no number would.
        preferences: The common preferences ``[K, M]``.
        prompts: The number of prompts.
        seeds: The training seeds of the two; 0 where a policy stands for itself.
        unit: ``[M]``, the deviation of an answer's scores.
        hypervolumes: Those of the two at the common preferences, corrected for luck. The verdict does not rest on them.
    """

    first: str
    second: str
    verdict: str
    difference: Number
    low: Number
    high: Number
    level: float
    p_value: Number
    adjusted: Number
    detectable: Number
    enough_prompts: int | None
    preferences: tuple[tuple[float, ...], ...]
    prompts: int
    seeds: tuple[int, int]
    unit: Scores
    hypervolumes: tuple[Number, Number]

    @property
    def interval(self) -> Interval:
        """The difference with its interval."""
        return Interval(self.difference, self.low, self.high, self.level)


class Uncompared(Value):
    """Two fronts that cannot be compared, and why."""

    first: str
    second: str
    reason: str


class Stage(Value):
    """One stage of the run: its time, whether it was reused, and what it spent when it was made (None: unknown)."""

    name: str
    seconds: float
    reused: bool
    spent: Spent | None = None


class FrontRecord(Value):
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
        comparisons: Paired tests on mean utility, judged together.
        uncompared: Pairs that could not be tested.
        cautions: Sentences on what cannot be said of this run, such as where there is one prompt.
        objectives_info: Objective -> what measures it, in words.
        scorers: Objective -> what gave its scores; empty where nobody said.
        sampling: How answers were sampled.
        data: The training data; None where nothing was trained.
        splits: Split -> number of prompts.
        stages: The stages of the run.
        rest: What the process spent outside of the stages that it made, until it wrote the record.
        said: The times that were said beforehand, beside those taken until it wrote the record; empty where none were said.
        scoring_forwards: Forward passes that scored data.
        licence: The licence, empty where none was stated.
    """

    _folder: Path | None = PrivateAttr(default=None)
    format: Literal[8]
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
    uncompared: tuple[Uncompared, ...] = ()
    cautions: tuple[str, ...] = ()
    objectives_info: dict[str, str] = Field(default_factory=dict)
    scorers: dict[str, ScorerFacts] = Field(default_factory=dict)
    sampling: dict[str, JsonValue] = Field(default_factory=dict)
    data: DataSummary | None = None
    splits: dict[str, int] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    rest: Stage | None = None
    said: tuple[SaidPart, ...] = ()
    scoring_forwards: int | None = None
    licence: str = ""

    @classmethod
    def read(cls, path: str | Path) -> FrontRecord:
        """Read a ``front.json``, also one of an earlier format.

        Raises:
            ParetuneError: The file cannot be read, is no record (the message names the key), or has a later format.
        """
        record = cls.parse(read_json(path), Path(path))
        record._folder = Path(path).parent
        return record

    @classmethod
    def parse(cls, facts: Any, path: Path = Path(FILE)) -> FrontRecord:
        """Make a record of JSON values; ``path`` is named in errors.

        Raises:
            ParetuneError: See :meth:`read`.
        """
        if not isinstance(facts, Mapping):
            raise _not_a_record(path, f"a {type(facts).__name__}, expected an object")
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

    def to_rows(self, what: What = "points") -> list[dict[str, Any]]:
        """Return the record as plain rows, see :func:`paretune.fronts.record_rows.rows_of`.

        Raises:
            ParetuneError: Another word, or there are no scores of single answers beside the file that the record was read from.
        """
        return rows_of(self, what, self._folder)

    def to_frame(self, what: What = "points") -> DataFrame:
        """Return :meth:`to_rows` as a data frame of pandas.

        Raises:
            ParetuneError: See :meth:`to_rows`; or pandas is not installed.
        """
        rows = self.to_rows(what)
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ParetuneError(
                "to_frame: pandas is not installed; pip install 'paretune[frames]', or take to_rows(), which needs nothing"
            ) from error
        return DataFrame(rows)

    def plot(self, ax: Axes | None = None, objectives: Sequence[str] | None = None) -> Axes:
        """Draw all policies on axes of matplotlib, see :func:`paretune.fronts.drawing.draw_record`."""
        from paretune.fronts.drawing import draw_record

        return draw_record(self, ax, objectives)

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
            for key in ("mean", "low", "high", "band_low", "band_high", "shrunk"):
                count, optional = len(getattr(point, key)), key in ("band_low", "band_high", "shrunk")
                if count != M and not (optional and count == 0):
                    raise ValueError(f"{where}.{key} has {count} numbers for {M} objectives")
            _check_response_scores(point, where, M)
            if set(point.preference) != set(self.objectives):
                raise ValueError(
                    f"{where}.preference is over {', '.join(point.preference)}; expected {', '.join(self.objectives)}"
                )
        return self


def _check_response_scores(point: Point, where: str, M: int) -> None:
    """Raise a ValueError unless each answer of a point has M scores, or none has any."""
    if len(point.response_scores) not in (0, len(point.responses)):
        raise ValueError(
            f"{where}.response_scores has {len(point.response_scores)} entries for {len(point.responses)} responses"
        )
    for n, scores in enumerate(point.response_scores):
        if len(scores) != M:
            raise ValueError(f"{where}.response_scores.{n} has {len(scores)} numbers for {M} objectives")


def _not_a_record(path: Path, reason: str) -> ParetuneError:
    return ParetuneError(
        f"{path}: not the {FILE} of a run ({reason}); name another file, or write it anew with paretune run"
    )
