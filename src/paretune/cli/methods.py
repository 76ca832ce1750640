"""``paretune methods``: the methods by what they learn from, and the parts that are settings of methods."""

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
    """List the methods by family, with their paper, needs and cost, and the parts that are settings of methods."""
    from paretune.methods import METHODS
    from paretune.methods.parts import PARTS

    parts = {name: {**vars(part), "family": "parts"} for name, part in PARTS.items()}
    tell({**METHODS.cards(), **parts}, as_json, _tables)


def _tables(cards: dict[str, dict[str, str]]) -> Any:
    from rich.console import Group

    return Group(_table(cards), _parts(cards))


def _parts(cards: dict[str, dict[str, str]]) -> Any:
    from rich.table import Table

    table = Table(title="Parts: settings of methods")
    for column in ("name", "title", "paper", "what it does", "methods", "setting"):
        table.add_column(column)
    for name, card in cards.items():
        if card["family"] == "parts":
            table.add_row(name, *(card[field] for field in ("title", "paper", "does", "used", "setting")))
    return table


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
