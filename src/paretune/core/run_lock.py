"""Who works in a run folder: one run at a time, or the workers of one sweep."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from paretune.core.errors import ParetuneError
from paretune.core.owners import Owner, this_process, try_lock

LOCK = Path("locks") / "run.json"
"""The lock of a run folder: a file that says who works there. It stays when the work is done."""


@contextmanager
def working_in(folder: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a run folder inside the context; the lock of a process that was killed is free.

    Args:
        folder: The run folder, made where it is missing.
        shared: Others with ``shared`` may work there at the same time, as the workers of a sweep do.

    Raises:
        ParetuneError: Another process works there; the message says which, on which machine, and since when.
    """
    file = folder / LOCK
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ParetuneError(
            f"{file}: cannot write ({error.strerror or error}); nothing was written."
        ) from error
    try:
        locked = try_lock(descriptor, shared)
        holder = _holder(descriptor)
        by_name = locked is None and holder.get("working") and _may_run(holder)
        if locked is False or (by_name and not (shared and holder.get("shared"))):
            raise ParetuneError(_taken(folder, file, holder, locked is None))
        owner = this_process()
        facts = {
            "host": platform.node(),
            "pid": owner.pid,
            "since": datetime.now().astimezone().isoformat("T", "seconds"),
        }
        _write(descriptor, facts | {"owner": list(owner), "shared": shared, "working": True})
        try:
            yield
        finally:
            if _holder(descriptor).get("owner") == list(owner):
                _write(descriptor, facts | {"owner": list(owner), "shared": shared, "working": False})
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Worker:
    """Who works in a run folder: a process on a machine, since when."""

    pid: int
    host: str
    since: str


def worker_of(folder: Path) -> Worker | None:
    """Return who works in a run folder, None where nobody does; of a process on another machine it is not known, and told."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        holder = _holder(descriptor)
    finally:
        os.close(descriptor)
    if not holder.get("working") or not _may_run(holder):
        return None
    pid = holder.get("pid")
    return Worker(
        pid if isinstance(pid, int) else 0, str(holder.get("host", "?")), str(holder.get("since", ""))
    )


def _taken(folder: Path, file: Path, holder: dict[str, Any], unsure: bool) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"
    since = f", since {holder['since']}" if "since" in holder else ""
    cure = "wait until it has ended, end it, or give this run another folder (folder=PATH)"
    if unsure:  # the file system has no locks, so a process of another machine may have ended long ago
        cure += f"; where that process no longer runs, delete {file}"
    return f"{folder}: {who} works in this run folder{since}; {cure}"


def _may_run(holder: dict[str, Any]) -> bool:
    try:
        host, pid, started = holder["owner"]
        owner = Owner(str(host), int(pid), int(started))
    except (KeyError, TypeError, ValueError):
        return False
    return owner.runs or not owner.here


def _holder(descriptor: int) -> dict[str, Any]:
    """Return what the lock says; nothing where it is empty, or a kill has left half of it."""
    with suppress(OSError, ValueError, RecursionError):
        values = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(values, dict):
            return values
    return {}


def _write(descriptor: int, values: dict[str, Any]) -> None:
    """Write in place: the lock is on this file, and not on another one of its name. A full disk is no reason to stop here."""
    with suppress(OSError):
        raw = json.dumps(values).encode()
        os.pwrite(descriptor, raw, 0)
        os.ftruncate(descriptor, len(raw))
