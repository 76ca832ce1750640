"""The route that says which two of n answers a person is to compare next, until they are ranked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from paretune.scoring.ranking import Pair, most_comparisons, ranked
from paretune.serving.api_errors import ApiError
from paretune.serving.bodies import MOST_CHOICES
from paretune.serving.body import Body
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service

P_FIRST = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""Winner -> P that the first is better."""

Place = Annotated[int, Field(ge=0, lt=MOST_CHOICES)]


class Verdict(Body):
    """A person's choice of the better of two answers, which are named by their places in the list, from 0."""

    first: Place
    second: Place
    winner: Literal["first", "second", "tie"]


class RankRequest(Body):
    """A list of ``count`` answers, and what is known of them; of two verdicts on one pair the later counts."""

    count: int = Field(ge=2, le=MOST_CHOICES)
    verdicts: list[Verdict] = Field(default=[], max_length=1000)

    def known(self) -> dict[Pair, float]:
        """Return what is known, as the sort reads it.

        Raises:
            ApiError: 422; a verdict on an answer with itself, or on one that is not in the list.
        """
        found: dict[Pair, float] = {}
        for n, verdict in enumerate(self.verdicts):
            a, b = verdict.first, verdict.second
            if a == b or max(a, b) >= self.count:
                message = f"a verdict on the answers {a} and {b}; expected two different ones of 0 to {self.count - 1}"
                raise ApiError(422, message, "invalid_value", f"verdicts.{n}")
            p = P_FIRST[verdict.winner]
            found[(a, b) if a < b else (b, a)] = p if a < b else 1 - p
        return found


def router(_: Service) -> APIRouter:
    """Return the route; it keeps nothing, so a person may go on at any time from the verdicts alone."""
    routes = APIRouter(prefix="/api", tags=["people"], route_class=JsonRoute)

    @routes.post("/rank")
    def rank(body: RankRequest) -> dict[str, Any]:
        """Return the answers' places, best first, or else the pair to compare next: PairS' merge sort, asked of a person.

        ``most`` is the largest number of comparisons that the sort can need. Answers that tie keep their order.
        """
        at = ranked(body.count, body.known())
        pair = None if at.order is not None else dict(zip(("first", "second"), at.wanted[0], strict=True))
        return {
            "order": None if at.order is None else list(at.order),
            "next": pair,
            "most": most_comparisons(body.count),
        }

    return routes
