"""Routes of votes: kept, listed, undone and deleted; the next pair to ask about; the tastes of all people summed up."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from paretune.choosing.elicit import expected_deviation
from paretune.choosing.posterior import LARGEST_SCORE
from paretune.core.errors import suggest
from paretune.core.preference import Preference
from paretune.serving.api_errors import ApiError
from paretune.serving.backend import Served
from paretune.serving.bodies import Name, Policy, Weights, Whole
from paretune.serving.body import Body, Text
from paretune.serving.callers import Caller
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.messages import ChatMessage, prompt_of
from paretune.serving.service import Service, measured_surface, require_own
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.tastes import Tastes, in_order, learned, question


class NextRequest(Body):
    """The person and the policy to ask about."""

    profile: Name = "default"
    policy: Policy | None = None


class UndoRequest(Body):
    """The person whose last vote is taken back; with ``policy``, the last one on it."""

    profile: Name = "default"
    policy: Policy | None = None


class AnswerBody(Body):
    """One of two answers, with the preference that it was generated at.

    ``scores`` are the answer's own, as ``/api/score`` returns them. Where both answers have all of them the vote is learned from
    them, otherwise from the scores that the front expects at the two preferences.
    """

    text: Text
    preference: Weights
    scores: Weights | None = None
    truncated: bool = False


class VoteRequest(Body):
    """A choice of the better of two answers, under ``objective``, which is one of the run's, or, without one, as a whole."""

    profile: Name = "default"
    policy: Policy | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    first: AnswerBody
    second: AnswerBody
    winner: Literal["first", "second", "tie"]
    objective: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    def vote(self, served: Served, owner: str | None) -> Vote:
        """Return the vote on answers of ``served``.

        Raises:
            ApiError: 422; a preference is not over the policy's objectives, a score cannot be, or there is nothing to answer.
        """
        first = _voted_answer(served, self.first, "first")
        second = _voted_answer(served, self.second, "second")
        prompt = prompt_of(self.messages)
        return Vote(served.name, prompt, first, second, self.winner, self.objective, owner=owner)


def _voted_answer(served: Served, answer: AnswerBody, side: str) -> VotedAnswer:
    """Return the answer as the store keeps it; the bounds are not checked, as they may have changed since."""
    try:
        preference = Preference.of(answer.preference, served.objectives)
    except ValueError as error:
        raise ApiError(422, str(error)[:1000], "invalid_preference", f"{side}.preference") from error
    for name, score in (answer.scores or {}).items():
        if name not in served.objectives:
            message = f"no objective {name[:100]!r}; {served.name} has {', '.join(served.objectives)}"
            raise ApiError(422, message, "invalid_value", f"{side}.scores")
        if abs(score) > LARGEST_SCORE:
            message = f"the score {score:g} on {name!r} is no measurement; expected a number from -1e9 to 1e9"
            raise ApiError(422, message, "invalid_value", f"{side}.scores")
    return VotedAnswer(answer.text, preference, answer.scores, answer.truncated)


def _check_objective(service: Service, served: Served, objective: str | None) -> None:
    """Raise an ApiError, 422, for an objective that neither a served policy has nor the run scores: nothing could use the vote."""
    others = (other.objectives for other in service.backend.served.values())
    scored = service.facts_of(served).objectives
    known = list(dict.fromkeys(chain(served.objectives, *others, scored)))
    if objective is not None and objective not in known:
        message = f"no objective {objective[:100]!r}; {suggest(objective[:100], known)}; leave it out for a vote as a whole"
        raise ApiError(422, message, "invalid_value", "objective")


def router(service: Service) -> APIRouter:
    """Return the routes over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"], route_class=JsonRoute)

    @cache
    def tastes() -> Tastes:
        return Tastes(service.require_store())

    def posterior_of(profile: str, served: Served) -> dict[str, Any] | None:
        surface = served.surface
        return None if surface is None else learned(tastes().of(profile, surface), surface)

    @routes.post("/votes", status_code=201)
    def vote(caller: Calling, body: VoteRequest) -> dict[str, Any]:
        """Keep a vote; 201 is sent once it is on disk."""
        service.limits.take_rate(caller)
        served = service.policy(body.policy)
        _check_objective(service, served, body.objective)
        cast = body.vote(served, caller.owner)
        number = service.require_person(caller, body.profile).add_vote(body.profile, cast)
        return {"id": number, "posterior": posterior_of(body.profile, served)}

    @routes.get("/votes")
    def votes(
        caller: Calling,
        profile: Name | None = None,
        policy: Policy | None = None,
        limit: Annotated[Whole, Query(ge=1, le=1000)] = 100,
        before: Annotated[Whole | None, Query(ge=1, le=2**62)] = None,
    ) -> dict[str, Any]:
        """List votes, the newest first; ``before`` is the id of a vote to go on from. A key sees its own votes."""
        store = service.require_store()
        found = store.newest_votes(profile, policy, limit, before, caller.limited_to)
        return {"votes": [_listed(vote) for vote in found]}

    @routes.delete("/votes/{number}")
    def delete_vote(caller: Calling, number: Annotated[Whole, Path(ge=1, le=2**62)]) -> dict[str, Any]:
        """Delete a vote; tastes are learned anew from those that remain."""
        found = service.require_store().vote(number)
        if found is None:
            raise ApiError(404, f"no vote {number}", "not_found", "number")
        return remove(caller, found)

    @routes.post("/votes/undo")
    def undo(caller: Calling, body: UndoRequest) -> dict[str, Any]:
        """Take back a person's last vote, and return what it was."""
        store = service.require_person(caller, body.profile)
        policy = None if body.policy is None else service.policy(body.policy).name
        newest = store.newest_votes(body.profile, policy, 1, None, caller.limited_to)
        if not newest:
            raise ApiError(
                404, f"the profile {body.profile!r} has no vote to take back", "not_found", "profile"
            )
        return remove(caller, newest[0])

    def remove(caller: Caller, vote: Vote) -> dict[str, Any]:
        require_own(caller, vote.owner, f"the vote {vote.id}")
        service.require_store().delete_vote(vote.id)
        served = service.backend.served.get(vote.policy)
        posterior = None if served is None else posterior_of(vote.profile, served)
        return {"deleted": vote.id, "vote": _listed(vote), "posterior": posterior}

    @routes.post("/elicit/next")
    def next_question(caller: Calling, body: NextRequest) -> dict[str, Any]:
        """Return the two preferences whose answers a person's next vote would teach most about; null if none would."""
        served = service.policy(body.policy)
        surface = measured_surface(served)
        service.require_person(caller, body.profile)
        posterior = tastes().of(body.profile, surface)
        pair = question(posterior, surface, service.bounds[served.name])
        told = {
            "policy": served.name,
            "profile": body.profile,
            "first": None if pair is None else {"preference": pair.first.as_dict()},
            "second": None if pair is None else {"preference": pair.second.as_dict()},
            "information": None if pair is None else pair.information,
            "deviation_after": None if pair is None else expected_deviation(posterior, surface, pair),
            "posterior": learned(posterior, surface),
        }
        return in_order(told, served.objectives)

    @routes.get("/population")
    def population(caller: Calling, policy: Policy | None = None) -> dict[str, Any]:
        """Return what all people's votes on a policy show: mean tastes, and groups of people with similar tastes.

        A key reads the names of its own profiles and of those of nobody; the others are counted.
        """
        served = service.policy(policy)
        surface = measured_surface(served)
        found = in_order(tastes().population(surface).to_dict(), served.objectives)
        named = {p.name for p in service.require_store().profiles() if caller.may_use(p.owner)}
        for group in found["clusters"]:
            group["centre"] = in_order(group["centre"], served.objectives)
            group["size"] = len(group["members"])
            group["members"] = [name for name in group["members"] if name in named]
        found["people"] = {name: taste for name, taste in found["people"].items() if name in named}
        found["left_out"] = [name for name in found["left_out"] if name in named]
        return {"policy": served.name, **found}

    return routes


def _listed(vote: Vote) -> dict[str, Any]:
    return {
        "id": vote.id,
        "created": None if vote.created is None else vote.created.isoformat(),
        "profile": vote.profile,
        "policy": vote.policy,
        "messages": [{"role": message.role, "content": message.content} for message in vote.prompt],
        "first": _answer(vote.first),
        "second": _answer(vote.second),
        "winner": vote.winner,
        "objective": vote.objective,
    }


def _answer(answer: VotedAnswer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "preference": answer.preference.as_dict(),
        "scores": None if answer.scores is None else dict(answer.scores),
        "truncated": answer.truncated,
    }
