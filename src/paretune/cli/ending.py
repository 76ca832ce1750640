"""How a command ends: its exit code, and one message for whatever went wrong."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import typer

from paretune.core.errors import ParetuneError, lacks_memory
from paretune.core.files import cache_folder
from paretune.core.launch import one_voice

MISTAKE, UNEXPECTED, STOPPED = 2, 1, 130
"""Exit codes: a mistake that the message explains, an error of this program, and Ctrl-C."""

OUTPUT = (errno.ENOSPC, errno.EPIPE, errno.EBADF, errno.EIO)
"""How writing to the terminal, a file or a pipe fails, where the error names no file."""


def run_to_end(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; what goes wrong is told in one message."""
    try:
        _check_arguments()
        with one_voice():
            command()
        code = 0
    except SystemExit as end:  # typer has printed what is wrong with an option, and ends so after Ctrl-C too
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except ParetuneError as error:
        code = _told(str(error), MISTAKE)
    except KeyboardInterrupt:
        code = STOPPED
    except MemoryError as error:
        code = _told(_memory(error), MISTAKE)
    except Exception as error:  # noqa: BLE001 - the last resort: a message, and the traceback in a file
        code = _unexpected(error)
    if code == STOPPED:
        typer.secho(
            "paretune: stopped; the same command goes on from the last checkpoint", fg="yellow", err=True
        )
    return _flushed(code)


def open_streams() -> None:
    """Give a process that was started without output or error streams some that go nowhere, and let no character stop a message."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_arguments() -> None:
    for argument in sys.argv[1:]:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ParetuneError(
                f"the argument {shown!r:.80} has bytes that are not UTF-8; give it as UTF-8"
            ) from error


def _told(message: str, code: int) -> int:
    with suppress(OSError):  # nobody listens
        typer.secho(f"paretune: {message}", fg="red", err=True)
    return code


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in OUTPUT and error.filename is None:
        return _told(_output(error), MISTAKE)
    if isinstance(error, OSError) and error.filename is not None:
        return _told(f"{error.filename}: {error.strerror}", MISTAKE)
    if lacks_memory(error):
        return _told(_memory(error), MISTAKE)
    words = " ".join(str(error).split())
    kind = type(error).__name__
    return _told(
        f"unexpected error, {kind}: {words:.300}. {_saved(error)} What is finished is kept, and the same command goes on from "
        "there. Please report it with this file",
        UNEXPECTED,
    )


def _saved(error: Exception) -> str:
    """Write the traceback into a file and return a sentence that names it."""
    text = "".join(traceback.format_exception(error))
    name = f"paretune-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (_tracebacks, lambda: Path(tempfile.gettempdir())):
        try:
            file = folder() / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{' '.join(sys.argv)}\n\n{text}", encoding="utf-8")
        except (OSError, RuntimeError):
            continue
        return f"The traceback is in {file}."
    return f"No traceback could be saved: {text.strip().splitlines()[-2].strip()}."


def _tracebacks() -> Path:
    return cache_folder() / "tracebacks"


def _memory(error: BaseException) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"out of memory{f' ({reason})' if reason else ''}; what is finished is kept. Give smaller numbers, such as batch sizes and "
        "lengths, or use a machine with more memory; `paretune plan` says what a run needs"
    )


def _output(error: OSError) -> str:
    return f"cannot write the output ({error.strerror}); what the command has made in files is kept"


def _flushed(code: int) -> int:
    """Flush the output and return the exit code: where that fails the command has not said all that it was to say."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), 1 if stream is sys.stdout else 2
            )  # or the interpreter would try again
            if code == 0 and stream is sys.stdout:
                code = _told(_output(error), MISTAKE) if isinstance(error, OSError) else MISTAKE
    return code
