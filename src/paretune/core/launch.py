"""Several processes of one run, as a launcher such as torchrun starts them: the number of this one, and which one prints."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

from paretune.core.errors import ParetuneError

GRACE = 5.0
"""Seconds that the launcher has to end a process that failed because another did; after that the process ends itself."""


LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that a launcher of several processes sets, such as torchrun."""


def rank() -> int:
    """Return the number of this process, from 0.

    Raises:
        ParetuneError: The variable is no number.
    """
    return _number("RANK", 0) if launched() > 1 else 0


def launched() -> int:
    """Return how many processes the launcher started; 1 without a launcher.

    Raises:
        ParetuneError: The variable is no number.
    """
    return max(1, _number("WORLD_SIZE", 1))


def check_launcher() -> None:
    """Raise a ParetuneError where several processes seem to be started, but not by a launcher: after a job on a cluster."""
    missing = [name for name in LAUNCHER if not os.environ.get(name)]
    if missing:
        raise _left_over(f"{', '.join(missing)} is not set")
    if _number("RANK", 0) >= launched() or _number("LOCAL_RANK", 0) >= launched():
        raise _left_over("the numbers start at 0, and end below WORLD_SIZE")
    _number("MASTER_PORT", 0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.strip().isdecimal():
        raise _left_over(f"{name} is no number")
    return int(text)


def _left_over(reason: str) -> ParetuneError:
    given = ", ".join(f"{name}={os.environ[name]}" for name in LAUNCHER if os.environ.get(name))
    return ParetuneError(
        f"the environment says that this is one of several processes of a run ({given}), but not as a launcher does: {reason}. "
        f"Start the processes with torchrun, or for one process: unset {' '.join(LAUNCHER)}"
    )


@contextmanager
def one_voice() -> Iterator[None]:
    """Silence all processes but the first, and all failures but the first, which causes the others.

    Raises:
        SystemExit: Another process failed before and has printed its error, or the launcher ended this one.
        ParetuneError: Another process ended without an error message.
    """
    if launched() == 1:
        yield
        return
    with ExitStack() as stack:
        if rank() > 0 and os.environ.get("MASTER_ADDR"):  # else the variables are left over from another job
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if _ended(error):
                raise SystemExit(128 + signal.SIGTERM) from None
            if not _first_to_fail():
                with suppress(Exception):  # the launcher's signal, where it comes as an exception
                    time.sleep(GRACE)
                raise SystemExit(2 if isinstance(error, ParetuneError) else 1) from None
            if _lost(error):
                raise ParetuneError(
                    "another process of this run ended without an error message (killed, or out of memory?); the same command "
                    f"continues from the last checkpoint. Process {rank()} noticed this: {str(error).splitlines()[0]}"
                ) from None
            raise


def _ended(error: BaseException) -> bool:
    """Return whether an error is the launcher's signal to end, which is an exception in processes forked from the launcher."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    return isinstance(error, SignalException)


def _lost(error: BaseException) -> bool:
    """Return whether an error is a lost connection to another process."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_to_fail() -> bool:
    """Return whether no other process has failed before; a store that cannot be reached counts as none."""
    from torch.distributed import TCPStore

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        waited = timedelta(seconds=2 * GRACE)
        store = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=waited)
        return store.add(f"paretune/failed/{attempt}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True
