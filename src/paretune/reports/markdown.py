"""Text and tables in Markdown, as cards have them."""

from __future__ import annotations

from collections.abc import Sequence


def cell(value: object) -> str:
    """Return text that is plain text in Markdown: no table cell, tag or line ends early."""
    text = " ".join(str(value).split())
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, safe)
    return text


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """Return a table; ``numbers`` are the places of the columns that are flush right."""
    rule = ["---:" if k in numbers else "---" for k in range(len(columns))]
    lines = [map(cell, columns), rule, *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
