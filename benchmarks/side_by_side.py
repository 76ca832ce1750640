"""What the benchmarks share: ways run in turn, ratios with their spread, the gate, the machine, one JSON a benchmark.

A *way* runs one thing once and returns the seconds (or bytes) it took. All ways of a figure run in turn in one process, so
that what else happens on the machine disturbs them alike; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.cli.allocator import keep_freed_memory, limit_kernels
from paretune.core.files import write_json

RESULTS = Path("benchmarks/results")
PACKAGES = ("paretune", "torch", "transformers", "trl", "peft", "moocore", "pymoo")

Way = Callable[[], float]
"""Runs once and returns what it took."""


def options(description: str, name: str, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has; ``name`` is that of its JSON file."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="how often the ways are run in turn")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def start() -> None:
    """Have this process compute on one thread and keep freed memory, so that no way pays for mapping it anew."""
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()
    limit_kernels()


def clocked(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> Way:
    """Return the way that runs ``run``, by the process's CPU-seconds unless another clock is given."""

    def way() -> float:
        begin = clock()
        run()
        return clock() - begin

    return way


def in_turn(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Run all ways in turn, ``rounds`` times, and return what each took each time."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
        said = ", ".join(f"{name} {values[-1]:.4g}" for name, values in taken.items())
        print(f"round {number + 1}: {said}", flush=True)
    return taken


def figure(
    what: str,
    taken: Mapping[str, Sequence[float]],
    ours: str,
    theirs: str,
    unit: str = "CPU-s",
    note: str = "",
) -> dict[str, Any]:
    """Return one row of the table: how often ``theirs`` takes what ``ours`` takes, by round (above 1: ours is ahead).

    Memory (a unit of bytes) is the share of theirs that ours takes, so that below 1 ours is ahead.
    """
    share = unit == "MB"
    each = [a / b if share else b / a for a, b in zip(taken[ours], taken[theirs], strict=True)]
    shown = f"{what}: {ours} {_spread(taken[ours])} {unit}, {theirs} {_spread(taken[theirs])} {unit}; ratio {_spread(each)}"
    print(shown + (f" ({note})" if note else ""), flush=True)
    return {
        "what": what,
        "ours": ours,
        "against": theirs,
        "unit": unit,
        "taken": {name: [float(f"{value:.6g}") for value in taken[name]] for name in (ours, theirs)},
        "ratio": {
            "of": {"MB": "memory", "tokens": "tokens"}.get(unit, "speed"),
            "median": statistics.median(each),
            "low": min(each),
            "high": max(each),
        },
        "note": note,
    }


def not_run(what: str, ours: str, theirs: str, taken: Sequence[float], unit: str, why: str) -> dict[str, Any]:
    """Return the row of a figure whose peer was not run, with the reason; without ``taken`` ours was not run either."""
    print(f"{what}: {ours} {_spread(taken) + ' ' + unit if taken else why}, {theirs} {why}", flush=True)
    values = [float(f"{value:.6g}") for value in taken]
    return {"what": what, "ours": ours, "against": theirs, "unit": unit, "taken": {ours: values}, "note": why}


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def same(
    what: str, found: Mapping[str, Sequence[float]], relative: float, absolute: float = 0.0
) -> dict[str, Any]:
    """Return that all ways found the numbers of the first within the tolerance; otherwise end the process with them."""
    first, *others = found.values()
    apart = [
        _share(abs(a - b), relative * abs(a) + absolute)
        for numbers in others
        for a, b in zip(first, numbers, strict=True)
    ]
    if not all(share <= 1 for share in apart):  # so that NaN is no agreement
        sys.exit(
            f"{what} differ beyond {relative:g} relative + {absolute:g}, so the figures mean nothing: {dict(found)}"
        )
    worst = max(apart, default=0.0)
    print(f"same {what} ({worst:.2g} of the tolerance)", flush=True)
    values = {name: [float(number) for number in numbers] for name, numbers in found.items()}
    return {
        "what": what,
        "relative": relative,
        "absolute": absolute,
        "share_of_tolerance": worst,
        "values": values,
    }


def _share(difference: float, allowed: float) -> float:
    return difference / allowed if allowed else (math.inf if difference != 0 else 0.0)


def same_tokens(what: str, found: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Any]:
    """Return that all ways drew the same tokens for every row; otherwise end the process with the rows that differ."""
    (name, first), *others = found.items()
    for other, rows in others:
        differ = [
            number
            for number, pair in enumerate(zip(first, rows, strict=True))
            if list(pair[0]) != list(pair[1])
        ]
        if differ:
            row = differ[0]
            sys.exit(
                f"{what} differ in {len(differ)} of {len(first)} rows, so the figures mean nothing; the first: "
                f"{name} {list(first[row])}, {other} {list(rows[row])}"
            )
    print(f"same {what}: {len(first)} rows by {', '.join(found)}", flush=True)
    return {"what": what, "ways": list(found), "rows": len(first), "tokens": sum(map(len, first))}


def write(
    arguments: argparse.Namespace,
    benchmark: str,
    title: str,
    figures: Sequence[Mapping[str, Any]],
    equal: Sequence[Mapping[str, Any]],
    **more: Any,
) -> None:
    """Write the figures of benchmark ``B..`` with what was checked, the settings, the machine and ``more`` to ``arguments.out``."""
    settings = {name: _told(value) for name, value in vars(arguments).items() if name != "out"}
    result = {
        "benchmark": benchmark,
        "title": title,
        "figures": list(figures),
        "equal": list(equal),
        "settings": settings,
        "machine": machine(),
        **more,
    }
    write_json(arguments.out, result)


def _told(value: object) -> object:
    """Return a setting as results tell it: of a place on this machine its name alone."""
    if isinstance(value, str | Path) and Path(value).is_absolute():
        return Path(value).name
    return str(value) if isinstance(value, Path) else value


def machine() -> dict[str, Any]:
    """Return the processor, how busy it is, and the versions that decide the figures."""
    return {
        "processor": _processor(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def instructions() -> str:
    """Return the widest instructions for products that the processor has, such as ``AVX-512 with bfloat16``."""
    import torch

    has = torch.cpu.get_capabilities()
    kinds = {
        "amx_tile": "AMX",
        "avx512_bf16": "AVX-512 with bfloat16",
        "avx512_f": "AVX-512",
        "avx2": "AVX2",
    }
    return next((name for flag, name in kinds.items() if has.get(flag)), "no vector instructions known")


def _processor() -> str:
    """Return the processor's name, with family and model, as virtual machines give several generations one name."""
    file = Path("/proc/cpuinfo")
    facts = (
        dict(re.findall(r"^([\w ]+?)\s*: (.+)$", file.read_text(), re.MULTILINE)) if file.is_file() else {}
    )
    if "model name" not in facts:
        return platform.processor()
    which = [
        f"{label} {facts[key]}"
        for label, key in (("family", "cpu family"), ("model", "model"))
        if key in facts
    ]
    return facts["model name"] + (f" ({', '.join(which)})" if which else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
