"""Programs of the tests as processes of their own that need not import everything again: forks of a warm process.

``Forked`` and ``run`` stand where ``subprocess.Popen`` and ``subprocess.run`` would, for commands of this Python. What they start
has its own process id, streams, folder, environment and exit status, and can be killed. The warm process
(:mod:`support.warm_process`) starts with the first of them and ends with the tests. Each set of the variables that libraries read
when they are imported has a warm process of its own. Where the system is not Linux the command is started anew.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
COMMAND_LINE = (sys.executable, "-c", "import sys; from paretune.cli.main import main; main()")
"""What stands before the arguments of ``paretune``."""
READ_AT_IMPORT = re.compile(
    r"(HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|TORCH|PYTORCH|OMP|MKL|OPENBLAS|CUDA|MALLOC|LD|PYTHON|MPL|XDG|ACCELERATE)_"
    r"|PYTHON(?!PATH$)|HOME$|LANG$|LC_|GLIBC_TUNABLES$"
)
"""Variables of the environment by which warm processes differ."""
THERE = sys.platform == "linux"


class Forked(subprocess.Popen):
    """A process started by a fork of a warm one, used as `subprocess.Popen` is.

    The command is this Python with ``-c CODE``, ``-m MODULE`` or ``FILE``, and arguments. Of the options those of streams, text,
    ``cwd`` and ``env`` are known. It computes with one thread.

    Raises:
        RuntimeError: The warm process has ended.
    """

    _told = -1

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """Have the fork made; `subprocess.Popen` has opened the streams."""
        if not THERE:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        cwd, env = rest[4:6]
        streams = rest[9:15]  # of input, output and errors: the end that is read and the end that is written
        environment = dict(os.environ if env is None else env)
        assert args[0] == sys.executable and environment.get("OMP_NUM_THREADS") == "1", args
        given = (streams[0], streams[3], streams[5])
        handles = [number if handle == -1 else handle for number, handle in enumerate(given)]
        job = {"arguments": list(args[1:]), "cwd": str(Path(cwd or ".").absolute()), "env": environment}
        try:
            self._told = _warm(environment).start(job, handles)
            self.pid = int(_line(self._told))
        finally:
            self._close_pipe_fds(*streams)
        self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """Return the process id and the status of `os.waitpid`, or zeros while the process runs."""
        if not THERE:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        waits = select.poll()
        waits.register(self._told, select.POLLIN)
        if not waits.poll(0 if wait_flags & os.WNOHANG else None):
            return 0, 0
        status = int(_line(self._told))
        os.close(self._told)
        return self.pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Return the exit status if there is one; at the end of the interpreter as `subprocess.Popen` wants it."""
        if not THERE:
            return super()._internal_poll(_deadstate)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (found := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(found[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(
    command: Sequence[str],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Do as `subprocess.run` does, by `Forked`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Warm:
    """A warm process and the socket on which it is told what to start."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        paths = [str(TESTS), str(TESTS.parent), environment.get("PYTHONPATH", "")]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.warm_process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=TESTS,
                env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self.socket, self.lock = ours, threading.Lock()
        threads = self.socket.recv(16).decode().strip()
        if threads != "1":
            self.close()
            raise RuntimeError(f"a fork needs a process with one thread, this one has {threads or 'ended'}")

    def start(self, job: Mapping[str, Any], handles: Sequence[int]) -> int:
        """Start a job on three streams; return the end of a pipe on which its process id and then its status are told."""
        told, tells = os.pipe()
        try:
            content = json.dumps(job).encode("utf-8", "surrogateescape")
            with self.lock:
                rights = array.array("i", [*handles, tells])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                self.socket.sendmsg([struct.pack("Q", len(content))], ancillary)
                self.socket.sendall(content)
        except OSError as error:
            os.close(told)
            raise RuntimeError("the warm process has ended") from error
        finally:
            os.close(tells)
        return told

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


_WARM: dict[tuple[int, str], _Warm] = {}
_STARTING = threading.Lock()


def _warm(environment: Mapping[str, str]) -> _Warm:
    """Return the warm process for an environment, started at the first call."""
    settings = sorted(item for item in environment.items() if READ_AT_IMPORT.match(item[0]))
    with _STARTING:
        key = os.getpid(), json.dumps(settings)
        if key not in _WARM:
            _WARM[key] = _Warm(environment)
        return _WARM[key]


@atexit.register
def close() -> None:
    """End the warm processes that this process started."""
    for key in [key for key in _WARM if key[0] == os.getpid()]:
        _WARM.pop(key).close()


def _line(handle: int) -> str:
    """Read a line that the warm process wrote; it writes each at once."""
    text = b""
    while not text.endswith(b"\n"):
        part = os.read(handle, 1)
        if not part:
            raise RuntimeError("the warm process has ended")
        text += part
    return text.decode()
