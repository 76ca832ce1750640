"""Freed memory is kept for the next tensor; kernels are not kept for every shape there ever was."""

import os
import platform
import subprocess
import sys

import pytest

from paretune.cli.allocator import KERNELS, limit_kernels

FAULTS = """
import resource
from paretune.cli.allocator import keep_freed_memory

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


def test_kernels_are_limited_where_nobody_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    limit_kernels()
    assert os.environ["LRU_CACHE_CAPACITY"] == str(KERNELS)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


def test_the_command_line_limits_them_before_torch_is_there() -> None:
    code = (
        "import os, sys; from paretune.cli import main as cli; cli.app = lambda **_: print(os.environ['LRU_CACHE_CAPACITY'],"
        " 'torch' in sys.modules); cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LRU_CACHE_CAPACITY"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split() == [str(KERNELS), "False"]
