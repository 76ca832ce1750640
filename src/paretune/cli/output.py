"""What a command prints: a table for people, or the same facts as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

Facts = TypeVar("Facts")

WIDEST = 1000
"""Columns of the widest table that is printed to a file or a pipe."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def show(renderable: Any) -> None:
    """Print a table or text of rich; no name is cut: at a terminal cells of a wide table wrap, elsewhere it stays wide."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    console = Console()
    tables = [part for part in getattr(renderable, "renderables", [renderable]) if isinstance(part, Table)]
    for table in tables:
        for column in table.columns:
            column.overflow = "fold"
    if not console.is_terminal and "COLUMNS" not in os.environ:
        unbounded = console.options.update(max_width=WIDEST)
        widths = [Measurement.get(console, unbounded, table).maximum for table in tables]
        console.width = max(console.width, *widths, 0)
    console.print(renderable)


def tell(facts: Facts, as_json: bool, render: Callable[[Facts], Any]) -> None:
    """Print facts as JSON, or as ``render`` turns them into tables."""
    if as_json:
        typer.echo(json.dumps(plain(facts), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(render(facts))


def tell_report(report: Path, as_json: bool = False) -> None:
    """Print what a finished run found, and where its report is."""
    from paretune.cli.verdicts import facts_of, render
    from paretune.fronts.record import FILE, FrontRecord
    from paretune.reports.use import commands

    record = FrontRecord.read(report.parent / FILE)
    if as_json:
        tell({"report": report, **facts_of(record)}, True, str)
        return
    show(render(record))
    here = Path.cwd()
    shown = report.relative_to(here) if report.is_relative_to(here) else report
    typer.echo(f"Report: {shown}")
    for line, what in commands(record, shlex.quote(str(shown.parent))):
        typer.echo(f"  {line}    # {what}")


def plain(value: Any) -> Any:
    """Return a value of dataclasses, mappings, sequences and numbers as JSON values; a number that is none is null.

    >>> plain({"a": (1, float("nan")), "b": Path("x")})
    {'a': [1, None], 'b': 'x'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, bool, int, type(None))) else str(value)
