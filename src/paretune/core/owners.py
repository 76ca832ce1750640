"""Which process made something on the disk, and whether it still runs."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # no such module on Windows
    fcntl = None  # type: ignore[assignment]

_SECONDS = 5
"""The start of a process is read from clocks that may be set by this much between two readings."""


class Owner(NamedTuple):
    """A process on some machine.

    Attributes:
        host: 8 hex digits that identify the machine by its name.
        pid: Number of the process.
        started: When it started, in seconds since 1970: numbers of processes are used again.
    """

    host: str
    pid: int
    started: int

    @property
    def here(self) -> bool:
        """Whether it is or was a process of this machine."""
        return self.host == host()

    @property
    def runs(self) -> bool:
        """Whether it runs; of a process of another machine that is not known, and False."""
        started = _started(self.pid) if self.here else None
        return started is not None and abs(started - self.started) <= _SECONDS


def this_process() -> Owner:
    """Return this process."""
    return _owner(os.getpid())


@lru_cache(maxsize=8)
def _owner(pid: int) -> Owner:
    return Owner(host(), pid, _started(pid) or 0)


@lru_cache(maxsize=1)
def host() -> str:
    """Return 8 hex digits that identify this machine by its name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """Return when a process of this machine started; None where there is none with this number."""
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE  # its parent has not asked for it yet
        return None if ended else int(process.create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None


def try_lock(descriptor: int, shared: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed, or the process ends; return whether that was done.

    None: the file system has no such locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
