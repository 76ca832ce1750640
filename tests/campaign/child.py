"""A command of a trial as a process: ``python -m campaign.child JOB``, where JOB is JSON, see `campaign.warm.Job`."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""What changes folders, as Python's audit events name it; beside these, opening a file to write."""


def main(job: dict[str, Any]) -> None:
    """Limit this process as a job says, and run its command line or its code."""
    os.setsid()
    limits(job)
    count = [0]
    if job["count_to"] is not None or job["kill_at"] is not None:
        sys.addaudithook(counter(count, job["kill_at"]))
    try:
        if job["code"]:
            exec(compile(job["code"], "<trial>", "exec"), {"__name__": "__trial__"})
        else:
            from paretune.cli.main import main as command_line

            sys.argv = ["paretune", *job["arguments"]]
            command_line()
    finally:
        if job["count_to"] is not None:
            Path(job["count_to"]).write_text(str(count[0]))


def limits(job: dict[str, Any]) -> None:
    """Limit memory and the size of files, and take the right of root to read what may not be read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    if job["file_size"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    if job["as_a_user"] and os.getuid() == 0:
        drop_override()


def drop_override() -> None:
    """Take the capabilities by which root reads and writes what a file's mode forbids."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Sets(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))

    libc, header, sets = ctypes.CDLL(None, use_errno=True), Header(0x20080522, 0), (Sets * 2)()
    if libc.capget(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capget")
    override, search = 1, 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    keep = ~((1 << override) | (1 << search)) & 0xFFFFFFFF
    sets[0].effective &= keep
    sets[0].permitted &= keep
    if libc.capset(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capset")


def counter(count: list[int], kill_at: int | None) -> Any:
    """Return an audit hook that counts changes of folders and kills this process just before the one with number ``kill_at``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
