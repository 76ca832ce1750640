"""The server's own routes about the front and about choosing on it, and the studio's files."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from paretune.serving.bodies import ApiError, Body
from paretune.serving.service import Service

if TYPE_CHECKING:
    from paretune.fronts.surface import Surface
    from paretune.serving.backend import Served

DIAL_STOPS = 21
STUDIO = Path(__file__).parent.parent / "studio"


class ChooseRequest(Body):
    """Floors on scores, such as ``{"warm": 0.5, "concise": -6}``."""

    policy: str | None = Field(default=None, max_length=200)
    floors: dict[str, float] = Field(min_length=1, max_length=64)


def outlook_of(served: Served) -> Surface:
    """Return the measured front of what is served.

    Raises:
        ApiError: 409, none was measured.
    """
    if served.surface is None:
        raise ApiError(
            409,
            f"no front of {served.name} was measured; run paretune run to the end",
            "not_measured",
            "policy",
        )
    return served.surface


def described(service: Service, served: Served) -> dict[str, Any]:
    """Return what a page needs to draw one policy: its measured points, knee and dial."""
    from paretune.choosing.floors import knee_preference

    surface = served.surface
    about: dict[str, Any] = {
        "name": served.name,
        "objectives": list(served.objectives),
        "default": served.default.as_dict(),
        "bounds": service.bounds[served.name].as_dict(),
        "anchored": bool(served.facts.get("anchored", surface is not None and surface.anchored)),
        **served.facts,
        "points": [],
        "knee": None,
        "dial": [],
    }
    if surface is None:
        return about
    for n in range(len(surface.preferences)):
        preference = surface.preference(n)
        scores = surface.expected(preference)
        about["points"].append(
            {"preference": preference.as_dict(), "mean": scores.mean, "low": scores.low, "high": scores.high}
        )
    about["knee"] = knee_preference(surface).as_dict()
    if len(served.objectives) == 2:
        about["dial"] = stops_of(surface)
    return about


def stops_of(surface: Surface, start: str | None = None, end: str | None = None) -> list[dict[str, Any]]:
    """Return evenly spaced stops of the dial from all weight on ``start`` to all weight on ``end``."""
    from paretune.choosing.dial import Dial

    return [
        {"position": position, "preference": preference.as_dict(), "mean": surface.expected(preference).mean}
        for position, preference in Dial.of(surface, start, end).steps(DIAL_STOPS)
    ]


def router(service: Service) -> APIRouter:
    """Return the routes about the front, over ``service``."""
    routes = APIRouter(prefix="/api", tags=["front"])
    described_once = cache(lambda name: described(service, service.backend.served[name]))

    @routes.get("/front")
    def front() -> dict[str, Any]:
        """Everything measured of every policy that is served."""
        settings = service.settings
        return {
            "default": service.default,
            "policies": [described_once(name) for name in service.backend.served],
            "sampling": {
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "max_tokens": settings.default_tokens,
            },
            "max_tokens": settings.max_tokens,
        }

    @routes.get("/expected")
    def expected(preference: str, policy: str | None = None) -> dict[str, Any]:
        """The scores to expect at ``preference=helpful=0.7,harmless=0.3``."""
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
        """Stops at equal steps of outcome between two objectives, for policies of more than two."""
        served = service.policy(policy)
        return {"policy": served.name, "dial": stops_of(outlook_of(served), start, end)}

    @routes.post("/choose")
    def choose_route(body: ChooseRequest) -> dict[str, Any]:
        """The preference that meets floors on scores with the most room, or how near one gets."""
        from paretune.choosing.floors import choose

        served = service.policy(body.policy)
        unknown = [name for name in body.floors if name not in served.objectives]
        if unknown:
            told = f"no objective {unknown[0][:100]!r}; {served.name} has {', '.join(served.objectives)}"
            raise ApiError(422, told, "invalid_value", "floors")
        choice = choose(outlook_of(served), body.floors)
        return {
            "policy": served.name,
            "allowed": service.bounds[served.name].admits(choice.preference),
            **choice.to_dict(),
        }

    return routes


def files() -> APIRouter:
    """Return the routes of the studio's files; plotly comes from its package, nothing from outside."""
    routes = APIRouter(include_in_schema=False)

    @lru_cache(maxsize=64)
    def held(name: str, changed: int) -> tuple[bytes, bytes, str, str]:
        """Return the bytes, also compressed, the kind and the tag of a file as it was last changed."""
        if name == "plotly.js":
            from plotly.offline import get_plotlyjs

            raw = get_plotlyjs().encode()
        else:
            raw = (STUDIO / name).read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return raw, gzip.compress(raw, 6), kind, f'"{hashlib.sha256(raw).hexdigest()[:20]}"'

    def answer(request: Request, name: str) -> Response:
        files = {file.name: file for file in STUDIO.glob("*") if file.is_file()}
        if name not in files and name != "plotly.js":
            raise ApiError(404, "no such file of the studio", "not_found")
        raw, packed, kind, tag = held(name, files[name].stat().st_mtime_ns if name in files else 0)
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
        return Response(raw, media_type=kind, headers=headers)

    @routes.get("/")
    def index(request: Request) -> Response:
        return answer(request, "index.html")

    @routes.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @routes.get("/studio/{name}")
    def file(request: Request, name: str) -> Response:
        return answer(request, name)

    return routes
