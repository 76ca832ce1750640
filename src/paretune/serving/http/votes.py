"""Routes of what people leave behind: profiles, presets, votes, and the audit of preferences used."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from paretune.core.preference import Preference
from paretune.serving.backend import Served
from paretune.serving.bodies import ApiError, Body, ChatMessage, Name, Policy, Text, Weights, prompt_of
from paretune.serving.http.profiles import PresetRequest, ProfileRequest
from paretune.serving.http.studio import outlook_of
from paretune.serving.service import Service
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store
from paretune.serving.store.tastes import Tastes, learned, question


class NextRequest(Body):
    """Which person, asked about which policy."""

    profile: Name = "default"
    policy: Policy | None = None


class AnswerBody(Body):
    """One of two answers, with the preference it was given at."""

    text: Text
    preference: Weights
    scores: Weights | None = None
    truncated: bool = False


class VoteRequest(Body):
    """Which of two answers is better; ``objective`` names what was asked about, nothing: better as a whole."""

    profile: Name = "default"
    policy: Policy | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    first: AnswerBody
    second: AnswerBody
    winner: Literal["first", "second", "tie"]
    objective: Annotated[str, Field(min_length=1, max_length=200)] | None = None


def store_of(service: Service) -> Store:
    """Return the store.

    Raises:
        ApiError: 409, the server runs without one.
    """
    if service.store is None:
        raise ApiError(409, "this server runs without a store; start it without --no-store", "no_store")
    return service.store


def router(service: Service) -> APIRouter:
    """Return the routes over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"])

    @cache
    def tastes() -> Tastes:
        return Tastes(store_of(service))

    def preset_dict(preset: Any) -> dict[str, Any]:
        return {
            "name": preset.name,
            "profile": preset.profile,
            "policy": preset.policy,
            "preference": preset.preference.as_dict(),
            "model": f"{preset.policy}@{preset.name}",
            "updated": preset.updated.isoformat(),
        }

    def checked(served: Served, given: dict[str, float], param: str) -> Preference:
        """Return the preference an answer was given at; bounds may have changed since."""
        try:
            return Preference.of(given, served.objectives)
        except ValueError as error:
            raise ApiError(422, str(error)[:1000], "invalid_preference", param) from error

    @routes.get("/profiles")
    def profiles() -> dict[str, Any]:
        """Everybody who has a profile."""
        found = store_of(service).profiles()
        return {"profiles": [{"name": one.name, "created": one.created.isoformat()} for one in found]}

    @routes.post("/profiles", status_code=201)
    def make_profile(body: ProfileRequest) -> dict[str, Any]:
        """Make a profile, or find it."""
        made = store_of(service).profile(body.name)
        return {"name": made.name, "created": made.created.isoformat()}

    @routes.get("/presets")
    def presets(profile: Name = "default") -> dict[str, Any]:
        """A person's presets."""
        return {"presets": [preset_dict(preset) for preset in store_of(service).presets(profile)]}

    @routes.put("/presets/{name}")
    def save_preset(name: Name, body: PresetRequest) -> dict[str, Any]:
        """Keep a preference; one of the same name is replaced."""
        served = service.policy(body.policy)
        preference = service.preference(served, body.preference)
        return preset_dict(store_of(service).save_preset(body.profile, name, served.name, preference))

    @routes.delete("/presets/{name}")
    def delete_preset(name: Name, profile: Name = "default") -> dict[str, Any]:
        """Forget a preset."""
        if not store_of(service).delete_preset(profile, name):
            raise ApiError(404, f"no preset {name!r} of profile {profile!r}", "not_found", "name")
        return {"deleted": name}

    @routes.post("/votes", status_code=201)
    def vote(body: VoteRequest) -> dict[str, Any]:
        """Keep a vote; 201 comes when it is on the disk."""
        served = service.policy(body.policy)
        first, second = (
            VotedAnswer(
                given.text,
                checked(served, given.preference, f"{side}.preference"),
                given.scores,
                given.truncated,
            )
            for side, given in (("first", body.first), ("second", body.second))
        )
        prompt = prompt_of(body.messages)
        kept = Vote(served.name, prompt, first, second, body.winner, body.objective)
        number = store_of(service).add_vote(body.profile, kept)
        surface = served.surface
        known = None if surface is None else learned(tastes().of(body.profile, surface), surface)
        return {"id": number, "posterior": known}

    @routes.post("/elicit/next")
    def next_question(body: NextRequest) -> dict[str, Any]:
        """The two preferences whose answers a person's next vote would teach most about; null when nothing differs."""
        served = service.policy(body.policy)
        surface = outlook_of(served)
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
        """What all people's votes on a policy say: their mean tastes, and groups of like-minded people."""
        from paretune.choosing.population import population as summary

        served = service.policy(policy)
        return {"policy": served.name, **summary(tastes().all(outlook_of(served))).to_dict()}

    @routes.get("/audit")
    def audit(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    ) -> dict[str, Any]:
        """The preferences used, the newest first."""
        records = store_of(service).audit(limit, before)
        return {
            "records": [
                {
                    "id": one.id,
                    "created": None if one.created is None else one.created.isoformat(),
                    "request": one.request_id,
                    "client": one.client,
                    "model": one.model,
                    "policy": one.policy,
                    "asked": None if one.asked is None else one.asked.as_dict(),
                    "used": one.used.as_dict(),
                }
                for one in records
            ]
        }

    return routes
