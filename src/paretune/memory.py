"""How the process holds memory."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensor; tell whether it could be asked to (glibc only).

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
