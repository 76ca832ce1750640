"""Limits on connections: on how many are open, and on the time of those that neither send nor read."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 15.0
"""Time within which a connection must send the head of a request."""
STALL_SECONDS = 30.0
"""Time after which a client that reads nothing is disconnected."""
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 128\r\n\r\n{"error": {"message": "too many open connections; try again soon", "type": '
    b'"server_error", "param": null, "code": "overloaded"}}'
)


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits on idle, stalled and too many connections.

    uvicorn limits the time of a connection only between requests. Without these limits, a client that sends or reads nothing stays.
    """

    most: ClassVar[int] = 512
    waiting: ClassVar[dict[GuardedProtocol, None]] = {}
    idle_seconds: ClassVar[float] = IDLE_SECONDS
    stall_seconds: ClassVar[float] = STALL_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            idle = next(iter(self.waiting), None)
            if idle is None:
                transport.write(REFUSAL)
                transport.close()
                return
            # The connection that has been idle the longest makes room.
            idle._forget_idle()
            idle.transport.abort()
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers of the connection."""
        self._forget_idle()
        self._forget_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read further; once a request has started, the application limits its time."""
        if self.transport.is_closing():
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._forget_idle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._wait_for_head()

    def pause_writing(self) -> None:
        """Start the timer of a client that reads more slowly than it is written to."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client has read."""
        self._forget_stall()
        super().resume_writing()

    def _wait_for_head(self) -> None:
        self._forget_idle()
        self.waiting[self] = None
        self._idle = self.loop.call_later(self.idle_seconds, self.transport.abort)

    def _forget_idle(self) -> None:
        self.waiting.pop(self, None)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def guarded(most: int) -> type[GuardedProtocol]:
    """Return a protocol class that accepts at most ``most`` open connections."""
    return type("Protocol", (GuardedProtocol,), {"most": most, "waiting": {}})


def raise_file_limit(wanted: int) -> None:
    """Raise the process's limit of open files to ``wanted``, as far as the system allows; each connection is a file."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < room:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
