"""Routes about the measured front: its points, expected scores, the dial, and the choice by floors on scores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from paretune.serving.api_errors import ApiError
from paretune.serving.body import Body
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service, measured_surface

if TYPE_CHECKING:
    from paretune.fronts.surface import Surface
    from paretune.serving.backend import Served

DIAL_STOPS = 21


class ChooseRequest(Body):
    """Floors on scores, such as ``{"warm": 0.5, "concise": -6}``."""

    policy: str | None = Field(default=None, max_length=200)
    floors: dict[str, float] = Field(min_length=1, max_length=64)


def described(service: Service, served: Served) -> dict[str, Any]:
    """Return what a page needs to draw one policy: its measured points, knee and dial."""
    from paretune.choosing.floors import knee_preference
    from paretune.fronts.indicators import has_knee

    surface = served.surface
    about: dict[str, Any] = {
        "name": served.name,
        "objectives": list(served.objectives),
        "default": served.default.as_dict(),
        "bounds": service.bounds[served.name].as_dict(),
        "scored": service.scorers_of(served).objectives(served.objectives),
        "sampling": _sampling(service, served),
        "run": None if served.run is None else served.run.name,
        "anchored": bool(served.facts.get("anchored", surface is not None and surface.anchored)),
        **served.facts,
        "points": [],
        "knee": None,
        "dial": [],
        "dial_by": "",
    }
    if surface is None:
        return about
    for n in range(len(surface.preferences)):
        preference = surface.preference(n)
        scores = surface.expected(preference)
        about["points"].append(
            {
                "preference": preference.as_dict(),
                "mean": scores.mean,
                "low": scores.low,
                "high": scores.high,
                "on_front": surface.chance(n),
            }
        )
    if has_knee(surface.for_choosing.means):
        about["knee"] = knee_preference(surface).as_dict()
    if len(served.objectives) == 2:
        about |= dial_facts(surface)
    return about


def _sampling(service: Service, served: Served) -> dict[str, Any]:
    """Return how answers are sampled where a request does not say, as the policy's front was measured."""
    sampling = service.config_of(served).sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
    }


def _runs(served: Mapping[str, Served]) -> list[dict[str, Any]]:
    """Return the runs with their policies; none where a server elsewhere generates the text."""
    runs = {one.run.name: one.run for one in served.values() if one.run is not None}
    described = []
    for name, run in runs.items():
        policies = {key: one for key, one in served.items() if one.run is run}
        objectives = dict.fromkeys(objective for one in policies.values() for objective in one.objectives)
        described.append(
            {
                "name": name,
                "run": None if run.facts.folder is None else str(run.facts.folder),
                "policies": list(policies),
                "objectives": list(objectives),
                "meanings": dict(run.facts.meanings),
                "prompts": list(run.facts.prompts),
                "num_prompts": run.facts.num_prompts,
            }
        )
    return described


def dial_facts(surface: Surface, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    """Return the different stops of the dial; none where its steps are of weights, with the reason under ``dial_by``."""
    from paretune.choosing.dial import dial_stops

    found = dial_stops(surface, DIAL_STOPS, start, end)
    stops = [
        {"position": position, "preference": preference.as_dict(), "mean": surface.expected(preference).mean}
        for position, preference in found.stops
    ]
    return {"dial": stops if found.by == "scores" else [], "dial_by": found.why}


def router(service: Service) -> APIRouter:
    """Return the routes about the front, over ``service``."""
    routes = APIRouter(prefix="/api", tags=["front"], route_class=JsonRoute)
    described_once = cache(lambda name: described(service, service.backend.served[name]))

    @routes.get("/front")
    def front() -> dict[str, Any]:
        """Return all that was measured of every served policy."""
        facts, served = service.backend.facts, service.backend.served
        return {
            "default": service.default,
            "base": None if service.base is None else service.base.name,
            "policies": [described_once(name) for name in served],
            "runs": _runs(served),
            "sampling": _sampling(service, served[service.default]),
            "max_tokens": service.config.max_tokens,
            "prompts": list(facts.prompts),
            "num_prompts": facts.num_prompts,
            "meanings": dict(facts.meanings),
            "run": None if facts.folder is None else str(facts.folder),
            "store": service.store is not None,
        }

    @routes.get("/expected")
    def expected(preference: str, policy: str | None = None) -> dict[str, Any]:
        """Return the scores to expect at ``preference=helpful=0.7,harmless=0.3``."""
        served = service.policy(policy)
        asked = service.preference(served, preference)
        used = served.used(asked)
        scores, measured = service.expected(served, used)
        return {
            "policy": served.name,
            "asked": asked.as_dict(),
            "preference": used.as_dict(),
            "snapped": used != asked,
            "expected": scores,
            "measured": measured,
        }

    @routes.get("/dial")
    def dial(start: str, end: str, policy: str | None = None) -> dict[str, Any]:
        """Return stops at equal steps of outcome between two objectives, for policies of more than two."""
        served = service.policy(policy)
        return {"policy": served.name, **dial_facts(measured_surface(served), start, end)}

    @routes.post("/choose")
    def choose_route(body: ChooseRequest) -> dict[str, Any]:
        """Return the preference that meets floors on scores with the most room, or that comes nearest to them."""
        from paretune.choosing.floors import choose

        served = service.policy(body.policy)
        unknown = [name for name in body.floors if name not in served.objectives]
        if unknown:
            message = f"no objective {unknown[0][:100]!r}; {served.name} has {', '.join(served.objectives)}"
            raise ApiError(422, message, "invalid_value", "floors")
        choice = choose(measured_surface(served), body.floors)
        return {
            "policy": served.name,
            "allowed": service.bounds[served.name].admits(choice.preference),
            **choice.to_dict(),
        }

    return routes
