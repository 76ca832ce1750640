"""The parts of drawings as SVG, and parallel axes. Colours are CSS classes, so one drawing serves light and dark pages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from paretune.fronts.front import Interval
from paretune.fronts.record import FrontRecord, MeasuredPolicy, Point
from paretune.reports.wording import (
    chance,
    has_base,
    interval,
    known,
    log_ratio,
    number,
    off_simplex,
    opacity,
    places,
    preference,
)

SHAPES = ("circle", "square", "triangle", "diamond", "down", "pentagon", "hexagon", "wedge")
"""The shapes of the policies' points in turn, which tell policies apart where colours do not. A second round of eight has the
colours of the first on the next shape."""

Box = tuple[float, float, float, float]
Pixel = tuple[float, float]
Label = tuple[float, float, str, str]
"""A pixel, a text and its CSS class."""


@dataclass(frozen=True)
class Frame:
    """The plotting area in pixels, and the data range it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> Pixel:
        """Return the pixel of a data point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``, at least three of them.

    >>> ticks(-6.3, -1.8)
    [-6.0, -5.0, -4.0, -3.0, -2.0]
    >>> ticks(-9.1, -1.4, 3)
    [-8.0, -6.0, -4.0, -2.0]
    """
    size = 10.0 ** math.floor(math.log10((high - low) / count))
    chosen: list[float] = []
    for step in (size * factor for factor in (10, 5, 2.5, 2, 1, 0.5)):
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        marks = [float(f"{k * step:.12g}") for k in range(first, last + 1)]
        if len(chosen) < 3 or (len(marks) >= 3 and abs(len(marks) - count) < abs(len(chosen) - count)):
            chosen = marks
    return chosen


def span(record: FrontRecord, m: int) -> tuple[float, float]:
    """Return the range to show of objective ``m``: every point and bound, with a margin.

    The reference point is shown where it does not squeeze the rest into less than two thirds of the range.
    """
    values = [point[m] for point in record.mixture.points]
    points = [point for policy in record.policies for point in policy.points]
    for point in [record.base, *points, *(point for _, point in off_simplex(record))]:
        values += [value[m] for value in (point.mean, point.low, point.high) if known(value[m])]
    low, high = min(values), max(values)
    size = (high - low) or max(abs(high), 1.0) * 0.1
    reference = record.reference_point[m]
    if low - size / 2 <= reference < low:
        low = reference
    return low - 0.05 * size, high + 0.06 * size


def hull(points: Sequence[Pixel]) -> list[Pixel]:
    """Return the vertices of the convex hull (Andrew's monotone chain).

    >>> hull([(0, 0), (1, 1), (2, 0), (1, 0.5), (1, -1)])
    [(0, 0), (1, -1), (2, 0), (1, 1)]
    """
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    def half(chain: Sequence[Pixel]) -> list[Pixel]:
        kept: list[Pixel] = []
        for point in chain:
            while len(kept) >= 2 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return half(ordered) + half(ordered[::-1])


def _turn(a: Pixel, b: Pixel, c: Pixel) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def place_labels(
    labels: Sequence[tuple[float, float, str]],
    blocked: Sequence[Box],
    area: Box,
    character: float,
    height: float,
) -> list[Pixel]:
    """Return the centre of each label, beside its point, where it covers least of what is there.

    Args:
        labels: Point and text of each label, in pixels with y downwards.
        blocked: Boxes better not covered.
        area: The box to stay in.
        character: The width of a character.
        height: The height of a line.
    """
    # All boxes so far, in rows: a front of many points has many labels, each compared with all that is there.
    taken = np.empty((len(blocked) + len(labels), 4))
    taken[: len(blocked)] = np.reshape(blocked, (-1, 4))
    centres = []
    for count, (x, y, text) in enumerate(labels, len(blocked)):
        half, tall = len(text) * character / 2, height / 2
        near, far = height * 0.42, height * 0.95
        best: tuple[float, Pixel, Box] | None = None
        for order, (across, up) in enumerate(_AROUND):
            reach = near if across and up else far
            centre = (x + across * (half + reach), y - up * (tall + reach))
            box = (centre[0] - half, centre[1] - tall, centre[0] + half, centre[1] + tall)
            cost = order * 0.5 + _shared(box, taken[:count])
            cost += 20 * (2 * half * 2 * tall - _shared(box, np.array([area])))
            if best is None or cost < best[0]:
                best = (cost, centre, box)
        assert best is not None
        centres.append(best[1])
        taken[count] = best[2]
    return centres


_AROUND = ((1, 1), (-1, -1), (1, -1), (-1, 1), (1, 0), (-1, 0), (0, 1), (0, -1))


def distinct(labels: Sequence[Label], radius: float = 10) -> list[Label]:
    """Return the labels (x, y, text, kind) without those that repeat an earlier text within ``radius`` pixels.

    Policies often share points, such as the corners.
    """
    kept: list[Label] = []
    for label in labels:
        if not any(label[2] == other[2] and math.dist(label[:2], other[:2]) < radius for other in kept):
            kept.append(label)
    return kept


def _shared(box: Box, others: np.ndarray) -> float:
    """Return the area that a box shares with others ``[N, 4]``, summed over them."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    return float(np.prod(np.maximum(high - low, 0.0), axis=1).sum())


def ordered(policy: MeasuredPolicy, objective: str) -> list[int]:
    """Return the indices of a policy's points by falling weight on ``objective``."""
    points = policy.points
    return sorted(range(len(points)), key=lambda n: -points[n].preference[objective])


def nesting(record: FrontRecord, i: int, point: Point) -> tuple[float, bool, bool]:
    """Return the size of a point's mark as a share, whether other policies have the very same point, and whether a later one has.

    Policies often share a model, such as that of a corner; a mark in a ring is smaller, so that both are seen.
    """
    same = [any(other.mean == point.mean for other in policy.points) for policy in record.policies]
    return max(0.3, 0.58 ** sum(same[:i])), sum(same) > 1, any(same[i + 1 :])


def axis_name(record: FrontRecord, m: int, arrow: str) -> str:
    """Return the name of an axis, with what a point more is where a rule counts something."""
    objective = record.objectives[m]
    found = re.match(r"\+1 for every ([^,;]{1,32})", record.objectives_info.get(objective, ""))
    return f"{objective} {arrow} better{f' (+1: {found[1]})' if found else ''}"


def shape_of(i: int) -> str:
    """Return the shape of policy i; no two of the first 64 share both colour and shape."""
    return SHAPES[(i + i // len(SHAPES)) % len(SHAPES)]


def marker(shape: str, x: float, y: float, r: float, kind: str = "mark") -> str:
    """Return a point as SVG of CSS class ``kind``; ``cross`` is the base model's."""
    if shape == "circle":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    if shape == "cross":
        a = r * 0.85
        return (
            f'<path class="cross" d="M{x - a:.1f} {y - a:.1f}L{x + a:.1f} {y + a:.1f}'
            f'M{x - a:.1f} {y + a:.1f}L{x + a:.1f} {y - a:.1f}"/>'
        )
    corners, turn, size = {
        "square": (4, 45, 1.25),
        "triangle": (3, 0, 1.35),
        "diamond": (4, 0, 1.3),
        "down": (3, 180, 1.35),
        "pentagon": (5, 0, 1.15),
        "hexagon": (6, 0, 1.15),
        "wedge": (3, 90, 1.35),
    }[shape]
    angles = [math.radians(turn + 360 * k / corners) for k in range(corners)]
    dots = [(x + r * size * math.sin(a), y - r * size * math.cos(a)) for a in angles]
    return f'<path class="{kind}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in dots)}Z"/>'


def polyline(points: Sequence[Pixel], kind: str, closed: bool = False) -> str:
    """Return a line through pixels, closed to an area where asked, of CSS class ``kind``."""
    joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{joined}{"Z" if closed else ""}"/>'


def segment(kind: str, a: Pixel, b: Pixel) -> str:
    """Return a straight line between two pixels."""
    return f'<path class="{kind}" d="M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}"/>'


def caption(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """Return a text at a pixel; ``anchor`` is start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def describe(record: FrontRecord, policy: MeasuredPolicy, n: int) -> str:
    """Return a point in one line of text: preference, scores, words, distance and chance to be on the front."""
    point, shown = policy.points[n], places(record)
    scores = ", ".join(
        f"{objective} {number(point.mean[m], shown[m])}" for m, objective in enumerate(record.objectives)
    )
    text = (
        f"{policy.label} at {preference(point.preference)}: {scores}; "
        f"{number(point.words, 0)} words; {log_ratio(record)} {interval(point.log_ratio, 1)} nats"
    )
    return text if point.on_front is None else f"{text}; on the front {chance(point.on_front)}"


def opened(record: FrontRecord, i: int, n: int, picks: Mapping[tuple[int, int], int] | None = None) -> str:
    """Return the opening tag of a point; the caller closes ``</g>``. With ``picks`` the page's script lets it be selected."""
    policy = record.policies[i]
    open_to_keys = "" if picks is None else f' tabindex="0" data-i="{i}" data-k="{picks[i, n]}"'
    return (
        f'<g class="pt pol{i % len(SHAPES)} of{i}" style="--on:{opacity(policy.points[n]):.2f}" role="img"{open_to_keys} '
        f'aria-label="{escape(describe(record, policy, n))}">'
    )


def axes(frame: Frame, across: str, up: str) -> str:
    """Return grid, ticks and the names of both axes."""
    parts = []
    values = ticks(*frame.x, count=max(3, int((frame.right - frame.left) / 110)))
    digits = _digits(values)
    for value in values:
        x = frame.at(value, frame.y[0])[0]
        parts.append(segment("grid", (x, frame.top), (x, frame.bottom)))
        parts.append(caption("tick", x, frame.bottom + 16, number(value, digits), "middle"))
    values = ticks(*frame.y, count=max(3, int((frame.bottom - frame.top) / 75)))
    digits = _digits(values)
    for value in values:
        y = frame.at(frame.x[0], value)[1]
        parts.append(segment("grid", (frame.left, y), (frame.right, y)))
        parts.append(caption("tick", frame.left - 7, y + 4, number(value, digits), "end"))
    parts.append(caption("axis", frame.right, frame.bottom + 36, across, "end"))
    parts.append(caption("axis", 6, 18, up))
    return "".join(parts)


def _digits(values: Sequence[float]) -> int:
    return max(len(f"{value:.6g}".partition(".")[2]) for value in values)


def parallel(record: FrontRecord, width: int, height: int) -> str:
    """Return every point as a line over one axis per objective, each axis running from worst to best shown."""
    objectives, M = record.objectives, len(record.objectives)
    left, right, top, bottom = 46.0, width - 46.0, 44.0, height - 30.0
    spans = [span(record, m) for m in range(M)]
    columns = [left + (right - left) * (m / (M - 1) if M > 1 else 0.5) for m in range(M)]

    def trace(mean: Sequence[float]) -> list[Pixel]:
        shares = [(mean[m] - low) / (high - low) for m, (low, high) in enumerate(spans)]
        return [(columns[m], bottom - share * (bottom - top)) for m, share in enumerate(shares)]

    parts, shown = [], places(record)
    for m, objective in enumerate(objectives):
        anchor = "middle" if 0 < m < M - 1 or M == 1 else "start" if m == 0 else "end"
        x = columns[m] + (-40 if anchor == "start" else 40 if anchor == "end" else 0)
        parts.append(segment("grid strong", (columns[m], top), (columns[m], bottom)))
        parts.append(caption("axis", x, 18, f"{objective} ↑", anchor))
        parts.append(caption("tick", columns[m], top - 8, number(spans[m][1], shown[m]), "middle"))
        parts.append(caption("tick", columns[m], bottom + 18, number(spans[m][0], shown[m]), "middle"))
    if has_base(record):
        base = trace(record.base.mean)
        crosses = "".join(marker("cross", x, y, 6) for x, y in base)
        parts.append(f'<g class="base"><title>base model</title>{polyline(base, "mixture")}{crosses}</g>')
    for i, policy in enumerate(record.policies):
        for n, point in enumerate(policy.points):
            line = trace(point.mean)
            dots = "".join(marker(shape_of(i), x, y, 4) for x, y in line)
            parts.append(
                f"{opened(record, i, n)}<title>{escape(describe(record, policy, n))}</title>{polyline(line, 'line')}{dots}</g>"
            )
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="group" aria-label="Every point over all '
        f'objectives, best at the top">{"".join(parts)}</svg>'
    )


def strip(figure: Interval, low: float, high: float, kind: str, zero: bool = False) -> str:
    """Return an interval as a small picture on the scale from ``low`` to ``high``."""
    width, middle = 150, 9
    size = (high - low) or 1.0

    def x(value: float) -> float:
        return 6 + (width - 12) * (value - low) / size

    parts = [segment("grid strong", (x(0), 1), (x(0), 17))] if zero else []
    if known(figure.low) and known(figure.high):
        parts.append(segment("bar solid", (x(figure.low), middle), (x(figure.high), middle)))
    if known(figure.value):
        parts.append(f'<circle class="mark" cx="{x(figure.value):.1f}" cy="{middle}" r="4"/>')
    return f'<svg class="strip {kind}" viewBox="0 0 {width} 18" aria-hidden="true">{"".join(parts)}</svg>'


def box_plot(low: float, quartiles: Sequence[float], high: float) -> str:
    """Return five quantiles as a small box plot on their own scale."""
    size = (high - low) or 1.0

    def x(value: float) -> float:
        return 6 + 138 * (value - low) / size

    first, median, third = map(x, quartiles)
    return (
        '<svg class="strip" viewBox="0 0 150 18" aria-hidden="true">'
        f'{segment("bar solid", (x(low), 9), (x(high), 9))}<rect class="boxed" x="{first:.1f}" y="3" '
        f'width="{max(third - first, 1):.1f}" height="12"/>{segment("median", (median, 3), (median, 15))}</svg>'
    )
