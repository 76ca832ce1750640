"""How far a run is, read from the files of its folder: running, stopped or finished. Nothing heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from paretune.core.errors import ParetuneError
from paretune.core.files import read_json
from paretune.core.run_lock import Worker, worker_of
from paretune.core.work_log import FILE, Written

AGAIN = "start the run again, which writes it anew"
KNOWN_BY = "versions.json"
"""A file that every run folder has."""
REPORT = "report.html"


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        folder: The run folder.
        name: Name of the run; empty where nothing is written of how far it is.
        state: ``running``, ``finished``, ``failed``, ``stopped`` (by Ctrl-C), ``killed`` (it says that it runs, and no process
            does), or ``unknown`` (a run of an earlier version that is not finished).
        worker: Who works there now, None where nobody does.
        done: Finished stages: name, seconds, and whether an earlier run had finished it.
        to_do: Parts of the plan that are not begun: name and seconds. Empty without a plan.
        now: The stage at work, or that was at work in the end: what is counted there, step, steps, loss, rate (steps a second),
            left (seconds).
        left: Seconds left of the whole run when it was written.
        began, updated: When this process began, and when it last wrote.
        error: The last error.
        report: The report, where there is one.
    """

    folder: Path
    name: str
    state: str
    worker: Worker | None
    done: tuple[Mapping[str, Any], ...] = ()
    to_do: tuple[tuple[str, float], ...] = ()
    now: Mapping[str, Any] | None = None
    left: float | None = None
    began: str | None = None
    updated: str | None = None
    error: str | None = None
    report: Path | None = None


def status(folder: Path) -> Status:
    """Return how far the run in a folder is.

    Raises:
        ParetuneError: There is no run, or the file on how far it is is damaged.
    """
    if not (folder / KNOWN_BY).is_file() and not (folder / FILE).is_file():
        what = "is no folder" if not folder.is_dir() else f"has no {KNOWN_BY}"
        raise ParetuneError(
            f"{folder}: {what}; expected the folder of a run, such as runs/quickstart (what a run has begun to write there)"
        )
    worker = worker_of(folder)
    report = folder / REPORT if (folder / REPORT).is_file() else None
    if not (folder / FILE).is_file():
        state = "running" if worker else "finished" if report else "unknown"
        return Status(folder, "", state, worker, report=report)
    written = read_json(folder / FILE, Written, AGAIN)
    state = written["state"]
    if worker is None and state == "running":
        state = "killed"
    elif worker is not None and state != "running":
        state = "running"  # another command began to work, and has not written yet
    return Status(
        folder,
        written["name"],
        state,
        worker,
        tuple(written["done"]),
        tuple((name, seconds) for name, seconds in written["planned"]),
        written["now"],
        _left(written, worker),
        written["began"],
        written["updated"],
        written["error"],
        report,
    )


def _left(written: Written, worker: Worker | None) -> float | None:
    """Return the seconds left now: what was written, less the time since."""
    if written["left"] is None or worker is None:
        return written["left"]
    try:
        since = (datetime.now().astimezone() - datetime.fromisoformat(written["updated"])).total_seconds()
    except (ValueError, TypeError):
        return written["left"]
    return max(0.0, written["left"] - max(0.0, since))
