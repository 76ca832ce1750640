"""The route to the answers that the evaluation of a run measured, with their own scores: what the front has the means of."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from paretune.core.errors import DataError, PreferenceError
from paretune.core.preference import TOLERANCE, Preference, nearest
from paretune.data.measured import MeasuredAnswer, measured_answers
from paretune.reports.beside import ANSWERS_FILE, FOLDER
from paretune.serving.api_errors import ApiError
from paretune.serving.bodies import Policy, Whole
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service

Measured = list[tuple[dict[str, float], tuple[MeasuredAnswer, ...]]]


def router(service: Service) -> APIRouter:
    """Return the route over the folders of the runs that are served."""
    routes = APIRouter(prefix="/api", tags=["front"], route_class=JsonRoute)

    @routes.get("/answers")
    def answers(
        preference: Annotated[str, Query(max_length=2000)],
        policy: Policy | None = None,
        limit: Annotated[Whole, Query(ge=1, le=1000)] = 20,
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> dict[str, Any]:
        """Return the measured answers at one measured preference, in the order of the held-out prompts.

        ``search`` keeps those with these words in prompt or answer, in upper or lower case; ``matching`` is how many there are.
        """
        served = service.policy(policy)
        try:
            asked = Preference.parse(preference, served.objectives)
        except PreferenceError as error:
            raise ApiError(422, str(error)[:1000], "invalid_preference", "preference") from error
        measured = _measured(service.facts_of(served).folder, served.name_in_run)
        found = _at(measured, served.name, asked)
        wanted = search.strip().casefold()
        kept = [answer for answer in found if wanted in _words(answer)]
        return {
            "policy": served.name,
            "preference": asked.as_dict(),
            "total": len(found),
            "matching": len(kept),
            "answers": [_told(answer) for answer in kept[:limit]],
        }

    return routes


def _measured(folder: Path | None, policy: str) -> Measured:
    """Return what a run keeps of a policy's answers.

    Raises:
        ApiError: 409; no run is served, or it keeps no answers.
    """
    if folder is None:
        raise ApiError(
            409, "this server does not serve the folder of a run, so it has no measured answers", "no_answers"
        )
    file = folder / FOLDER / ANSWERS_FILE
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        message = f"the run has no {FOLDER}/{ANSWERS_FILE}; `paretune run` writes it at the end"
        raise ApiError(409, message, "no_answers") from error
    try:
        return _read(file, policy, changed)
    except DataError as error:
        raise ApiError(409, str(error)[:1000], "no_answers") from error


@lru_cache(maxsize=4)
def _read(file: Path, policy: str, changed: int) -> Measured:
    """Read the file once for as long as it stays as it is; ``changed`` is its time in ns."""
    return measured_answers(file, policy)


def _at(measured: Measured, policy: str, asked: Preference) -> tuple[MeasuredAnswer, ...]:
    """Return the answers at a preference.

    Raises:
        ApiError: 404; there are none of the policy, or none at this preference.
    """
    if not measured:
        raise ApiError(404, f"the run has no measured answers of {policy}", "not_found", "policy")
    for weights, answers in measured:
        if all(abs(weights.get(name, 0.0) - weight) <= TOLERANCE for name, weight in asked.as_dict().items()):
            return answers
    known = [
        Preference.of(weights, asked.objectives) for weights, _ in measured if min(weights.values()) >= 0
    ]
    near = f"; the nearest measured preference is {nearest(asked, known)}" if known else ""
    message = f"nothing of {policy} was measured at {asked}{near}"
    raise ApiError(404, message, "not_found", "preference")


def _words(answer: MeasuredAnswer) -> str:
    """Return all that can be searched for, in a form without upper case."""
    return "\n".join([*(message.content for message in answer.prompt), answer.text]).casefold()


def _told(answer: MeasuredAnswer) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.content} for message in answer.prompt],
        "prompt_id": answer.key,
        "sample": answer.sample,
        "text": answer.text,
        "truncated": answer.truncated,
        "scores": dict(answer.scores),
    }
