"""Fronts on matplotlib's axes, in the size of a paper's column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from paretune.core.errors import ParetuneError, suggest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from paretune.fronts.front import Front
    from paretune.fronts.record import FrontRecord

COLUMN = (3.35, 2.6)
"""Width and height in inches of a figure in one of two columns (85 mm)."""
INK, QUIET, RULE = "#1c2026", "#616872", "#e6e4de"
COLOURS = ("#1f5fb0", "#c24a12", "#0d7a62", "#8048a0", "#7d6200", "#ad2f66", "#6a4b3c", "#4c8a12")
MARKERS = ("o", "s", "^", "D", "v", "p", "h", ">")


def draw_front(
    front: Front, ax: Axes | None = None, objectives: Sequence[str] | None = None, number: int = 0
) -> Axes:
    """Draw a front over two objectives with its 95 % intervals, and return the axes.

    Args:
        front: The front.
        ax: Axes to draw on; by default those of a new figure of pyplot in single-column width.
        objectives: The objectives across and up; by default the first two.
        number: Which colour and marker it has.

    Raises:
        ParetuneError: Unknown objectives, or not two.
    """
    from paretune.fronts.front import mean_intervals

    a, b = _pair(front.objectives, objectives)
    low, high = mean_intervals(front)
    axes = _axes(ax)
    order = np.lexsort((*front.preferences.T[::-1], -front.preferences[:, a]))
    _line(
        axes,
        front.means[order][:, [a, b]],
        (low[order][:, [a, b]], high[order][:, [a, b]]),
        front.name,
        number,
    )
    return _named(axes, front.objectives[a], front.objectives[b])


def draw_record(record: FrontRecord, ax: Axes | None = None, objectives: Sequence[str] | None = None) -> Axes:
    """Draw all policies of a record over two objectives, with the base model and the mixture of corners; return the axes.

    Args:
        record: The record of a run.
        ax: Axes to draw on; by default those of a new figure of pyplot in single-column width.
        objectives: The objectives across and up; by default the first two.

    Raises:
        ParetuneError: Unknown objectives, or not two.
    """
    a, b = _pair(record.objectives, objectives)
    axes, at = _axes(ax), [a, b]
    if record.mixture.points and len(record.objectives) == 2:
        line = np.array(record.mixture.points)[:, at]
        axes.plot(
            *line.T, color=QUIET, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1, label="mixture of corners"
        )
    base = np.array(record.base.mean)[at]
    if np.isfinite(base).all():
        axes.plot(
            *base[:, None], color=INK, marker="x", markersize=5, linewidth=0, zorder=4, label="base model"
        )
    for number, policy in enumerate(record.policies):
        points = sorted(policy.points, key=lambda point: -point.preference[record.objectives[a]])
        means, low, high = (
            np.array([getattr(point, bound) for point in points])[:, at] for bound in ("mean", "low", "high")
        )
        _line(axes, means, (low, high), policy.label, number)
    return _named(axes, record.objectives[a], record.objectives[b])


def _pair(names: Sequence[str], asked: Sequence[str] | None) -> tuple[int, int]:
    chosen = list(names[:2] if asked is None else asked)
    for name in chosen:
        if name not in names:
            raise ParetuneError(f"objective {name!r}: {suggest(name, names)}")
    if len(set(chosen)) != 2:
        raise ParetuneError(
            f"objectives {', '.join(chosen) or 'none'}: a picture shows two; name two of {', '.join(names)}"
        )
    return names.index(chosen[0]), names.index(chosen[1])


def _axes(ax: Axes | None) -> Axes:
    """Return the axes given, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=COLUMN, layout="constrained")[1]


def _line(
    axes: Axes, means: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], label: str, number: int
) -> None:
    """Draw points ``[N, 2]`` in their order with the bounds of their intervals; bounds that are NaN are left out."""
    low, high = (np.where(np.isfinite(bound), bound, means) for bound in bounds)
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    reach = np.abs(np.stack([means - low, high - means]))
    axes.errorbar(
        means[:, 0], means[:, 1], xerr=reach[..., 0], yerr=reach[..., 1], color=colour, marker=marker, markersize=4, linewidth=1.1,
        elinewidth=0.6, markeredgecolor="white", markeredgewidth=0.5, zorder=3, label=label,
    )  # fmt: skip


def _named(axes: Axes, across: str, up: str) -> Axes:
    axes.set_xlabel(f"{across} (higher is better)")
    axes.set_ylabel(f"{up} (higher is better)")
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.locator_params(nbins=5)
    axes.legend(
        frameon=False,
        fontsize="small",
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=2,
        columnspacing=1.2,
    )
    return axes
