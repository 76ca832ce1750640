"""The scorer that calls a Python function of the user, in a process of its own."""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np

from paretune.core.errors import ConfigError, ParetuneError, ScoreError, suggest
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring import function_process
from paretune.scoring.function_scorer import FunctionScorer, RowScoreError, from_function

TIME_LIMIT = 600.0
"""Seconds that one call of the function may take; a call is about at most 512 responses."""

GLANCE = 1.0
"""Seconds between two looks at whether the process is still there."""


def python_function(objective: str, function: str, time_limit: float = TIME_LIMIT) -> FunctionScorer:
    """Score with a Python function named ``module:function``; the working folder is searched too.

    The function receives the prompts (each a list of ``{"role", "content"}``) and the responses (a list of str) of some
    rows. It returns one finite number per row, higher is better, and judges each row alone. It runs in a process of its own.
    Editing the module's source file invalidates cached scores; editing the modules that it imports does not.

    Args:
        objective: Name of the objective.
        function: ``module:function``.
        time_limit: Seconds that one call may take, for at most 512 responses; loading the module counts for itself.

    Raises:
        ConfigError: There is no such module or function, or it cannot be imported within the limit.
        ScoreError: When called, the function raises, exits, takes too long, or returns something else; names the function, and the
            row where one row fails alone.
    """
    if (
        isinstance(time_limit, bool)
        or not isinstance(time_limit, (int, float))
        or not 0 < time_limit < math.inf
    ):
        raise ConfigError(f"time_limit: {time_limit!r}: expected a number of seconds above 0")
    function_name(function)
    process = FunctionProcess(function, time_limit)
    source = process.start()

    def run(prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]) -> np.ndarray:
        answer = process.rate(prompts, responses)
        if "scores" in answer:
            return np.array(answer["scores"], dtype=np.float64)
        fault = f"function {function!r} {answer['error']}"
        if "row" in answer:
            raise RowScoreError(answer["row"], fault)
        raise ScoreError(f"objective {objective!r}: {fault}")

    return from_function(objective, fingerprint(["function", function], source), run)


def function_name(name: str) -> tuple[str, str]:
    """Return module and function of ``module:function``.

    Raises:
        ConfigError: It is not of this form.
    """
    module, separator, attribute = name.partition(":")
    if not (
        separator and module and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))
    ):
        raise ConfigError(f"function: {name!r}: expected module:function, for example my_scores:politeness")
    return module, attribute


class FunctionProcess:
    """The process in which a function runs; started when needed, ended with the run or when the function fails to answer.

    Attributes:
        function: ``module:function``.
        limit: Seconds for one answer.
    """

    def __init__(self, function: str, limit: float) -> None:
        self.function = function
        self.limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: tuple[int, int] = (-1, -1)
        self._errors: IO[bytes] | None = None
        self._ending: Callable[[], object] = lambda: None
        self._lock = Lock()

    def start(self) -> bytes:
        """Start the process, let it import the function and return the content of the module's file.

        Raises:
            ConfigError: The module cannot be imported, or has no such function.
        """
        theirs, ours = os.pipe(), os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [
                sys.executable,
                function_process.__file__,
                self.function,
                str(theirs[0]),
                str(ours[1]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(theirs[0], ours[1]),
            start_new_session=True,  # so that its own children can be ended with it
        )
        os.close(theirs[0])
        os.close(ours[1])
        self._pipes = (ours[0], theirs[1])
        # At the latest when the run ends, or nobody holds the scorer any more.
        self._ending = weakref.finalize(self, _end, self._process, self._pipes, self._errors)
        try:
            # The working folder comes last, so that no file of it hides an installed module.
            self._send(json.dumps([*sys.path, str(Path.cwd())]).encode() + b"\n")
            answer = self._answer()
        except ScoreError as error:
            raise ConfigError(f"function: {self.function!r}: importing its module {error}") from error
        if "error" in answer:
            self.end()
            module, attribute = function_name(self.function)
            if not answer["error"]:
                raise ConfigError(
                    f"function: {self.function!r}: {module} has no function {attribute!r}: {suggest(attribute, answer['names'])}"
                )
            raise ConfigError(
                f"function: {self.function!r}: {answer['error']}; run from its folder, install it, or put its folder on PYTHONPATH"
            )
        file = Path(answer["file"])
        try:
            return file.read_bytes() if answer["file"] else b""
        except OSError as error:
            raise ParetuneError(f"{file}: cannot read ({error.strerror or error})") from error

    def rate(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Any]:
        """Return the answer of :func:`paretune.scoring.function_process.rated`.

        Raises:
            ScoreError: The process ended, or gave no answer in time.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.end()
                self.start()
            asked = {
                "prompts": [[{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts],
                "responses": list(responses),
            }
            self._forget_printed()
            try:
                self._send(json.dumps(asked).encode() + b"\n")
                return self._answer()
            except ScoreError as error:
                raise ScoreError(
                    f"function {self.function!r}: {error}, on {len(responses)} responses, the first of them {responses[0][:60]!r}"
                ) from error

    def end(self) -> None:
        """End the process with all that it has started."""
        self._ending()
        self._process = self._errors = None

    def _send(self, line: bytes) -> None:
        deadline, pipe = time.monotonic() + self.limit, self._pipes[1]
        os.set_blocking(pipe, False)
        while line:
            _, ready, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._late()
            try:
                line = line[os.write(pipe, line) :]
            except BrokenPipeError:
                self._ended()

    def _answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            ScoreError: The process ended, or the time is over; in words that follow the name of the function.
        """
        deadline, pipe, read = time.monotonic() + self.limit, self._pipes[0], b""
        while not read.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([pipe], [], [], min(left, GLANCE))
            if not ready and left:
                # A process that it has started may hold the pipe open when it has ended itself.
                if self._process is None or self._process.poll() is not None:
                    self._ended()
                continue
            if not ready:
                self._late()
            part = os.read(pipe, 1 << 20)
            if not part:
                self._ended()
            read += part
        try:
            answer = json.loads(read)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.end()
            raise ScoreError(
                "wrote into the pipe by which it answers, a file that it did not open; let it write to standard output, or to "
                "files that it opens"
            )
        return answer

    def _late(self) -> None:
        place = self._place()
        self.end()
        raise ScoreError(
            f"gave no answer within {self.limit:g} seconds{place}; if it needs longer, set time_limit for this scorer"
        )

    def _place(self) -> str:
        """Return the file, line and name of what the function does now, in words; empty where it does not say."""
        if self._process is None or self._process.poll() is not None:
            return ""
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        known = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', self._printed(), re.MULTILINE)
        return f" (it stands at {known[0][0]}:{known[0][1]}, {known[0][2]})" if known else ""

    def _ended(self) -> None:
        process = self._process
        code = process.wait() if process is not None else 0
        said = self._last_words()
        self.end()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise ScoreError(f"ended its process {how}{said}")

    def _last_words(self) -> str:
        """Return the last line that the process printed."""
        lines = self._printed().strip().splitlines()
        return f" ({lines[-1][:200]!r} was its last line)" if lines else ""

    def _printed(self) -> str:
        """Return the end of what the process printed since the last request."""
        if self._errors is None:
            return ""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4000))
        return self._errors.read().decode("utf-8", "replace")

    def _forget_printed(self) -> None:
        if self._errors is not None:
            self._errors.seek(0)  # the process writes on from there too: it shares the file's position
            self._errors.truncate()


def _end(process: subprocess.Popen[bytes], pipes: tuple[int, int], errors: IO[bytes]) -> None:
    """End a process with all that it has started, and close what led to it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in pipes:
        os.close(pipe)
    errors.close()
