"""``paretune status``: how far a run is, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paretune.core.meter import figures
from paretune.core.progress import in_words, rate_in_words
from paretune.runs.status import Status

if TYPE_CHECKING:
    from rich.console import Group

STATES = {
    "running": "running",
    "finished": "finished",
    "failed": "ended by an error; after its cure the same command goes on from the last finished stage or checkpoint",
    "stopped": "stopped; the same command goes on from the last finished stage or checkpoint",
    "killed": "ended without a word (killed?); the same command goes on from the last finished stage or checkpoint",
    "unknown": "not finished; this run has written nothing on how far it is",
}
"""State -> its meaning, and what to do."""


def render(status: Status) -> Group:
    """Return the status for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [f"{status.folder}: {STATES[status.state]}"]
    if status.worker is not None:
        since = f", since {status.worker.since}" if status.worker.since else ""
        lines.append(f"Who works there: process {status.worker.pid} on {status.worker.host}{since}")
    if status.error:
        lines.append(f"Last error: {status.error}")
    if status.left is not None and status.state != "finished":
        lines.append(f"Left of the whole run: about {in_words(status.left)}, by its plan and its pace so far")
    if status.updated:
        lines.append(f"Written: {status.updated}")
    if status.report is not None:
        lines.append(f"Report: {status.report}")
    parts: list[Table | Text] = [Text("\n".join(lines))]
    if status.done or status.now or status.to_do:
        table = Table()
        for column in ("stage", "state"):
            table.add_column(column, overflow="fold")
        table.add_column("time", justify="right")
        for stage in status.done:
            state = "found finished" if stage["reused"] else "done"
            table.add_row(str(stage["name"]), state + _speed(stage), in_words(stage["seconds"]))
        if status.now is not None:
            table.add_row(str(status.now["stage"]), _at_work(status), in_words(status.now["seconds"]))
        for name, seconds in status.to_do:
            table.add_row(name, "to do", f"about {in_words(seconds)}")
        parts.append(table)
    return Group(*parts)


def _speed(stage: Mapping[str, Any]) -> str:
    """Return in words how many tokens a second a finished stage read and sampled; nothing where there were none."""
    rate = figures(stage["seconds"], stage.get("spent"))["tokens_per_second"]
    return f", {rate:,.0f} tokens a second" if rate else ""


def _at_work(status: Status) -> str:
    """Return how far the stage at work is."""
    now, parts = status.now or {}, ["at work" if status.state == "running" else "not finished"]
    if now.get("steps"):
        what = "" if now["what"] == now["stage"].partition("/")[2] else f"{now['what']} "
        parts.append(f"{what}{now['step']} of {now['steps']}")
    if now.get("loss") is not None:
        parts.append(f"loss {now['loss']:.3f}")
    if now.get("rate"):
        parts.append(rate_in_words(now["rate"]))
    if now.get("left") is not None:
        parts.append(f"{in_words(now['left'])} left")
    return ", ".join(parts)
