"""The front as a picture file, for a README or a paper."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.files import write_bytes
from paretune.fronts.drawing import COLOURS, INK, QUIET, RULE
from paretune.fronts.record import FrontRecord, Point
from paretune.reports.plots import (
    Box,
    Label,
    Pixel,
    distinct,
    hull,
    nesting,
    ordered,
    place_labels,
    shape_of,
    span,
    ticks,
)
from paretune.reports.wording import (
    MIXTURE,
    any_faint,
    has_base,
    has_mixture,
    known,
    listing,
    number,
    off_simplex,
    opacity,
    places,
    weight,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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

LEGEND_TOP, AXES_TOP, LOWEST_TOP = 0.858, 0.745, 0.3
"""Heights in shares of the picture: of the legend, of axes below a legend of up to three rows, and of axes below the longest."""
LONGEST_LABEL = 48
"""A longer name of a policy is cut in the legend, so that one name does not take its whole width."""


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
    top = _heading(figure, record)
    M = len(record.objectives)
    pairs = list(combinations(range(M), 2))
    if 1 <= len(pairs) <= MOST_PANELS:
        rows = 1 if len(pairs) <= 3 else 2
        columns = math.ceil(len(pairs) / rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        small = len(pairs) > 1
        figure.subplots_adjust(left=0.075, right=0.975, bottom=0.1, top=top, wspace=0.3, hspace=0.45)
        for panel, (a, b) in zip(axes, pairs, strict=False):
            _panel(_Panel(figure, panel, a, b, small), record)
        for panel in axes[len(pairs) :]:
            panel.set_visible(False)
    else:
        figure.subplots_adjust(left=0.075, right=0.925, bottom=0.08, top=top)
        _parallel(figure.add_subplot(), record)
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI)
    write_bytes(file, raw.getvalue())


def _heading(figure: Figure, record: FrontRecord) -> float:
    """Write title, caption and legend; return the height at which the axes may begin, as a share of the figure."""
    from matplotlib.lines import Line2D

    names = [_shortened(policy.label) for policy in record.policies]
    _headline(figure, [f"{listing(names)} on {record.model}", f"{len(names)} policies on {record.model}"])
    _caption(figure, record)
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
    if has_base(record):
        base = Line2D([], [], color=INK, marker="x", markersize=8, markeredgewidth=2.4, linewidth=0)
        base.set_label("base model")
        handles.append(base)
    if has_mixture(record):
        label = f"{MIXTURE} (single-objective models)"
        handles.append(Line2D([], [], color=QUIET, linestyle=(0, (4, 3)), linewidth=1.6, label=label))
    return _legend(figure, handles)


def _legend(figure: Figure, handles: list[Line2D]) -> float:
    """Draw the legend in as few rows as fit across; return the height at which the axes may begin."""
    few = [(1, 11.0), (2, 11.0), (2, 9.5), (3, 9.0)]
    for rows, size in [*few, *((rows, 8.0) for rows in range(4, len(handles) + 1))]:
        columns = math.ceil(len(handles) / rows)
        legend = figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.025, LEGEND_TOP), ncols=columns, borderpad=0, borderaxespad=0,
            frameon=False, fontsize=size, labelcolor=INK, handletextpad=0.5, columnspacing=1.6, labelspacing=0.3,
        )  # fmt: skip
        if _fits(figure, legend) or columns == 1:
            break
        legend.remove()
    below = legend.get_window_extent().y0 / figure.bbox.height
    return max(LOWEST_TOP, min(AXES_TOP, below - 0.07))


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _caption(figure: Figure, record: FrontRecord) -> None:
    """Write what the marks mean, in the largest letters in which it fits."""
    words = f"Mean scores on {record.num_prompts} held-out prompts, bars are 95 % intervals."
    if len(record.objectives) == 2:
        words += f" Beside each point: the weight on {record.objectives[0]}."
    if any_faint(record):
        words += " The fainter, the less likely on the front."
    for size in (11, 10, 9, 8):
        line = figure.text(0.025, 0.888, words, size=size, color=QUIET, va="center")
        if _fits(figure, line) or size == 8:
            return
        line.remove()


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


@dataclass
class _Panel:
    """One pair of objectives on the way: where it is drawn, the labels to place, and the boxes they should not cover.

    Attributes:
        figure, axes: Where it is drawn.
        a, b: The numbers of the objectives across and up.
        small: Whether it is one of several, which have no room for lines and labels.
    """

    figure: Figure
    axes: Axes
    a: int
    b: int
    small: bool
    labels: list[Label] = field(default_factory=list)
    blocked: list[Box] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The size of a marker in points."""
        return 7 if self.small else 10

    def at(self, point: Point) -> Pixel:
        """Return the data coordinates of a measured point."""
        return point.mean[self.a], point.mean[self.b]

    def pixel(self, x: float, y: float) -> Pixel:
        """Return the pixel of data coordinates, with y downwards."""
        across, up = self.axes.transData.transform((x, y))
        return float(across), self.figure.bbox.height - float(up)

    def cover(self, first: Pixel, second: Pixel) -> None:
        """Keep labels off a line between two data coordinates."""
        p, q = self.pixel(*first), self.pixel(*second)
        steps = max(1, int(math.dist(p, q) / 10))
        for k in range(steps + 1):
            x, y = (p[0] + (q[0] - p[0]) * k / steps, p[1] + (q[1] - p[1]) * k / steps)
            self.blocked.append((x - 4, y - 4, x + 4, y + 4))

    def mark(
        self, point: Point, label: str, colour: str, radius: float = 14, size: float = 1, **style: Any
    ) -> None:
        """Draw a point with its intervals, ``size`` times as large as others, and ask for a label beside it."""
        for ends in _bars(point, self.a, self.b):
            self.axes.plot(*zip(*ends, strict=True), color=colour, alpha=0.32, linewidth=1.6, zorder=2)
            self.cover(*ends)
        self.axes.plot(*self.at(point), markersize=self.size * size, **style)
        x, y = self.pixel(*self.at(point))
        self.blocked.append((x - radius, y - radius, x + radius, y + radius))
        if not self.small:
            self.labels.append((x, y, label, colour))


def _panel(panel: _Panel, record: FrontRecord) -> None:
    """Draw the front over one pair of objectives."""
    _frame(panel.axes, record, panel.a, panel.b, panel.small)
    if has_mixture(record):
        mixture = [(point[panel.a], point[panel.b]) for point in record.mixture.points]
        rim = hull(mixture)
        edge = mixture if not panel.small or len(rim) < 3 else [*rim, rim[0]]
        panel.axes.plot(*zip(*edge, strict=True), color=QUIET, linestyle=(0, (4, 3)), linewidth=1.6, zorder=2)
        for first, second in pairwise(edge):
            panel.cover(first, second)
    for i in range(len(record.policies)):
        _draw_policy(panel, record, i)
    for i, point in off_simplex(record):
        colour, share = COLOURS[i % len(COLOURS)], weight(point.preference[record.objectives[panel.a]])
        shape = MARKERS[shape_of(i)]
        panel.mark(
            point, f"{share} extrapolated", colour,
            marker=shape, color="white", markeredgecolor=colour, alpha=0.6, zorder=4,
        )  # fmt: skip
    if has_base(record):
        panel.mark(record.base, "base model", INK, 12, marker="x", markeredgewidth=2.6, color=INK, zorder=4)
    if not panel.small:
        _write(panel.figure, panel.axes, distinct(panel.labels, 20), panel.blocked)


def _draw_policy(panel: _Panel, record: FrontRecord, i: int) -> None:
    policy, colour, objective = record.policies[i], COLOURS[i % len(COLOURS)], record.objectives[panel.a]
    points = [policy.points[n] for n in ordered(policy, objective)]
    line = [panel.at(point) for point in points]
    rim = hull(line)
    if len(rim) > 2:
        panel.axes.fill(*zip(*rim, strict=True), color=colour, alpha=0.08, linewidth=0, zorder=1)
    if not panel.small:
        panel.axes.plot(*zip(*line, strict=True), color=colour, linewidth=2.2, alpha=0.85, zorder=3)
        for first, second in pairwise(line):
            panel.cover(first, second)
    for point in points:
        size, several, outer = nesting(record, i, point)
        inside, edge, width = _faint(colour, opacity(point)), "white", 1.2
        if outer:  # a ring, in which the mark of the other policy stands
            inside, edge, width = (1.0, 1.0, 1.0), colour, 2.4
        panel.mark(
            point, weight(point.preference[objective]), INK if several else colour, size=size * (1.6 if several else 1),
            marker=MARKERS[shape_of(i)], color=inside, markeredgecolor=edge, markeredgewidth=width, zorder=5,
        )  # fmt: skip


def _faint(colour: str, opaque: float) -> tuple[float, float, float]:
    """Return a colour mixed with white, so that what lies below does not shine through."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - opaque * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def _write(figure: Figure, axes: Axes, labels: list[Label], blocked: list[Box]) -> None:
    """Write labels where they cover least."""
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


def _bars(point: Point, a: int, b: int) -> list[tuple[Pixel, Pixel]]:
    """Return the ends of the intervals of a point that has them: across, then up."""
    x, y = point.mean[a], point.mean[b]
    bars = []
    if known(point.low[a]) and known(point.high[a]):
        bars.append(((point.low[a], y), (point.high[a], y)))
    if known(point.low[b]) and known(point.high[b]):
        bars.append(((x, point.low[b]), (x, point.high[b])))
    return bars


def _parallel(axes: Axes, record: FrontRecord) -> None:
    M, shown = len(record.objectives), places(record)
    spans = [span(record, m) for m in range(M)]

    def scaled(mean: Sequence[float]) -> list[float]:
        return [(value - low) / (high - low) for value, (low, high) in zip(mean, spans, strict=True)]

    axes.axis("off")
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.02, max(M - 1, 1) + 0.02)
    for m, objective in enumerate(record.objectives):
        axes.plot([m, m], [0, 1], color=RULE, linewidth=1.5, zorder=1)
        axes.text(m, 1.07, f"{objective} ↑", ha="center", size=12, weight="bold", color=INK)
        axes.text(m, 1.02, number(spans[m][1], shown[m]), ha="center", size=10, color=QUIET)
        axes.text(m, -0.05, number(spans[m][0], shown[m]), ha="center", size=10, color=QUIET)
    if has_base(record):
        axes.plot(range(M), scaled(record.base.mean), color=INK, marker="x", markeredgewidth=2.4, markersize=9,
                  linestyle=(0, (1, 2)), linewidth=1.6, zorder=4)  # fmt: skip
    for i, policy in enumerate(record.policies):
        for point in policy.points:
            axes.plot(
                range(M), scaled(point.mean), color=COLOURS[i % len(COLOURS)], marker=MARKERS[shape_of(i)], markersize=6,
                linewidth=1.6, alpha=0.75 * opacity(point), zorder=3,
            )  # fmt: skip
