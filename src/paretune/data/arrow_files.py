"""Parquet and Arrow files as records, one column at a time where a value of one has no counterpart in Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paretune.core.errors import DataError

PART = 1024  # records that are turned into Python values together


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(where, record)`` for every row of a Parquet file.

    Raises:
        DataError: A damaged file, two columns of one name, or a value that Python has none for; the message names it.
    """
    import pyarrow  # 60 ms and more, only for those who read Parquet
    import pyarrow.parquet

    path.stat()
    try:
        # A file is often one group of rows, of which whole columns would be read before the first row.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            _check_names(path, file.schema_arrow.names)
            yield from _numbered(path, file.iter_batches(batch_size=PART))
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from error


def read_arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(where, record)`` for every row of Arrow's own format, a file (Feather 2) or a stream (what `datasets` saves).

    Raises:
        DataError: See :func:`read_parquet`.
    """
    import pyarrow

    path.stat()
    try:
        with pyarrow.OSFile(str(path)) as file:
            magic = file.read(6)
            file.seek(0)
            if magic == b"ARROW1":
                with pyarrow.ipc.open_file(file) as reader:
                    _check_names(path, reader.schema.names)
                    yield from _numbered(path, map(reader.get_batch, range(reader.num_record_batches)))
            else:
                with pyarrow.ipc.open_stream(file) as reader:
                    _check_names(path, reader.schema.names)
                    yield from _numbered(path, reader)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, "Arrow", error) from error


def _unreadable(path: Path, form: str, error: Exception) -> Exception:
    """Return the error of a file that cannot be read; one of the system, such as missing rights, is returned as it is."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    with path.open("rb") as file:
        pointer = file.read(24).startswith(b"version https://git-lfs")
    cure = (
        "it is a pointer of Git LFS and not the data: run git lfs pull"
        if pointer
        else "copy, download or write it again"
    )
    return DataError(f"{path}: not a readable {form} file ({(str(error).splitlines() or [''])[0]}); {cure}")


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: column {twice[0]!r} appears {names.count(twice[0])} times; rename or drop all but one"
        )


def _numbered(path: Path, batches: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, PART):
            part = batch.slice(start, PART)
            try:
                records = part.to_pylist()
            except (ValueError, OverflowError, KeyError, ImportError) as error:
                raise _without_counterpart(path, number, part) from error
            for record in records:
                number += 1
                yield f"{path}:{number}", record


def _without_counterpart(path: Path, before: int, part: Any) -> DataError:
    """Return the error that names the first value of a part that has no counterpart in Python.

    So are texts that are not UTF-8, dates beyond the year 9999, time zones that are not known here, and objects with one name
    twice.
    """
    for row in range(part.num_rows):
        for name, column in zip(part.schema.names, part.columns, strict=True):
            try:
                column[row].as_py()
            except (ValueError, OverflowError, KeyError, ImportError) as error:
                what = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                return DataError(
                    f"{path}:{before + row + 1}: column {name!r} of the type {column.type}: a value that cannot be read ({what}); "
                    "write it again as UTF-8 text or as a number, or drop the column from the file"
                )
    return DataError(f"{path}:{before + 1}: a value that cannot be read; write the file again")
