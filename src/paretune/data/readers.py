"""Data files as records: one dict per row with its origin, whatever the file format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from paretune.core.errors import DataError
from paretune.core.files import atomic_path
from paretune.core.numbers import number_in
from paretune.data.arrow_files import read_arrow, read_parquet
from paretune.data.json_faults import binary, columns_of, cure

Record = dict[str, Any]
ROW_GROUP = 4096  # records of a Parquet file that are written, and read, together
SHEETS = (".xlsx", ".xls", ".ods", ".numbers", ".tsv", ".tab")
CELL_LIMIT = (
    2**31 - 1
)  # characters in a CSV cell; Python's own limit (131072) is below the length of real dialogues


class NotJson:
    """A token ``NaN``, ``Infinity`` or ``-Infinity``: Python's parser accepts it, although it is not JSON.

    It is no text and no number, so that no check takes it for either.
    """

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return self.token


class Cell(str):
    """The text of a CSV cell, which may hold the JSON of messages: CSV has no lists of its own."""

    __slots__ = ()


def suffix_of(path: str | Path) -> str:
    """Return the suffix that decides the format, lower case: ``.jsonl``, ``.jsonl.gz``, ``.parquet``..."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return "".join(suffixes[-2:])
    return suffixes[-1] if suffixes else ""


def read_records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Yield ``(where, record)`` for every row of a data file, ``where`` being ``file:line``.

    JSONL (``.gz`` and ``.xz`` too), a JSON array, CSV, Parquet and Arrow are recognised by suffix. The line is the
    line of the file for JSONL and CSV, the number of the record (from 1) for the others. JSONL, Parquet and Arrow are read
    a part at a time, CSV and a JSON array whole. CSV values are
    strings.

    Raises:
        DataError: Missing or damaged file, unknown suffix, a line that is not a JSON object, not UTF-8.
    """
    path = Path(path)
    reader = READERS.get(suffix_of(path))
    if reader is None:
        sheet = "; save a spreadsheet as CSV with commas" if suffix_of(path) in SHEETS else ""
        raise DataError(
            f"{path}: unknown file type {suffix_of(path)!r}; expected a name ending in one of "
            f"{', '.join(READERS)}{sheet}"
        )
    try:
        yield from reader(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged or cut off compressed file ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror or error})") from error


def parse_json(text: str, where: str) -> Any:
    """Parse JSON strictly: a repeated key is a DataError, NaN and Infinity become `NotJson` to be refused."""

    def unique(items: list[tuple[str, Any]]) -> Record:
        record = dict(items)
        if len(record) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: column {twice!r} appears twice in one object; keep one of them")
        return record

    try:
        return json.loads(text, parse_constant=NotJson, object_pairs_hook=unique)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos + 1}){cure(text, error.pos)}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON nested too deeply; expected one flat object per line") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise DataError(f"{where}: not valid JSON ({error})") from error


def _opened(path: Path) -> io.BufferedIOBase:
    opener = COMPRESSIONS.get(path.suffix.lower())
    return opener(path) if opener else path.open("rb")


def _decode(raw: bytes, path: Path, first: int = 1) -> str:
    """Return bytes of a file as text; they begin in line ``first``."""
    try:
        return raw.decode("utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError as error:
        bad = raw[error.start]
        utf16 = "this looks like UTF-16; " if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        cure = binary(raw) or f"{utf16}save the file as UTF-8"
        line = first + raw.count(b"\n", 0, error.start)
        position = error.start - raw.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{bad:02x} at position {position}); {cure}"
        ) from error


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: expected a JSON object, got {value!r:.60}; write one object per row, as "
            '{"prompt": ..., "responses": [...]}'
        )
    return value


def _read_jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    with _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            text = _decode(raw, path, number)
            if text.strip():
                yield where, _object(parse_json(text, where), where)


def _read_json(path: Path) -> Iterator[tuple[str, Record]]:
    with _opened(path) as file:
        text = _decode(file.read(), path)
    values = parse_json(text, f"{path}:1")
    if not isinstance(values, list):
        raise DataError(
            f"{path}:1: expected a JSON array of objects, got {values!r:.60}; {columns_of(values)}for one object per line name the "
            "file .jsonl"
        )
    for number, value in enumerate(values, start=1):
        yield f"{path}:{number}", _object(value, f"{path}:{number}")


def _read_csv(path: Path) -> Iterator[tuple[str, Record]]:
    with _opened(path) as file:
        text = _decode(file.read(), path)
    before = csv.field_size_limit(CELL_LIMIT)
    try:
        rows = []
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        line = 1
        for cells in reader:
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV ({error}); quote cells with double quotes") from error
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{path}:1: the file is empty; expected a header line with column names")
    header = rows[0][1]
    _check_header(header, path)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}:1: column {twice[0]!r} appears twice in the header; give each column a name of its own"
        )
    ragged = [(line, len(cells)) for line, cells in rows[1:] if cells and len(cells) != len(header)]
    if ragged:
        others = ", ".join(str(line) for line, _ in ragged[1:9])
        raise DataError(
            f"{path}:{ragged[0][0]}: {ragged[0][1]} cells, but the header has {len(header)} columns; quote cells that hold commas, "
            "and fill the others or leave the row out"
            + (f"; the same in line {others}" if others else "")
            + (f" and {len(ragged) - 9} more" if len(ragged) > 9 else "")
        )
    for line, cells in rows[1:]:
        if not cells:
            continue
        yield f"{path}:{line}", dict(zip(header, map(Cell, cells), strict=True))


def _check_header(header: Sequence[str], path: Path) -> None:
    for name in header:
        if name != name.strip():
            raise DataError(
                f"{path}:1: column {name!r}: a space around the name; write commas without spaces, in the rows too (a space "
                "belongs to the text of its cell)"
            )
    for separator in (";", "\t", "|"):
        if len(header) == 1 and separator in header[0]:
            raise DataError(
                f"{path}:1: the header is one column, {header[0]!r:.60}, which looks like columns separated by {separator!r}; "
                "separate them by commas"
            )


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Write canonical records as JSON lines, atomically; a name ending in ``.gz`` is compressed (equal records, equal bytes)."""
    with _written(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(
    path: str | Path, records: Iterable[Record], objectives: Sequence[str], widest: int, beside: Sequence[str]
) -> None:
    """Write canonical records as CSV, atomically, every cell quoted (the columns are listed in `paretune.data.rows`).

    ``widest`` is the largest number of responses. ``beside`` has those of ``weight`` and ``margin`` that some record has.
    """
    score_columns = [(name, k) for name in objectives for k in range(max(widest, 1))]
    with _written(path) as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(
            ["prompt", *[f"response_{k}" for k in range(widest)]]
            + [f"scores.{name}.{k}" for name, k in score_columns]
            + ["labels", "truncated", "source", *beside]
        )
        for record in records:
            responses, scores = record["responses"], record["scores"]
            numbers = {
                (name, k): "" if value is None else repr(value)
                for name, values in scores.items()
                for k, value in enumerate(values)
            }
            cells = (
                [_prompt_cell(record["prompt"]), *responses, *[""] * (widest - len(responses))]
                + [numbers.get(column, "") for column in score_columns]
                + [json.dumps(record["labels"], ensure_ascii=False) if record["labels"] else ""]
                + [json.dumps(record["truncated"]) if any(record["truncated"]) else "", record["source"]]
                + [repr(record[column]) if column in record else "" for column in beside]
            )
            try:
                writer.writerow(cells)
            except csv.Error as error:  # Python 3.10 writes no NUL
                raise DataError(
                    f"{path}: a row holds a character that CSV cannot hold with this Python ({error}; {record['source']!r:.80}); "
                    "write .jsonl or .parquet, or use Python 3.11 or later"
                ) from error


@contextmanager
def _written(path: str | Path) -> Iterator[IO[str]]:
    """Yield a text file that takes the place of ``path`` once it is whole."""
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if str(path).endswith(".gz") else None
        text = io.TextIOWrapper(packed or raw, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()  # which would close the file before it is on the disk
        if packed:
            packed.close()
        raw.flush()
        os.fsync(raw.fileno())


def _prompt_cell(messages: list[dict[str, str]]) -> str:
    if len(messages) == 1 and messages[0]["role"] == "user" and not messages[0]["content"].startswith("[{"):
        return messages[0]["content"]
    return json.dumps(messages, ensure_ascii=False)


def unflatten(cells: Record, where: str) -> Record:
    """Turn the cells of one CSV line into a canonical record; DataErrors start with ``where``."""
    record: Record = {"responses": [], "scores": {}}
    responses: dict[int, str] = {}
    scores: dict[str, dict[int, float | None]] = {}
    for column, cell in cells.items():
        head, _, index = column.rpartition("_" if column.startswith("response_") else ".")
        if head == "response" and _is_index(index):
            if cell is not None and cell != "":
                responses[int(index)] = cell
        elif head.startswith("scores.") and _is_index(index):
            scores.setdefault(head.removeprefix("scores."), {})[int(index)] = _number_cell(
                cell, column, where
            )
        elif column in ("labels", "truncated") and isinstance(cell, Cell):
            record[column] = parse_json(cell, f"{where}: column {column!r}") if cell else None
        elif column in ("weight", "margin"):
            record[column] = _number_cell(cell, column, where)
        else:
            record[column] = cell
    prompt = record.get("prompt")
    if isinstance(prompt, Cell) and prompt.startswith("[{"):
        record["prompt"] = parse_json(prompt, f"{where}: column 'prompt'")
    count = len(responses)
    if set(responses) != set(range(count)):
        raise DataError(
            f"{where}: column 'response_{min(set(range(count)) - set(responses))}': empty, but a "
            "later response is not"
        )
    if record["responses"]:
        raise DataError(
            f"{where}: column 'responses': the file has a column for each response, response_0 and so on; use one form"
        )
    record["responses"] = [responses[k] for k in range(count)]
    if scores and not isinstance(record["scores"], dict):
        raise DataError(
            f"{where}: column 'scores': expected an object of objectives, got {record['scores']!r:.60}"
        )
    for name, values in scores.items():
        beyond = [k for k, value in values.items() if k >= count and value is not None]
        if beyond:
            raise DataError(
                f"{where}: column 'scores.{name}.{beyond[0]}': a score, but there is no response {beyond[0]}"
            )
        record["scores"][name] = [values.get(k) for k in range(count)]
    return record


def _is_index(text: str) -> bool:
    """Return whether a text is a number as it is written: ``0`` and ``10``, but not ``00``, which would be column 0 again."""
    return re.fullmatch(r"0|[1-9][0-9]*", text) is not None


def _number_cell(cell: Any, column: str, where: str) -> Any:
    if not isinstance(cell, Cell):
        return cell  # a number of JSON, which the row checks
    if not cell.strip():
        return None
    try:
        number = number_in(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: column {column!r}: expected a number or an empty cell, got {cell!r}")
    return number


def write_parquet(path: str | Path, records: Iterable[Record], objectives: Sequence[str]) -> None:
    """Write canonical records as Parquet, atomically (the columns are those of `paretune.data.rows`)."""
    import pyarrow  # 60 ms and more, only for those who write Parquet
    import pyarrow.parquet

    numbers = pyarrow.list_(pyarrow.float64())
    columns = {
        "prompt": pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()})),
        "responses": pyarrow.list_(pyarrow.string()),
        "scores": pyarrow.struct(dict.fromkeys(objectives, numbers)),
        "labels": pyarrow.struct({name: pyarrow.list_(numbers) for name in objectives}),
        "truncated": pyarrow.list_(pyarrow.bool_()),
        "source": pyarrow.string(),
        "weight": pyarrow.float64(),
        "margin": pyarrow.float64(),
    }
    if not objectives:  # Parquet has no struct without fields
        del columns["scores"], columns["labels"]
    schema, stream = pyarrow.schema(columns), iter(records)
    with (
        atomic_path(path) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        while part := list(islice(stream, ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}
READERS: dict[str, Callable[[Path], Iterator[tuple[str, Record]]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".jsonl.xz": _read_jsonl,
    ".json": _read_json,
    ".json.gz": _read_json,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
