"""The warm process of :mod:`support.forked`: it imports all that commands load, then starts each command by a fork of itself.

It has one thread, which is checked: only then is a fork the same as a new process. It never computes anything itself, since that
would start threads.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

WARM = (
    "torch", "torch.optim", "transformers", "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers", "peft",
    "accelerate", "accelerate.utils", "scipy.stats", "scipy.optimize", "scipy.special", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "sqlalchemy", "alembic.command", "fastapi", "uvicorn", "httpx", "moocore", "rich.console", "rich.table",
    "rich.markup", "filelock",
    "paretune.cli.main", "paretune.cli.verdicts", "paretune.cli.choose", "paretune.cli.inspect", "paretune.cli.select",
    "paretune.runs.run", "paretune.runs.parse", "paretune.runs.extend", "paretune.runs.measure", "paretune.policies.saving",
    "paretune.policies.export",
    "paretune.policies.prompted", "paretune.policies.mixed", "paretune.reports.report", "paretune.reports.card",
    "paretune.reports.picture", "paretune.planning.calibrate",
    "paretune.data.load", "paretune.data.summary", "paretune.serving.command", "paretune.serving.http.app",
    "paretune.serving.engine.engine",
    "paretune.serving.store.store", "paretune.serving.store.vote_pairs", "paretune.scoring.rules", "paretune.scoring.bradley_terry",
)  # fmt: skip
"""What commands load, but for pyarrow, which starts a thread. One that is gone only makes a command slower."""
STREAMS = 3


def load() -> int:
    """Import all, in the order in which the command line does; return the number of threads."""
    from paretune.cli.allocator import limit_kernels
    from paretune.cli.threads import wait_briefly

    limit_kernels()
    wait_briefly()
    for name in WARM:
        with suppress(ImportError):
            importlib.import_module(name)
    from paretune.methods import METHODS

    for name in METHODS:
        METHODS[name]
    gc.collect()
    gc.freeze()
    return len(list(Path("/proc/self/task").iterdir()))


def main(asked: socket.socket) -> None:
    """Import, say so, and start what is asked for until the other side ends; what runs by then is killed."""
    asked.sendall(b"%d\n" % load())
    ended, wakes = os.pipe()
    for handle in (ended, wakes):
        os.set_blocking(handle, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, int] = {}
    while True:
        ready = select.select([asked, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 65_536)
        for pid in list(running):
            if (found := os.waitpid(pid, os.WNOHANG))[0]:
                tell(running[pid], found[1])
                os.close(running.pop(pid))
        if asked in ready:
            if (got := received(asked)) is None:
                break
            job, handles = got
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                become(job, handles, [asked.detach(), ended, wakes, *running.values()])
            for handle in handles[:STREAMS]:
                os.close(handle)
            running[pid] = handles[STREAMS]
            tell(running[pid], pid)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def tell(handle: int, number: int) -> None:
    with suppress(OSError):  # nobody waits for it
        os.write(handle, b"%d\n" % number)


def received(asked: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next job with its three streams and the pipe on which to tell of it; nothing at the end."""
    handles = array.array("i")
    size = (STREAMS + 1) * handles.itemsize
    head, ancillary, _, _ = asked.recvmsg(8, socket.CMSG_SPACE(size))
    if len(head) < 8:
        return None
    for _, _, content in ancillary:
        handles.frombytes(content[:size])
    left, text = struct.unpack("Q", head)[0], b""
    while len(text) < left:
        text += asked.recv(left - len(text))
    return json.loads(text), list(handles)


def become(job: dict[str, Any], handles: list[int], others: list[int]) -> NoReturn:
    """Turn this fork into the program of a job, to its end."""
    code = 1
    try:
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
        for number, handle in enumerate(handles[:STREAMS]):
            os.dup2(handle, number)
        for handle in [*handles, *others]:
            os.close(handle)
        open_streams()
        os.chdir(job["cwd"])
        os.environ.clear()
        os.environ.update(job["env"])
        sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        seed()
        tell_speed()
        code = ended(job["arguments"])
    except BaseException:  # noqa: BLE001 - nothing may go back into the loop of the warm process
        traceback.print_exc()
    finally:
        os._exit(code)


def open_streams() -> None:
    """Open the streams of Python anew, as they are written differently to terminals and to files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        new = open(  # noqa: SIM115 - it stays open
            number, old.mode if number else "r", encoding=old.encoding, errors=old.errors, closefd=False
        )
        if number:
            lines = old.line_buffering if number == 2 else os.isatty(number)
            new.reconfigure(line_buffering=lines, write_through=old.write_through)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def seed() -> None:
    """Draw random numbers that no other fork draws; Python's own module does so by itself."""
    import numpy as np

    np.random.seed()


def tell_speed() -> None:
    """Tell plans a speed, as in the process of the tests."""
    from support import measuring

    measuring.tell()


def ended(arguments: list[str]) -> int:
    """Run a program as Python would and return its exit status, after its threads and what it registered for its end."""
    code = 0
    try:
        perform(arguments)
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            print(stop.code, file=sys.stderr)
            code = 1
        else:
            code = int(stop.code or 0)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code & 0xFF


def perform(arguments: list[str]) -> None:
    """Run ``-c CODE``, ``-m MODULE`` or ``FILE``, each with arguments, as the main module."""
    kind, *rest = arguments
    main_module = types.ModuleType("__main__")
    main_module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main_module
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), main_module.__dict__)
    elif kind == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
