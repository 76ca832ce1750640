"""Rows of figures, measured one after the other within a budget of time: each ends in figures, its failure, or a reason."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

Figures = Mapping[str, float | str]
"""Label -> a number, or words; numbers are written in the unit that the label names."""


class NotHereError(Exception):
    """A row cannot be measured on this machine, and nothing is wrong; the message says why."""


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Attributes:
        name: Its name in the table.
        run: Measures it; raises :class:`NotHereError` where this machine cannot.
        seconds: About how long it takes on a fast device, without which it is not begun.
    """

    name: str
    run: Callable[[], Figures]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a row ended.

    Attributes:
        name: Name of the row.
        status: ``done``; ``failed``, with the error in ``message``; ``left out``, with the reason there.
        seconds: Time that it took.
        figures: What was measured.
        message: Error or reason.
    """

    name: str
    status: Literal["done", "failed", "left out"]
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    message: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def measure(
    rows: Sequence[Row], budget: float, say: Callable[[Outcome], None], device: torch.device
) -> list[Outcome]:
    """Run rows in their order, and return how each ended; a row for which too little of ``budget`` seconds is left is left out."""
    begin, outcomes = time.perf_counter(), []
    for row in rows:
        left = budget - (time.perf_counter() - begin)
        if left < row.seconds:
            reason = f"{max(0.0, left):.0f} s of {budget:.0f} were left, and it takes about {row.seconds:.0f}"
            outcome = Outcome(row.name, "left out", message=reason)
        else:
            outcome = _measured(row)
        outcomes.append(outcome)
        say(outcome)
        freed(device)
    return outcomes


def _measured(row: Row) -> Outcome:
    begin = time.perf_counter()
    try:
        figures = row.run()
    except NotHereError as reason:
        return Outcome(row.name, "left out", time.perf_counter() - begin, message=str(reason))
    except Exception as error:  # noqa: BLE001 - one row that fails costs no other
        what = " ".join(str(error).split())[:300]
        message = f"{type(error).__name__}: {what}"
        return Outcome(row.name, "failed", time.perf_counter() - begin, message=message)
    return Outcome(row.name, "done", time.perf_counter() - begin, figures)


def freed(device: torch.device) -> None:
    """Give back what no one holds, and forget the peak of memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float | None:
    """Return the largest memory in use since :func:`freed`, in bytes; None on a device that does not count it."""
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def wait(device: torch.device) -> None:
    """Wait until a device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Return the least time of ``run`` after one that does not count, in seconds."""
    taken = []
    for _ in range(1 + rounds):
        wait(device)
        begin = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def table(outcomes: Sequence[Outcome], head: str) -> str:
    """Return a table in Markdown: one line for each figure, failure or reason."""
    lines = [head, "", "| what | figure | value |", "|---|---|---|"]
    for outcome in outcomes:
        if outcome.status != "done":
            lines.append(f"| {outcome.name} | {outcome.status} | {outcome.message.replace('|', '/')} |")
        for number, (label, value) in enumerate(outcome.figures.items()):
            shown = value if isinstance(value, str) else f"{value:.4g}"
            lines.append(f"| {outcome.name if number == 0 else ''} | {label} | {shown} |")
    return "\n".join(lines)
