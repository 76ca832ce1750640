"""Starts commands by forks of a warm process, in milliseconds instead of seconds, and kills and asks them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from support.forked import Forked

ROOT = Path(__file__).parents[2]
QUIET = {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)]),
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
"""The environment of every command."""
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
    """Starts commands by forks of a warm process (:mod:`support.forked`), used by one thread."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._talk = tempfile.TemporaryDirectory(prefix="campaign-")

    def __call__(self, *arguments: object, cwd: Path, **options: Any) -> Ended:
        """Run ``paretune ARGUMENTS`` in a folder; ``options`` are those of `Job`."""
        out, err = (Path(self._talk.name) / name for name in ("out", "err"))
        env = {"PARETUNE_CACHE": str(self.cache), "COLUMNS": "200", **options.pop("env", {})}
        job = Job(tuple(map(str, arguments)), str(cwd), env=env, **options)
        command = [sys.executable, "-m", "campaign.child", json.dumps(asdict(job))]
        began = time.perf_counter()
        with out.open("wb") as told, err.open("wb") as warned:
            process = Forked(
                command,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=warned,
                cwd=cwd,
                env={**os.environ, **QUIET, **env},
            )
        timed_out, answer = _watched(process, job, err)
        seconds = time.perf_counter() - began
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what the command has left behind
        said = (file.read_bytes().decode("utf-8", "replace") for file in (out, err))
        return Ended(process.returncode, *said, seconds, timed_out, answer)

    def close(self) -> None:
        """Remove what commands printed."""
        self._talk.cleanup()


def _watched(process: subprocess.Popen[bytes], job: Job, log: Path) -> tuple[bool, str]:
    """Wait for the end of a process, killed and asked as its job says; return whether it was given up, and what it answered."""
    began, kill = time.perf_counter(), job.kill_after
    timed_out, answer = False, ""
    while process.poll() is None:
        passed = time.perf_counter() - began
        if kill is not None and passed >= kill:
            process.kill()
            kill = None
        elif passed > job.timeout:
            timed_out = True
            process.kill()
            process.wait()
        elif job.serve and not answer:
            if answer := _asked(log, job.ask):
                process.terminate()
        else:
            time.sleep(0.001 if kill is not None else 0.01)
    return timed_out, answer


def _asked(log: Path, requests: Sequence[Mapping[str, Any]]) -> str:
    """Return what a server answers to requests once it is healthy; empty before that."""
    found = re.search(r"running on (http://[\w.:]+)", log.read_text(errors="replace"))
    if found is None:
        return ""
    try:
        with urllib.request.urlopen(f"{found[1]}/health", timeout=5) as health:
            if health.status != 200:
                return ""
    except OSError:
        time.sleep(0.02)
        return ""
    answers = []
    for body in requests:
        request = urllib.request.Request(
            f"{found[1]}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answers.append([response.status, json.load(response)["choices"][0]["message"]["content"]])
        except urllib.error.HTTPError as error:
            answers.append([error.code, ""])
        except OSError as error:
            answers.append([0, str(error)])
    return json.dumps(answers)
