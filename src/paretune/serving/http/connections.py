"""Limits on connections: on how many are busy or open, and on the time of those that neither send nor read."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 15.0
"""Time within which a connection must send the head of a request."""
STALL_SECONDS = 30.0
"""Time after which a client that reads nothing is disconnected."""
FRESH_SECONDS = 2.0
"""Time within which a new or answered connection is not closed to make room for another."""
REFUSED_SECONDS = 2.0
"""Time after which a refused connection is closed, if its client has not closed it."""
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 128\r\n\r\n{"error": {"message": "too many open connections; try again soon", "type": '
    b'"server_error", "param": null, "code": "overloaded"}}'
)


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits on idle, stalled and too many connections.

    uvicorn limits the time of a connection only between requests. Without these limits, a client that sends or reads nothing stays.

    Attributes:
        most: Largest number of connections with a request in progress.
        most_open: Largest number of open connections.
        waiting: Connections without a request in progress, the longest idle first.
        idle_seconds: Time within which the head of a request must arrive.
        stall_seconds: Time after which a client that reads nothing is disconnected.
    """

    most: ClassVar[int] = 512
    most_open: ClassVar[int] = 2048
    waiting: ClassVar[dict[GuardedProtocol, None]] = {}
    idle_seconds: ClassVar[float] = IDLE_SECONDS
    stall_seconds: ClassVar[float] = STALL_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, which waits for its first request; only far too many are refused at once."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self.most_open:
            # The connection that has been idle the longest makes room, unless its request may still be on the way.
            idle = next(iter(self.waiting), None)
            if idle is None or self.loop.time() - idle._since < FRESH_SECONDS:
                self._refuse()
                return
            idle._forget_idle()
            idle.transport.abort()
        self._wait_for_head()

    def _refuse(self) -> None:
        """Answer 503, and close once the client has or after a moment: to close before it has read would reset the answer."""
        self._refused = True
        self._forget_idle()
        self.connections.discard(self)
        self.transport.write(REFUSAL)
        self.transport.write_eof()
        self._idle = self.loop.call_later(REFUSED_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers of the connection."""
        self._forget_idle()
        self._forget_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read further; once a request has started, the application limits its time."""
        if self.transport.is_closing() or self._refused:
            return
        if self in self.waiting and len(self.connections) - len(self.waiting) >= self.most:
            self._refuse()
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
        self._since = self.loop.time()
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


def open_for(most: int) -> int:
    """Return how many connections may be open where ``most`` may be busy; the others are idle, or their request is on the way."""
    return 4 * most + 128


def guarded(most: int) -> type[GuardedProtocol]:
    """Return a protocol class that answers at most ``most`` connections at a time; the others get 503."""
    return type("Protocol", (GuardedProtocol,), {"most": most, "most_open": open_for(most), "waiting": {}})


def raise_file_limit(wanted: int) -> None:
    """Raise the process's limit of open files to ``wanted``, as far as the system allows; each connection is a file."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < room:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
