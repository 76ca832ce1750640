"""How the threads of a computation wait for each other."""

from __future__ import annotations

import os

SPINS = 2000
"""Rounds that a thread spins for the next piece of work before it sleeps, about 0.1 ms; GNU's own number is 300,000."""
MILLISECONDS = 1
"""The same for the runtime of LLVM and Intel, which counts time; its own number is 200."""
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a person chooses; one of them is enough."""


def wait_briefly() -> None:
    """Make threads that wait sleep soon, unless the environment says how they wait; call it before torch is imported.

    Every operation on several threads ends when the last of them is done. Beside other programs that one may not be running, and
    spinning threads then take its processor. ``docs/performance.md`` has the gain.
    """
    if not any(os.environ.get(name) for name in CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
        os.environ["KMP_BLOCKTIME"] = str(MILLISECONDS)
