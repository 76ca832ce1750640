"""The warm process: everything is imported once, then each command is a fork of it, a real process that can be killed.

It reads one job a line from its input (JSON, see `campaign.warm.Job`) and answers with one line. It has one thread, which is
checked: only then is a fork the same as a new process. It never computes anything itself, since that would start threads.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

WARM = (
    "torch", "torch.optim", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
    "accelerate", "accelerate.utils", "scipy.stats", "scipy.optimize", "scipy.special", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "sqlalchemy", "alembic.command", "fastapi", "uvicorn", "httpx", "moocore", "rich.console", "rich.table",
    "rich.markup", "filelock",
    "paretune.cli.main", "paretune.cli.verdicts", "paretune.cli.choose", "paretune.cli.inspect", "paretune.cli.select",
    "paretune.runs.run", "paretune.runs.parse", "paretune.runs.extend", "paretune.runs.measure", "paretune.policies.saving",
    "paretune.policies.export",
    "paretune.policies.prompted", "paretune.policies.mixed", "paretune.reports.report", "paretune.reports.card",
    "paretune.reports.picture",
    "paretune.data.load", "paretune.data.summary", "paretune.serving.command", "paretune.serving.http.app",
    "paretune.serving.engine.engine",
    "paretune.serving.store.store", "paretune.serving.store.vote_pairs", "paretune.scoring.rules", "paretune.scoring.bradley_terry",
)  # fmt: skip
"""What commands load, but for pyarrow, which starts a thread. One that is gone only makes a command slower."""
WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""What changes folders, as Python's audit events name it; beside these, opening a file to write."""


def main() -> None:
    """Import, say so, and do jobs until the input ends."""
    for name in WARM:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    import torch

    from paretune.methods import METHODS

    torch.set_num_threads(1)
    for name in METHODS:
        METHODS[name]
    say({"threads": len(list(Path("/proc/self/task").iterdir())), "python": sys.version})
    for line in sys.stdin:
        say(start(json.loads(line)))


def say(answer: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(answer) + "\n")
    sys.__stdout__.flush()


def start(job: dict[str, Any]) -> dict[str, Any]:
    """Fork for a job, wait for its end, and say how it ended."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        become(job)
    end, limit, kill = None, job["timeout"], job["kill_after"]
    timed_out, answer = False, ""
    while end is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        passed = time.perf_counter() - began
        if done:
            end = os.waitstatus_to_exitcode(status)
        elif kill is not None and passed >= kill:
            os.kill(pid, signal.SIGKILL)
            kill = None
        elif passed > limit:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
        elif job["serve"] and not answer:
            if answer := asked(Path(job["err"]), job["ask"]):
                os.kill(pid, signal.SIGTERM)
        else:
            time.sleep(0.001 if kill is not None else 0.01)
    seconds = time.perf_counter() - began
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what the command has left behind
    return {"code": end, "seconds": seconds, "timed_out": timed_out, "answer": answer}


def asked(log: Path, requests: list[dict[str, Any]]) -> str:
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


def become(job: dict[str, Any]) -> None:
    """Turn this fork into the command; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(job["cwd"])
        for number, target in ((1, job["out"]), (2, job["err"])):
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        os.environ.update(job["env"])
        limits(job)
        count = [0]
        if job["count_to"] is not None or job["kill_at"] is not None:
            sys.addaudithook(counter(count, job["kill_at"]))
        code = act(job)
        if job["count_to"] is not None:
            Path(job["count_to"]).write_text(str(count[0]))
    except BaseException:  # noqa: BLE001 - as the interpreter would show it
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def act(job: dict[str, Any]) -> int:
    """Run the command line or the code of a job; return the exit status."""
    try:
        if job["code"]:
            exec(compile(job["code"], "<trial>", "exec"), {"__name__": "__trial__"})
        else:
            from paretune.cli.main import main as command_line

            sys.argv = ["paretune", *job["arguments"]]
            command_line()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter would show it
        traceback.print_exc()
        return 1
    return 0


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
    main()
