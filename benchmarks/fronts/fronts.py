"""B10: dominance, layers and hypervolume of many points against pymoo.

    python -m benchmarks.fronts.fronts [--points 10000 100000 1000000] [--objectives 2 3] [--rounds 5] [--limit 60]

Points are uniform in a cube for dominance and layers, and on a sphere, where none is dominated, for the hypervolume. Since
0.6.2 pymoo calls the same C library (moocore) for front, ranks and hypervolume, so only what surrounds those calls differs;
`pymoo, its own sort` is the sort in Python that it still takes for dominance of one's own making. Layers come in two kinds:
all of them, and as many first ones as hold a hundredth of the points, which selection asks for (`peeling.first_layers`) and
pymoo answers by `n_stop_if_ranked`. CPU-seconds; they count only when the results are equal. What would take more than
--limit seconds or more memory than there is, is tried in a child process and left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks.side_by_side import Way, clocked, figure, in_turn, not_run, options, same, write
from paretune.fronts import indicators as figures
from paretune.fronts import layers as peeling

KINDS = ("front", "all layers", "first layers", "hypervolume")
OURS, PEER, OWN = "paretune", "pymoo", "pymoo, its own sort"
Numbers = Callable[[], np.ndarray]


def ways(kind: str, points: np.ndarray) -> dict[str, Numbers]:
    """Return how each side answers a question of ``kind`` about ``points [N, M]``, higher is better."""
    from pymoo.indicators.hv import Hypervolume
    from pymoo.util.dominator import Dominator
    from pymoo.util.nds.fast_non_dominated_sort import fast_non_dominated_sort
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting, find_non_dominated, rank_from_fronts

    count, M = points.shape
    costs, least = -points, max(1, count // 100)
    if kind == "front":
        return {
            OURS: lambda: np.flatnonzero(figures.non_dominated(points)),
            PEER: lambda: find_non_dominated(costs),
        }
    if kind == "all layers":
        return {
            OURS: lambda: figures.layers(points),
            PEER: lambda: NonDominatedSorting().do(costs, return_rank=True)[1],
            OWN: lambda: rank_from_fronts(fast_non_dominated_sort(costs, dominator=Dominator()), count),
        }
    if kind == "first layers":
        return {
            OURS: lambda: peeling.first_layers(points, least)[0],
            PEER: lambda: np.concatenate(NonDominatedSorting().do(costs, n_stop_if_ranked=least)),
        }
    return {
        OURS: lambda: np.array([figures.hypervolume(points, np.zeros(M))]),
        PEER: lambda: np.array([Hypervolume(ref_point=np.zeros(M)).do(costs)]),
    }


def made(kind: str, count: int, M: int) -> np.ndarray:
    """Return ``count`` points with M objectives for a question of ``kind``."""
    random = np.random.default_rng(0)
    if kind != "hypervolume":
        return random.random((count, M))
    points = np.abs(random.normal(size=(count, M)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def finishes(run: Numbers, limit: float) -> bool:
    """Tell whether ``run`` ends within ``limit`` seconds and the memory that is free, by trying it in a child process."""

    def child() -> None:
        held = psutil.Process().memory_info().vms + psutil.virtual_memory().available * 3 // 4
        resource.setrlimit(resource.RLIMIT_AS, (held, held))
        run()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode == 0


def often(run: Numbers) -> Way:
    """Return the way that runs ``run`` for a tenth of a second at least, and returns the CPU-seconds of one time."""
    times = max(1, int(0.1 / max(clocked(run)(), 1e-6)))

    def way() -> float:
        begin = time.process_time()
        for _ in range(times):
            run()
        return (time.process_time() - begin) / times

    return way


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "fronts")
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args(given)
    rows: list[dict[str, Any]] = []
    equal: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        for M in arguments.objectives:
            measured, checks = by_size(kind, M, arguments)
            rows += measured
            for check in checks:
                worst = max(check["share_of_tolerance"], equal.get(kind, check)["share_of_tolerance"])
                equal[kind] = check | {"what": f"{kind} of all sizes", "share_of_tolerance": worst}
    write(arguments, "B10", "Dominance, layers, hypervolume", rows, list(equal.values()))


def by_size(
    kind: str, M: int, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of a question of ``kind`` about points with M objectives, and what was equal.

    What takes too long on fewer points is not tried on more, and said once.
    """
    rows, equal = [], []
    dropped: set[str] = set()
    why = f"not run: more than {arguments.limit:g} s, or more memory than there is"
    for count in sorted(arguments.points):
        what = f"{kind}, {count:,} points, {M} objectives"
        asked = {name: run for name, run in ways(kind, made(kind, count, M)).items() if name not in dropped}
        kept = {name: run for name, run in asked.items() if finishes(run, arguments.limit)}
        dropped |= set(asked) - set(kept)
        if OURS not in kept:
            rows.append(
                not_run(what, OURS, " and ".join(name for name in asked if name != OURS), (), "CPU-s", why)
            )
            break
        check = same(
            what,
            {name: run().tolist() for name, run in kept.items()},
            relative=1e-9 if kind == "hypervolume" else 0.0,
        )
        del check["values"]  # up to a million
        equal.append(check)
        taken = in_turn({name: often(run) for name, run in kept.items()}, arguments.rounds)
        for peer in asked:
            if peer in kept and peer != OURS:
                rows.append(figure(what, taken, OURS, peer))
            elif peer != OURS:
                rows.append(not_run(what, OURS, peer, taken[OURS], "CPU-s", why))
    return rows, equal


if __name__ == "__main__":
    main()
