"""The command line as a process whose standard error is a pseudo-terminal or a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from subprocess import DEVNULL

from support.forked import Forked, run

_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROWS, COLUMNS = 40, 160


def _command(arguments: tuple[object, ...], minute: float) -> list[str]:
    """Return the command, for which a minute is as long as this."""
    program = (
        "import sys\n"
        "from paretune.core import work_log\n"
        f"work_log.MINUTE, work_log.SECONDS = {minute}, min(work_log.SECONDS, {minute} / 4)\n"
        "from paretune.cli.main import main\n"
        "sys.argv[0] = 'paretune'\n"
        "main()"
    )
    return [sys.executable, "-c", program, *map(str, arguments)]


def at_terminal(folder: Path, *arguments: object, minute: float = 60.0) -> tuple[int, list[str]]:
    """Run ``paretune ARGUMENTS`` at a terminal; return its exit code and the lines drawn there, each time they were drawn."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with Forked(
        _command(arguments, minute),
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        raw = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            raw += part
        os.close(ours)
        code = process.wait()
    drawn = re.split(r"[\r\n]+", _CODE.sub("", raw.decode()))
    return code, [line.rstrip() for line in drawn if line.strip()]


def at_pipe(folder: Path, *arguments: object, minute: float = 60.0) -> tuple[int, list[str]]:
    """Run ``paretune ARGUMENTS`` where no terminal is; return its exit code and the lines on standard error."""
    done = run(_command(arguments, minute), cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()
