"""Several processes of one run, as a launcher such as torchrun starts them: the number of this one, and which one prints."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from paretune.core.errors import ParetuneError

GRACE = 5.0
"""Seconds that the launcher has to end a process that failed because another did; after that the process ends itself."""


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def launched() -> int:
    """Return how many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def one_voice() -> Iterator[None]:
    """Silence all processes but the first, and all failures but the first, which causes the others.

    Raises:
        SystemExit: Another process failed before and has printed its error.
        ParetuneError: Another process ended without an error message.
    """
    if launched() == 1:
        yield
        return
    with ExitStack() as stack:
        if rank() > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if not _first_to_fail():
                time.sleep(GRACE)
                raise SystemExit(2 if isinstance(error, ParetuneError) else 1) from None
            if _lost(error):
                raise ParetuneError(
                    "another process of this run ended without an error message (killed, or out of memory?); the same command "
                    f"continues from the last checkpoint. Process {rank()} noticed this: {str(error).splitlines()[0]}"
                ) from None
            raise


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
        store = TCPStore(*address, is_master=False, wait_for_workers=False)
        return store.add(f"paretune/failed/{attempt}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True
