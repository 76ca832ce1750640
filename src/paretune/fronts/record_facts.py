"""The parts of a run's record: the types of its numbers, and what methods and data state of themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from paretune.fronts.front import Interval

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
"""A figure with its 95 % interval over held-out prompts; the bounds are NaN where nothing says how far it may be off."""
Scores = tuple[Number, ...]
"""One number per objective."""


class Value(BaseModel):
    """A part of a record: it cannot be changed, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodFacts(BaseModel):
    """Facts that a method stores with its adapters: those that the report shows are named, others are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class GoalAnswers(MethodFacts):
    """An online iteration of Rewards-in-Context: answers drawn towards goals, those kept, and how far from what was asked.

    Attributes:
        drawn: Answers drawn.
        kept: Answers trained on.
        gap: Objective -> mean distance of asked and obtained scores, in deviations.
    """

    drawn: int
    kept: int
    gap: dict[str, Number]


class Retention(MethodFacts):
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


class GradientConflict(MethodFacts):
    """How the gradients of two objectives stood to each other in a training run that measured them.

    Attributes:
        preference: The preference of the run; empty where one run serves all.
        objectives: The two.
        cosine: The mean cosine over the steps that measured it.
        opposed: The share of these steps at which it was negative.
        steps: Their number.
    """

    preference: str
    objectives: tuple[str, str]
    cosine: Number
    opposed: Number
    steps: int


class TrainedFloor(MethodFacts):
    """A floor that a training run was held to.

    Attributes:
        preference: The preference of the run.
        objective: The objective with the floor.
        floor: The smallest mean score asked for.
        reached: The mean score of the responses of its last steps.
        multiplier: What a deviation of the objective weighed in the end beside its weight in the preference.
        steps: The number of steps that the mean is of.
    """

    preference: str
    objective: str
    floor: Number
    reached: Number
    multiplier: Number
    steps: int


class ScoreSummary(MethodFacts):
    """The training scores on one objective."""

    objective: str
    missing: int
    mean: Number
    std: Number
    low: Number
    quartiles: tuple[Number, Number, Number]
    high: Number
    comparisons: int


class Asked(Value):
    """What a judge or a scoring server was asked for a run.

    Attributes:
        judge: Who was asked, and by which rubric.
        asked, kept: Answers that were asked for, and that were read from the cache.
        unread, refused: Ratings and comparisons without a result because no answer could be read, and rows that were refused.
        compared, turned: Pairs that were compared in both orders, and those whose verdict changed with the order.
        input_tokens, output_tokens: Tokens read and written for the answers that were asked for; 0 where they are not counted.
        money: What these cost by the stated prices; None without prices.
        currency: What the prices are in.
    """

    judge: str
    asked: int = 0
    kept: int = 0
    unread: int = 0
    refused: int = 0
    compared: int = 0
    turned: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: Number | None = None
    currency: str = ""


class ScorerFacts(Value):
    """What gave the scores on one objective, and how far it can be trusted.

    Attributes:
        fingerprint: Identity of rule, options and model weights: equal fingerprints mean equal scores.
        accuracy: For a fitted head the share of held-out pairs that it ranks as people did; None for other scorers.
        train_accuracy: That of the pairs that it was fitted on.
        longer_accuracy: That of preferring the longer response, on the held-out pairs.
        pairs, prompts: How many held-out pairs the accuracy is of, and their prompts.
        seen: How many of the held-out prompts of this run the head was fitted on; None where that is not known.
        asked: What was asked of a judge or a server; None for a scorer that asks nobody.
    """

    fingerprint: str
    accuracy: Figure | None = None
    train_accuracy: Number | None = None
    longer_accuracy: Number | None = None
    pairs: int | None = None
    prompts: int | None = None
    seen: int | None = None
    asked: Asked | None = None


class SaidPart(Value):
    """The time that was said of a part of the run beforehand, and that it took, see :class:`paretune.core.said.Said`.

    Attributes:
        name: The stage, or the part of the plan.
        said: Seconds that were said of what this process had to do for it.
        taken: Seconds that it took; None where the two are not compared.
    """

    name: str
    said: float
    taken: float | None = None


class WordCounts(MethodFacts):
    """Lengths in words."""

    p50: Number


class DataSummary(MethodFacts):
    """The training data, as :func:`paretune.data.summary.inspect` counts them; ``notes`` say what was left out of them."""

    rows: int
    prompts: int
    responses: int
    objectives: tuple[ScoreSummary, ...]
    repeated_prompts: int
    identical_responses: int
    truncated_share: Number
    response_words: WordCounts
    conflicts: tuple[tuple[Number, ...], ...]
    notes: tuple[str, ...] = ()
