"""The summary of a data set as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paretune.data.summary import Inspection

if TYPE_CHECKING:
    from rich.console import Group


def render(inspection: Inspection) -> Group:
    """Return the inspection as rich tables, for the terminal."""
    from rich.console import Group  # only for those who print
    from rich.table import Table
    from rich.text import Text

    def table(title: str, columns: Sequence[str]) -> Table:
        built = Table(title=title, title_justify="left", min_width=len(title))  # the title stays on one line
        for position, column in enumerate(columns):
            built.add_column(column, justify="right" if position else "left")
        return built

    overview = table("Data", ["", "count"])
    for label, value in (
        ("rows", inspection.rows),
        ("different prompts", inspection.prompts),
        ("rows repeating a prompt", inspection.repeated_prompts),
        ("responses", inspection.responses),
        ("responses repeated in a row", inspection.identical_responses),
        *([("rows without a response", inspection.bare_rows)] if inspection.bare_rows else []),
    ):
        overview.add_row(label, f"{value:,}")
    overview.add_row("responses cut by a limit", _percent(inspection.truncated_share))

    words = table("Length in words", ["", "mean", "median", "95 %", "longest"])
    for label, lengths in (("prompt", inspection.prompt_words), ("response", inspection.response_words)):
        words.add_row(label, *map(_number, (lengths.mean, lengths.p50, lengths.p95)), f"{lengths.longest:,}")

    scores = table(
        "Objectives (higher is better)",
        [
            "objective",
            "scores",
            "missing",
            "mean",
            "std",
            "min",
            "25 %",
            "50 %",
            "75 %",
            "max",
            "comparisons",
            "ties",
        ],
    )
    for summary in inspection.objectives:
        figures = (summary.mean, summary.std, summary.low, *summary.quartiles, summary.high)
        scores.add_row(
            Text(summary.objective),
            f"{summary.count:,}",
            f"{summary.missing:,}",
            *map(_number, figures),
            f"{summary.comparisons:,}",
            f"{summary.ties:,}",
        )

    names = [summary.objective for summary in inspection.objectives]
    conflicts = table("Pairs on which two objectives disagree", ["", *map(_escaped, names)])
    for name, shares in zip(names, inspection.conflicts, strict=True):
        conflicts.add_row(Text(name), *map(_percent, shares))

    fronts = table("Pareto layers of responses with every score", ["layer", "to their prompt", "overall"])
    depth = max(len(inspection.layers_by_prompt), len(inspection.layers_overall))
    for layer in range(min(depth, 10)):
        cells = [
            counts[layer : layer + 1] for counts in (inspection.layers_by_prompt, inspection.layers_overall)
        ]
        fronts.add_row("0 (front)" if layer == 0 else str(layer), *[f"{c[0]:,}" if c else "-" for c in cells])
    if depth > 10:
        rest = [sum(counts[10:]) for counts in (inspection.layers_by_prompt, inspection.layers_overall)]
        fronts.add_row("10 and more", *[f"{count:,}" for count in rest])
    shown = [overview, words, *([scores] if names else []), *([conflicts] if len(names) > 1 else [])]
    notes = [Text(f"Note: {note}", style="yellow") for note in inspection.notes]
    return Group(*shown, *([fronts] if depth else []), *notes)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _escaped(name: str) -> str:
    return name.replace("[", r"\[")  # an objective's name is text, not markup
