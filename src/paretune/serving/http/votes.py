"""Routes of votes: a vote is kept, the next pair to ask about is chosen, and the tastes of all people are summed up."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from paretune.core.preference import Preference
from paretune.serving.backend import Served
from paretune.serving.bodies import ApiError, Body, ChatMessage, Name, Policy, Text, Weights, prompt_of
from paretune.serving.service import Service, measured_surface
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.tastes import Tastes, learned, question


class NextRequest(Body):
    """The person and the policy to ask about."""

    profile: Name = "default"
    policy: Policy | None = None


class AnswerBody(Body):
    """One of two answers, with the preference that it was generated at."""

    text: Text
    preference: Weights
    scores: Weights | None = None
    truncated: bool = False


class VoteRequest(Body):
    """A choice of the better of two answers, under ``objective`` or, without one, as a whole."""

    profile: Name = "default"
    policy: Policy | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    first: AnswerBody
    second: AnswerBody
    winner: Literal["first", "second", "tie"]
    objective: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    def vote(self, served: Served) -> Vote:
        """Return the vote on answers of ``served``.

        Raises:
            ApiError: 422; a preference is not over the policy's objectives, or there is nothing to answer.
        """
        first = _voted_answer(served, self.first, "first")
        second = _voted_answer(served, self.second, "second")
        return Vote(served.name, prompt_of(self.messages), first, second, self.winner, self.objective)


def _voted_answer(served: Served, answer: AnswerBody, side: str) -> VotedAnswer:
    """Return the answer as the store keeps it; the bounds are not checked, as they may have changed since."""
    try:
        preference = Preference.of(answer.preference, served.objectives)
    except ValueError as error:
        raise ApiError(422, str(error)[:1000], "invalid_preference", f"{side}.preference") from error
    return VotedAnswer(answer.text, preference, answer.scores, answer.truncated)


def router(service: Service) -> APIRouter:
    """Return the routes over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"])

    @cache
    def tastes() -> Tastes:
        return Tastes(service.require_store())

    @routes.post("/votes", status_code=201)
    def vote(body: VoteRequest) -> dict[str, Any]:
        """Keep a vote; 201 is sent once it is on disk."""
        served = service.policy(body.policy)
        number = service.require_store().add_vote(body.profile, body.vote(served))
        surface = served.surface
        posterior = None if surface is None else learned(tastes().of(body.profile, surface), surface)
        return {"id": number, "posterior": posterior}

    @routes.post("/elicit/next")
    def next_question(body: NextRequest) -> dict[str, Any]:
        """Return the two preferences whose answers a person's next vote would teach most about; null if none would."""
        served = service.policy(body.policy)
        surface = measured_surface(served)
        posterior = tastes().of(body.profile, surface)
        pair = question(posterior, surface, service.bounds[served.name])
        return {
            "policy": served.name,
            "profile": body.profile,
            "first": None if pair is None else {"preference": pair.first.as_dict()},
            "second": None if pair is None else {"preference": pair.second.as_dict()},
            "information": None if pair is None else pair.information,
            "posterior": learned(posterior, surface),
        }

    @routes.get("/population")
    def population(policy: Policy | None = None) -> dict[str, Any]:
        """Return what all people's votes on a policy show: mean tastes, and groups of people with similar tastes."""
        from paretune.choosing.population import population as summary

        served = service.policy(policy)
        return {"policy": served.name, **summary(tastes().all(measured_surface(served))).to_dict()}

    return routes
