"""What the stages of a run spend: seconds, CPU-seconds, tokens and memory of this process, each counted in one stage only.

What reads or samples tokens counts them in a tally of the process (:func:`count_read`, :func:`count_sampled`). A :class:`Meter`
takes differences of all counts. Meters nest: what is spent under an inner meter is left out of the outer one, so that the figures
of all stages of a run, and of what was done outside of them, add up to those of the process. A stage that goes on where a killed
process left it also has what that process spent until its last checkpoint (:meth:`Meter.carry`).
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from typing_extensions import TypedDict

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of ``ru_maxrss``."""
FIGURES = ("seconds", "cpu_seconds", "tokens_read", "tokens_sampled", "tokens_per_second", "peak_bytes")
"""The figures of a stage, by their names in ``stages.json``."""


class Spent(TypedDict):
    """What a stage spent, beside its seconds.

    Attributes:
        cpu_seconds: Seconds of all threads of this process, and of its children that have ended.
        tokens_read: Tokens that a language model of this process read in a forward pass: training, scoring, prompts.
        tokens_sampled: Tokens that it sampled.
        peak_bytes: Largest memory that this process had from its start until the end of the stage, in bytes.
    """

    cpu_seconds: float
    tokens_read: int
    tokens_sampled: int
    peak_bytes: int


class Counts(NamedTuple):
    """Counts of this process since it started, or a difference of two of them."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens_read: int = 0
    tokens_sampled: int = 0

    def less(self, other: Counts) -> Counts:
        """Return the difference."""
        return Counts(
            self.seconds - other.seconds,
            self.cpu_seconds - other.cpu_seconds,
            self.tokens_read - other.tokens_read,
            self.tokens_sampled - other.tokens_sampled,
        )

    def more(self, other: Counts) -> Counts:
        """Return the sum."""
        return Counts(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.tokens_read + other.tokens_read,
            self.tokens_sampled + other.tokens_sampled,
        )


class _Tally:
    """Tokens that this process read and sampled."""

    def __init__(self) -> None:
        self.read = self.sampled = 0
        self.lock = threading.Lock()


_TALLY = _Tally()


def count_read(tokens: int) -> None:
    """Count tokens that a language model reads."""
    with _TALLY.lock:
        _TALLY.read += tokens


def count_sampled(tokens: int) -> None:
    """Count tokens that a language model sampled."""
    with _TALLY.lock:
        _TALLY.sampled += tokens


def counts() -> Counts:
    """Return the counts of this process now."""
    ended = os.times()
    cpu = time.process_time() + ended.children_user + ended.children_system
    return Counts(time.perf_counter(), cpu, _TALLY.read, _TALLY.sampled)


def peak_bytes() -> int:
    """Return the largest memory that this process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def spent_of(counted: Counts, peak: int | None = None) -> Spent:
    """Return counts without their seconds, with a peak of memory in bytes; None is that of this process so far."""
    return Spent(
        cpu_seconds=counted.cpu_seconds,
        tokens_read=counted.tokens_read,
        tokens_sampled=counted.tokens_sampled,
        peak_bytes=peak_bytes() if peak is None else peak,
    )


def counts_of(seconds: float, spent: Spent) -> Counts:
    """Return seconds and what was spent as counts, see :func:`spent_of`."""
    return Counts(seconds, spent["cpu_seconds"], spent["tokens_read"], spent["tokens_sampled"])


class Meter:
    """Measures what is spent from its making on, without what inner meters measured."""

    def __init__(self) -> None:
        self._began, self._inside = counts(), Counts()
        self._carried, self._earlier_peak = Counts(), 0
        self._stopped: tuple[Counts, int] | None = None

    def stop(self) -> None:
        """Keep the figures as they are now; what is spent later belongs to the outer meter."""
        self._stopped = self._stopped or (counts(), peak_bytes())

    @property
    def whole(self) -> Counts:
        """What this process spent until now, or until it was stopped, inner meters included."""
        return (self._stopped[0] if self._stopped else counts()).less(self._began)

    @property
    def own(self) -> Counts:
        """The same without inner meters, and with what was carried."""
        return self.whole.less(self._inside).more(self._carried)

    @property
    def seconds(self) -> float:
        """Seconds of its own."""
        return self.own.seconds

    @property
    def spent(self) -> Spent:
        """What was spent of its own, beside the seconds."""
        peak = self._stopped[1] if self._stopped else peak_bytes()
        return spent_of(self.own, max(peak, self._earlier_peak))

    def carry(self, seconds: float, spent: Spent) -> None:
        """Add what an earlier process spent on the same; no meter around this one sees it."""
        self._carried = self._carried.more(counts_of(seconds, spent))
        self._earlier_peak = max(self._earlier_peak, spent["peak_bytes"])

    def leave_out(self, inner: Counts) -> None:
        """Leave out what an inner meter measured."""
        self._inside = self._inside.more(inner)


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure what is spent inside the context; a meter around it leaves that out."""
    meter, outer = Meter(), _METER.get()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        meter.stop()
        _METER.reset(token)
        if outer is not None:
            outer.leave_out(meter.whole)


def current() -> Meter | None:
    """Return the innermost meter that is running; None outside of all."""
    return _METER.get()


def figures(seconds: float, spent: Spent | None) -> dict[str, float | int | None]:
    """Return seconds and what was spent as :data:`FIGURES`: tokens a second are those read and sampled; unknown is None."""
    if spent is None:
        return {name: seconds if name == "seconds" else None for name in FIGURES}
    tokens = spent["tokens_read"] + spent["tokens_sampled"]
    rate = tokens / seconds if seconds > 0 else None
    return {
        "seconds": seconds,
        "cpu_seconds": spent["cpu_seconds"],
        "tokens_read": spent["tokens_read"],
        "tokens_sampled": spent["tokens_sampled"],
        "tokens_per_second": rate,
        "peak_bytes": spent["peak_bytes"],
    }


def shares(counted: Spent, parts: int) -> list[Spent]:
    """Divide what was spent into equal parts that add up to it; each has the whole's peak of memory."""

    def part(whole: int, n: int) -> int:
        return whole * (n + 1) // parts - whole * n // parts

    return [
        Spent(
            cpu_seconds=counted["cpu_seconds"] / parts,
            tokens_read=part(counted["tokens_read"], n),
            tokens_sampled=part(counted["tokens_sampled"], n),
            peak_bytes=counted["peak_bytes"],
        )
        for n in range(parts)
    ]


def summed(parts: Iterable[Spent | None]) -> Spent | None:
    """Return the sum of what was spent, with the largest peak of memory; None where a part is unknown or there is none."""
    known: list[Spent] = []
    for each in parts:
        if each is None:
            return None
        known.append(each)
    if not known:
        return None
    return Spent(
        cpu_seconds=sum(each["cpu_seconds"] for each in known),
        tokens_read=sum(each["tokens_read"] for each in known),
        tokens_sampled=sum(each["tokens_sampled"] for each in known),
        peak_bytes=max(each["peak_bytes"] for each in known),
    )
