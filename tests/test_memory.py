"""Freed memory is kept for the next tensor."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from paretune.memory import keep_freed_memory

size = 2**25  # no constant: folding it would make it once
assert not {ask} or keep_freed_memory()
b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(ask: bool) -> int:
    # glibc's own allocator with its own settings, whatever the tests run on.
    allocator = ("MALLOC_", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(allocator)}
    command = [sys.executable, "-c", FAULTS.format(ask=ask)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_a_freed_block_is_not_mapped_anew() -> None:
    assert faults(ask=True) < 100 < 1000 < faults(ask=False)
