"""The summary of a data set as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from paretune.data.summary import Inspection

if TYPE_CHECKING:
    from rich.console import Group

MOST_CONFLICTS = 15
"""The most pairs of objectives that are listed."""


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

    counts = table("Objectives", ["objective", "scores", "missing", "comparisons", "ties"])
    scores = table(
        "Scores (higher is better)", ["objective", "mean", "std", "min", "25 %", "50 %", "75 %", "max"]
    )
    for summary in inspection.objectives:
        amounts = (summary.count, summary.missing, summary.comparisons, summary.ties)
        counts.add_row(Text(summary.objective), *(f"{amount:,}" for amount in amounts))
        if summary.count:
            figures = (summary.mean, summary.std, summary.low, *summary.quartiles, summary.high)
            scores.add_row(Text(summary.objective), *map(_number, figures))

    conflicts = table("Pairs on which two objectives disagree", ["objectives", "share"])
    shares = _conflicts(inspection)
    for names, share in shares[:MOST_CONFLICTS]:
        conflicts.add_row(Text(names), _percent(share))
    if len(shares) > MOST_CONFLICTS:
        conflicts.add_row(f"{len(shares) - MOST_CONFLICTS} more, which disagree less", "")

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
    shown = [overview, words, *(part for part in (counts, scores, conflicts) if part.row_count)]
    notes = [Text(f"Note: {note}", style="yellow") for note in inspection.notes]
    return Group(*shown, *([fronts] if depth else []), *notes)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _conflicts(inspection: Inspection) -> list[tuple[str, float]]:
    """Return (two objectives, share of the pairs on which they disagree), those that disagree most first; unknown ones last."""
    names = [summary.objective for summary in inspection.objectives]
    shares = [
        (f"{names[i]}, {names[j]}", inspection.conflicts[i][j]) for i, j in combinations(range(len(names)), 2)
    ]
    return sorted(shares, key=lambda pair: (math.isnan(pair[1]), -pair[1]))
