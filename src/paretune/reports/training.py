"""The section of the report on how training went: small plots of loss, accuracy and margin over the steps, for each adapter."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from paretune.fronts.record import FrontRecord
from paretune.fronts.score_table import SEED_MARK
from paretune.reports.page import section
from paretune.reports.plots import Frame, Pixel, caption, polyline, segment, ticks
from paretune.reports.wording import number

Record = Mapping[str, float]
History = Sequence[Record]

MOST_POINTS = 120
"""The most points of a line; of more steps, each point is the mean of several."""
MOST_OPEN = 12
"""The most adapters whose plots are shown at once; the others open with a click."""
WIDTH, HEIGHT = 250, 132


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps of training.

    Attributes:
        key: Its name in a record of a step.
        title: Its name on the page.
        held_out: The name of the same on validation data; empty for none.
        span: The range that is shown at least.
    """

    key: str
    title: str
    held_out: str = ""
    span: tuple[float, float] | None = None


CURVES = (
    Curve("loss", "loss", "validation_loss"),
    Curve("rewards/accuracies", "pairs ranked right", span=(0.0, 1.0)),
    Curve("rewards/margins", "margin, nats"),
    Curve("kl", "distance from the reference, nats"),
)


def training_curves(record: FrontRecord, histories: Mapping[str, History]) -> str:
    """Return the section; nothing where no history of a training is known.

    Args:
        record: The record of the run.
        histories: Stage -> one record for each step. In a sweep over training seeds, the runs of an adapter share their plots.
    """
    seeds = any(SEED_MARK in policy.name for policy in record.policies)
    groups: dict[str, list[History]] = {}
    for stage, history in histories.items():
        name = stage.removeprefix("adapters/")
        if history:
            groups.setdefault(_without_seed(name) if seeds else name, []).append(history)
    if not groups:
        return ""
    curves = (*CURVES, *(Curve(f"reward/{name}", f"score on {name}") for name in record.objectives))
    drawn = [_adapter(name, runs, curves) for name, runs in groups.items()]
    rest = ""
    if len(drawn) > MOST_OPEN:
        rest = (
            f"<details><summary>{len(drawn) - MOST_OPEN} more adapters</summary>"
            f'<div class="adapters">{"".join(drawn[MOST_OPEN:])}</div></details>'
        )
    lead = (
        "Each adapter over its steps. The faint line is what each step measured on its own batch, the strong one its mean over "
        "neighbouring steps; dots are the loss on validation data, which training did not see. "
    )
    if seeds:
        lead += "Lines in one plot are the training seeds of one adapter: how far they lie apart is the luck of training. "
    lead += "A validation loss that rises while the loss falls is learning by heart."
    return section(
        "training",
        "How training went",
        f'<div class="adapters">{"".join(drawn[:MOST_OPEN])}</div>{rest}',
        lead,
    )


def _without_seed(name: str) -> str:
    """Return an adapter's name without what tells the training seeds apart: the seed, or a fingerprint of settings."""
    return re.sub(rf"{SEED_MARK}\d+|-[0-9a-f]{{16}}$", "", name)


def _adapter(name: str, runs: Sequence[History], curves: Sequence[Curve]) -> str:
    plots = "".join(filter(None, (_plot(curve, runs) for curve in curves)))
    several = f" <span class=plain>{len(runs)} seeds</span>" if len(runs) > 1 else ""
    return f'<figure class="adapter"><figcaption>{escape(name)}{several}</figcaption>{plots}</figure>'


def _plot(curve: Curve, runs: Sequence[History]) -> str:
    """Return a quantity of the runs of an adapter as SVG; nothing where it was not recorded."""
    lines = [_values(history, curve.key) for history in runs]
    dots = [_values(history, curve.held_out) if curve.held_out else [] for history in runs]
    values = [y for line in (*lines, *dots) for _, y in line]
    if not any(lines):
        return ""
    steps = max(x for line in (*lines, *dots) for x, _ in line)
    low, high = (min(values), max(values)) if curve.span is None else curve.span
    size = (high - low) or max(abs(high), 1.0) * 0.1
    frame = Frame(
        40, 22, WIDTH - 8, HEIGHT - 20, (0.0, max(steps, 1.0)), (low - 0.04 * size, high + 0.04 * size)
    )
    parts = _axes(frame, curve.title)
    for line, held in zip(lines, dots, strict=True):
        few = _thinned(line)
        if len(few) > 1:
            parts.append(polyline([frame.at(*point) for point in few], "raw"))
            parts.append(polyline([frame.at(*point) for point in _smoothed(few)], "smooth"))
        parts += [
            _dot(frame.at(*point), "held" if len(held) <= MOST_POINTS else "held small") for point in held
        ]
        if len(held) > 1:
            parts.append(polyline([frame.at(*point) for point in held], "held-line"))
    return (
        f'<svg class="plot curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_said(curve, lines, dots))}">'
        f"{''.join(parts)}</svg>"
    )


def _said(curve: Curve, lines: Sequence[Sequence[Pixel]], dots: Sequence[Sequence[Pixel]]) -> str:
    """Return in words what a plot shows: its first and its last value."""
    first, last = (line for line in (lines[0][0], lines[0][-1]))
    text = (
        f"{curve.title}: {number(first[1])} at step {first[0]:.0f}, {number(last[1])} at step {last[0]:.0f}"
    )
    if dots[0]:
        text += f"; on validation data {number(dots[0][0][1])}, then {number(dots[0][-1][1])}"
    return text


def _axes(frame: Frame, title: str) -> list[str]:
    parts = [caption("axis", 4, 13, title)]
    marks = ticks(*frame.y, count=3)
    digits = max(len(f"{mark:.6g}".partition(".")[2]) for mark in marks)
    for mark in marks:
        y = frame.at(0, mark)[1]
        parts.append(segment("grid", (frame.left, y), (frame.right, y)))
        parts.append(caption("tick", frame.left - 5, y + 4, number(mark, digits), "end"))
    parts.append(caption("tick", frame.left, frame.bottom + 15, "step 0"))
    parts.append(caption("tick", frame.right, frame.bottom + 15, number(frame.x[1], 0), "end"))
    return parts


def _dot(at: Pixel, kind: str) -> str:
    return f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.6"/>'


def _values(history: History, key: str) -> list[Pixel]:
    """Return (step, value) of each step that has a finite value."""
    found = [(float(one.get("step", n)), one.get(key)) for n, one in enumerate(history, 1)]
    return [(step, float(value)) for step, value in found if value is not None and math.isfinite(value)]


def _thinned(line: Sequence[Pixel]) -> list[Pixel]:
    """Return at most :data:`MOST_POINTS` points, each the mean of as many neighbours."""
    width = math.ceil(len(line) / MOST_POINTS) or 1
    groups = [line[n : n + width] for n in range(0, len(line), width)]
    return [(_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups]


def _smoothed(line: Sequence[Pixel]) -> list[Pixel]:
    """Return the means over neighbours, about a tenth of the line on either side."""
    reach = max(1, len(line) // 10)
    return [
        (x, _mean([y for _, y in line[max(0, n - reach) : n + reach + 1]])) for n, (x, _) in enumerate(line)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
