"""Starts commands from a warm process: in milliseconds instead of seconds, as real processes that can really be killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 12 << 30
"""Bytes of address space of a command; one that asks for more fails, and not the machine."""


@dataclass
class Job:
    """A command to start.

    Attributes:
        arguments: What stands behind ``paretune`` on the command line.
        cwd: The working folder.
        code: Python to run instead of a command.
        env: Variables of the environment.
        kill_after: Seconds until SIGKILL.
        kill_at: The number of the change of a folder (a rename, a new file, ...) just before which SIGKILL comes.
        count_to: The file to which the number of changes is written.
        file_size: The largest file that may be written, in bytes.
        memory: The largest address space, in bytes.
        as_a_user: Whether file modes hold for root too.
        serve: Whether it is a server: once it is healthy it is sent ``ask`` and then SIGTERM.
        ask: Bodies of chat completions.
        timeout: Seconds until the command is given up.
    """

    arguments: Sequence[str] = ()
    cwd: str = "."
    code: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    kill_after: float | None = None
    kill_at: int | None = None
    count_to: str | None = None
    file_size: int = 0
    memory: int = MEMORY
    as_a_user: bool = False
    serve: bool = False
    ask: Sequence[Mapping[str, Any]] = ()
    timeout: float = 180.0
    out: str = ""
    err: str = ""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: The exit status; -9 after a kill.
        out, err: What it printed.
        seconds: How long it ran.
        timed_out: Whether it was given up.
        answer: What a server answered, as JSON.
    """

    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool
    answer: str

    @property
    def text(self) -> str:
        """All it printed."""
        return f"{self.out}\n{self.err}"

    @property
    def messages(self) -> list[str]:
        """The error messages; a line with a clock, or that this machine is measured, tells where the run is."""
        return re.findall(
            r"^(?:paretune: (?!stopped|measuring the speed|\[\d+:\d\d:\d\d\] ).*|Error: .*|╭─ Error.*)$",
            self.err,
            re.MULTILINE,
        )

    @property
    def last_line(self) -> str:
        """The last line it said, for a report."""
        lines = [line for line in self.err.splitlines() if line.strip(" ╰─╯")] or self.out.splitlines()
        return lines[-1].strip()[:400] if lines else ""


class Warm:
    """A warm process; it starts at the first command and is used by one thread."""

    def __init__(self, cache: Path) -> None:
        self.cache, self._process = cache, None
        self._talk = tempfile.TemporaryDirectory(prefix="campaign-")

    def __call__(self, *arguments: object, cwd: Path, **options: Any) -> Ended:
        """Run ``paretune ARGUMENTS`` in a folder; ``options`` are those of `Job`."""
        out, err = (str(Path(self._talk.name) / name) for name in ("out", "err"))
        env = {"PARETUNE_CACHE": str(self.cache), "COLUMNS": "200", **options.pop("env", {})}
        job = Job(tuple(map(str, arguments)), str(cwd), env=env, out=out, err=err, **options)
        process = self._started()
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            self._process = None  # the next trial starts another one
            raise RuntimeError(f"the warm process ended with {process.wait()}")
        said = (Path(name).read_bytes().decode("utf-8", "replace") for name in (out, err))
        facts = json.loads(answer)
        return Ended(facts["code"], *said, facts["seconds"], facts["timed_out"], facts["answer"])

    def _started(self) -> Any:
        if self._process is None:
            paths = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)]
            quiet = {
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
                "MPLBACKEND": "agg",
                "LRU_CACHE_CAPACITY": "128",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "campaign.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **quiet},
            )
            ready = json.loads(self._process.stdout.readline() or "{}")
            if ready.get("threads") != 1:
                self.close()
                raise RuntimeError(
                    f"a fork needs a process with one thread, this one has {ready.get('threads')}"
                )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None
