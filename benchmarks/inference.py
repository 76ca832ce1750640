"""Worlds in which the truth is known: how often a verdict is false, an interval holds the truth, a difference is seen.

Every world is drawn anew many times and judged by the public functions of :mod:`paretune` at their defaults.
Right is: each false verdict in 2.5 % of worlds (the bar: 5 %), the true hypervolume within its 95 % interval (the bar:
92 %), and power at the bulge not below that of a test of hypervolumes (.41 with 64 prompts, .89 with 256).

``python benchmarks/inference.py --worlds 1000 --intervals 500 --json docs/statistics.json``
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import special

import paretune
from paretune import (
    Front,
    Message,
    build_scorer,
    compare,
    holm,
    hypervolume,
    interval,
    load_config,
    mixture,
)
from paretune.core.files import write_json
from paretune.core.preference import simplex_grid
from paretune.fronts.intervals import Fronts, bands, shrunk

sys.path.insert(0, str(Path(__file__).parents[1]))  # the file is run as a script, by its path
from benchmarks.side_by_side import machine

BASE = np.array([-4.6, 1.15])
SPREAD = np.array([2.8, 1.05])
"""Deviations of an answer's scores, as measured in the quickstart; their correlation is -.55."""
ROOT = np.linalg.cholesky(np.outer(SPREAD, SPREAD) * [[1, -0.55], [-0.55, 1]])
ROOT_3 = np.linalg.cholesky(np.array([[1.0, -0.3, 0.2], [-0.3, 1.0, 0.0], [0.2, 0.0, 1.0]]))
REFERENCE = np.array([-9.0, 0.0])
SHARED = 0.3
"""Share of a score's variance that a prompt gives to all answers to it."""
ANSWERS = Path(paretune.__file__).parent / "data" / "quickstart" / "answers.jsonl.gz"

FALSE, COVERED = 0.05, 0.92
POWER = {64: 0.41, 256: 0.89}


@dataclass(frozen=True)
class Drawn:
    """One draw of a world: two fronts to compare, and the true hypervolume of the first, if it is known."""

    first: Fronts
    second: Fronts
    volume: float | None = None


@dataclass(frozen=True)
class World:
    """A world: how it is drawn, and what is true there: "equal", "first above" or "second above"."""

    name: str
    prompts: int
    draw: Callable[[np.random.Generator], Drawn]
    truth: str = "equal"
    reference: np.ndarray = field(default_factory=REFERENCE.copy)
    power: float | None = None


def normal(
    random: np.random.Generator, means: np.ndarray, prompts: int, root: np.ndarray = ROOT
) -> np.ndarray:
    """Return scores ``[N, P, M]`` around ``means [N, M]``, a share of their variance common to a prompt's answers."""
    return means[:, None] + latent(random, len(means), prompts, means.shape[1]) @ root.T


def latent(random: np.random.Generator, count: int, prompts: int, objectives: int = 2) -> np.ndarray:
    """Return standard normal numbers ``[N, P, M]``, a share of their variance common to a prompt's answers."""
    common = random.normal(size=(1, prompts, objectives))
    own = random.normal(size=(count, prompts, objectives))
    return math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * own


def front(name: str, preferences: np.ndarray, scores: np.ndarray) -> Front:
    """Return a front whose prompts and objectives are numbered."""
    objectives = tuple("abc"[: scores.shape[-1]])
    return Front(name, objectives, preferences, scores, tuple(map(str, range(scores.shape[1]))))


def line(count: int, half: float, bulge: float = 0.0) -> np.ndarray:
    """Return means ``[N, 2]`` evenly on a line through the base, ``half`` deviations to each side, lifted by a bulge."""
    at = np.linspace(1, -1, count)[:, None]
    return BASE + half * at * SPREAD * [1, -1] + bulge * (1 - at**2) * SPREAD


def against_base(count: int, prompts: int) -> World:
    """Nothing was trained: all points and the base model have the same mean."""

    def draw(random: np.random.Generator) -> Drawn:
        scores = normal(random, line(count + 1, 0), prompts)
        grid = simplex_grid(2, count - 1)
        return Drawn(
            front("policy", grid, scores[:-1]),
            front("base", grid[:1], scores[-1:]),
            hypervolume(BASE[None], REFERENCE),
        )

    return World(f"{count} equal points against the base model", prompts, draw)


def against_mixture(
    what: str, count: int, half: float, prompts: int, bulge: float = 0.0, power: float | None = None
) -> World:
    """A policy against the mixture of corners, which lies on the line through its ends."""
    means = line(count, half, bulge)

    def draw(random: np.random.Generator) -> Drawn:
        scores = normal(random, np.concatenate([means, means[[0, -1]]]), prompts)
        grid = simplex_grid(2, count - 1)
        corners = front("corners", np.eye(2), scores[-2:])
        return Drawn(
            front("policy", grid, scores[:-2]), mixture(corners, grid), hypervolume(means, REFERENCE)
        )

    truth = "equal" if bulge == 0 else "first above" if bulge > 0 else "second above"
    return World(what, prompts, draw, truth, power=power)


def against_anchors(count: int, others: int, prompts: int) -> World:
    """Two policies on the very same line, measured at different numbers of preferences."""
    means = [line(count, 0.4), line(others, 0.4)]

    def draw(random: np.random.Generator) -> Drawn:
        scores = normal(random, np.concatenate(means), prompts)
        grids = [simplex_grid(2, len(each) - 1) for each in means]
        return Drawn(
            front("policy", grids[0], scores[:count]),
            front("anchors", grids[1], scores[count:]),
            hypervolume(means[0], REFERENCE),
        )

    return World(f"{count} points against {others} on the same line", prompts, draw)


def on_plane(half: float, prompts: int) -> World:
    """Three objectives at 10 preferences, exactly on the plane of the mixture of corners."""
    grid = simplex_grid(3, 3)
    corners = 2 * half * (np.eye(3) - 1 / 3)
    reference = np.full(3, -2.0)

    def draw(random: np.random.Generator) -> Drawn:
        scores = normal(random, np.concatenate([grid @ corners, corners]), prompts, ROOT_3)
        return Drawn(
            front("policy", grid, scores[:-3]),
            mixture(front("corners", np.eye(3), scores[-3:]), grid),
            hypervolume(grid @ corners, reference),
        )

    what = f"3 objectives, 10 points on the mixture's plane, {half:g} deviations"
    return World(what, prompts, draw, reference=reference)


SHAPES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "log-normal": lambda random, z: np.exp(z),
    "exponential": lambda random, z: -special.log_ndtr(-z),
    "heavy tails (t, 3 degrees)": lambda random, z: special.stdtrit(3, special.ndtr(z)),
    "yes or no, 5 % yes": lambda random, z: (z > special.ndtri(0.95)) * 1.0,
    "counts": lambda random, z: random.poisson(np.exp(z / 2)) * 1.0,
    "1 to 5, mostly 4": lambda random, z: np.clip(np.round(1.2 * z + 4), 1, 5),
}
"""Distributions of one score, made of standard normal numbers."""


def shaped(shape: str, prompts: int, mixed: bool) -> World:
    """11 points with the mean of the base model, or of the mixture of corners, and scores that are not normal."""
    make = SHAPES[shape]
    many = make(np.random.default_rng(0), special.ndtri((np.arange(200_000) + 0.5) / 200_000))
    centre, size = np.full(2, many.mean()), np.full(2, many.std())

    def draw(random: np.random.Generator) -> Drawn:
        scores = make(random, latent(random, 13, prompts))
        grid = simplex_grid(2, 10)
        policy = front("policy", grid, scores[:11])
        base = front("base", grid[:1], scores[11:12])
        other = mixture(front("corners", np.eye(2), scores[11:]), grid) if mixed else base
        return Drawn(policy, other, hypervolume(centre[None], centre - 2 * size))

    against = "the mixture" if mixed else "the base model"
    what = f"{shape}: 11 equal points against {against}"
    return World(what, prompts, draw, reference=centre - 2 * size)


def unequal(prompts: int) -> World:
    """11 points with the mean of the base model, whose answers vary a fifth as much."""

    def draw(random: np.random.Generator) -> Drawn:
        scores = normal(random, line(12, 0), prompts)
        grid = simplex_grid(2, 10)
        base = front("base", grid[:1], BASE + 0.2 * (scores[-1:] - BASE))
        return Drawn(front("policy", grid, scores[:-1]), base, hypervolume(BASE[None], REFERENCE))

    return World("unequal variances: 11 equal points against the base model", prompts, draw)


def seeded(seeds: int, size: float, prompts: int, base: bool) -> World:
    """Methods of the same expected front, whose every training moves all points by ``size`` deviations of luck."""
    means = line(5, 0.0 if base else 0.4)

    def draw(random: np.random.Generator) -> Drawn:
        count = seeds if base else 2 * seeds
        luck = size * random.normal(size=(count, 1, 2)) @ ROOT.T
        points = np.concatenate([*(means + luck), BASE[None]])
        scores = normal(random, points, prompts)
        grid = simplex_grid(2, 4)
        runs = [front(f"run {i}", grid, scores[5 * i : 5 * i + 5]) for i in range(count)]
        other: Fronts = front("base", grid[:1], scores[-1:]) if base else runs[seeds:]
        return Drawn(runs[:seeds], other, hypervolume(means, REFERENCE))

    what = "the base model" if base else f"{seeds} of another method"
    return World(f"{seeds} seeds, luck {size:g}, against {what}", prompts, draw)


def answer_scores(config: str) -> np.ndarray:
    """Return the scores ``[P, 4, 2]`` of the base model's shipped answers by the rules of a shipped config."""
    rules = [build_scorer(rule) for rule in load_config(config).score]
    rows = [json.loads(text) for text in gzip.decompress(ANSWERS.read_bytes()).splitlines()]
    scores = [
        [rule([prompt] * 4, row["responses"], [False] * 4) for rule in rules]
        for row in rows
        for prompt in [tuple(Message(**message) for message in row["prompt"])]
    ]
    return np.array(scores).transpose(0, 2, 1)


def redrawn(config: str, prompts: int | None = None) -> World:
    """Real answers, nothing trained: each prompt's four answers are dealt to three points and the base model."""
    scores = answer_scores(config)
    prompts = prompts or len(scores)

    def draw(random: np.random.Generator) -> Drawn:
        taken = random.choice(len(scores), size=prompts, replace=False)
        dealt = random.random((prompts, 4)).argsort(axis=1)
        answers = np.take_along_axis(scores[taken], dealt[..., None], axis=1).transpose(1, 0, 2)
        grid = simplex_grid(2, 2)
        return Drawn(front("policy", grid, answers[:3]), front("base", grid[:1], answers[3:]))

    return World(
        f"real answers redrawn, scored as in {config}: 3 points against the base model", prompts, draw
    )


def worlds() -> Iterator[World]:
    """Yield all worlds."""
    for prompts in (64, 256):
        for count in (5, 11, 21):
            yield against_base(count, prompts)
        yield against_mixture("11 points on a short mixture line", 11, 0.1, prompts)
        yield against_mixture("11 points on a long mixture line", 11, 0.4, prompts)
        yield against_mixture("5 points on a long mixture line", 5, 0.4, prompts)
        for count, others in ((5, 3), (11, 3), (11, 11)):
            yield against_anchors(count, others, prompts)
        power = POWER[prompts]
        yield against_mixture("bulge of true excess .89 over the mixture", 11, 0.8, prompts, 0.141, power)
        yield against_mixture("dent as deep below the mixture", 11, 0.8, prompts, -0.141, power)
    for half in (0.3, 1.0):
        yield on_plane(half, 32)
    for prompts in (64, None):
        yield redrawn("compare", prompts)
    for shape in SHAPES:
        for mixed in (False, True):
            yield shaped(shape, 64, mixed)
    yield unequal(64)
    for seeds in (2, 3, 5):
        for size in (0.0, 0.1, 0.3):
            yield seeded(seeds, size, 64, base=False)
    yield seeded(3, 0.1, 64, base=True)
    for prompts in (64, None):
        yield redrawn("quickstart", prompts)


def judged(world: World, draws: int, intervals: int, seed: int) -> dict[str, object]:
    """Return how often the first is called above and below, and how often its interval covers in the first draws."""
    random = np.random.default_rng(seed)
    verdicts, covered, widths = [], [], []
    start = time.perf_counter()
    for number in range(draws):
        drawn = world.draw(random)
        verdicts.append(compare(drawn.first, drawn.second).verdict)
        if drawn.volume is not None and number < intervals:
            found = interval(drawn.first, reference=world.reference)
            covered.append(found.low <= drawn.volume <= found.high)
            widths.append((found.high - found.low) / drawn.volume)
    first, second = (_name(fronts) for fronts in (drawn.first, drawn.second))
    return {
        "world": world.name,
        "prompts": world.prompts,
        "truth": world.truth,
        "worlds": draws,
        "intervals": len(covered),
        "above": verdicts.count(f"{first} above") / draws,
        "below": verdicts.count(f"{second} above") / draws,
        "covered": float(np.mean(covered)) if covered else None,
        "width": float(np.median(widths)) if widths else None,
        "power": world.power,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _name(fronts: Fronts) -> str:
    return fronts.name if isinstance(fronts, Front) else fronts[0].name


def family(draws: int, seed: int) -> dict[str, object]:
    """Return how often a report on eight untrained methods holds any false verdict among its 36 comparisons."""
    random = np.random.default_rng(seed)
    false = {"each by itself": 0, "Holm": 0}
    grid = simplex_grid(2, 4)
    for _ in range(draws):
        scores = normal(random, line(41, 0), 64)
        fronts = [front(f"method {i}", grid, scores[5 * i : 5 * i + 5]) for i in range(8)]
        fronts.append(front("base", grid[:1], scores[-1:]))
        found = [compare(a, b) for i, a in enumerate(fronts) for b in fronts[i + 1 :]]
        for how, comparisons in (("each by itself", found), ("Holm", holm(found))):
            false[how] += any(each.verdict != "no difference shown" for each in comparisons)
    return {how: count / draws for how, count in false.items()} | {"worlds": draws}


def chosen(what: str, means: np.ndarray, draws: int, seed: int) -> dict[str, object]:
    """Return by how much the best of 11 points at equal weights is overrated, in deviations, and whether bands hold it."""
    random = np.random.default_rng(seed)
    grid = simplex_grid(2, len(means) - 1)
    plain, corrected, held = [], [], []
    for _ in range(draws):
        policy = front("policy", grid, normal(random, means, 64))
        less = shrunk(policy)
        best = int((policy.means / SPREAD).sum(axis=1).argmax())
        best_less = int((less / SPREAD).sum(axis=1).argmax())
        low, high = bands(policy)
        plain.append(((policy.means - means)[best] / SPREAD).mean())
        corrected.append(((less - means)[best_less] / SPREAD).mean())
        held.append(bool(((low <= means) & (means <= high))[best].all()))
    return {
        "world": what,
        "overrated": float(np.mean(plain)),
        "overrated, shrunk": float(np.mean(corrected)),
        "held by bands": float(np.mean(held)),
        "worlds": draws,
    }


def missed(row: dict[str, object], slack: float = 2.6) -> list[str]:
    """Return which bars a world is beyond, by more than ``slack`` standard errors of the simulation."""
    rate = {key: row[key] for key in ("above", "below", "covered") if row[key] is not None}
    draws = {"above": row["worlds"], "below": row["worlds"], "covered": row["intervals"]}
    error = {key: slack * math.sqrt(value * (1 - value) / draws[key]) for key, value in rate.items()}
    right = {"equal": None, "first above": "above", "second above": "below"}[row["truth"]]
    found = [
        f"{key} {rate[key]:.3f}"
        for key in ("above", "below")
        if key != right and rate[key] - error[key] > FALSE
    ]
    if row["covered"] is not None and rate["covered"] + error["covered"] < COVERED:
        found.append(f"covered {rate['covered']:.3f}")
    if row["power"] is not None and rate[right] + error[right] < row["power"]:
        found.append(f"power {rate[right]:.3f}")
    return found


def shown(rows: Sequence[dict[str, object]]) -> Table:
    """Return the table of worlds."""
    table = Table(title="Percent of worlds")
    for column in ("world", "prompts", "above", "below", "covered", "width"):
        table.add_column(column, justify="left" if column == "world" else "right")
    for row in rows:
        cells = [
            "-" if row[key] is None else f"{100 * row[key]:.1f}" for key in ("above", "below", "covered")
        ]
        width = "-" if row["width"] is None else f"{100 * row['width']:.0f} %"
        mark = " (power)" if row["power"] else ""
        table.add_row(row["world"] + mark, str(row["prompts"]), *cells, width)
    return table


def main(given: Sequence[str] | None = None) -> None:
    """Run the worlds, print the table, write the JSON, and fail where a bar is missed by more than luck."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=1000, help="draws of each world")
    parser.add_argument(
        "--intervals", type=int, help="draws of which the interval is judged too; all if not given"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--only", default="", help="only worlds whose name holds this text")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    console = Console()
    intervals = arguments.worlds if arguments.intervals is None else arguments.intervals
    rows = []
    for i, world in enumerate(worlds()):
        if arguments.only in world.name:
            rows.append(judged(world, arguments.worlds, intervals, arguments.seed + i))
            console.print(_told(rows[-1]))
    console.print(shown(rows))
    result = {
        "worlds": rows,
        "settings": {"worlds": arguments.worlds, "intervals": intervals, "seed": arguments.seed},
    }
    if not arguments.only:
        few = max(1, arguments.worlds // 2)
        result["family"] = family(few, arguments.seed)
        lines = {
            "11 equal points": line(11, 0),
            "11 points on a long line": line(11, 0.8),
            "a bulge": line(11, 0.8, 0.141),
        }
        result["chosen"] = [chosen(what, means, few, arguments.seed) for what, means in lines.items()]  # fmt: skip
        console.print(result["family"], *result["chosen"])
    result["machine"] = machine()
    console.print(result["machine"]["processor"])
    if arguments.json:
        write_json(arguments.json, result)
    beyond = [f"{row['world']} ({row['prompts']} prompts): {', '.join(bars)}" for row in rows if (bars := missed(row))]  # fmt: skip
    if beyond:
        sys.exit("beyond the bar: " + "; ".join(beyond))


def _told(row: dict[str, object]) -> str:
    covered = "" if row["covered"] is None else f", covered {row['covered']:.3f}"
    rates = f"above {row['above']:.3f}, below {row['below']:.3f}{covered}"
    return f"{row['world']}, {row['prompts']} prompts: {rates} ({row['seconds']} s)"


if __name__ == "__main__":
    main()
