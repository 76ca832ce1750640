"""The section of the report with the front: the plot, its legend, what its axes mean, and the answers of a chosen point."""

from __future__ import annotations

from html import escape
from itertools import combinations

from paretune.fronts.record import FrontRecord
from paretune.reports.page import badge, plain_badge, section
from paretune.reports.plots import nesting, parallel
from paretune.reports.scatter import View, scatter
from paretune.reports.wording import MIXTURE, any_faint, has_base, has_mixture, knee, listing


def front_section(record: FrontRecord, answered: bool) -> str:
    """Return the section: a still picture for paper and where scripts are off, and the room in which the page's script draws.

    ``answered`` says whether the page has answers, which are shown beside the plot.
    """
    objectives, M = record.objectives, len(record.objectives)
    if M == 2:
        drawing = (
            f'<div class="wide">{scatter(record, View(0, 1, 720, 560))}</div>'
            f'<div class="narrow">{scatter(record, View(0, 1, 380, 430))}</div>'
        )
        first, second = map(escape, objectives)
        lead = f"The number beside a point is the weight on {first}; the rest is on {second}."
    else:
        pairs = "".join(
            f"<div>{scatter(record, View(a, b, 360, 330, lines=False))}</div>"
            for a, b in combinations(range(M), 2)
        )
        drawing = (
            f'<div class="pairs">{pairs}</div><div class="wide">{parallel(record, 720, 380)}</div>'
            f'<div class="narrow">{parallel(record, 380, 340)}</div>'
        )
        lead = "Every pair of objectives, or all of them at once: one line per point, best at the top."
    picked = '<aside id="picked" aria-live="polite" hidden></aside>' if answered else ""
    return section(
        "front",
        "The front",
        f'<div class="split"><div class="figure"><div class="still">{_legend(record)}{drawing}</div>'
        f'<div id="plot" class="plot-room" hidden></div><p class="caption">{_caption(record)}</p>'
        f'<div class="still">{_meanings(record)}</div></div>{picked}</div>',
        lead,
    )


def _legend(record: FrontRecord) -> str:
    """Return the marks with their names."""
    M = len(record.objectives)
    marks = [badge(record, i) for i in range(len(record.policies))]
    marks += [plain_badge("base", "base model")] * has_base(record)
    marks += [plain_badge("mixture", MIXTURE)] * has_mixture(record)
    marks.append(plain_badge("bar", "95 % interval"))
    if M >= 2 and any(len(policy.points) > 2 for policy in record.policies):
        marks.append(plain_badge("hull", "mixtures of a policy's points"))
    if M == 2 and any(knee(policy) is not None for policy in record.policies):
        marks.append(plain_badge("knee", "knee"))
    if any_faint(record):
        marks.append(plain_badge("faint", "the fainter, the less likely on the front"))
    return f'<ul class="legend">{"".join(f"<li>{mark}</li>" for mark in marks)}</ul>'


def _caption(record: FrontRecord) -> str:
    """Return what the picture shows, in words."""
    parts = [
        f"Each mark is one preference, measured on {record.num_prompts} held-out prompts; bars are 95 % intervals of one point at "
        "a time."
    ]
    if any(nesting(record, i, p)[1] for i, policy in enumerate(record.policies) for p in policy.points):
        parts.append("A mark in a ring is one model that policies share.")
    if len(record.objectives) == 2 and any(len(policy.points) > 2 for policy in record.policies):
        parts.append(
            "Any score in a shaded area is reached by choosing between a policy's points by chance for each prompt."
        )
    if has_mixture(record):
        parts.append(
            "The dashed line picks one of the single-objective models at random: it costs nothing, so worth is above it."
        )
    if len(record.objectives) == 2:
        flat = [policy.label for policy in record.policies if len(policy.points) > 2 and knee(policy) is None]
        if flat:
            every = len(flat) == len(record.policies)
            who = (
                "No front here has"
                if every and len(flat) > 1
                else f"{listing(flat)} {'has' if len(flat) == 1 else 'have'} no"
            )
            parts.append(
                f"{who}{' a' if every and len(flat) > 1 else ''} knee: straight or bent inwards, no point stands out."
            )
    return escape(" ".join(parts))


def _meanings(record: FrontRecord) -> str:
    """Return what a point more on each axis means."""
    told = "".join(
        f"<div><dt>{escape(objective)}</dt><dd>{escape(meaning)}</dd></div>"
        for objective, meaning in record.objectives_info.items()
        if meaning
    )
    return f"<dl class=meanings>{told}</dl>" if told else ""
