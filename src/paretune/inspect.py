"""What is in a data set: counts, scores, lengths, duplicates, conflicts of objectives and Pareto layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.dataset import ScoredDataset
from paretune.front import layers
from paretune.pairs import conflict_matrix

if TYPE_CHECKING:
    from rich.console import Group

MOST_LAYERED = 5000  # responses ranked against each other; sorting into layers is quadratic in the worst case


@dataclass(frozen=True)
class Scores:
    """Scores and comparisons on one objective: numbers in the scale of the scores, higher is better, NaN when
    none.
    """

    objective: str
    count: int
    missing: int
    mean: float
    std: float
    low: float
    quartiles: tuple[float, float, float]
    high: float
    comparisons: int
    ties: int


@dataclass(frozen=True)
class Lengths:
    """Lengths in words (separated by white space)."""

    mean: float
    p50: float
    p95: float
    longest: int


@dataclass(frozen=True)
class Inspection:
    """Everything `inspect` counts.

    ``prompts`` are different ones (case and white space folded), ``repeated_prompts`` rows whose prompt came
    before, ``identical_responses`` responses equal to an earlier one of their row. ``conflicts`` [M, M] is
    the share of pairs on which two objectives disagree. ``layers_by_prompt[i]`` counts the responses on
    Pareto layer i (0 is the front) among those to their prompt, ``layers_overall[i]`` among all, both over
    the ``layered`` responses that have every score; beyond 5000 an even sample of them is ranked overall.
    """

    rows: int
    prompts: int
    responses: int
    objectives: tuple[Scores, ...]
    repeated_prompts: int
    identical_responses: int
    truncated_share: float
    prompt_words: Lengths
    response_words: Lengths
    conflicts: tuple[tuple[float, ...], ...]
    layered: int
    layers_by_prompt: tuple[int, ...]
    layers_overall: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict; NaN becomes None."""
        result: dict[str, Any] = _without_nan(asdict(self))
        return result


def inspect(dataset: ScoredDataset) -> Inspection:
    """Count what is in ``dataset``; nothing is changed."""
    rows = dataset.rows
    responses = [response for row in rows for response in row.responses]
    truncated = [cut for row in rows for cut in row.truncated]
    prompts = {row.key for row in rows}
    points = [matrix[~np.isnan(matrix).any(axis=1)] for matrix in map(dataset.matrix, rows)]
    points = [matrix for matrix in points if matrix.size]
    together = np.concatenate(points) if points else np.empty((0, len(dataset.objectives)))
    sample = np.unique(np.linspace(0, len(together) - 1, min(len(together), MOST_LAYERED)).astype(int))
    return Inspection(
        rows=len(rows),
        prompts=len(prompts),
        responses=len(responses),
        objectives=tuple(_scores(dataset, name) for name in dataset.objectives),
        repeated_prompts=len(rows) - len(prompts),
        identical_responses=sum(len(row.responses) - len(set(row.responses)) for row in rows),
        truncated_share=sum(truncated) / len(truncated) if truncated else math.nan,
        prompt_words=_lengths(" ".join(m.content for m in row.prompt) for row in rows),
        response_words=_lengths(responses),
        conflicts=tuple(map(tuple, conflict_matrix(dataset).tolist())),
        layered=len(together),
        layers_by_prompt=_layer_counts(points),
        layers_overall=_layer_counts([together[sample]] if len(together) else []),
    )


def _scores(dataset: ScoredDataset, objective: str) -> Scores:
    values = np.array(
        [v for row in dataset.rows for v in row.scores.get(objective, [math.nan] * len(row.responses))]
    )
    known = values[~np.isnan(values)]
    points = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if known.size else [math.nan] * 5
    comparisons = [p for row in dataset.rows for _, _, p in row.labels.get(objective, ())]
    return Scores(
        objective=objective,
        count=int(known.size),
        missing=int(values.size - known.size),
        mean=float(known.mean()) if known.size else math.nan,
        std=float(known.std()) if known.size else math.nan,
        low=points[0],
        quartiles=(points[1], points[2], points[3]),
        high=points[4],
        comparisons=len(comparisons),
        ties=sum(p == 0 for p in comparisons),
    )


def _lengths(texts: Iterable[str]) -> Lengths:
    words = [len(text.split()) for text in texts]
    if not words:
        return Lengths(math.nan, math.nan, math.nan, 0)
    middle, long = np.quantile(words, [0.5, 0.95]).tolist()
    return Lengths(float(np.mean(words)), middle, long, max(words))


def _layer_counts(groups: Sequence[np.ndarray]) -> tuple[int, ...]:
    counts = Counter(int(layer) for points in groups for layer in layers(points))
    return tuple(counts[layer] for layer in range(max(counts) + 1)) if counts else ()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


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
    for each in inspection.objectives:
        figures = (each.mean, each.std, each.low, *each.quartiles, each.high)
        scores.add_row(
            Text(each.objective),
            f"{each.count:,}",
            f"{each.missing:,}",
            *map(_number, figures),
            f"{each.comparisons:,}",
            f"{each.ties:,}",
        )

    names = [each.objective for each in inspection.objectives]
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
    return Group(*shown, *([fronts] if depth else []))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _escaped(name: str) -> str:
    return name.replace("[", r"\[")  # an objective's name is text, not markup
