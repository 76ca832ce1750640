"""Routes about own scores: answers scored with the scorers of the run, and two lists of scores compared prompt by prompt."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from pydantic import Field

from paretune.choosing.posterior import LARGEST_SCORE
from paretune.serving.api_errors import ApiError
from paretune.serving.bodies import MOST_CHOICES, Policy, Weights
from paretune.serving.body import Body, Text
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.messages import ChatMessage, prompt_of
from paretune.serving.service import Service


class ScoredText(Body):
    """An answer to be scored; ``truncated`` states that the token limit cut it."""

    text: Text
    truncated: bool = False


class ScoreRequest(Body):
    """Answers to one conversation."""

    policy: Policy | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    answers: Annotated[list[ScoredText], Field(min_length=1, max_length=MOST_CHOICES)]


MOST_COMPARED = 1000
"""Prompts of one comparison at most."""


class PairedRequest(Body):
    """Own scores of the answers of A and of B to the same prompts, in the same order; an answer may lack some scores."""

    first: Annotated[list[Weights], Field(min_length=1, max_length=MOST_COMPARED)]
    second: Annotated[list[Weights], Field(min_length=1, max_length=MOST_COMPARED)]


def _paired(first: list[float], second: list[float]) -> dict[str, Any]:
    """Return means and the mean difference with their intervals over prompts; a bound is null where there is none."""
    from paretune.evaluation.judge import mean_interval

    a, b = np.array(first), np.array(second)
    columns = {"first": a, "second": b, "difference": a - b}
    told: dict[str, Any] = {"prompts": len(a)}
    for name, values in columns.items():
        found = mean_interval(values).to_dict()
        told[name] = {"mean": found["value"], "low": found["low"], "high": found["high"]}
    return told


def router(service: Service) -> APIRouter:
    """Return the route over the service's scorers."""
    routes = APIRouter(prefix="/api", tags=["front"], route_class=JsonRoute)

    @routes.post("/score")
    def score(caller: Calling, body: ScoreRequest) -> dict[str, Any]:
        """Return each answer's own scores, and why an objective has none. What the front expects is a mean over many prompts."""
        service.limits.take_rate(caller)
        served = service.policy(body.policy)
        texts, cut = [one.text for one in body.answers], [one.truncated for one in body.answers]
        scores, missing = service.scorers_of(served).scores(
            served.objectives, prompt_of(body.messages), texts, cut
        )
        return {"policy": served.name, "scores": scores, "missing": missing}

    @routes.post("/score/paired")
    def paired(body: PairedRequest) -> dict[str, Any]:
        """Return, for each objective, both means and the mean difference, first less second, with 95 % intervals.

        The intervals are those of the front: the percentile bootstrap over prompts, whose draws are always the same ones.
        """
        if len(body.first) != len(body.second):
            message = (
                f"{len(body.first)} and {len(body.second)} answers; expected one of each to every prompt"
            )
            raise ApiError(422, message, "invalid_value", "second")
        for field, rows in (("first", body.first), ("second", body.second)):
            for n, row in enumerate(rows):
                if any(abs(score) > LARGEST_SCORE for score in row.values()):
                    message = "a score is no measurement; expected numbers from -1e9 to 1e9"
                    raise ApiError(422, message, "invalid_value", f"{field}.{n}")
        pairs = list(zip(body.first, body.second, strict=True))
        names = dict.fromkeys(name for a, b in pairs for name in a if name in b)
        compared = {}
        for name in names:
            both = [(a[name], b[name]) for a, b in pairs if name in a and name in b]
            compared[name] = _paired([one for one, _ in both], [other for _, other in both])
        return {"objectives": compared, "level": 0.95}

    return routes
