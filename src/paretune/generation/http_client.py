"""Requests to a server over HTTP that are tried again, with waits, where a failure may pass."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext
from typing import Any, TypeVar

import httpx

from paretune.core.errors import EndpointError
from paretune.generation.endpoint import Endpoint

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 60.0
"""Longest waits in seconds: before the second try, before any try, and before a try that the server delays."""

CONNECT_SECONDS = 10.0
PASSING = {408, 409, 425, 429}
"""Statuses below 500 for which another try may succeed."""
REFUSING = {400, 413, 422}
"""Statuses by which a server refuses one prompt, such as one that is too long."""

Result = TypeVar("Result")

Read = Callable[[httpx.Response], Any]
"""Reader of a response of status 200; raises ValueError, LookupError or TypeError where it is not as expected."""


class Failed(Exception):  # noqa: N818 - one failed try, not yet an error
    """A try that failed: why, whether another may succeed, the seconds the server asks to wait, and its status.

    The status is 200 for an answer that a filter withheld. ``unread`` marks an answer that is not as expected.
    """

    def __init__(
        self,
        message: str,
        passing: bool = True,
        after: float = 0.0,
        status: int = 0,
        unread: bool = False,
    ) -> None:
        super().__init__(message)
        self.passing, self.after, self.status, self.unread = passing, after, status, unread


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns; where a loop of events runs already, as in a notebook, it runs in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def is_refusal(error: EndpointError) -> bool:
    """Return whether the server refused this one prompt: by a status, or by a filter that withheld the answer."""
    cause = error.__cause__
    return isinstance(cause, Failed) and (cause.status in REFUSING or cause.status == 200)


@asynccontextmanager
async def connected(endpoint: Endpoint, speaks: str = "OpenAI's API") -> AsyncIterator[Client]:
    """Yield a client with open connections, which sends the key of the endpoint with every request."""
    key = os.environ.get(endpoint.key, "").strip()
    async with httpx.AsyncClient(
        base_url=endpoint.url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=endpoint.concurrency),
        verify=_authorities(),
    ) as http:
        yield Client(endpoint, http, speaks)


@cache
def _authorities() -> SSLContext:
    """Return the certificates that connections are checked by, read once in a process: it takes as long as many questions."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Client:
    """The open connections to an endpoint.

    Attributes:
        endpoint: The server, and how persistently it is used.
        http: The connections.
        speaks: What the server is expected to speak, in words of a message.
    """

    endpoint: Endpoint
    http: httpx.AsyncClient
    speaks: str

    async def patiently(self, method: str, path: str, where: str, body: Any, read: Read) -> Any:
        """Send a request until it succeeds, at most ``1 + retries`` times; raise an EndpointError when it does not."""
        try:
            return await self.tries(method, path, body, read)
        except Failed as failed:
            raise EndpointError(f"{self.endpoint.url}, {where}: {failed}") from failed

    async def tries(self, method: str, path: str, body: Any, read: Read, settled: int | None = None) -> Any:
        """Send a request as :meth:`patiently` does, but raise the last failure; the status ``settled`` is not retried."""
        tries = 1 + self.endpoint.retries
        for attempt in range(tries):
            try:
                return await self._once(method, path, body, read)
            except Failed as failed:
                if not failed.passing or failed.status == settled:
                    raise
                last = failed
            if attempt + 1 < tries:
                # Random, so that requests that failed together are not repeated together.
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(wait, last.after))
        message = f"{last}, at the last of {tries} tries"
        raise Failed(message, status=last.status, unread=last.unread) from last

    async def _once(self, method: str, path: str, body: Any, read: Read) -> Any:
        """Send a request once; return the value that ``read`` gives for the response."""
        seconds = self.endpoint.timeout
        try:
            response = await asyncio.wait_for(self.http.request(method, path, json=body), seconds)
        except asyncio.TimeoutError as error:
            raise Failed(f"no answer in {seconds:g} seconds") from error
        except httpx.ConnectError as error:
            # The first request fails: the address is wrong, rather than the server away for a moment.
            first = method == "GET"
            raise Failed(f"cannot be reached ({error}); is the server running?", passing=not first) from error
        except httpx.HTTPError as error:
            raise Failed(f"the connection broke ({type(error).__name__}: {error})") from error
        if response.status_code != 200:
            raise self._refused(response, listing=body is None)
        try:
            return read(response)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            reason = f"not an answer of {self.speaks} ({error}), but {response.text[:120]!r}"
            raise Failed(reason, unread=True) from error

    def _refused(self, response: httpx.Response, listing: bool) -> Failed:
        """Return the failure that a status other than 200 means."""
        status, reason = response.status_code, response.text[:500]
        try:
            error = response.json()
            error = error.get("error", error)
            reason = str(error.get("message", reason) if isinstance(error, dict) else error)[:500]
        except (ValueError, AttributeError):
            pass  # not JSON, or no object: the reason is the text itself
        message = f"status {status}: {reason or 'without a message'}"
        if status in (401, 403):
            have = "is refused" if self.endpoint.key in os.environ else "is missing"
            message = f"{message}; the key in the variable {self.endpoint.key} {have}"
            return Failed(message, passing=False, status=status)
        if listing and status in (404, 405):
            return Failed(f"{message}; does the address lack its /v1?", passing=False, status=status)
        wait = response.headers.get("retry-after", "")
        after = min(LONGEST_ASKED, float(wait)) if wait.isdecimal() else 0.0
        return Failed(message, status in PASSING or status >= 500, after, status)
