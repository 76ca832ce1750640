"""The building blocks of the report's page: sections, tables and badges as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from paretune.fronts.front import Interval
from paretune.fronts.record import FrontRecord
from paretune.reports.plots import SHAPES, marker, shape_of
from paretune.reports.wording import interval


def bounded(figure: Interval, decimals: int | None = None) -> str:
    """Return an interval for a table cell: the value, and below it the bounds in small."""
    value, *bounds = interval(figure, decimals).split(" ", 1)
    return f"{value}<small>{bounds[0]}</small>" if bounds else value


def section(name: str, heading: str, body: str, lead: str = "") -> str:
    """Return a section with its heading and an optional lead."""
    paragraph = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{name}"><h2>{heading}</h2>{paragraph}{body}</section>'


def contents(sections: Iterable[str]) -> str:
    """Return the links to sections that :func:`section` made."""
    found = [re.match(r'<section id="([^"]+)"><h2>(.*?)</h2>', each) for each in sections]
    links = "".join(f'<li><a href="#{match[1]}">{match[2]}</a></li>' for match in found if match)
    return f'<nav id="contents" aria-label="contents"><ol>{links}</ol></nav>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of HTML cells that scrolls in its box; the columns ``numbers`` are right-aligned."""

    def cells(tag: str, row: Sequence[str]) -> str:
        built = []
        for column, cell in enumerate(row):
            # A head without a name is no head: a column of pictures, or the one with the names of the rows.
            name = "td" if tag == "th" and not cell else "th" if column == 0 else tag
            scope = "" if name == "td" else ' scope="col"' if tag == "th" else ' scope="row"'
            kind = ' class="num"' if column in numbers else ""
            built.append(f"<{name}{kind}{scope}>{cell}</{name}>")
        return f"<tr>{''.join(built)}</tr>"

    body = "".join(cells("td", row) for row in rows)
    head = cells("th", columns)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def badge(record: FrontRecord, i: int) -> str:
    """Return a policy's marker and title."""
    shape = marker(shape_of(i), 8, 8, 5)
    return (
        f'<span class="badge pol{i % len(SHAPES)}"><svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>'
        f"{escape(record.policies[i].label)}</span>"
    )


def plain_badge(kind: str, text: str) -> str:
    """Return the mark of something that is no policy, with its name."""
    drawing = {
        "base": marker("cross", 8, 8, 6),
        "mixture": '<path class="mixture" d="M0 8H16"/>',
        "knee": '<circle class="knee" cx="8" cy="8" r="6"/>',
        "faint": '<circle class="mark" cx="8" cy="8" r="5" style="--on:.35"/>',
        "hull": '<rect class="hull" x="1" y="3" width="14" height="10"/>',
        "bar": '<path class="bar" d="M1 8H15M8 1V15"/>',
    }[kind]
    picture = f'<svg viewBox="0 0 16 16" aria-hidden="true">{drawing}</svg>'
    return f'<span class="badge {kind}">{picture}{escape(text)}</span>'
