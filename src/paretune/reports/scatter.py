"""The front over two objectives as an SVG scatter plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from paretune.fronts.record import FrontRecord, Point
from paretune.reports.plots import (
    SHAPES,
    Box,
    Frame,
    Label,
    Pixel,
    axes,
    axis_name,
    caption,
    describe,
    distinct,
    hull,
    marker,
    nesting,
    opened,
    ordered,
    place_labels,
    polyline,
    segment,
    shape_of,
    span,
)
from paretune.reports.wording import (
    MIXTURE,
    has_base,
    has_mixture,
    knee,
    known,
    off_simplex,
    preference,
    weight,
)

MOST_NAMED_LINES = 4
"""The most policies whose names stand beside their lines; of more, the legend has them."""
LONGEST_NAME = 26
"""A longer name is cut there."""


@dataclass(frozen=True)
class View:
    """Which scatter plot of a record is drawn.

    Attributes:
        a, b: The numbers of the objectives across and up.
        width, height: The size of the drawing in pixels.
        lines: Whether each policy's points are joined in the order of the weight on ``a`` and labelled with it.
    """

    a: int
    b: int
    width: int
    height: int
    lines: bool = True


@dataclass
class _Drawing:
    """A scatter plot on the way: SVG by layer, the labels to place, and the boxes they should not cover."""

    frame: Frame
    view: View
    below: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    blocked: list[Box] = field(default_factory=list)

    def at(self, point: Point) -> Pixel:
        """Return the pixel of a measured point."""
        return self.frame.at(point.mean[self.view.a], point.mean[self.view.b])

    def line(self, pixels: Sequence[Pixel], kind: str) -> None:
        """Draw a line through pixels below the points."""
        self.below.append(polyline(pixels, kind))
        self.block_line(pixels)

    def block_line(self, pixels: Sequence[Pixel]) -> None:
        """Keep labels off a line."""
        self.blocked += [box for p, q in pairwise(pixels) for box in _beads(p, q)]

    def bars(self, point: Point, radius: float = 8) -> str:
        """Return the intervals of a point, and keep labels off them and off the point."""
        bars, boxes = _bars(self.frame, point, self.view.a, self.view.b)
        x, y = self.at(point)
        self.blocked += [*boxes, (x - radius, y - radius, x + radius, y + radius)]
        return bars

    def label(self, at: Pixel, text: str, kind: str) -> None:
        """Ask for a label beside a pixel, in plots that have labels."""
        if self.view.lines:
            self.labels.append((*at, text, kind))

    def texts(self) -> str:
        """Return the labels where they cover least."""
        frame, labels = self.frame, distinct(self.labels)
        area = (frame.left, frame.top, frame.right, frame.bottom)
        centres = place_labels([label[:3] for label in labels], self.blocked, area, 6.4, 12)
        return "".join(
            caption(kind, x, y + 4, text, "middle")
            for (_, _, text, kind), (x, y) in zip(labels, centres, strict=True)
        )


def scatter(record: FrontRecord, view: View) -> str:
    """Return the front over two objectives as an SVG picture, for paper and where scripts are off.

    Args:
        record: The record of the run.
        view: The objectives and the size.
    """
    a, b, width, height = view.a, view.b, view.width, view.height
    frame = Frame(54, 34, width - 16, height - 46, span(record, a), span(record, b))
    drawing, objectives = _Drawing(frame, view), record.objectives
    named = axes(frame, axis_name(record, a, "→"), axis_name(record, b, "↑"))
    drawing.below.append(_reference_mark(record, frame, a, b))
    for i, policy in enumerate(record.policies):
        rim = hull([drawing.at(point) for point in policy.points])
        if len(rim) > 2:
            drawing.below.append(polyline(rim, f"hull pol{i % len(SHAPES)} of{i}", closed=True))
    if has_mixture(record):
        _draw_mixture(record, drawing)
    for i in range(len(record.policies)):
        _draw_policy(record, drawing, i)
    for i, point in off_simplex(record):
        _draw_extrapolation(record, drawing, i, point)
    cross = ""
    if has_base(record):
        base = drawing.at(record.base)
        bars = drawing.bars(record.base, 7)
        cross = f'<g class="base"><title>base model</title>{bars}{marker("cross", *base, 7)}</g>'
        drawing.label(base, "base model", "label base")
    if has_mixture(record):
        _label_mixture(record, drawing)
    name = escape(f"Scores on {objectives[a]} (across) and {objectives[b]} (up), higher is better on both")
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="group" aria-label="{name}">{named}'
        f"{''.join(drawing.below)}{cross}{''.join(drawing.points)}{drawing.texts()}</svg>"
    )


def _mixture(record: FrontRecord, drawing: _Drawing) -> list[Pixel]:
    return [drawing.frame.at(point[drawing.view.a], point[drawing.view.b]) for point in record.mixture.points]


def _draw_mixture(record: FrontRecord, drawing: _Drawing) -> None:
    mixture, lines = _mixture(record, drawing), drawing.view.lines
    rim = hull(mixture)
    if lines or len(rim) < 3:
        rim = mixture
    drawing.below.append(polyline(rim, "mixture", closed=not lines))


def _label_mixture(record: FrontRecord, drawing: _Drawing) -> None:
    mixture = _mixture(record, drawing)
    drawing.label(mixture[len(mixture) // 3], MIXTURE, "label quiet")
    if drawing.view.lines:
        drawing.block_line(mixture)


def _reference_mark(record: FrontRecord, frame: Frame, a: int, b: int) -> str:
    """Return the corner at the reference point; nothing where it lies outside the frame."""
    reference = record.reference_point
    if frame.x[0] > reference[a] or frame.y[0] > reference[b]:
        return ""
    x, y = frame.at(reference[a], reference[b])
    mark = f'<path class="ref" d="M{x:.1f} {y - 16:.1f}V{y:.1f}H{x + 16:.1f}"/>'
    return mark + caption("small", x + 6, y - 6, "reference point")


def _draw_policy(record: FrontRecord, drawing: _Drawing, i: int) -> None:
    policy, objective, colour = record.policies[i], record.objectives[drawing.view.a], f"pol{i % len(SHAPES)}"
    order, bulge = ordered(policy, objective), knee(policy)
    if drawing.view.lines and len(order) > 1:
        drawing.line([drawing.at(policy.points[n]) for n in order], f"line {colour} of{i}")
    for n in order:
        point = policy.points[n]
        x, y = drawing.at(point)
        bars = drawing.bars(point)
        knee_ring = f'<circle class="knee" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if n == bulge else ""
        size, several, outer = nesting(record, i, point)
        mark = marker(shape_of(i), x, y, (8 if several else 5.5) * size, "mark ring" if outer else "mark")
        drawing.points.append(
            f"{opened(record, i, n)}<title>{escape(describe(record, policy, n))}</title>{bars}{knee_ring}{mark}</g>"
        )
        # A point that policies share has one label, which goes with none of them.
        kind = "label" if several else f"label {colour} of{i}"
        drawing.label((x, y), weight(point.preference[objective]), kind)
    if drawing.view.lines and 1 < len(record.policies) <= MOST_NAMED_LINES and len(order) > 1:
        _name_line(record, drawing, i, [drawing.at(policy.points[n]) for n in order])


def _name_line(record: FrontRecord, drawing: _Drawing, i: int, line: Sequence[Pixel]) -> None:
    """Ask for a policy's name beside its line, at the segment that is farthest from the lines of the others."""
    others = [
        drawing.at(point) for j, policy in enumerate(record.policies) if j != i for point in policy.points
    ]
    middles = [((p[0] + q[0]) / 2, (p[1] + q[1]) / 2) for p, q in pairwise(line)]
    spot = max(middles, key=lambda at: min((math.dist(at, other) for other in others), default=0.0))
    text = record.policies[i].label
    shown = text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
    drawing.label(spot, shown, f"label name pol{i % len(SHAPES)} of{i}")


def _draw_extrapolation(record: FrontRecord, drawing: _Drawing, i: int, point: Point) -> None:
    colour, bars, (x, y) = f"pol{i % len(SHAPES)}", drawing.bars(point), drawing.at(point)
    title = escape(f"{record.policies[i].label}, extrapolated to {preference(point.preference)}")
    drawing.points.append(
        f'<g class="pt {colour} of{i} faded beyond"><title>{title}</title>{bars}'
        f"{marker(shape_of(i), x, y, 5.5)}</g>"
    )
    share = weight(point.preference[record.objectives[drawing.view.a]])
    drawing.label((x, y), f"{share} extrapolated", f"label {colour} of{i}")


def _beads(p: Pixel, q: Pixel) -> list[Box]:
    steps = max(1, int(math.dist(p, q) / 6))
    dots = [(p[0] + (q[0] - p[0]) * k / steps, p[1] + (q[1] - p[1]) * k / steps) for k in range(steps)]
    return [(x - 2, y - 2, x + 2, y + 2) for x, y in dots]


def _bars(frame: Frame, point: Point, a: int, b: int) -> tuple[str, list[Box]]:
    (x, y), text, boxes = frame.at(point.mean[a], point.mean[b]), "", []
    if known(point.low[a]) and known(point.high[a]):
        left, right = frame.at(point.low[a], 0)[0], frame.at(point.high[a], 0)[0]
        text += segment("bar", (left, y), (right, y))
        boxes.append((left, y - 1, right, y + 1))
    if known(point.low[b]) and known(point.high[b]):
        bottom, top = frame.at(0, point.low[b])[1], frame.at(0, point.high[b])[1]
        text += segment("bar", (x, bottom), (x, top))
        boxes.append((x - 1, top, x + 1, bottom))
    return text, boxes
