"""The front as the page's own module draws it: see ``plot/plot.js`` for what each value means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paretune.fronts.record import FrontRecord, MeasuredPolicy, Point
from paretune.reports.plots import SHAPES, nesting, ordered, shape_of
from paretune.reports.selection import Picks
from paretune.reports.wording import (
    MIXTURE,
    has_base,
    has_mixture,
    knee,
    off_simplex,
    opacity,
    places,
    preference,
    weight,
)


def drawn_front(record: FrontRecord, picks: Picks) -> dict[str, Any]:
    """Return a record's front as JSON values; what its points say stands in the page's selection.

    Args:
        record: The record of the run.
        picks: (policy, point) -> the number of its preference, which is the point's id.
    """
    M = len(record.objectives)
    return {
        "key": record.name,
        "name": record.name,
        "objectives": [
            {"name": name, "meaning": record.objectives_info.get(name, ""), "places": digits}
            for name, digits in zip(record.objectives, places(record), strict=True)
        ],
        "series": [_series(record, i, policy, picks) for i, policy in enumerate(record.policies)],
        "base": {"title": "base model", **_scores(record.base)} if has_base(record) else None,
        "mixture": [_plain(point) for point in record.mixture.points] if has_mixture(record) else None,
        "mixtureTitle": MIXTURE,
        "reference": _plain([record.reference_point[m] for m in range(M)]),
    }


def _series(record: FrontRecord, i: int, policy: MeasuredPolicy, picks: Picks) -> dict[str, Any]:
    bulge, labelled = knee(policy), len(record.objectives) == 2
    points = [
        _point(record, i, n, picks[i, n], labelled) | {"knee": n == bulge}
        for n in ordered(policy, record.objectives[0])
    ]
    for number, (of, point) in enumerate(off_simplex(record)):
        if of == i:
            head = f"{policy.label}, extrapolated to {preference(point.preference)}"
            label = f"{weight(point.preference[record.objectives[0]])} extrapolated" if labelled else ""
            points.append(
                {"id": f"beyond {number}", "beyond": True, "head": head, "label": label, **_scores(point)}
            )
    return {
        "id": policy.name,
        "title": policy.label,
        "kind": f"pol{i % len(SHAPES)}",
        "shape": shape_of(i),
        "joined": True,
        "area": True,
        "points": points,
    }


def _point(record: FrontRecord, i: int, n: int, k: int, labelled: bool) -> dict[str, Any]:
    point = record.policies[i].points[n]
    size, several, outer = nesting(record, i, point)
    return {
        "id": k,
        **_scores(point),
        "label": weight(point.preference[record.objectives[0]]) if labelled else "",
        "opacity": round(opacity(point), 2),
        "size": round(size, 3),
        "ring": outer,
        "shared": several,
    }


def _scores(point: Point) -> dict[str, Any]:
    return {"mean": _plain(point.mean), "low": _plain(point.low), "high": _plain(point.high)}


def _plain(values: Sequence[float]) -> list[float | None]:
    """Return scores in seven digits; None where there is none."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]
