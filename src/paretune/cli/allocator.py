"""Settings of the process's memory."""

from __future__ import annotations

import ctypes
import os

KERNELS = 128
"""Kernels of oneDNN that are kept for the next product of their shape."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next tensor; return whether that worked (glibc only).

    By default glibc returns every large block to the system at once, so each step of training and decoding has all its
    memory zeroed and mapped anew, page by page. ``docs/performance.md`` has the gain. Set for the whole process, so only
    the command line does it.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 1 << 26}
    taken = [
        mallopt(name, value) == 1 for name, value in settings.items()
    ]  # one refused, the others still help
    return all(taken)


def limit_kernels() -> None:
    """Make oneDNN keep fewer kernels than its 1024, unless the environment sets the number; call it before torch is imported.

    Packed batches differ in length, so nearly every training step has shapes of its own, and the kernels kept for them grow to
    gigabytes. A step uses some twenty.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))
