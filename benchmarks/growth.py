"""How time and memory grow with rows, response length, objectives, preferences and served policies, on a tiny random model.

    python -m benchmarks.growth [--rounds 2] [--only AXIS ...] [--out docs/performance/growth.json] [--picture growth.png]

Each axis runs the library at growing sizes with all else fixed, each size in a process of its own on one thread, and measures
CPU-seconds and how far the process's peak of memory rises. A run is divided by its own profile (``stages.json``) into training,
measuring and all else. The exponent of growth is the slope of a line through the logarithms of sizes and medians, both less the
first (least squares, the upper half of the sizes): 1 is linear, 2 quadratic. Writes JSON and a picture, and prints what grows
faster than linearly. Axes that ``--only`` does not name stay as the file has them.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.growth_axes import AXES, Axis, Work, write_model
from benchmarks.side_by_side import machine
from paretune.core.files import read_json, write_json
from paretune.core.meter import peak_bytes

LINEAR = 1.1
"""Largest exponent that counts as linear: other work of the machine moves a fit by some hundredths."""
MEASURABLE = 8e6
"""Bytes below which a rise of the peak says nothing of growth: the memory that Python and its allocator take by the way."""


def in_a_process(work: Callable[[], Mapping[str, float]]) -> tuple[dict[str, float], int]:
    """Do work in a forked process; return what it returns, and how many bytes its peak of memory rose above its start."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def child() -> None:
        logging.getLogger("paretune").setLevel(logging.ERROR)  # no progress
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found = work()
        theirs.send((dict(found), peak_bytes() - held))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        found: tuple[dict[str, float], int] = mine.recv()
    except EOFError:
        raise SystemExit(f"a measurement ended with {process.exitcode}; see above") from None
    finally:
        process.join()
    return found


def exponent(sizes: Sequence[int], values: Sequence[float], least: float = 0.0) -> float | None:
    """Return the slope of log(value - first value) over log(size - first size), by least squares over the upper half of the sizes.

    What does not grow, such as loading, is in the first value and taken off. None where a value rises by no more than ``least`` or
    a quarter of the first.
    """
    upper = max(2, math.ceil(len(sizes) / 2)) if len(sizes) > 2 else 1
    rises = np.array(values[-upper:]) - values[0]
    if rises[-1] <= max(least, 0.25 * values[0]) or (rises <= 0).any():
        return None
    x = np.log(np.array(sizes[-upper:], dtype=float) - sizes[0])
    return float(np.polyfit(x, np.log(rises), 1)[0]) if upper > 1 else None


def verdict(grows: float | None) -> str:
    """Return in words how something grows."""
    if grows is None:
        return "does not grow measurably"
    return "linear or better" if grows <= LINEAR else f"faster than linear (exponent {grows:.2f})"


def curve(
    sizes: Sequence[int], rounds: Sequence[Sequence[float]], unit: str, least: float = 0.0
) -> dict[str, Any]:
    """Return the rounds of each size, the exponent of their medians, and the verdict; below ``least`` there is none."""
    medians = [statistics.median(values) for values in rounds]
    grows = exponent(sizes, medians, least)
    return {
        "unit": unit,
        "rounds": [list(values) for values in rounds],
        "exponent": grows,
        "verdict": verdict(grows),
    }


def _prepare(axis: Axis, size: int, folder: Path) -> dict[str, float]:
    axis.before(size, folder)
    return {}


def measured(axis: Axis, sizes: Sequence[int], rounds: int, world: Path) -> dict[str, Any]:
    """Return the curves of an axis: CPU-seconds of each part, and the rise of memory of each kind of work."""
    seconds: dict[str, list[list[float]]] = {}
    memory: dict[str, list[list[float]]] = {}
    for at, size in enumerate(sizes):
        with tempfile.TemporaryDirectory(dir=world) as prepared:
            in_a_process(partial(_prepare, axis, size, Path(prepared)))
            for _ in range(rounds):
                for kind, work in axis.work.items():
                    _once(kind, work, size, at, Path(prepared), seconds, memory)
        said = ", ".join(f"{part} {statistics.median(values[at]):.3g}" for part, values in seconds.items())
        print(f"{axis.name} {size}: {said} CPU-s", flush=True)
    curves = {part: curve(sizes, values, "CPU-s") for part, values in seconds.items()}
    held = {f"memory: {kind}": curve(sizes, values, "bytes", MEASURABLE) for kind, values in memory.items()}
    return {
        "axis": axis.name,
        "sizes": list(sizes),
        "fixed": axis.fixed,
        "curves": curves | held,
        "machine": machine(),
    }


def fitted(axis: Mapping[str, Any]) -> dict[str, Any]:
    """Return an axis of an earlier measurement with its exponents fitted again."""
    curves = {
        name: curve(
            axis["sizes"], each["rounds"], each["unit"], MEASURABLE if each["unit"] == "bytes" else 0.0
        )
        for name, each in axis["curves"].items()
    }
    return dict(axis) | {"curves": curves}


def _once(
    kind: str,
    work: Work,
    size: int,
    at: int,
    prepared: Path,
    seconds: dict[str, list[list[float]]],
    memory: dict[str, list[list[float]]],
) -> None:
    """Do the work of one size once, in a folder with what was prepared, and note what it took."""
    with tempfile.TemporaryDirectory(dir=prepared.parent) as folder:
        for file in prepared.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        found, rise = in_a_process(lambda: work(size, Path(folder)))
    for noted, values in ((seconds, found), (memory, {kind: float(rise)})):
        for part, value in values.items():
            rows = noted.setdefault(part, [])
            rows.extend([] for _ in range(at + 1 - len(rows)))
            rows[at].append(value)


def draw(axes: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw time and memory of all axes as small multiples, with a dashed line of slope 1 in each."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        2, len(axes), figsize=(3.4 * len(axes), 6.4), squeeze=False, layout="constrained"
    )
    for column, axis in enumerate(axes):
        sizes = np.array(axis["sizes"], dtype=float)
        for row, unit in enumerate(("CPU-s", "bytes")):
            panel = grid[row][column]
            shown = {name: each for name, each in axis["curves"].items() if each["unit"] == unit}
            top = 0.0
            for name, each in shown.items():
                medians = np.array([statistics.median(values) for values in each["rounds"]])
                scale = 1e6 if unit == "bytes" else 1.0
                slope = "" if each["exponent"] is None else f", exponent {each['exponent']:.2f}"
                panel.plot(
                    sizes,
                    np.maximum(medians / scale, 1e-5),
                    "o-",
                    ms=3.5,
                    label=name.removeprefix("memory: ") + slope,
                )
                top = max(top, medians[-1] / scale)
            panel.plot(sizes, top * sizes / sizes[-1], "--", color="0.6", lw=1, label="linear")
            panel.set(xscale="log", yscale="log", xlabel=axis["axis"])
            shown_sizes = axis["sizes"][:: 2 if len(axis["sizes"]) > 5 else 1]
            panel.set_xticks(shown_sizes, [f"{size:,}" for size in shown_sizes], fontsize=7)
            panel.minorticks_off()
            panel.legend(fontsize=7, frameon=False)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_title(axis["axis"] if row == 0 else "", fontsize=10)
        grid[0][0].set_ylabel("CPU-seconds, one thread")
        grid[1][0].set_ylabel("rise of peak memory, MB")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def main(given: Sequence[str] | None = None) -> None:
    """Measure the axes, fit their growth, write and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each size is measured")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(AXES),
        default=list(AXES),
        help="axes; others stay as the file has them",
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a model with 4,200 positions; by default one is made"
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, which tell nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/performance/growth.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/performance/growth.png"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        os.environ["PARETUNE_CACHE"] = str(world / "cache")
        if arguments.model:
            (world / "model").symlink_to(arguments.model.absolute())
        else:
            write_model(world / "model")
        axes = [
            measured(axis, axis.tiny if arguments.tiny else axis.sizes, arguments.rounds, world)
            for axis in map(AXES.__getitem__, arguments.only)
        ]
    kept = read_json(arguments.out)["axes"] if arguments.out.is_file() else []
    known = {axis["axis"]: axis for axis in (*map(fitted, kept), *axes)}
    shown = [known[name] for name in AXES if name in known]
    write_json(arguments.out, {"axes": shown})
    draw(shown, arguments.picture)
    for axis in axes:
        for name, each in axis["curves"].items():
            print(f"{axis['axis']}, {name}: {each['verdict']}")


if __name__ == "__main__":
    main()
