"""Progress of long work: bars with the time left at a terminal, a line a minute elsewhere; silent when silence was asked for.

A run listens to all progress inside it (:func:`listening`), so that it can say its stages and the time left of the whole.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol

from paretune.core.meter import Meter, Spent, metered

MINUTE = 60.0
"""Seconds between two lines on work that goes on, where no terminal is."""


class Advance(Protocol):
    """A function to call with the number of finished units, and optionally the current loss."""

    def __call__(self, count: int = 1, loss: float | None = None) -> None:
        """Advance the bar."""


class Listener(Protocol):
    """What hears of all progress: the log of a run."""

    def stage_began(self, name: str, share: float = 1.0) -> None:
        """Hear that a stage begins, of which this ``share`` is left to do."""

    def stage_ended(self, name: str, seconds: float, reused: bool, spent: Spent | None = None) -> None:
        """Hear that a stage is finished, now or (``reused``) by an earlier run, and what it spent where that is known."""

    def method_began(self, name: str) -> None:
        """Hear that stages from here on are those of this entry of ``methods``."""

    def method_ended(self) -> None:
        """Hear that its stages are finished."""

    def steps_began(self, what: str, total: int, done: int) -> None:
        """Hear that work of ``total`` steps begins, ``done`` of which are finished already."""

    def steps_done(self, count: int, loss: float | None) -> None:
        """Hear that further steps are done."""

    def steps_ended(self) -> None:
        """Hear that this work is finished."""


_LISTENER: ContextVar[Listener | None] = ContextVar("progress", default=None)


def silent() -> bool:
    """Return whether only errors and results are wanted: the level of the logger ``paretune`` is above that of warnings."""
    return not logging.getLogger("paretune").isEnabledFor(logging.WARNING)


def at_terminal() -> bool:
    """Return whether a person looks: standard error is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let ``listener`` hear of all progress of this thread inside the context."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def listener() -> Listener | None:
    """Return what hears of all progress here; None outside of a run."""
    return _LISTENER.get()


@contextmanager
def stage(name: str, share: float = 1.0) -> Iterator[Meter]:
    """Tell the listener, where there is one, that stage ``name`` is worked on inside the context; one that fails has not ended.

    The meter measures what the stage spends, without stages inside it. ``share`` of the stage is left to do, where an earlier run
    has done the rest.
    """
    hears = listener()
    if hears is not None:
        hears.stage_began(name, share)
    with metered() as meter:
        yield meter
    if hears is not None:
        hears.stage_ended(name, meter.seconds, False, meter.spent)


@contextmanager
def stages_of(name: str) -> Iterator[None]:
    """Tell the listener, where there is one, that the stages inside the context are those of one entry of ``methods``."""
    hears = listener()
    if hears is not None:
        hears.method_began(name)
    yield
    if hears is not None:
        hears.method_ended()


def found_finished(name: str, seconds: float, spent: Spent | None = None) -> None:
    """Tell the listener, where there is one, that stage ``name`` was finished by an earlier run, in ``seconds``."""
    if (hears := listener()) is not None:
        hears.stage_ended(name, seconds, True, spent)


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress over ``total`` units, ``done`` of which are finished already."""
    hears = listener() or (None if silent() or at_terminal() else Lines())
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(description, total, done)) if at_terminal() and not silent() else None
        if hears is not None:
            hears.steps_began(description, total, done)
            stack.callback(hears.steps_ended)

        def advance(count: int = 1, loss: float | None = None) -> None:
            if bar is not None:
                bar(count, loss)
            if hears is not None:
                hears.steps_done(count, loss)

        yield advance


@contextmanager
def _bar(description: str, total: int, done: int) -> Iterator[Advance]:
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

        def advance(count: int = 1, loss: float | None = None) -> None:
            bars.update(task, advance=count, **({} if loss is None else {"note": f"loss {loss:.3f}"}))

        yield advance


class Steps:
    """Work of known length while it goes on.

    Attributes:
        what: What is done.
        total: Number of steps.
        done: Finished steps.
        loss: The loss of the last step, where there is one.
    """

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.done = what, total, done
        self.loss: float | None = None
        self._first, self._began = done, time.monotonic()

    def add(self, count: int, loss: float | None) -> None:
        """Count further steps."""
        self.done += count
        self.loss = self.loss if loss is None else loss

    @property
    def rate(self) -> float | None:
        """Steps in a second since this process began; None before the first."""
        seconds = time.monotonic() - self._began
        return (self.done - self._first) / seconds if self.done > self._first and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds left at this rate."""
        return None if self.rate is None else max(0, self.total - self.done) / self.rate

    def __str__(self) -> str:
        parts = [f"{self.what}: {self.done} of {self.total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.rate is not None and self.left is not None:
            parts += [rate_in_words(self.rate), f"{in_words(self.left)} left"]
        return ", ".join(parts)


class Lines:
    """The progress of work outside a run, where no terminal is: a line a minute on standard error."""

    def __init__(self) -> None:
        self._steps: Steps | None = None
        self._said = time.monotonic()

    def stage_began(self, name: str, share: float = 1.0) -> None:
        """Say nothing: only runs have stages."""

    def stage_ended(self, name: str, seconds: float, reused: bool, spent: Spent | None = None) -> None:
        """Say nothing, likewise."""

    def steps_began(self, what: str, total: int, done: int) -> None:
        """Begin to count."""
        self._steps, self._said = Steps(what, total, done), time.monotonic()

    def steps_done(self, count: int, loss: float | None) -> None:
        """Count, and say how far the work is where a minute has passed."""
        if self._steps is not None:
            self._steps.add(count, loss)
            if time.monotonic() - self._said >= MINUTE:
                self._said = time.monotonic()
                say(str(self._steps))

    def steps_ended(self) -> None:
        """Stop to count."""
        self._steps = None


def in_words(seconds: float) -> str:
    """Return a time in a readable unit.

    >>> in_words(8.2), in_words(312), in_words(7500), in_words(4e5)
    ('8 s', '5.2 min', '2.1 h', '4.6 days')
    """
    for unit, size, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 4 * 86_400)):
        if seconds < limit:
            return f"{seconds / size:.{0 if unit == 's' else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def rate_in_words(rate: float) -> str:
    """Return steps in a second, or the seconds of a step where these are more.

    >>> rate_in_words(2.5), rate_in_words(0.2)
    ('2.5 a second', '5.0 s each')
    """
    return f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.1f} s each"


def say(line: str) -> None:
    """Print a plain line on standard error; nothing where silence was asked for."""
    if not silent():
        print(f"paretune: {line}", file=sys.stderr, flush=True)


_announced: set[str] = set()


def announce(message: str, once: bool = False) -> None:
    """Print a message for people on standard error, with ``once`` the first time only; nothing where silence was asked for."""
    said = once and message in _announced
    _announced.add(message)
    if not silent() and not said:
        from rich.console import Console

        Console(stderr=True).print(message, style="yellow", markup=False, highlight=False)
