"""Quality against cost for all methods of a finished sweep: cost.json, cost.png and the table of cost.md in docs/results/.

    python -m benchmarks.cost_axis [RUN] [--check]

Quality is how far a method's mean utility lies above the base model's, in deviations of an answer's score, over prompts and
training seeds, with 95 % intervals (docs/statistics.md). Costs are means over the seeds: tokens that went through forward and
backward, tokens that were sampled to train on, and forward passes for each token that is served. Without RUN the picture and the
table are made of the kept figures; ``--check`` writes nothing and fails where the page is not what they give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims import FOLDER, Measured
from benchmarks.results import replaced, rounded, table
from paretune.core.files import atomic_path, read_json, write_json, write_text
from paretune.fronts.score_table import BASE
from paretune.reports.wording import NOTHING, number

FILE, PICTURE, PAGE = FOLDER / "cost.json", FOLDER / "cost.png", FOLDER / "cost.md"
COLOURS = ("#0b6e99", "#c8553d")
"""Of tokens that are trained on, and of those that are sampled for it."""


def entries(measured: Measured) -> list[dict[str, Any]]:
    """Return what each method reaches and costs, the best first."""
    found = []
    for name in measured.methods:
        if name == BASE:
            continue
        above, policy = measured.against(name, BASE), measured.policies(name)[0]
        found.append(
            {
                "method": name,
                "title": policy.label.removesuffix(f" ({policy.name})"),
                "above": above.difference,
                "low": above.low,
                "high": above.high,
                "tokens": measured.tokens(name) or 0,
                "sampled": measured.sampled(name) or 0,
                "seconds": measured.seconds(name) or 0,
                "adapters": policy.cost.adapters if policy.cost else 0,
                "passes": policy.cost.passes if policy.cost else 1,
                "seeds": above.seeds[0],
                "prompts": above.prompts,
            }
        )
    return sorted(found, key=lambda entry: -entry["above"])


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table."""
    head = [
        "method",
        "above the base model, deviations",
        "trained on",
        "sampled to train",
        "training, processor time",
        "adapters",
        "passes per token served",
    ]
    lines = []
    for each in rows:
        lines.append(
            [
                called(each),
                f"{number(each['above'], 2)} [{number(each['low'], 2)}, {number(each['high'], 2)}]",
                _thousands(each["tokens"]),
                _thousands(each["sampled"]),
                f"{each['seconds']:.0f} s" if each["seconds"] else NOTHING,
                str(each["adapters"]),
                str(each["passes"]),
            ]
        )
    return "\n".join(table(head, lines))


def called(entry: Mapping[str, Any]) -> str:
    """Return the title of a method with its name in the config where the two differ."""
    same = entry["title"].lower().replace(" ", "-") == entry["method"]
    return entry["title"] if same else f"{entry['title']} (`{entry['method']}`)"


def _thousands(tokens: float) -> str:
    return f"{tokens / 1000:.1f} k tokens" if tokens else NOTHING


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw a row for each method: its quality, the tokens of its training, and the passes per token that it serves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.9 + 0.34 * len(rows)), layout="constrained")
    quality, tokens, passes = figure.subplots(1, 3, sharey=True, width_ratios=(3, 3, 1))
    places = range(len(rows) - 1, -1, -1)
    for place, each in zip(places, rows, strict=True):
        spread = [[each["above"] - each["low"]], [each["high"] - each["above"]]]
        quality.errorbar(each["above"], place, xerr=spread, fmt="o", color="#333333", capsize=3, markersize=5)
    trained = [each["tokens"] / 1000 for each in rows]
    tokens.barh(places, trained, color=COLOURS[0], height=0.6, label="trained on")
    sampled = [each["sampled"] / 1000 for each in rows]
    tokens.barh(places, sampled, left=trained, color=COLOURS[1], height=0.6, label="sampled to train")
    passes.barh(places, [each["passes"] for each in rows], color="#777777", height=0.6)
    quality.set_yticks(places, [each["method"] for each in rows])
    quality.axvline(0, color="#999999", linewidth=0.8)
    quality.set_xlabel("mean utility above the base model, deviations")
    tokens.set_xlabel("thousand tokens of a training seed")
    tokens.legend(frameon=False, fontsize=8)
    passes.set_xlabel("passes per token")
    passes.set_xticks([0, 1, 2])
    for axes in (quality, tokens, passes):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def main(given: Sequence[str] | None = None) -> None:
    """Keep the figures of a run, and write the picture and the table; or check the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished sweep")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.run:
        if arguments.check:
            parser.error("give RUN, or --check alone")
        write_json(FILE, [dict(rounded(entry)) for entry in entries(Measured.read(arguments.run))])
    rows = read_json(FILE)
    old = PAGE.read_text(encoding="utf-8")
    text = replaced(old, page(rows))
    if arguments.check:
        if text != old:
            sys.exit(f"{PAGE}: not what {FILE} gives; run python -m benchmarks.cost_axis")
        return
    draw(rows, PICTURE)
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
