"""What stands before every request: host and origin, API keys, the size of the body, and headers for the browser."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.errors import ConfigError
from paretune.serving.bodies import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/", "/health", "/favicon.ico")
"""Answered without a key, like everything below ``/studio/``: they hold nothing of anybody."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Keys:
    """API keys by the name of whom they were given to; only their digests are kept.

    Attributes:
        digests: name -> SHA-256 of the key. Empty: no key is needed.
    """

    digests: Mapping[str, bytes]

    @classmethod
    def read(cls, file: Path | None, environment: str | None) -> Keys:
        """Read keys from a file, ``KEY`` or ``NAME KEY`` a line, and one more from the environment.

        Raises:
            ConfigError: the file cannot be read or holds no key, or a key is shorter than 16 characters.
        """
        found: dict[str, str] = {}
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: cannot read the API keys ({error})") from error
            for number, line in enumerate(lines, start=1):
                words = line.split()
                if not words or line.lstrip().startswith("#"):
                    continue
                name = words[0] if len(words) == 2 else f"key-{number}"
                if len(words) > 2 or name in found:
                    raise ConfigError(
                        f"{file}:{number}: expected one 'KEY' or 'NAME KEY' a line, each name once"
                    )
                found[name] = words[-1]
            if not found:
                raise ConfigError(f"{file}: holds no API key; expected one 'KEY' or 'NAME KEY' a line")
        if environment:
            found["environment"] = environment
        for name, key in found.items():
            if len(key) < 16:
                raise ConfigError(
                    f"the API key {name!r} is shorter than 16 characters; anybody could guess it"
                )
        return cls({name: hashlib.sha256(key.encode()).digest() for name, key in found.items()})

    def owner(self, key: str) -> str | None:
        """Return whose key it is, or None; takes equally long for every wrong key."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        owner = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(given, digest):
                owner = name
        return owner


@dataclass(frozen=True)
class Limits:
    """What a request may weigh and how long its body may take.

    Attributes:
        hosts: names that the ``Host`` header may hold (without a port); empty admits every name.
        body_bytes: of a request's body.
        body_seconds: until the body has arrived.
    """

    hosts: tuple[str, ...] = LOCAL_NAMES
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0


def is_loopback(host: str) -> bool:
    """Tell whether a server that listens at ``host`` is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses what no route should see, and reads the body before the route runs.

    The name of the key's owner is in ``scope["state"]["client"]``.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Keys) -> None:
        self.app, self.limits, self.keys = app, limits, keys
        self.headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
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
            self._check_place(scope, headers)
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

    def _check_place(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse names that are not this server's (DNS rebinding), and pages of other origins."""
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.limits.hosts and name.lower() not in self.limits.hosts:
            raise ApiError(
                403,
                f"the host {host[:100]!r} is not one of this server's; start it with --allow-host",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "requests of pages of another origin are not served", "origin_not_allowed")

    def _client(self, scope: Scope, headers: Mapping[str, str]) -> str:
        path = scope["path"]
        if not self.keys.digests or path in OPEN_PATHS or path.startswith("/studio/"):
            return "anonymous"
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if kind.lower() == "bearer" and key else None
        if owner is None:
            raise ApiError(
                401, "an API key is needed: send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )
        return owner

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        limit = self.limits.body_bytes
        too_large = ApiError(
            413, f"the body is larger than the {limit} bytes this server takes", "request_too_large"
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
            arrived = await asyncio.wait_for(read(), self.limits.body_seconds)
        except asyncio.TimeoutError as error:
            told = f"the body did not arrive within {self.limits.body_seconds:g} seconds"
            raise ApiError(408, told, "request_timeout") from error
        return b"".join(parts) if arrived else None


async def send_error(error: ApiError, send: Send, close: bool = False) -> None:
    """Answer with an error; ``close`` ends the connection after it."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers.append((b"content-length", str(len(error.body)).encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body, "more_body": False})
