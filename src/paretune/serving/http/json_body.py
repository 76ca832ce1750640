"""Bodies of JSON, of which nothing is dropped: a key that stands twice in one object is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from paretune.serving.api_errors import ApiError


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)[:100]
        message = f"the key {twice!r} stands twice in one object; keep one of them"
        raise ApiError(400, message, "invalid_json", twice)
    return found


class _JsonRequest(Request):
    """A request whose JSON has each key once."""

    async def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(await self.body(), object_pairs_hook=_unique)


class JsonRoute(APIRoute):
    """A route that reads its body so; FastAPI's own would keep the last of two values, and nobody would know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler
