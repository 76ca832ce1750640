"""What a finished run found, for the terminal: the headline, what trade-offs buy, every verdict in words, and the hypervolumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paretune.fronts.front import Interval
from paretune.fronts.record import FrontRecord
from paretune.reports.next_steps import next_steps
from paretune.reports.wording import (
    MIXTURE,
    bought,
    has_base,
    has_mixture,
    interval,
    leading,
    luck,
    number,
    sentences,
    summary,
)

if TYPE_CHECKING:
    from rich.console import Group

MOST_SENTENCES = 40
"""The most verdicts that are printed; the report has all."""
MOST_POLICIES = 2
"""The most policies whose trade-offs are printed; of more, those of the one that is measured highest."""


def facts_of(record: FrontRecord) -> dict[str, Any]:
    """Return a record's findings as JSON values: the summary, trade-offs, every verdict in words, what to do next, hypervolumes."""
    rows = _hypervolumes(record)
    return {
        "summary": summary(record),
        "cautions": list(record.cautions),
        "trade_offs": {policy.name: bought(record, policy) for policy in record.policies},
        "verdicts": sentences(record),
        "next": [vars(step) for step in next_steps(record)],
        "reference_point": dict(zip(record.objectives, record.reference_point, strict=True)),
        "hypervolumes": {name: figure.to_dict() for name, figure in rows},
    }


def _hypervolumes(record: FrontRecord) -> list[tuple[str, Interval]]:
    """Return the name and the hypervolume of each policy, and of what it is compared with."""
    rows = [(policy.name, policy.figures["hypervolume"]) for policy in record.policies]
    rows += [("base", record.base.hypervolume)] if has_base(record) else []
    return rows + ([(MIXTURE, record.mixture.hypervolume)] if has_mixture(record) else [])


def render(record: FrontRecord) -> Group:
    """Return a record's findings as rich text and a table."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    lines = sentences(record)
    if len(lines) > MOST_SENTENCES:
        lines = [*lines[:MOST_SENTENCES], f"{len(lines) - MOST_SENTENCES} more are in the report."]
    reference = ", ".join(number(value) for value in record.reference_point)
    table = Table()
    table.add_column("policy")
    table.add_column("with 95 % interval", justify="right")
    for name, figure in _hypervolumes(record):
        table.add_row(name, interval(figure))
    parts = [
        Text(summary(record), style="bold"),
        *(Text(f"Caution: {text}", style="red") for text in record.cautions),
    ]
    many = len(record.policies) > MOST_POLICIES
    for policy in [leading(record)] if many else record.policies:
        rest = f" ({len(record.policies) - 1} more policies are in the report)" if many else ""
        parts.append(Text(f"What trade-offs of {policy.label} buy{rest}:"))
        parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in bought(record, policy)]  # type: ignore[misc]
    parts += [Text("Which differences are real:")] if lines else []
    parts += [Padding(Text(f"- {line}"), (0, 0, 0, 2)) for line in lines]  # type: ignore[misc]
    parts += [Text(luck(record))]
    if steps := next_steps(record):
        parts.append(Text("What to do next:", style="bold"))
        parts += [Padding(Text(f"- {step.finding} {step.cure}"), (0, 0, 0, 2)) for step in steps]  # type: ignore[misc]
    figures = Text(f"Hypervolumes above ({reference}), corrected for luck; figures, not verdicts:")
    return Group(*parts, figures, table)
