"""The route that scores answers with the scorers of the run."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from paretune.serving.bodies import MOST_CHOICES, Body, ChatMessage, Policy, Text, prompt_of
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
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


def router(service: Service) -> APIRouter:
    """Return the route over the service's scorers."""
    routes = APIRouter(prefix="/api", tags=["front"], route_class=JsonRoute)

    @routes.post("/score")
    def score(caller: Calling, body: ScoreRequest) -> dict[str, Any]:
        """Return each answer's own scores, and why an objective has none. What the front expects is a mean over many prompts."""
        service.limits.take_rate(caller)
        served = service.policy(body.policy)
        texts, cut = [one.text for one in body.answers], [one.truncated for one in body.answers]
        scores, missing = service.scorers.scores(served.objectives, prompt_of(body.messages), texts, cut)
        return {"policy": served.name, "scores": scores, "missing": missing}

    return routes
