"""Routes of conversations: begun, continued by turns, listed and searched, changed, downloaded and deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from paretune.core.errors import StoreError
from paretune.serving.api_errors import ApiError
from paretune.serving.bodies import Name, Policy, Weights, Whole
from paretune.serving.body import Body, Text
from paretune.serving.callers import Caller
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.service import Service, require_own
from paretune.serving.store.conversations import LONGEST_SEARCH, Conversations, RefusedError
from paretune.serving.store.entries import LONGEST_TITLE, Conversation, Role, Side, Turn, check_about
from paretune.serving.transcript import transcript

Number = Annotated[Whole, Path(ge=1, le=2**62)]
Id = Annotated[int, Field(ge=1, le=2**62)]


def _kept(about: dict[str, Any]) -> dict[str, Any]:
    try:
        check_about(about)
    except StoreError as error:
        raise PydanticCustomError("about", str(error).removeprefix("about: ")) from error  # type: ignore[arg-type]
    return about


class ConversationRequest(Body):
    """A conversation to begin; without a title it gets that of its first user's turn."""

    profile: Name = "default"
    title: Annotated[str, StringConstraints(max_length=LONGEST_TITLE)] = ""
    system: Text = ""


class ConversationChange(Body):
    """What to change of a conversation; ``head`` is the last turn of the branch that is shown."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TITLE)] | None = None
    head: Id | None = None
    system: Text | None = None


class TurnRequest(Body):
    """A turn to add as a reply to ``parent``, or as a first one. ``about`` is anything that a client keeps with it, up to 20 kB."""

    parent: Id | None = None
    role: Role
    content: Text
    side: Side | None = None
    policy: Policy | None = None
    preference: Weights | None = None
    about: Annotated[dict[str, Any], AfterValidator(_kept)] = Field(default_factory=dict)

    def turn(self) -> Turn:
        """Return the turn as the store keeps it."""
        return Turn(self.role, self.content, self.parent, self.side, self.policy, self.preference, self.about)


class Listed(BaseModel):
    """A conversation in a list; times are in UTC."""

    id: int
    title: str
    profile: str
    created: datetime
    updated: datetime
    turns: int


class Listing(BaseModel):
    """Conversations, the last changed first."""

    conversations: list[Listed]


class WholeTurn(BaseModel):
    """A turn; ``parent`` is the turn that it replies to."""

    id: int
    parent: int | None
    role: Role
    content: str
    side: Side | None
    policy: str | None
    preference: dict[str, float] | None
    about: dict[str, Any]
    created: datetime


class WholeConversation(BaseModel):
    """A conversation with all its turns, by their ids; ``head`` is the last one of the branch that is shown."""

    id: int
    title: str
    profile: str
    system: str
    created: datetime
    updated: datetime
    head: int | None
    turns: list[WholeTurn]


class Added(BaseModel):
    """What was added to a conversation."""

    id: int


class Removed(BaseModel):
    """What was deleted."""

    deleted: int


EXPORTED: dict[str, Any] = {
    "model": WholeConversation,
    "content": {"text/markdown": {"schema": {"type": "string"}}},
}


def router(service: Service) -> APIRouter:
    """Return the routes over the service's store."""
    routes = APIRouter(prefix="/api", tags=["people"], route_class=JsonRoute)

    def kept() -> Conversations:
        return service.require_store().conversations

    def own(caller: Caller, number: int, whole: bool = False) -> Conversation:
        found = kept().get(number) if whole else kept().find(number)
        if found is None:
            raise ApiError(404, f"no conversation {number}", "not_found", "number")
        require_own(caller, found.owner, f"the conversation {number}")
        return found

    @routes.get("/conversations")
    def conversations(
        caller: Calling,
        profile: Name | None = None,
        search: Annotated[str, Query(max_length=LONGEST_SEARCH)] = "",
        limit: Annotated[Whole, Query(ge=1, le=1000)] = 100,
        before: Annotated[Whole | None, Query(ge=1, le=2**62)] = None,
    ) -> Listing:
        """List conversations, the last changed first; ``before`` is the id of one to go on from. A key sees its own.

        ``search`` is a text in the title or in a turn, whatever its case.
        """
        start = None if before is None else own(caller, before)
        found = kept().newest(profile, search, limit, start, caller.limited_to)
        return Listing(conversations=[_listed(one) for one in found])

    @routes.post("/conversations", status_code=201)
    def begin(caller: Calling, body: ConversationRequest) -> WholeConversation:
        """Begin a conversation; 201 is sent once it is on disk."""
        service.require_person(caller, body.profile)
        with _refusals():
            return _whole(kept().add(body.profile, body.title, body.system, caller.owner))

    @routes.get("/conversations/{number}")
    def conversation(caller: Calling, number: Number) -> WholeConversation:
        """Return a conversation with all its turns."""
        return _whole(own(caller, number, whole=True))

    @routes.post("/conversations/{number}/turns", status_code=201)
    def add_turn(caller: Calling, number: Number, body: TurnRequest) -> Added:
        """Add a turn, which becomes the head; 201 is sent once it is on disk."""
        own(caller, number)
        with _refusals():
            added = kept().add_turn(number, body.turn())
        if added is None:
            raise ApiError(404, f"no conversation {number}", "not_found", "number")
        return Added(id=added)

    @routes.patch("/conversations/{number}")
    def change(caller: Calling, number: Number, body: ConversationChange) -> Listed:
        """Change the title, the head or the system prompt of a conversation."""
        own(caller, number)
        with _refusals():
            changed = kept().change(number, body.title, body.system, body.head)
        if changed is None:
            raise ApiError(404, f"no conversation {number}", "not_found", "number")
        return _listed(changed)

    @routes.delete("/conversations/{number}")
    def delete(caller: Calling, number: Number) -> Removed:
        """Delete a conversation with all its turns."""
        own(caller, number)
        if not kept().delete(number):
            raise ApiError(404, f"no conversation {number}", "not_found", "number")
        return Removed(deleted=number)

    @routes.get("/conversations/{number}/export", response_class=Response, responses={200: EXPORTED})
    def export(caller: Calling, number: Number, format: Literal["json", "markdown"] = "json") -> Response:
        """Return a conversation as a file to download: JSON as the route of the conversation returns it, or Markdown."""
        found = own(caller, number, whole=True)
        if format == "json":
            record = _whole(found).model_dump(mode="json")
            text, kind, ending = json.dumps(record, indent=1) + "\n", "application/json", "json"
        else:
            text, kind, ending = transcript(found), "text/markdown; charset=utf-8", "md"
        named = {"content-disposition": f'attachment; filename="conversation-{number}.{ending}"'}
        return Response(text.encode("utf-8", "replace"), media_type=kind, headers=named)

    return routes


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the store refuses into an error of the request."""
    try:
        yield
    except RefusedError as error:
        raise ApiError(
            422 if error.code == "invalid_value" else 409, str(error), error.code, error.field
        ) from error


def _listed(found: Conversation) -> Listed:
    times = {"created": found.created, "updated": found.updated}
    return Listed(id=found.id, title=found.title, profile=found.profile, turns=found.count, **times)


def _whole(found: Conversation) -> WholeConversation:
    return WholeConversation(
        id=found.id,
        title=found.title,
        profile=found.profile,
        system=found.system,
        created=found.created,
        updated=found.updated,
        head=found.head,
        turns=[_turn(turn) for turn in found.turns],
    )


def _turn(turn: Turn) -> WholeTurn:
    assert turn.created is not None
    return WholeTurn(
        id=turn.id,
        parent=turn.parent,
        role=turn.role,
        content=turn.content,
        side=turn.side,
        policy=turn.policy,
        preference=None if turn.preference is None else dict(turn.preference),
        about=dict(turn.about),
        created=turn.created,
    )
