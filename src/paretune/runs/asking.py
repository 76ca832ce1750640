"""What a run will ask of judges and scoring servers, by its plan: questions, tokens, money and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.planning.lengths import CHARACTERS
from paretune.planning.work import Stage
from paretune.runs.config import RunConfig
from paretune.runs.principles import judge_of
from paretune.scoring.rubric import read_rubric
from paretune.scoring.scorer import kinds_of
from paretune.scoring.usage import prices_of

WORDING = 90
"""Tokens of a question beside the rubric and the texts that it is about."""
REASONS = 150
"""Tokens of an answer of a judge that gives its reasons, where its limit allows them."""
ANSWER_SECONDS, SCORE_SECONDS = 4.0, 0.1
"""Seconds until a server has written such an answer, and until it has scored a request; many are on their way at once."""


@dataclass(frozen=True)
class Asking:
    """What one scorer will ask.

    Attributes:
        objective: Its objective.
        judge: Whom it asks.
        questions: Number of questions, or of rows for a scoring server.
        input_tokens, output_tokens: Tokens read and written; 0 for a scoring server.
        money: What they cost by the stated prices; None without prices.
        currency: What the prices are in.
        remote: Whether a server is asked.
        seconds: Time for one question, where a server is asked.
    """

    objective: str
    judge: str
    questions: float
    input_tokens: float
    output_tokens: float
    money: float | None
    currency: str
    remote: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return vars(self).copy()

    def __str__(self) -> str:
        what = f"{self.objective}: {self.questions:,.0f} {'questions to' if self.output_tokens else 'rows for'} {self.judge}"
        if self.output_tokens:
            what += f", {self.input_tokens:,.0f} tokens read and {self.output_tokens:,.0f} written"
        return what if self.money is None else f"{what}, about {self.money:,.2f} {self.currency}"


def asked(
    config: RunConfig, stages: Sequence[Stage], tokens: float, compared: Mapping[str, float]
) -> tuple[Asking, ...]:
    """Return what each scorer of a run that asks a judge or a server will ask.

    Args:
        config: Settings of the run.
        stages: Its stages.
        tokens: Mean tokens of a rated answer with its prompt.
        compared: Objective -> pairs of training responses that its judge compares in place of rating the responses.

    Raises:
        ConfigError: A rubric cannot be read.
    """
    found = []
    for spec in config.score:
        objective = str(spec.get("objective"))
        rated = sum(stage.judged for stage in stages if stage.name != "score" or objective not in compared)
        kinds, judge = kinds_of(spec), judge_of(spec)
        if judge is not None:
            # Of a head, the judge labels the responses that it is fitted on, and rates none.
            rated = 0.0 if "labels" in spec else rated
            found.append(_of_judge(judge, objective, rated, 2 * compared.get(objective, 0.0), tokens))
        elif kinds == ["endpoint"]:
            together = 1 if _one_by_one(spec) else int(spec.get("batch_size", 16))
            each = SCORE_SECONDS / together / int(spec.get("concurrency", 32))
            found.append(Asking(objective, str(spec["endpoint"]), rated, 0, 0, None, "", True, each))
    return tuple(found)


def _of_judge(
    spec: Mapping[str, Any], objective: str, rated: float, compared: float, tokens: float
) -> Asking:
    """Return what a judge is asked; a comparison has a second answer, taken to be half of what is read."""
    rubric = len(read_rubric(str(spec["judge"]), objective).text) / CHARACTERS + WORDING
    read = rated * (rubric + tokens) + compared * (rubric + 1.5 * tokens)
    reasons = min(REASONS, float(spec.get("max_new_tokens", 512)))
    written = rated * reasons + compared * (1.0 if spec.get("verdicts") == "letter" else reasons)
    prices, url = prices_of(spec.get("prices")), str(spec.get("url", ""))
    return Asking(
        objective,
        f"{spec['model']}{f' at {url}' if url else ''}",
        rated + compared,
        read,
        written,
        prices.of(read, written),
        prices.currency,
        bool(url),
        ANSWER_SECONDS / int(spec.get("concurrency", 16)) if url else 0.0,
    )


def _one_by_one(spec: Mapping[str, Any]) -> bool:
    """Return whether a server gets one row in a request: a conversation that it writes itself."""
    return (
        spec.get("api", "classify") in ("classify", "pooling") and spec.get("send", "messages") == "messages"
    )
