"""What else was tried for verdicts and intervals, in the worlds of ``inference.py``: why the library does what it does.

``python -m benchmarks.fronts.inference_tried --worlds 300 --json benchmarks/results/inference_tried.json``
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.inference import (
    REFERENCE,
    World,
    against_anchors,
    against_base,
    against_mixture,
)
from benchmarks.side_by_side import machine
from paretune.core.files import write_json
from paretune.fronts.front import Front
from paretune.fronts.inference import compare
from paretune.fronts.intervals import Noise, gather, interval, sides

RESAMPLES = 500


def volumes(points: np.ndarray) -> np.ndarray:
    """Return the hypervolumes ``[S]`` of ``[S, N, 2]``."""
    return sides(points, REFERENCE) ** 2


def resampled(front: Front, random: np.random.Generator) -> np.ndarray:
    """Return means ``[S, N, 2]`` over resampled prompts, the same ones for equal states of ``random``."""
    P = len(front.prompts)
    counts = random.multinomial(P, np.full(P, 1 / P), size=RESAMPLES)
    return np.einsum("sp,npm->snm", counts / P, front.scores)


def percentile_difference(first: Front, second: Front) -> int:
    """Return the sign that the paired percentile bootstrap of the difference of hypervolumes shows, or 0."""
    drawn = [volumes(resampled(front, np.random.default_rng(1))) for front in (first, second)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return int(low > 0) - int(high < 0)


def reflected_difference(first: Front, second: Front) -> int:
    """Return the same by the reflected percentile (basic) bootstrap."""
    drawn = [volumes(resampled(front, np.random.default_rng(1))) for front in (first, second)]
    value = volumes(first.means[None])[0] - volumes(second.means[None])[0]
    low, high = 2 * value - np.quantile(drawn[0] - drawn[1], [0.975, 0.025])
    return int(low > 0) - int(high < 0)


def exchanged(first: Front, second: Front) -> int:
    """Return the sign that dealing each prompt's answers anew among both fronts shows for their hypervolumes, or 0.

    Exact where all answers to a prompt are alike. Fronts of as many points exchange preference by preference.
    """
    random = np.random.default_rng(1)
    answers = np.concatenate([first.scores, second.scores])
    A, P, _ = answers.shape
    N = len(first.scores)
    if len(second.scores) == N:
        swap = random.random((RESAMPLES, N, P)) < 0.5
        order = np.concatenate(
            [np.where(swap, np.arange(N, 2 * N)[:, None], np.arange(N)[:, None]),
             np.where(swap, np.arange(N)[:, None], np.arange(N, 2 * N)[:, None])], axis=1
        )  # fmt: skip
    else:
        order = random.random((RESAMPLES, A, P)).argsort(axis=1)
    means = np.stack([np.take_along_axis(answers, each[..., None], axis=0).mean(axis=1) for each in order])
    null = volumes(means[:, :N]) - volumes(means[:, N:])
    low, high = np.quantile(null, [0.025, 0.975])
    value = volumes(first.means[None])[0] - volumes(second.means[None])[0]
    return int(value > high) - int(value < low)


def chosen(first: Front, second: Front) -> int:
    """Return the sign that the library's comparison shows, or 0."""
    found = compare(first, second)
    return int(found.low > 0) - int(found.high < 0)


VERDICTS = {
    "percentile, hypervolume": percentile_difference,
    "reflected percentile": reflected_difference,
    "exchange within prompts": exchanged,
    "utility (chosen)": chosen,
}


def intervals(front: Front) -> dict[str, tuple[float, float]]:
    """Return the intervals of a front's hypervolume by all ways."""
    noise = Noise.of(gather(front), 0.95, RESAMPLES, 1)
    own = volumes(noise.means[None])[0]
    excess = volumes(noise.means + noise.draws) - own
    low, high = np.quantile(excess, [0.025, 0.975])
    wide = noise.reach * noise.errors
    redrawn = [noise.means + draw for draw in noise.draws[:50]]
    again = [volumes(means + noise.draws[:100]).mean() - volumes(means[None])[0] for means in redrawn]
    more = excess.mean() - np.mean(again)
    found = interval(front, REFERENCE)
    return {
        "percentile": (own + low, own + high),
        "reflected percentile": (own - high, own - low),
        "double bootstrap": (own - high - more, own - low - more),
        "bands of all means": (volumes((noise.means - wide)[None])[0], volumes((noise.means + wide)[None])[0]),
        "least favourable (chosen)": (found.low, found.high),
    }  # fmt: skip


def tried(world: World, draws: int) -> dict[str, object]:
    """Return how often each way of judging calls the first above or below, and how often each interval covers."""
    random = np.random.default_rng(7)
    signs: dict[str, list[int]] = {name: [] for name in VERDICTS}
    covers: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(draws):
        drawn = world.draw(random)
        for name, judge in VERDICTS.items():
            signs[name].append(judge(drawn.first, drawn.second))
        for name, (low, high) in intervals(drawn.first).items():
            covers.setdefault(name, []).append((low <= drawn.volume <= high, high - low))
    return {
        "world": world.name,
        "prompts": world.prompts,
        "verdicts": {
            name: [float(np.mean(np.array(each) == sign)) for sign in (1, -1)] for name, each in signs.items()
        },
        "intervals": {name: np.mean(each, axis=0).tolist() for name, each in covers.items()},
        "worlds": draws,
    }


def shown(rows: Sequence[Mapping[str, object]], what: str, form: str) -> Table:
    """Return a table of the ways of one kind, each with its two numbers."""
    table = Table(title=f"{what}: {form}")
    for column in ("world", "prompts", *rows[0][what]):
        table.add_column(column, justify="left" if column == "world" else "right")
    for row in rows:
        table.add_row(row["world"], str(row["prompts"]), *(f"{a:.3f} / {b:.3f}" for a, b in row[what].values()))  # fmt: skip
    return table


def main(given: Sequence[str] | None = None) -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    console = Console(width=190)
    rows = []
    for prompts in (64, 256):
        for world in (
            against_base(5, prompts),
            against_base(11, prompts),
            against_mixture("11 points on a short mixture line", 11, 0.1, prompts),
            against_mixture("11 points on a long mixture line", 11, 0.4, prompts),
            against_anchors(11, 3, prompts),
            against_anchors(11, 11, prompts),
            against_mixture("bulge of true excess .89", 11, 0.8, prompts, 0.141),
        ):
            rows.append(tried(world, arguments.worlds))
            console.print(rows[-1])
    console.print(shown(rows, "verdicts", "above / below"))
    console.print(shown(rows, "intervals", "covers / mean width"))
    if arguments.json:
        write_json(arguments.json, {"worlds": rows, "machine": machine()})


if __name__ == "__main__":
    main()
