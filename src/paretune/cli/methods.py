"""``paretune methods``: the methods by what they learn from."""

from __future__ import annotations

from typing import Any

from paretune.cli.output import JsonOption, tell

FAMILIES = {
    "pairs": "Pairs",
    "scores": "Scores",
    "sampled": "Own samples",
    "untrained": "Nothing trained",
}
"""Family of methods -> heading: what they learn from."""


def methods(as_json: JsonOption = False) -> None:
    """List the methods by family, with their paper, needs and cost."""
    from paretune.methods import METHODS

    tell(METHODS.cards(), as_json, _table)


def _table(cards: dict[str, dict[str, str]]) -> Any:
    from rich.table import Table

    table = Table(title="Methods (M objectives, N preferences)")
    for column in ("name", "title", "paper", "needs", "training runs", "where the preference enters"):
        table.add_column(column)
    for family, heading in FAMILIES.items():
        table.add_section()
        table.add_row(f"[bold]{heading}[/bold]")
        for name, card in cards.items():
            if card["family"] == family:
                table.add_row(name, *(card[field] for field in ("title", "paper", "needs", "runs", "enters")))
    return table
