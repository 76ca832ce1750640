"""Two processes that share a step, against one that takes it alone.

python -m torch.distributed.run --nproc_per_node 2 -m benchmarks.device.processes SIZE FORMAT DEVICE PAIRS PROMPT RESPONSE
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from benchmarks.device.models import language_model
from benchmarks.device.rows import Figures, NotHereError
from benchmarks.device.training_step import Measured, Work, library_step
from paretune.models.distributed import start

LOOSE = 0.02
"""Largest relative difference of the loss, which is a mean over rows that are added in another order."""


def two_processes(alone: Measured, size: str, device: torch.device, kind: torch.dtype, work: Work) -> Figures:
    """Take the step of ``alone`` in two processes.

    Raises:
        NotHereError: There is one device.
        RuntimeError: The processes fail, or their loss is another.
    """
    if device.type != "cpu" and torch.accelerator.device_count() < 2:
        raise NotHereError(f"there is one device of the kind {device.type}")
    name = str(kind).removeprefix("torch.")
    numbers = [str(number) for number in (work.pairs, work.prompt, work.response)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "benchmarks.device.processes", size, name, device.type, *numbers],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = [line.strip() for line in done.stderr.splitlines() if "Error" in line]
        raise RuntimeError(f"two processes ended with {done.returncode}: {(said or [done.stderr[-250:]])[0]}")
    found = json.loads(lines[-1])
    if not abs(found["loss"] - alone.loss) <= LOOSE * abs(alone.loss):
        raise RuntimeError(f"the loss of two processes is {found['loss']:.6g}, that of one {alone.loss:.6g}")
    return {
        "step in two processes, ms": 1e3 * found["seconds"],
        "times as fast as one": alone.seconds / found["seconds"],
        "loss of two, relative to that of one": found["loss"] / alone.loss - 1,
    }


def main(size: str, name: str, place: str, *numbers: str) -> None:
    """Be one of two processes; the first prints what it measured."""
    accelerator = start(torch.device(place), 2)
    lm = language_model(size, accelerator.device, getattr(torch, name))
    measured = library_step(lm, Work(*map(int, numbers)), accelerator=accelerator)
    if accelerator.is_main_process:
        print(json.dumps({"seconds": measured.seconds, "loss": measured.loss}))


if __name__ == "__main__":
    main(*sys.argv[1:])
