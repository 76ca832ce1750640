"""The front as a picture file, for a README or a paper."""

from __future__ import annotations

import io
import math
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.files import write_bytes
from paretune.fronts.record import FrontRecord, Point
from paretune.reports.plots import distinct, hull, ordered, place_labels, shape_of, span, ticks
from paretune.reports.wording import MIXTURE, known, listing, number, off_simplex, places, weight

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, RULE = "#1c2026", "#616872", "#e6e4de"
COLOURS = ("#1f5fb0", "#c24a12", "#0d7a62", "#8048a0", "#7d6200", "#ad2f66", "#6a4b3c", "#4c8a12")
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "down": "v",
    "pentagon": "p",
    "hexagon": "h",
    "wedge": ">",
}
DPI = 160
MOST_PANELS = 6
"""Beyond so many pairs of objectives the picture shows all objectives as parallel axes."""


def write_picture(record: FrontRecord, file: str | Path) -> None:
    """Write the front as a PNG of 1600 x 1000 pixels.

    Two objectives make one panel, three or four make one panel per pair, more (or one) make parallel axes. Bars are 95 %
    intervals; the dashed line is the mixture of corners (the single-objective models).

    Args:
        record: The record of the run.
        file: The path to write.

    Raises:
        ParetuneError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import (
        FigureCanvasAgg,
    )  # slow; without pyplot no global state changes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.25), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    M = len(record.objectives)
    pairs = list(combinations(range(M), 2))
    if 1 <= len(pairs) <= MOST_PANELS:
        rows = 1 if len(pairs) <= 3 else 2
        columns = math.ceil(len(pairs) / rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        small = len(pairs) > 1
        figure.subplots_adjust(left=0.075, right=0.975, bottom=0.1, top=0.745, wspace=0.3, hspace=0.45)
        for panel, (a, b) in zip(axes, pairs, strict=False):
            _panel(figure, panel, record, a, b, small)
        for panel in axes[len(pairs) :]:
            panel.set_visible(False)
    else:
        figure.subplots_adjust(left=0.075, right=0.925, bottom=0.08, top=0.74)
        _parallel(figure.add_subplot(), record)
    _heading(figure, record)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI)
    write_bytes(file, raw.getvalue())


def _heading(figure: Figure, record: FrontRecord) -> None:
    from matplotlib.lines import Line2D

    names = [policy.label for policy in record.policies]
    _headline(figure, [f"{listing(names)} on {record.model}", f"{len(names)} policies on {record.model}"])
    caption = f"Mean scores on {record.num_prompts} held-out prompts, bars are 95 % intervals."
    if len(record.objectives) == 2:
        caption += f" Beside each point: the weight on {record.objectives[0]}."
    figure.text(0.025, 0.888, caption, size=11, color=QUIET, va="center")
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[shape_of(i)],
            markersize=8,
            linewidth=2,
            label=name,
        )
        for i, name in enumerate(names)
    ]
    handles.append(
        Line2D(
            [], [], color=INK, marker="x", markersize=8, markeredgewidth=2.4, linewidth=0, label="base model"
        )
    )
    handles.append(
        Line2D(
            [],
            [],
            color=QUIET,
            linestyle=(0, (4, 3)),
            linewidth=1.6,
            label=f"{MIXTURE} (single-objective models)",
        )
    )
    for rows, size in ((1, 11), (2, 11), (2, 9.5), (3, 9)):
        legend = figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(0.015, 0.83), ncols=math.ceil(len(handles) / rows),
            frameon=False, fontsize=size, labelcolor=INK, handletextpad=0.5, columnspacing=1.6, labelspacing=0.3,
        )  # fmt: skip
        if _fits(figure, legend):
            break
        if (rows, size) != (3, 9):
            legend.remove()


def _headline(figure: Figure, wordings: list[str]) -> None:
    """Write the longest wording that fits, in the largest letters in which it does."""
    for words in wordings:
        for size in (17, 15, 13.5):
            line = figure.text(0.025, 0.945, words, size=size, weight="bold", color=INK, va="center")
            if _fits(figure, line):
                return
            line.remove()
    figure.text(0.025, 0.945, wordings[-1], size=13.5, weight="bold", color=INK, va="center")


def _fits(figure: Figure, drawn: Artist) -> bool:
    return drawn.get_window_extent().x1 <= 0.985 * figure.bbox.width


def _frame(axes: Axes, record: FrontRecord, a: int, b: int, small: bool) -> None:
    axes.set_xlim(*span(record, a))
    axes.set_ylim(*span(record, b))
    for values, axis, limits in (
        (3 if small else 7, axes.xaxis, axes.get_xlim()),
        (5, axes.yaxis, axes.get_ylim()),
    ):
        marks = ticks(*limits, count=values)
        digits = max(len(f"{mark:.6g}".partition(".")[2]) for mark in marks)
        axis.set_ticks(marks, labels=[number(mark, digits) for mark in marks])
    axes.tick_params(length=0, labelsize=10, labelcolor=QUIET, pad=6)
    axes.grid(color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_facecolor("white")
    for side in axes.spines.values():
        side.set_visible(False)
    size = 11 if small else 12.5
    axes.set_xlabel(
        f"{record.objectives[a]} → better", loc="right", size=size, color=INK, weight="bold", labelpad=6
    )
    axes.set_title(f"{record.objectives[b]} ↑ better", loc="left", size=size, color=INK, weight="bold", pad=8)


def _panel(figure: Figure, axes: Axes, record: FrontRecord, a: int, b: int, small: bool) -> None:
    _frame(axes, record, a, b, small)
    mixture = [(point[a], point[b]) for point in record.mixture.points]
    corners = hull(mixture)
    edge = mixture if not small or len(corners) < 3 else [*corners, corners[0]]
    axes.plot(*zip(*edge, strict=True), color=QUIET, linestyle=(0, (4, 3)), linewidth=1.6, zorder=2)
    labels: list[tuple[float, float, str, str]] = []
    blocked: list[tuple[float, float, float, float]] = []

    def pixel(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across), figure.bbox.height - float(up)

    def cover(p: tuple[float, float], q: tuple[float, float]) -> None:
        steps = max(1, int(math.dist(p, q) / 10))
        for k in range(steps + 1):
            x, y = (p[0] + (q[0] - p[0]) * k / steps, p[1] + (q[1] - p[1]) * k / steps)
            blocked.append((x - 4, y - 4, x + 4, y + 4))

    def bars(point: Point, colour: str) -> None:
        for ends in _bars(point, a, b):
            axes.plot(*zip(*ends, strict=True), color=colour, alpha=0.32, linewidth=1.6, zorder=2)
            cover(pixel(*ends[0]), pixel(*ends[1]))

    for p, q in pairwise(edge):
        cover(pixel(*p), pixel(*q))
    size = 7 if small else 10
    for i, policy in enumerate(record.policies):
        colour = COLOURS[i % len(COLOURS)]
        line = ordered(policy, record.objectives[a])
        points = {n: (policy.points[n].mean[a], policy.points[n].mean[b]) for n in line}
        rim = hull(list(points.values()))
        if len(rim) > 2:
            axes.fill(*zip(*rim, strict=True), color=colour, alpha=0.08, linewidth=0, zorder=1)
        if not small:
            axes.plot(*zip(*points.values(), strict=True), color=colour, linewidth=2.2, alpha=0.85, zorder=3)
            for n, m in pairwise(line):
                cover(pixel(*points[n]), pixel(*points[m]))
        for n, (x, y) in points.items():
            good = policy.non_dominated[n]
            bars(policy.points[n], colour)
            axes.plot(
                x, y, marker=MARKERS[shape_of(i)], markersize=size, color=colour if good else "white",
                markeredgecolor="white" if good else colour, markeredgewidth=1.2, zorder=5,
            )  # fmt: skip
            px, py = pixel(x, y)
            blocked.append((px - 14, py - 14, px + 14, py + 14))
            if not small:
                share = policy.points[n].preference[record.objectives[a]]
                labels.append((px, py, weight(share), colour))
    for i, point in off_simplex(record):
        (x, y), colour = (point.mean[a], point.mean[b]), COLOURS[i % len(COLOURS)]
        bars(point, colour)
        axes.plot(
            x,
            y,
            marker=MARKERS[shape_of(i)],
            markersize=size,
            color="white",
            markeredgecolor=colour,
            alpha=0.6,
            zorder=4,
        )
        px, py = pixel(x, y)
        blocked.append((px - 14, py - 14, px + 14, py + 14))
        if not small:
            share = weight(point.preference[record.objectives[a]])
            labels.append((px, py, f"{share} extrapolated", colour))
    x, y = record.base.mean[a], record.base.mean[b]
    bars(record.base, INK)
    axes.plot(x, y, marker="x", markersize=size, markeredgewidth=2.6, color=INK, zorder=4)
    px, py = pixel(x, y)
    blocked.append((px - 12, py - 12, px + 12, py + 12))
    if not small:
        labels.append((px, py, "base model", INK))
        _write(figure, axes, distinct(labels, 20), blocked)


def _write(
    figure: Figure,
    axes: Axes,
    labels: list[tuple[float, float, str, str]],
    blocked: list[tuple[float, float, float, float]],
) -> None:
    from matplotlib import patheffects

    box, height = axes.get_window_extent(), figure.bbox.height
    area = (box.x0, height - box.y1, box.x1, height - box.y0)
    centres = place_labels([label[:3] for label in labels], blocked, area, 15.5, 28)
    for (_, _, text, colour), (x, y) in zip(labels, centres, strict=True):
        figure.text(
            x / figure.bbox.width, 1 - y / height, text, size=11.5, weight="bold", color=colour,
            ha="center", va="center",
            path_effects=[patheffects.withStroke(linewidth=3.5, foreground="white")],
        )  # fmt: skip


def _bars(point: Point, a: int, b: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the ends of the intervals of a point that has them: across, then up."""
    x, y = point.mean[a], point.mean[b]
    found = []
    if known(point.low[a]) and known(point.high[a]):
        found.append(((point.low[a], y), (point.high[a], y)))
    if known(point.low[b]) and known(point.high[b]):
        found.append(((x, point.low[b]), (x, point.high[b])))
    return found


def _parallel(axes: Axes, record: FrontRecord) -> None:
    M, shown = len(record.objectives), places(record)
    spans = [span(record, m) for m in range(M)]

    def scaled(mean: list[float]) -> list[float]:
        return [(value - low) / (high - low) for value, (low, high) in zip(mean, spans, strict=True)]

    axes.axis("off")
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.02, max(M - 1, 1) + 0.02)
    for m, objective in enumerate(record.objectives):
        axes.plot([m, m], [0, 1], color=RULE, linewidth=1.5, zorder=1)
        axes.text(m, 1.07, f"{objective} ↑", ha="center", size=12, weight="bold", color=INK)
        axes.text(m, 1.02, number(spans[m][1], shown[m]), ha="center", size=10, color=QUIET)
        axes.text(m, -0.05, number(spans[m][0], shown[m]), ha="center", size=10, color=QUIET)
    axes.plot(range(M), scaled(record.base.mean), color=INK, marker="x", markeredgewidth=2.4, markersize=9,
              linestyle=(0, (1, 2)), linewidth=1.6, zorder=4)  # fmt: skip
    for i, policy in enumerate(record.policies):
        for n, point in enumerate(policy.points):
            axes.plot(
                range(M), scaled(point.mean), color=COLOURS[i % len(COLOURS)], marker=MARKERS[shape_of(i)], markersize=6,
                linewidth=1.6, alpha=0.75 if policy.non_dominated[n] else 0.25, zorder=3,
            )  # fmt: skip
