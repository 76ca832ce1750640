"""How scores follow the preference, as SVG: lines along a weight, and the simplex of three objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from paretune.fronts.record import FrontRecord
from paretune.reports.plots import (
    SHAPES,
    Frame,
    Pixel,
    axes,
    caption,
    describe,
    marker,
    opened,
    ordered,
    polyline,
    segment,
    shape_of,
    span,
)
from paretune.reports.wording import has_base, known, number, places


def along(record: FrontRecord, m: int, width: int, height: int, picks: Mapping[tuple[int, int], int]) -> str:
    """Return the score of objective ``m`` over its own weight, 0 to 1, one line per policy, with 95 % bands.

    It is for two objectives, where one weight decides the preference. The base model is the dashed line.
    """
    objective = record.objectives[m]
    frame = Frame(54, 34, width - 16, height - 46, (-0.03, 1.03), span(record, m))
    parts = [axes(frame, f"weight on {objective}", f"{objective} ↑ better")]
    if has_base(record):
        base = record.base.mean[m]
        parts.append(segment("mixture", frame.at(0, base), frame.at(1, base)))
    for i, policy in enumerate(record.policies):
        points = [policy.points[n] for n in reversed(ordered(policy, objective))]
        bounded = [p for p in points if known(p.low[m]) and known(p.high[m])]
        if len(bounded) > 1:
            low = [frame.at(p.preference[objective], p.low[m]) for p in bounded]
            high = [frame.at(p.preference[objective], p.high[m]) for p in bounded]
            parts.append(polyline([*low, *high[::-1]], f"hull pol{i % len(SHAPES)} of{i}", closed=True))
        line = [frame.at(p.preference[objective], p.mean[m]) for p in points]
        if len(line) > 1:
            parts.append(polyline(line, f"line pol{i % len(SHAPES)} of{i}"))
    for i, policy in enumerate(record.policies):
        for n, point in enumerate(policy.points):
            x, y = frame.at(point.preference[objective], point.mean[m])
            dot = marker(shape_of(i), x, y, 5)
            text = escape(describe(record, policy, n))
            parts.append(f"{opened(record, i, n, picks)}<title>{text}</title>{dot}</g>")
    name = f"{objective} over its weight, one line per policy"
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="group" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )


def ternary(
    record: FrontRecord, i: int, m: int, picks: Mapping[tuple[int, int], int], size: int = 300
) -> str:
    """Return policy ``i`` over the simplex of three objectives: one dot per preference, larger and fuller as ``m`` scores better.

    The corner of objective ``m`` is where its score should be best.
    """
    objectives, policy = record.objectives, record.policies[i]
    assert len(objectives) == 3, "a triangle has three corners"
    side, top = size - 70.0, 44.0
    tall = side * math.sqrt(3) / 2
    corners: list[Pixel] = [(size / 2, top), (35.0, top + tall), (35.0 + side, top + tall)]

    def at(weights: Mapping[str, float]) -> Pixel:
        shares = [weights[objective] for objective in objectives]
        return (
            sum(share * corner[0] for share, corner in zip(shares, corners, strict=True)),
            sum(share * corner[1] for share, corner in zip(shares, corners, strict=True)),
        )

    parts = [polyline(corners, "grid strong", closed=True)]
    for k, (objective, (x, y)) in enumerate(zip(objectives, corners, strict=True)):
        anchor, dy = (("middle", -12), ("start", 20), ("end", 20))[k]
        x += (0, -30, 30)[k]
        parts.append(caption("axis" if k == m else "tick", x, y + dy, objective, anchor))
    values = [point.mean[m] for other in record.policies for point in other.points]
    low, high, shown = min(values), max(values), places(record)[m]
    for n, point in enumerate(policy.points):
        x, y = at(point.preference)
        share = (point.mean[m] - low) / ((high - low) or 1.0)
        text = escape(describe(record, policy, n))
        parts.append(
            f"{opened(record, i, n, picks)}<title>{text}</title>"
            f'<circle class="mark" style="fill-opacity:{0.15 + 0.85 * share:.3f}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{4 + 6 * share:.1f}"/></g>'
        )
    parts.append(
        caption(
            "small", size / 2, top + tall + 38, f"{number(low, shown)} to {number(high, shown)}", "middle"
        )
    )
    name = f"{policy.label}: {objectives[m]} over the simplex of preferences"
    return (
        f'<svg class="plot" viewBox="0 0 {size} {top + tall + 46:.0f}" role="group" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )
