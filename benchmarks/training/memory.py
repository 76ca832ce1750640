"""B5: the peak memory of a DPO step against TRL's DPOTrainer, at the shapes of `step.py`, each in a process of its own.

    python -m benchmarks.training.memory [--rounds 2] [--dtype float32] [--pairs 4] [--prompt 150 200] [--response 60 90]

The peak is that of resident memory while a second step runs, with everything loaded; beside the whole of it stands what it
is above the memory held before the first step, which is what a step needs. The C library's own settings, as a script has
them. They count only when both give the same loss, norm of the gradient and rewards. Linux only: it is asked for the peak
since a moment.

A third row has the library without its prepacked copies of frozen weights (`PARETUNE_PREPACK=0`): less memory, slower products.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.side_by_side import figure, options, same, write
from benchmarks.training.inputs import Step, library_step, pair_options, pair_table, random_lora
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel, load
from paretune.training.token_tables import PairTable

PEERS = {"TRL, reference in the loop": False, "TRL, reference precomputed": True}
PLAIN = "paretune, PARETUNE_PREPACK=0"
OURS = ("paretune", PLAIN)
MEGABYTE = 1_000_000


def prepared(way: str, arguments: argparse.Namespace) -> Callable[[], Step]:
    """Return the step of ``way``."""
    import torch

    torch.set_num_threads(1)
    if way in OURS:
        lm, table, lora = inputs(arguments)
        return lambda: library_step(lm, table, lora, arguments)
    from benchmarks.training.trl_step import quiet, trl_step

    quiet()
    _, table, lora = inputs(arguments)
    how = arguments.targets, arguments.checkpointing, PEERS[way]
    return trl_step(arguments.model, getattr(torch, arguments.dtype), table, lora, *how)


def inputs(arguments: argparse.Namespace) -> tuple[LanguageModel, PairTable, Adapter]:
    """Return the library's model, the pairs, and the LoRA to begin at."""
    lm = load(arguments.model, arguments.dtype, "cpu")
    return lm, pair_table(lm, arguments), random_lora(lm, arguments.targets, seed=1)


def peak() -> int:
    """Return the peak of this process's resident memory, in bytes, since :func:`forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Begin anew with the peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a step of ``way`` computes, the peak of memory in it, and what was held before, in bytes."""
    step = prepared(way, arguments)
    before = psutil.Process().memory_info().rss
    step()
    forget_peak()
    found = step()
    return {"numbers": found.numbers, "peak": peak(), "before": before}


def child(way: str, given: Sequence[str]) -> dict[str, Any]:
    """:func:`measure` ``way`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training.memory", *given, "--of", way]
    environment = {**os.environ, "PARETUNE_PREPACK": str(int(way != PLAIN))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read(given: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = options(__doc__ or "", "memory", rounds=2)
    pair_options(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--checkpointing", action="store_true", help="TRL's gradient checkpointing")
    parser.add_argument("--of", choices=[*OURS, *PEERS], help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    given = sys.argv[1:] if given is None else list(given)
    arguments = read(given)
    if arguments.of:
        print(json.dumps(measure(arguments.of, arguments)))
        return
    del arguments.of
    ways = (*OURS, *PEERS)
    rounds = [{way: child(way, given) for way in ways} for _ in range(arguments.rounds)]
    numbers = {way: [number for each in rounds for number in each[way]["numbers"]] for way in ways}
    loose = arguments.dtype == "bfloat16"
    equal = [
        same(
            "loss, gradient norm and rewards",
            numbers,
            relative=0.05 if loose else 1e-4,
            absolute=0.1 if loose else 2e-4,
        )
    ]
    peaks = {way: [each[way]["peak"] / MEGABYTE for each in rounds] for way in numbers}
    above = {
        way: [(each[way]["peak"] - each[way]["before"]) / MEGABYTE for each in rounds] for way in numbers
    }
    figures = [
        figure(f"peak memory{what}, {arguments.dtype}, {arguments.pairs} pairs", taken, ours, peer, "MB")
        for what, taken in ((" of the process", peaks), (" of the step alone", above))
        for ours in OURS
        for peer in PEERS
    ]
    write(arguments, "B5", "Peak memory of a DPO step", figures, equal)


if __name__ == "__main__":
    main()
