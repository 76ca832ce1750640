"""Progress bars with the time left; silent when standard error is not a terminal, or when silence was asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """A function to call with the number of finished units, and optionally a short text such as the current loss."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Advance the bar."""


def silent() -> bool:
    """Return whether only errors and results are wanted: the level of the logger ``paretune`` is above that of warnings."""
    return not logging.getLogger("paretune").isEnabledFor(logging.WARNING)


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a bar over ``total`` units, ``done`` of which are finished already."""
    if silent() or not sys.stderr.isatty():
        yield lambda count=1, note="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total, completed=done, note="")

        def advance(count: int = 1, note: str = "") -> None:
            bars.update(task, advance=count, note=note)

        yield advance


_announced: set[str] = set()


def announce(message: str, once: bool = False) -> None:
    """Print a message for people on standard error, with ``once`` the first time only; nothing where silence was asked for."""
    said = once and message in _announced
    _announced.add(message)
    if not silent() and not said:
        from rich.console import Console

        Console(stderr=True).print(message, style="yellow", markup=False, highlight=False)
