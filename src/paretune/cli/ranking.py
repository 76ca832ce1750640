"""A ranking of policies as JSON values and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

    from paretune.evaluation.ranked_policies import PolicyRanking


def facts_of(ranking: PolicyRanking) -> dict[str, Any]:
    """Return a ranking as JSON values, the best policy first."""
    nexts = {each.first: each for each in ranking.neighbours}
    rows = []
    for number in ranking.order:
        contestant, beats = ranking.contestants[number], nexts.get(number)
        row: dict[str, Any] = {"policy": contestant.name, "preference": dict(contestant.preference)}
        if beats is not None:
            low, high = beats.chance.low, beats.chance.high
            row["better_than_next"] = {
                "chance": beats.chance.value,
                "low": None if low != low else low,
                "high": None if high != high else high,
                "prompts": beats.prompts,
                "shown": beats.shown,
            }
        rows.append(row)
    counts = ranking.ranking
    return {
        "ranking": rows,
        "prompts": ranking.prompts,
        "pairs": counts.sorted_by,
        "triples": counts.triples,
        "intransitive": counts.intransitive,
        "against": counts.against,
        "unsaid": ranking.unsaid,
    }


def render(facts: Mapping[str, Any]) -> Group:
    """Return :func:`facts_of` as a table and sentences."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from paretune.reports.wording import preference

    table = Table(title="Policies, the best first", title_justify="left")
    for column in ("", "policy", "preference", "better than the next", "shown"):
        table.add_column(column, justify="right" if column == "" else "left")
    for place, row in enumerate(facts["ranking"], 1):
        said = row.get("better_than_next")
        cells = ("-", "-")
        if said is not None:
            bounds = "" if said["low"] is None else f" [{said['low']:.2f}, {said['high']:.2f}]"
            cells = (f"{said['chance']:.2f}{bounds}", "yes" if said["shown"] else "no")
        table.add_row(str(place), row["policy"], preference(row["preference"]), *cells)
    lines = [
        f"{facts['pairs']} pairs of policies were compared on {facts['prompts']} prompts, each in both orders; the chance that "
        "one is better is the mean over prompts, with its 95 % interval."
    ]
    if facts["triples"]:
        lines.append(
            f"The judge contradicts itself on {facts['intransitive']} of {facts['triples']} triples of policies."
        )
    if facts["against"]:
        lines.append(f"{facts['against']} comparisons are against the ranking.")
    if facts["unsaid"]:
        lines.append(f"{facts['unsaid']} comparisons of answers could not be read, and are left out.")
    return Group(table, *map(Text, lines))
