"""Files of scores: JSONL, JSON, CSV, Parquet and Arrow, of a run or of any other tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.errors import DataError
from paretune.data.load import HUB
from paretune.data.places import from_hub, from_object, is_object
from paretune.data.readers import read_records
from paretune.fronts.score_records import read_table
from paretune.fronts.score_table import BASE, CORNERS, FILE, ScoreTable


def read_scores(
    files: Any,
    columns: Mapping[str, str] | None = None,
    objectives: Sequence[str] | None = None,
    unseeded: Sequence[str] = (BASE, CORNERS),
) -> ScoreTable:
    """Read the scores of single answers from one or more files as one table.

    Args:
        files: A file or several: of any format that data may have, folders of runs, whose ``scores.jsonl`` is read,
            ``hub:owner/name`` for a data set on the hub, or objects of the ``datasets`` library.
        columns, objectives, unseeded: See :func:`paretune.fronts.score_records.read_table`.

    Raises:
        DataError: A file cannot be read, or is no table of scores; the message begins with ``file:line``.
        ConfigError: ``columns`` names a column that is not there.
    """
    named = [files] if isinstance(files, str | Path) or is_object(files) else list(files)
    if not named:
        raise DataError("no file of scores is named; give one or more")
    records: Iterable[object] = [pair for place in named for pair in _records(place)]
    return read_table(records, columns, objectives, unseeded)


def _records(given: Any) -> Iterable[object]:
    held = from_object(given, None)
    if held is None and str(given).startswith(HUB):
        held = from_hub(str(given).removeprefix(HUB), "", "", "train")
    if held is not None:
        return list(held)
    place = path / FILE if (path := Path(given)).is_dir() else path
    if place.name == FILE and place.parent.is_dir() and not place.exists():
        raise DataError(
            f"{place}: no such file; a run of an earlier version has none, so run paretune run again (what is trained is reused)"
        )
    found = list(read_records(place))
    if not found:
        raise DataError(f"{place}: no row of scores in it; expected one row for each answer")
    return found
