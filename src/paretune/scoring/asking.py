"""Many requests to one server at once, each about some rows: what came is kept, and what failed is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from paretune.core.errors import EndpointError
from paretune.core.progress import progress
from paretune.generation.endpoint import Endpoint
from paretune.generation.http_client import REFUSING, Client, Failed, connected, run

MOST_REFUSED = 64
"""Rows that may fail before any was answered; then it is the server that cannot be used so."""


@dataclass
class Asked:
    """What came back.

    Attributes:
        answers: Row -> its answer.
        refused: Row -> why the server refused it.
        unread: Row -> why no answer about it could be read.
        failure: The failure that ended all; None where every row was asked.
    """

    answers: dict[int, Any] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    failure: EndpointError | None = None

    @property
    def failed(self) -> dict[int, str]:
        """Row -> why it has no answer, of the rows that were asked."""
        return self.refused | self.unread


Send = Callable[[Client, Sequence[int]], Awaitable[Sequence[Any]]]
"""Sends one request about some rows; returns their answers."""


def ask_rows(
    endpoint: Endpoint, groups: Iterable[Sequence[int]], count: int, send: Send, speaks: str, title: str
) -> Asked:
    """Ask about ``count`` rows in groups, in order, and return what came.

    A group that the server refuses, or whose answer cannot be read, is asked again row by row, so that one text that is too long
    costs no other its answer. Anything else that keeps failing ends all.

    Args:
        endpoint: The server.
        groups: Rows of each request.
        count: Number of rows of all groups.
        send: Sends one request.
        speaks: What the server is expected to speak, in words of a message.
        title: Title of the progress bar.
    """
    return run(_ask_rows(endpoint, groups, count, send, speaks, title))


async def _ask_rows(
    endpoint: Endpoint, groups: Iterable[Sequence[int]], count: int, send: Send, speaks: str, title: str
) -> Asked:
    asked, waiting = Asked(), iter(groups)
    async with connected(endpoint, speaks) as client:
        with progress(title, count) as advance:

            async def one(rows: Sequence[int]) -> None:
                try:
                    asked.answers.update(zip(rows, await send(client, rows), strict=True))
                except Failed as failed:
                    if not (failed.status in REFUSING or failed.status == 200 or failed.unread):
                        raise EndpointError(f"{endpoint.url}: {failed}") from failed
                    if len(rows) > 1:
                        for row in rows:
                            await one([row])
                        return
                    (asked.unread if failed.unread else asked.refused)[rows[0]] = str(failed)
                    if not asked.answers and len(asked.failed) >= MOST_REFUSED:
                        raise EndpointError(
                            f"{endpoint.url} answers none of the first {len(asked.failed)} rows: {failed}"
                        ) from failed
                advance(len(rows))

            await _all(one, waiting, endpoint.concurrency, asked)
    return asked


async def _all(
    one: Callable[[Sequence[int]], Awaitable[None]],
    groups: Iterator[Sequence[int]],
    together: int,
    asked: Asked,
) -> None:
    """Call ``one`` for each group, ``together`` at a time, until one fails."""

    async def work() -> None:
        for rows in groups:
            await one(rows)

    workers = [asyncio.create_task(work()) for _ in range(together)]
    try:
        await asyncio.gather(*workers)
    except EndpointError as error:
        asked.failure = error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
