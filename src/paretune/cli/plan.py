"""The plan of a run as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paretune.reports.wording import duration
from paretune.runs.estimate import Estimate

if TYPE_CHECKING:
    from rich.console import Group


def render(estimate: Estimate, runs: int) -> Group:
    """Return the estimate for the terminal: stages, totals, memory, disk and assumptions."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{estimate.model} ({_short(estimate.parameters)} parameters) in {estimate.dtype} on {estimate.device.title}: "
        f"{runs} training runs, about {duration(estimate.cost.seconds)}"
    )
    for column in ("stage", "what"):
        table.add_column(column)
    for column in ("tokens", "FLOP", "time"):
        table.add_column(column, justify="right")
    for row in estimate.rows:
        counted = (_short(row.cost.tokens), _short(row.cost.flops)) if row.cost.tokens else ("", "")
        table.add_row(row.name, row.what, *counted, duration(row.cost.seconds))
    table.add_section()
    cost = estimate.cost
    table.add_row("all", "", _short(cost.tokens), _short(cost.flops), duration(cost.seconds))
    lacking = "" if estimate.fits else f", which is more than the {_size(estimate.device.memory)} there are"
    at = f", in {estimate.where}" if estimate.where else ""
    lines = [
        f"Memory at the peak: {_size(estimate.peak)}{lacking}{at} ({_parts(estimate.memory)})",
        *(
            f"  beside the model in {phase}: {_size(sum(parts.values()))} ({_parts(parts)})"
            for phase, parts in estimate.phases.items()
        ),
        f"{_fit(estimate)}: {', '.join(estimate.settings)}",
        *_advice(estimate),
        f"Disk: {_size(sum(estimate.disk.values()))} ({_parts(estimate.disk)})",
        *(["Asked of judges and servers:"] if estimate.asked else []),
        *(f"  - {asking}" for asking in estimate.asked),
        "Assumed:",
        *(f"  - {assumption}" for assumption in estimate.assumptions),
    ]
    return Group(table, Text("\n".join(lines)))


def _fit(estimate: Estimate) -> str:
    """Return whether the run fits, as the beginning of a line with its settings."""
    count = estimate.device.count
    return (
        f"It fits on {'one' if count == 1 else count} {estimate.device.kind} with"
        if estimate.fits
        else "With"
    )


def _advice(estimate: Estimate) -> list[str]:
    """Return what would bring the memory down."""
    less = ", ".join(map(str, estimate.savings))
    lines = [f"Each alone would save: {less}"] if less else []
    if estimate.fitting:
        lines.append(f"It would fit on one {estimate.device.kind} with: {' '.join(estimate.fitting)}")
    return lines


def _parts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_size(value)}" for name, value in parts.items())


def _size(value: float) -> str:
    """Return bytes in megabytes or gigabytes.

    >>> _size(2.5e9), _size(3e6)
    ('2.5 GB', '3 MB')
    """
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def _short(value: float) -> str:
    """Return a large count with a prefix.

    >>> _short(1.25e9), _short(12)
    ('1.25 G', '12')
    """
    for unit, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f}"
