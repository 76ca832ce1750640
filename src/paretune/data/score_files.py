"""Files of scores: JSONL, JSON, CSV, Parquet and Arrow, of a run or of any other tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from paretune.core.errors import DataError
from paretune.data.readers import read_records
from paretune.fronts.score_records import read_table
from paretune.fronts.score_table import BASE, CORNERS, FILE, ScoreTable


def read_scores(
    files: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    objectives: Sequence[str] | None = None,
    unseeded: Sequence[str] = (BASE, CORNERS),
) -> ScoreTable:
    """Read the scores of single answers from one or more files as one table.

    Args:
        files: Files of any format that data may have, or folders of runs, whose ``scores.jsonl`` is read.
        columns, objectives, unseeded: See :func:`paretune.fronts.score_records.read_table`.

    Raises:
        DataError: A file cannot be read, or is no table of scores; the message begins with ``file:line``.
        ConfigError: ``columns`` names a column that is not there.
    """
    named = [files] if isinstance(files, (str, Path)) else list(files)
    places = [path / FILE if (path := Path(file)).is_dir() else path for file in named]
    if not places:
        raise DataError("no file of scores is named; give one or more")
    records: Iterable[object] = [pair for place in places for pair in _records(place)]
    return read_table(records, columns, objectives, unseeded)


def _records(place: Path) -> Iterable[object]:
    if place.name == FILE and place.parent.is_dir() and not place.exists():
        raise DataError(
            f"{place}: no such file; a run of an earlier version has none, so run paretune run again (what is trained is reused)"
        )
    found = list(read_records(place))
    if not found:
        raise DataError(f"{place}: no row of scores in it; expected one row for each answer")
    return found
