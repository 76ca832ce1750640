"""The sections of the report on what training found: gradients that oppose each other, and floors."""

from __future__ import annotations

from html import escape

from paretune.fronts.record import FrontRecord
from paretune.reports.page import badge, section, table
from paretune.reports.wording import number, percent


def conflicts(record: FrontRecord) -> str:
    """Return how the gradients of objectives stood to each other; nothing where no training measured them."""
    rows = [
        [
            badge(record, i),
            escape(found.preference or "all"),
            escape(" and ".join(found.objectives)),
            number(found.cosine, 2),
            percent(found.opposed),
            number(found.steps, 0),
        ]
        for i, policy in enumerate(record.policies)
        for found in policy.conflicts
    ]
    if not rows:
        return ""
    return section(
        "conflicts",
        "Conflict in training",
        table(["", "preference", "objectives", "mean cosine", "opposed", "steps"], rows, (3, 4, 5)),
        "The cosine between the gradients of two objectives at a step: 1 where what helps one helps the other, 0 where they have "
        "nothing to do with each other, negative where it harms it. Opposed is the share of steps with a negative one.",
    )


def floors(record: FrontRecord) -> str:
    """Return the floors that training was held to, and whether they were reached; nothing where there were none."""
    rows = [
        [
            badge(record, i),
            escape(found.preference),
            escape(found.objective),
            number(found.floor, 3),
            number(found.reached, 3),
            number(found.multiplier, 2),
            "reached" if found.reached >= found.floor else '<span class="flag">⚠ not reached</span>',
        ]
        for i, policy in enumerate(record.policies)
        for found in policy.floors
    ]
    if not rows:
        return ""
    columns = ["", "preference", "objective", "floor", "in training", "multiplier", ""]
    return section(
        "floors",
        "Floors in training",
        table(columns, rows, (3, 4, 5)),
        "The mean score of the responses of the last steps against the floor. The multiplier is what a deviation of the objective "
        "weighed in the end beside its weight in the preference: 0 where the floor did not bind. Held-out prompts may say "
        "otherwise; the front above is measured on them.",
    )
