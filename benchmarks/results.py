"""Write the figures of a page under docs/results/ from a finished run, or check that the page says what the figures give.

    python -m benchmarks.results [RUN docs/results/NAME] [--check]

With a run's folder it first keeps the run's record without its answers (``figures.json``), its picture and its settings in
docs/results/NAME/. Then it writes the tables and the verdicts of every page that has a folder and the marks for them. `--check`
writes nothing and fails where a page is not what its figures give.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.files import atomic_path, write_bytes, write_json, write_text
from paretune.fronts.front import Interval
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest, Point
from paretune.fronts.score_table import SEED_MARK
from paretune.reports.wording import (
    MIXTURE,
    NOTHING,
    called,
    chance,
    interval,
    log_ratio,
    luck,
    number,
    percent,
    places,
    sentences,
    summary,
    verdict,
    weight,
    winner,
)

FOLDER = Path("docs/results")
BEGIN, END = "<!-- written by benchmarks/results.py -->", "<!-- end of the figures -->"
DIGITS = 6
"""The significant digits that are kept."""
MOST_SENTENCES = 12
"""The most verdicts of which also those without a difference are written out; the table has all."""


def compact(record: FrontRecord) -> dict[str, Any]:
    """Return a record without answers, prompts and the list of stages, in six digits; it is still a record."""
    facts = record.model_dump(mode="json", exclude_unset=True)
    facts |= {"prompts": [], "stages": []}
    facts.pop("rest", None)
    points = [
        point
        for policy in facts["policies"]
        for point in (*policy["points"], *policy.get("extrapolations", ()))
    ]
    for point in (facts["base"], *points):
        point |= {"responses": [], "response_scores": []}
    return dict(rounded(facts))


def rounded(value: Any) -> Any:
    """Return figures in as many digits as are kept."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def page(record: FrontRecord) -> str:
    """Return the tables of a page and its verdicts, each in words."""
    reference = ", ".join(number(value) for value in record.reference_point)
    lines = [
        *_policies(record),
        "",
        f"Scores are means over {record.num_prompts} held-out prompts, in the order of the preferences. Hypervolumes are over "
        f"({reference}), corrected for luck, with 95 % intervals; they are figures, and no verdict rests on them.",
        "",
        summary(record),
        "",
        *(f"- {line}" for line in _said(record)),
        "",
        luck(record),
    ]
    if record.comparisons:
        lines += ["", *_tests(record)]
    return "\n".join(lines)


def _said(record: FrontRecord) -> list[str]:
    """Return the verdicts in words; of many, those that show a difference."""
    said = sentences(record)
    if len(record.comparisons) <= MOST_SENTENCES:
        return said
    shown = sum(winner(test) is not None for test in record.comparisons)
    rest = said[len(record.comparisons) :]  # what could not be compared is in no table
    return [
        *said[:shown],
        f"The other {len(record.comparisons) - shown} of {len(record.comparisons)} show no difference.",
        *rest,
    ]


def _policies(record: FrontRecord) -> list[str]:
    head = [
        "",
        *record.objectives,
        "follows the weight",
        f"hypervolume over ({', '.join(number(value) for value in record.reference_point)})",
        "with mixtures",
        "on its front, at least",
        "cut",
        "collapsed, at most",
        f"{log_ratio(record)}, nats",
        "training tokens",
        "sampled to train",
        "adapters",
        "passes",
    ]
    rows = [_row(record, called(record, name), seeds) for name, seeds in _methods(record).items()]
    rows.append(_base(record, len(head)))
    empty = [NOTHING] * (len(head) - len(record.objectives) - 3)
    rows.append(
        [
            MIXTURE,
            *[NOTHING] * len(record.objectives),
            NOTHING,
            interval(record.mixture.hypervolume, 1),
            *empty,
        ]
    )
    return table(head, rows)


def _methods(record: FrontRecord) -> dict[str, list[MeasuredPolicy]]:
    """Return method -> the policies of its training seeds, or policy -> itself where it has no other seed."""
    found: dict[str, list[MeasuredPolicy]] = {}
    for policy in record.policies:
        method, _, seed = policy.name.rpartition(SEED_MARK)
        found.setdefault(method if seed.isdigit() else policy.name, []).append(policy)
    return {name if len(seeds) > 1 else seeds[0].name: seeds for name, seeds in found.items()}


def _base(record: FrontRecord, columns: int) -> list[str]:
    volume = interval(record.base.hypervolume, 1)
    row = [
        "base model",
        *_measured(record, [[record.base]]),
        NOTHING,
        volume,
        NOTHING,
        NOTHING,
        *_beside([record.base])[:2],
    ]
    return [*row, *[NOTHING] * (columns - len(row))]


def _row(record: FrontRecord, label: str, seeds: Sequence[MeasuredPolicy]) -> list[str]:
    """Return the row of a policy, or of a method: means over its training seeds, and the extremes of all their points."""
    points = [point for policy in seeds for point in policy.points]
    follows = [
        _mean([policy.figures.get(f"controllability:{name}") for policy in seeds])
        for name in record.objectives
    ]
    volumes = [policy.figures["hypervolume"] for policy in seeds]
    hulls = [policy.figures.get("hull_hypervolume") for policy in seeds]
    costs = [policy.cost for policy in seeds if policy.cost]
    return [
        label if len(seeds) == 1 else f"{label}, {len(seeds)} seeds",
        *_measured(record, [policy.points for policy in seeds]),
        ", ".join(NOTHING if value is None else number(value, 1) for value in follows),
        interval(volumes[0], 1) if len(seeds) == 1 else _scores([each.value for each in volumes], 1),
        NOTHING if (hull := _mean(hulls)) is None else number(hull, 1),
        chance(min((point.on_front for point in points if point.on_front is not None), default=None)),
        *_beside(points),
        _thousands(_whole([cost.tokens for cost in costs])),
        _thousands(_whole([cost.sampled for cost in costs])),
        str(costs[0].adapters) if costs else NOTHING,
        str(costs[0].passes) if costs else NOTHING,
    ]


def _measured(record: FrontRecord, seeds: Sequence[Sequence[Point]]) -> list[str]:
    """Return the scores on each objective in the order of the preferences, as means over seeds."""
    shown, M = places(record), len(record.objectives)
    ordered = [
        sorted(points, key=lambda point: [point.preference[o] for o in record.objectives]) for points in seeds
    ]
    means = np.mean([[point.mean for point in points] for points in ordered], axis=0)
    return [_scores(means[:, m].tolist(), shown[m]) for m in range(M)]


def _beside(points: Sequence[Point]) -> list[str]:
    """Return how many answers were cut and collapsed, and how far they are from the base model."""
    cut = _range([100 * point.cut_rate for point in points], 0)
    return [
        cut if cut == NOTHING else f"{cut} %",
        percent(max(point.collapse_rate for point in points)),
        _range([point.log_ratio.value for point in points], 1),
    ]


def _mean(figures: Sequence[Interval | None]) -> float | None:
    known = [figure.value for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def _whole(tokens: Sequence[int | None]) -> float | None:
    known = [count for count in tokens if count is not None]
    return sum(known) / len(known) if known else None


def _thousands(tokens: float | None) -> str:
    return NOTHING if tokens is None else f"{tokens / 1000:.1f} k" if tokens else "0"


def _scores(values: Sequence[float], shown: int) -> str:
    """Return up to five scores one by one, of more their range."""
    return ", ".join(number(value, shown) for value in values) if len(values) <= 5 else _range(values, shown)


def _range(values: Sequence[float], shown: int) -> str:
    low, high = number(min(values), shown), number(max(values), shown)
    return low if low == high else f"{low} to {high}"


def _tests(record: FrontRecord) -> list[str]:
    head = [
        "first less second",
        "difference, deviations",
        "p, adjusted",
        "verdict",
        "could have been seen",
        "preferences",
    ]
    return table(head, [_test(record, test) for test in record.comparisons])


def _test(record: FrontRecord, test: PairedTest) -> list[str]:
    return [
        f"{called(record, test.first)} less {called(record, test.second)}",
        interval(test.interval, 2),
        "< 0.001" if test.adjusted < 0.001 else number(test.adjusted, 3),
        verdict(record, test),
        number(test.detectable, 2) if winner(test) is None else NOTHING,
        ", ".join(weight(row[0]) for row in test.preferences)
        if len(record.objectives) == 2
        else str(len(test.preferences)),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def replaced(document: str, text: str) -> str:
    """Return the document with ``text`` between its two markers.

    Raises:
        ValueError: The document lacks a marker or has it twice.
    """
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def keep(run: Path, folder: Path) -> None:
    """Keep a finished run's record, picture and settings in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "figures.json", compact(FrontRecord.read(run / "front.json")))
    if (config := run / "config.yaml").exists():  # what `paretune judge` wrote has none
        write_text(folder / "config.yaml", placeless(config.read_text()))
    record = FrontRecord.read(run / "front.json")
    if any(len(seeds) > 1 for seeds in _methods(record).values()):
        draw(record, folder / "front.png")
    else:
        write_bytes(folder / "front.png", (run / "front.png").read_bytes())


def placeless(config: str) -> str:
    """Return the text of a run's settings without its folder, which is a place on the machine of the run."""
    return re.sub(r"^folder: .*$", "folder: ''", config, flags=re.MULTILINE)


def draw(record: FrontRecord, file: Path) -> None:
    """Draw the means of each method over its training seeds, on the first two objectives; the run draws every seed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for place, (name, seeds) in enumerate(_methods(record).items()):
        ordered = [sorted(each.points, key=lambda point: list(point.preference.values())) for each in seeds]
        means = np.mean([[point.mean for point in points] for points in ordered], axis=0)
        colour, shape = colormaps["tab10"](place % 10), "osD^vP"[place % 6]
        axes.plot(means[:, 0], means[:, 1], shape + "-", color=colour, label=name, markersize=5, linewidth=1)
    axes.plot(*record.base.mean[:2], "x", color="black", label="base model", markersize=8, markeredgewidth=2)
    axes.set_xlabel(f"{record.objectives[0]}, mean score")
    axes.set_ylabel(f"{record.objectives[1]}, mean score")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def stale(folder: Path, check: bool) -> list[Path]:
    """Write the pages whose figures lie in ``folder``; return those that were not what their figures give.

    Raises:
        SystemExit: A page lacks the marks of where its figures belong.
    """
    found = []
    for figures in sorted(folder.glob("*/figures.json")):
        document = figures.parent.with_suffix(".md")
        old = document.read_text(encoding="utf-8")
        if old.count(BEGIN) != 1 or old.count(END) != 1:
            sys.exit(
                f"{document}: expected the lines {BEGIN} and {END}, each once; put them where the figures belong"
            )
        new = replaced(old, page(FrontRecord.read(figures)))
        if new != old:
            found.append(document)
            if not check:
                write_text(document, new)
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("folder", type=Path, nargs="?", help="docs/results/NAME, to keep it in")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.run:
        if not arguments.folder or arguments.check:
            parser.error("give RUN and docs/results/NAME to keep a run, or --check alone")
        keep(arguments.run, arguments.folder)
    found = stale(FOLDER, arguments.check)
    if arguments.check and found:
        sys.exit(f"{', '.join(map(str, found))}: not what the figures give; run python -m benchmarks.results")


if __name__ == "__main__":
    main()
