"""A child process that is killed by order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from paretune.training import loop


def killed(at: int, train: Callable[[], object]) -> int:
    """Run ``train`` in a child process that is killed by SIGKILL at optimiser step ``at``; return its exit status."""
    child = os.fork()
    if child == 0:
        step = loop._Loop.step

        def deadly(self: loop._Loop, number: int, held_out: loop.Record) -> loop.Record:
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, number, held_out)

        loop._Loop.step = deadly  # type: ignore[method-assign]
        try:
            train()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
