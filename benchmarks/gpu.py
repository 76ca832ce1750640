"""What an accelerator makes of the library, in at most eight minutes: ``make gpu``; tiny, on the CPU: ``make gpu-tiny``.

    python -m benchmarks.gpu [--tiny] [--budget 480] [--only WORDS] [--page docs/performance.md]

Models of real shapes (0.5B, 4B, 8B) with random weights are made on the device: nothing is downloaded. First comes whether packed
batches compute what padded ones compute; then step, memory and share of the measured ceiling, beside TRL and a plain padded step;
4-bit weights, decoding, two processes, and what the plan says of each. A row that fails prints its error and costs no other; a row
for which no time is left says so. The exit code is 1 where one failed, and with ``--tiny`` where one was left out that a CPU
can run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.decoding import decoding
from benchmarks.device.equality import equality
from benchmarks.device.models import language_model, shape_of
from benchmarks.device.peers import padded_step, trl_step
from benchmarks.device.processes import two_processes
from benchmarks.device.rows import Figures, NotHereError, Outcome, Row, freed, measure, table
from benchmarks.device.training_step import Ceiling, Measured, Work, figures_of, library_step
from paretune.core.files import write_json, write_text
from paretune.models.devices import memory_of, present
from paretune.models.packed_attention.backends import BACKENDS

BEGIN, END = "<!-- written by benchmarks/gpu.py -->", "<!-- end of the accelerator's table -->"
PACKAGES = ("paretune", "torch", "transformers", "trl", "peft", "bitsandbytes", "liger-kernel")
BUDGET = 480.0
ACCELERATOR_ONLY = ("equality, attention varlen", "equality, attention flex")
"""Rows that a CPU cannot run; with ``--tiny`` all others have to be measured."""


class Bench:
    """What the rows share: the device, the sizes, and what is measured once.

    Attributes:
        device: The device.
        tiny: Whether a tiny model stands for all sizes.
        kind: The number format of training and decoding.
    """

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.kind = torch.bfloat16
        self.ceiling = cache(lambda: Ceiling.of(device, self.kind, 256 if tiny else 8192))
        self.steps: dict[str, Measured] = {}

    def size(self, name: str) -> str:
        """Return the size to run for one that is wanted."""
        return "tiny" if self.tiny else name

    def work(self, pairs: int, prompt: int, response: int) -> Work:
        """Return the pairs of a step, or few short ones."""
        return Work(2, 24, 9) if self.tiny else Work(pairs, prompt, response)

    def room(self, gigabytes: float) -> None:
        """Raise a :class:`NotHereError` where the device has less memory than a row needs."""
        there = memory_of(self.device) / 1e9
        if not self.tiny and there < gigabytes:
            raise NotHereError(f"it needs about {gigabytes:g} GB of memory, and the device has {there:.0f}")

    def rows(self) -> list[Row]:
        """Return all rows, those that decide first first."""
        short, long = self.work(4, 512, 256), self.work(8, 1024, 512)
        rows = [Row("machine", lambda: self.ceiling().figures(self.device), 15)]
        for name, backend in BACKENDS.items():
            if not backend.narrow:  # products are the CPU's alone
                rows.append(Row(f"equality, attention {name}", partial(self.equal, name), 20))
        rows += [Row("step, 0.5B", partial(self.step, "0.5b", short), 15)]
        rows += [
            Row(
                "step, 0.5B, padded, reference in the loop",
                partial(self.peer, padded_step, "0.5b", short),
                15,
            )
        ]
        rows += [Row("step, 0.5B, TRL's defaults", partial(self.peer, trl_step, "0.5b", short), 25)]
        rows += [Row("step, 8B", partial(self.step, "8b", short, memory=30), 30)]
        rows += [
            Row(
                "step, 8B in 4 bits (QLoRA), checkpointing",
                partial(self.step, "8b", short, True, True, 10),
                45,
            )
        ]
        rows += [Row("decoding, 0.5B", partial(self.decode, "0.5b"), 30)]
        rows += [Row("decoding, 8B", partial(self.decode, "8b", 20), 40)]
        rows += [Row("two processes, 0.5B", partial(self.two, short), 60)]
        rows += [Row("step, 4B", partial(self.step, "4b", short, memory=20), 25)]
        rows += [Row("step, 4B, TRL's defaults", partial(self.peer, trl_step, "4b", short, 40), 40)]
        rows += [
            Row(
                "step, 4B, padded, reference in the loop",
                partial(self.peer, padded_step, "4b", short, 70),
                40,
            )
        ]
        rows += [
            Row("step, 4B, long texts, checkpointing", partial(self.step, "4b", long, True, memory=24), 40)
        ]
        return rows

    def equal(self, attention: str) -> Figures:
        """Compare packed batches with padded eager ones."""
        lengths = (
            [(24, (9, 7)), (5, (3, 4)), (1, (6, 2))]
            if self.tiny
            else [(700, (90, 60)), (64, (70, 80)), (1, (30, 40))]
        )
        return equality(self.size("0.5b"), lengths, self.device, attention)

    def step(
        self, size: str, work: Work, checkpointing: bool = False, nf4: bool = False, memory: float = 0
    ) -> Figures:
        """Take the library's step."""
        self.room(memory)
        lm = language_model(self.size(size), self.device, self.kind, nf4)
        measured = library_step(lm, work, checkpointing)
        if not checkpointing and not nf4:
            self.steps[size] = measured
        return figures_of(
            measured, shape_of(self.size(size)), self.kind, work, checkpointing, self.ceiling(), nf4
        )

    def peer(self, way: Callable[..., Measured], size: str, work: Work, memory: float = 0) -> Figures:
        """Take another's step, on the same texts."""
        self.room(memory)
        measured = way(self.size(size), self.device, self.kind, work)
        figures: dict[str, float | str] = {"work": str(work), "step, ms": 1e3 * measured.seconds}
        if measured.memory is not None:
            figures["peak of memory, GB"] = measured.memory / 1e9
        if (ours := self.steps.get(size)) is not None:
            figures["times as long as the library's"] = measured.seconds / ours.seconds
            if measured.memory is not None and ours.memory is not None:
                figures["times the library's memory"] = measured.memory / ours.memory
        return figures

    def decode(self, size: str, memory: float = 0) -> Figures:
        """Decode rows of mixed preferences."""
        self.room(memory)
        lm = language_model(self.size(size), self.device, self.kind)
        return decoding(lm, (1, 2, 4), 12, 4) if self.tiny else decoding(lm, (1, 8, 64), 256, 64)

    def two(self, work: Work) -> Figures:
        """Take the library's step in two processes."""
        alone = self.steps.get("0.5b")
        if alone is None:
            raise NotHereError("the step of one process was not measured")
        return two_processes(alone, self.size("0.5b"), self.device, self.kind, work)


def machine(bench: Bench) -> dict[str, Any]:
    """Return where and with what it was measured."""
    found = {name: _version(name) for name in PACKAGES}
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor()
    return {
        "device": f"{bench.device.type}: {name or platform.machine()}",
        "memory, GB": round(memory_of(bench.device) / 1e9, 1),
        "number format": str(bench.kind).removeprefix("torch."),
        "packages": {name: version for name, version in found.items() if version},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main(given: Sequence[str] | None = None) -> int:
    """Measure all rows and print them; return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model on the CPU: every row, whose figures mean nothing"
    )
    parser.add_argument("--device", help="the device; by default an accelerator")
    parser.add_argument(
        "--budget",
        type=float,
        help=f"seconds after which no row is begun; by default {BUDGET:.0f}, with --tiny all are run",
    )
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--page", type=Path, help="page that has a place for the table")
    arguments = parser.parse_args(given)
    device = present(arguments.device or ("cpu" if arguments.tiny else None))
    if device.type == "cpu" and not arguments.tiny:
        print(
            "no accelerator here: the models would take hours; give --tiny, which runs every row on the CPU",
            file=sys.stderr,
        )
        return 2
    torch.set_float32_matmul_precision("highest")  # what is called float32 is to be float32
    bench = Bench(device, arguments.tiny)
    rows = [row for row in bench.rows() if arguments.only in row.name]
    freed(device)
    budget = arguments.budget or (float("inf") if arguments.tiny else BUDGET)
    outcomes = measure(rows, budget, _say, device)
    facts = machine(bench)
    told = "; ".join(f"{key} {value}" for key, value in facts.items() if key != "packages")
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    page = table(outcomes, f"Measured on {told}; {versions}.")
    print(page)
    out = arguments.out or Path("benchmarks/results") / ("gpu-tiny.json" if arguments.tiny else "gpu.json")
    write_json(
        out, {"machine": facts, "tiny": arguments.tiny, "rows": [outcome.to_dict() for outcome in outcomes]}
    )
    if arguments.page:
        write_text(arguments.page, placed(arguments.page.read_text(encoding="utf-8"), page))
    lost = [o for o in outcomes if o.status == "left out" and o.name not in ACCELERATOR_ONLY]
    if arguments.tiny and lost:
        print(
            f"left out, and a CPU can run them: {'; '.join(f'{o.name} ({o.message})' for o in lost)}",
            file=sys.stderr,
        )
    return int(any(outcome.status == "failed" for outcome in outcomes) or (arguments.tiny and bool(lost)))


def placed(page: str, found: str) -> str:
    """Return a page with the table between its two marks.

    Raises:
        SystemExit: The page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no place for the table: expected {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{found}\n\n{END}{after}"


def _say(outcome: Outcome) -> None:
    print(
        f"{outcome.status}: {outcome.name} ({outcome.seconds:.1f} s) {outcome.message}",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
