"""What every request passes first: host and origin, API keys, the size of the body, and headers for the browser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from paretune.serving.address import Address, origin_of
from paretune.serving.api_errors import ApiError
from paretune.serving.callers import Caller

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGES = ("/", "/favicon.ico")
"""Paths of the page, like everything below ``/studio/``; they hold nobody's data and need no key."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


HEALTH = "/health"
"""The route that containers, balancers and Kubernetes ask by addresses of their own; it holds nothing that a page wants."""


class Guard:
    """ASGI middleware that refuses bad requests, and reads the body before the route runs.

    Routes find who sent a request in ``scope["state"]["caller"]``, see :data:`Calling`.
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
            if "content-length" in headers and "transfer-encoding" in headers:
                # Where two servers read the length of one body differently, the rest of it is taken for a request.
                raise ApiError(
                    400, "a body has either a Content-Length or a Transfer-Encoding", "ambiguous_length"
                )
            if scope["path"] != HEALTH:
                self._check_host(headers)
            if self._leave_root(scope):
                await send_redirect(f"{self.address.root_path}/", guarded_send)
                return
            if not is_page(scope["path"]):
                self._check_origin(headers)
            scope.setdefault("state", {})["caller"] = self._caller(scope, headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await send_error(
                error, guarded_send, close=error.status in (408, 413) or error.code == "ambiguous_length"
            )
            return
        if body is None:
            return  # the client left
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, guarded_send)

    def _leave_root(self, scope: Scope) -> bool:
        """Remove the root path, which a proxy may pass on or leave out; return whether it lacks its last slash.

        The page's addresses are relative, so they hold only below ``ROOT/``. The path is changed in place: those outside of this
        layer find the route of the request in the same scope.
        """
        root, path = self.address.root_path, scope["path"]
        if root and path.startswith(f"{root}/"):
            scope["path"] = path.removeprefix(root)
        return bool(root) and path == root

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Refuse names that are not this server's: another name may have been pointed at this address (DNS rebinding)."""
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.address.host_names and name.lower() not in self.address.host_names:
            raise ApiError(
                403,
                f"{host[:100]!r} is not a name of this server; add it with --allow-host or --public-url",
                "host_not_allowed",
            )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse pages of other origins, also behind a proxy that passes another ``Host`` on, or one without its port.

        A page cannot set ``Sec-Fetch-Site``, nor ``X-Forwarded-Host`` without being asked first, which is always refused.
        """
        origin = headers.get("origin")
        if origin is None:
            return
        page = origin_of(origin)
        if page is not None and origin.count("/") == 2:
            if page in map(origin_of, self.address.allow_origins):
                return
            if headers.get("sec-fetch-site") == "same-origin" or page[1] in self.address.own_names:
                return
            for host in (headers.get("host", ""), headers.get("x-forwarded-host", "")):
                if host and self._same(page, host.lower()):
                    return
        raise ApiError(
            403,
            f"requests from pages of another origin are refused, and {origin[:100]!r} is not {headers.get('host', '')[:100]!r}; "
            "behind a proxy, start the server with --public-url and the address in the browser; for pages of an app of yours, with "
            "--allow-origin and their origin",
            "origin_not_allowed",
        )

    def _same(self, page: tuple[str, str, int], host: str) -> bool:
        """Return whether a page is at a host. A port may be missing, where this server is not at the default port itself."""
        scheme, name, port = page
        other = origin_of(f"{scheme}://{host}")
        if other is None:
            return False
        without_port = ":" not in host.rpartition("]")[2] and self.address.port not in (80, 443)
        return other[1] == name and (other[2] == port or without_port)

    def _caller(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        path = scope["path"]
        if not self.address.keys.digests:
            return Caller()
        if is_page(path) or path == "/health":
            return Caller(admin=False)
        kind, _, key = headers.get("authorization", "").partition(" ")
        keys = self.address.keys
        owner = keys.owner(key.strip()) if kind.lower() == "bearer" and key else None
        if owner is None:
            raise ApiError(
                401, "an API key is needed: send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )
        return Caller(owner, owner in keys.admins, len(keys.digests) > 1)

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


def is_page(path: str) -> bool:
    """Return whether a path is the studio's page or one of its files."""
    return path in PAGES or path.startswith("/studio/")


def _calling(request: Request) -> Caller:
    caller: Caller = request.scope["state"]["caller"]
    return caller


Calling = Annotated[Caller, Depends(_calling)]
"""Parameter of a route: who sent the request."""


async def send_redirect(path: str, send: Send) -> None:
    """Send the browser to a path of this server."""
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_error(error: ApiError, send: Send, close: bool = False) -> None:
    """Send an error; ``close`` ends the connection after it."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers.append((b"content-length", str(len(error.body)).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body, "more_body": False})
