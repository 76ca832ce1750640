"""The plan of a run as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
from paretune.runs.estimate import Estimate, _short, duration, size


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
    lacking = "" if estimate.fits else f", which is more than the {size(estimate.device.memory)} there are"
    lines = [
        f"Memory at the peak: {size(estimate.peak)}{lacking} ({_parts(estimate.memory)})",
        f"Disk: {size(sum(estimate.disk.values()))} ({_parts(estimate.disk)})",
        "Assumed:",
        *(f"  - {each}" for each in estimate.assumptions),
    ]
    return Group(table, Text("\n".join(lines)))


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {size(value)}" for name, value in parts.items())
