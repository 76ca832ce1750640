"""What every request passes first: host and origin, API keys, the size of the body, and headers for the browser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from paretune.serving.address import Address
from paretune.serving.bodies import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/", "/health", "/favicon.ico")
"""Paths that need no key, like everything below ``/studio/``: they hold nobody's data."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware that refuses bad requests, and reads the body before the route runs.

    Routes find the owner of the API key in ``scope["state"]["client"]``.
    """

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app, self.address = app, address
        self.headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or forward one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [pair for pair in self.headers if pair[0] not in present]
                if b"cache-control" not in present:
                    more.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_host(headers)
            scope.setdefault("state", {})["client"] = self._client(scope, headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await send_error(error, guarded_send, close=error.status in (408, 413))
            return
        if body is None:
            return  # the client left
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, guarded_send)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Refuse names that are not this server's (DNS rebinding), and pages of other origins."""
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.address.host_names and name.lower() not in self.address.host_names:
            raise ApiError(
                403,
                f"{host[:100]!r} is not a name of this server; add it with --allow-host",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "requests from pages of another origin are refused", "origin_not_allowed")

    def _client(self, scope: Scope, headers: Mapping[str, str]) -> str:
        path = scope["path"]
        if not self.address.keys.digests or path in OPEN_PATHS or path.startswith("/studio/"):
            return "anonymous"
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self.address.keys.owner(key.strip()) if kind.lower() == "bearer" and key else None
        if owner is None:
            raise ApiError(
                401, "an API key is needed: send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )
        return owner

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        limit = self.address.body_bytes
        too_large = ApiError(
            413, f"the body is larger than the {limit} bytes that this server accepts", "request_too_large"
        )
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) < 20 and int(length) > limit:
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True

        async def read() -> bool:
            nonlocal size, more
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if size > limit:
                    raise too_large
            return True

        try:
            arrived = await asyncio.wait_for(read(), self.address.body_seconds)
        except asyncio.TimeoutError as error:
            message = f"the body did not arrive within {self.address.body_seconds:g} seconds"
            raise ApiError(408, message, "request_timeout") from error
        return b"".join(parts) if arrived else None


async def send_error(error: ApiError, send: Send, close: bool = False) -> None:
    """Send an error; ``close`` ends the connection after it."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers.append((b"content-length", str(len(error.body)).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body, "more_body": False})
