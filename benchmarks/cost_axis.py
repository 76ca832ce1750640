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
from benchmarks.results import replaced, rounded
from paretune.core.files import atomic_path, read_json, write_json, write_text
from paretune.fronts.score_table import BASE
from paretune.reports.wording import NOTHING, number

FILE, PICTURE, PAGE = FOLDER / "cost.json", FOLDER / "cost.png", FOLDER / "cost.md"
COLOURS = ("#0b6e99", "#c8553d")
"""Of methods that train on what is there, and of those that sample what they train on."""


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
        "training",
        "adapters",
        "passes per token served",
    ]
    lines = [head, ["---"] * len(head)]
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
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def called(entry: Mapping[str, Any]) -> str:
    """Return the title of a method with its name in the config where the two differ."""
    same = entry["title"].lower().replace(" ", "-") == entry["method"]
    return entry["title"] if same else f"{entry['title']} (`{entry['method']}`)"


def _thousands(tokens: float) -> str:
    return f"{tokens / 1000:.1f} k tokens" if tokens else NOTHING


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw quality against tokens; the shape tells passes per served token, the colour whether a method samples its data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#999999", linewidth=0.8)
    for each in rows:
        spent = (each["tokens"] + each["sampled"]) / 1000
        colour, shape = COLOURS[bool(each["sampled"])], "o" if each["passes"] == 1 else "^"
        spread = [[each["above"] - each["low"]], [each["high"] - each["above"]]]
        axes.errorbar(
            spent, each["above"], yerr=spread, fmt=shape, color=colour, capsize=2, markersize=6, linewidth=1
        )
        axes.annotate(
            each["method"], (spent, each["above"]), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    for label, colour, shape in (
        ("trains on given answers", COLOURS[0], "o"),
        ("samples what it trains on", COLOURS[1], "o"),
        ("more than one pass per served token", "#555555", "^"),
    ):
        axes.plot([], [], shape, color=colour, label=label)
    axes.set_xlabel("thousand tokens trained on and sampled, mean of a training seed")
    axes.set_ylabel("mean utility above the base model, deviations")
    axes.legend(frameon=False, fontsize=8)
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
