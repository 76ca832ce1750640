"""``paretune figures``: a run's numbers as a table, and its front as a picture for a paper."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paretune.fronts.record import FrontRecord

PICTURES = (".svg", ".pdf", ".png")
TABLES = (".csv", ".jsonl", ".parquet")
MOST_PANELS = 6
"""The most pairs of objectives that are drawn below each other."""
PRINT = {
    "font.size": 8,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "paretune",
    "savefig.dpi": 300,
}
"""Settings of matplotlib for print: text stays text, and equal fronts make equal files."""


def figures(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a front.json.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write: .svg, .pdf or .png for a picture; .csv, .jsonl or .parquet for a table."
        ),
    ],
    what: Annotated[
        str,
        typer.Option(
            help="The rows of a table: points, prompts (each answer), tests, or figures (hypervolume, ...)."
        ),
    ] = "points",
    objectives: Annotated[
        str | None,
        typer.Option(help="The two objectives of a picture, across and up, as a,b; by default all pairs."),
    ] = None,
) -> None:
    """Write a run's numbers as a table, or its front as a picture in the width of a paper's column."""
    from paretune.core.errors import ConfigError, suggest
    from paretune.fronts.record import FILE, FrontRecord

    kind = out.suffix.lower()
    if kind not in (*PICTURES, *TABLES):
        raise ConfigError(f"{out}: {suggest(kind or out.name, (*PICTURES, *TABLES))} at the end of its name")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file in it")
    file = run if run.suffix == ".json" else run / FILE
    if not file.is_file():
        raise ConfigError(
            f"{run}: no {file.name}; expected the folder of a finished run, such as runs/quickstart, or its {FILE}"
        )
    record = FrontRecord.read(file)
    if kind in PICTURES:
        if what != "points":
            raise ConfigError(f"--what {what}: is for a table; a picture shows points")
        _picture(record, out, objectives)
    else:
        if objectives is not None:
            raise ConfigError("--objectives: is for a picture; a table has all objectives")
        _table(record.to_rows(what), out)  # type: ignore[arg-type]
    typer.echo(str(out))


def _table(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    from paretune.core.errors import ParetuneError
    from paretune.core.files import atomic_path, write_text

    if not rows:
        raise ParetuneError(f"{out}: this record has no such rows, so nothing was written")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    plain = [{name: _plain(row.get(name)) for name in columns} for row in rows]
    if out.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        with atomic_path(out) as temporary:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), temporary)
    elif out.suffix.lower() == ".jsonl":
        write_text(out, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in plain))
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
        write_text(out, text.getvalue())


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _picture(record: FrontRecord, out: Path, objectives: str | None) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from paretune.core.files import write_bytes
    from paretune.fronts.drawing import COLUMN

    pairs: Sequence[Sequence[str]] = list(combinations(record.objectives, 2))[:MOST_PANELS]
    if objectives is not None:
        pairs = [tuple(name.strip() for name in objectives.split(","))]
    kind, raw = out.suffix.lower().removeprefix("."), io.BytesIO()
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(COLUMN[0], COLUMN[1] * len(pairs)), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, pair in zip(figure.subplots(len(pairs), squeeze=False)[:, 0], pairs, strict=True):
            record.plot(axes, pair)
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        figure.savefig(raw, format=kind, metadata=dated)
    write_bytes(out, raw.getvalue())
