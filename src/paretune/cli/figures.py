"""``paretune figures`` and ``paretune report``: a run's numbers as a table, its front as a picture, and its report anew."""

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
    from paretune.fronts.record import FrontRecord

    kind = out.suffix.lower()
    if kind not in (*PICTURES, *TABLES):
        raise ConfigError(f"{out}: {suggest(kind or out.name, (*PICTURES, *TABLES))} at the end of its name")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file in it")
    record = FrontRecord.read(_file_of(run))
    if kind in PICTURES:
        if what != "points":
            raise ConfigError(f"--what {what}: is for a table; a picture shows points")
        _picture(record, out, objectives)
    else:
        if objectives is not None:
            raise ConfigError("--objectives: is for a picture; a table has all objectives")
        _table(record.to_rows(what), out)  # type: ignore[arg-type]
    typer.echo(str(out))


def _file_of(run: Path) -> Path:
    """Return the record in a run's folder, or the one that is named."""
    from paretune.core.errors import ConfigError
    from paretune.fronts.record import FILE

    file = run if run.suffix == ".json" else run / FILE
    if not file.is_file():
        raise ConfigError(
            f"{run}: no {file.name}; expected the folder of a finished run, such as runs/quickstart, or its {FILE}"
        )
    return file


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write to, made where it is missing; by default the run's own."),
    ] = None,
) -> None:
    """Write the report and the pictures of a finished run anew, without its model: of a run of an earlier version, too."""
    from paretune.core.errors import ConfigError
    from paretune.core.folder_form import EXPORT, write_marker
    from paretune.fronts.record import FrontRecord
    from paretune.reports.picture import write_picture
    from paretune.reports.report import write_report

    record = FrontRecord.read(_file_of(run))
    folder = run.parent if run.is_file() else run
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    target = folder if out is None else out
    target.mkdir(parents=True, exist_ok=True)
    written = [write_report(record, target, folder), target / "front.png"]
    write_picture(record, written[1])
    if len(record.objectives) > 1:
        for name in ("front.svg", "front.pdf"):
            written.append(target / name)
            _picture(record, written[-1], None)
    # A folder of paretune judge lists its files, and is replaced only where it holds no others.
    if (target / EXPORT.marker).is_file():
        (target / EXPORT.marker).unlink()
        write_marker(target)
    for file in written:
        typer.echo(str(file))


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
