"""Parquet and Arrow files that hold what Python has no value for, or are damaged: one message with file, row, column and cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from paretune.core.errors import DataError
from paretune.data.load import load_data
from support.command import call

ROWS = 1500
"""More than are turned into Python values together."""
BAD_TEXT = [b"\xff\xfex"]


def write(path: Path, table: pyarrow.Table) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
        return
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def pairs(**more: pyarrow.Array) -> pyarrow.Table:
    texts = {name: [f"{name} {row}" for row in range(ROWS)] for name in ("prompt", "chosen", "rejected")}
    return pyarrow.table(texts | more)


def last(value: object, kind: pyarrow.DataType) -> pyarrow.Array:
    """Return a column that has a value in its last row only."""
    return pyarrow.array([None] * (ROWS - 1) + [value], kind)


def not_utf8() -> pyarrow.Array:
    raw = last(BAD_TEXT[0], pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), ROWS, raw.buffers(), raw.null_count)


STRANGE = {
    "a text that is not UTF-8": (not_utf8, "text that is not UTF-8"),
    "a time beyond the year 9999": (lambda: last(2**62, pyarrow.timestamp("us")), "date value out of range"),
    "a day beyond the year 9999": (lambda: last(2**30, pyarrow.date32()), "magnitude"),
    "a time zone that is none": (lambda: last(1, pyarrow.timestamp("us", tz="Mars/Olympus")), "timestamp"),
}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("name", STRANGE)
def test_a_value_that_python_has_none_for_is_named_with_its_row(
    name: str, suffix: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    column, what = STRANGE[name]
    file, target = tmp_path / f"x{suffix}", tmp_path / "o.jsonl"
    write(file, pairs(note=column()))
    code, _, said = call(monkeypatch, capsys, "data", "convert", file, target, "--objective", "h")
    assert code == 2 and f"{file}:{ROWS}: column 'note' of the type" in said and what in said
    assert "drop the column" in said and not target.exists()


def test_an_object_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    numbers = pyarrow.array(range(ROWS))
    write(
        tmp_path / "x.arrow",
        pairs(meta=pyarrow.StructArray.from_arrays([numbers, numbers], names=["n", "n"])),
    )
    with pytest.raises(DataError, match=r"x\.arrow:1: column 'meta' of the type .*duplicate field names"):
        load_data(tmp_path / "x.arrow", objective="h")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_that_is_there_twice_is_refused_and_not_half_read(suffix: str, tmp_path: Path) -> None:
    texts = [pyarrow.array([text]) for text in "abcd"]
    write(
        tmp_path / f"x{suffix}", pyarrow.Table.from_arrays(texts, ["prompt", "chosen", "chosen", "rejected"])
    )
    with pytest.raises(DataError, match=rf"x\{suffix}: column 'chosen' appears 2 times; rename or drop"):
        load_data(tmp_path / f"x{suffix}", objective="h")


def test_times_in_a_column_that_is_not_read_do_no_harm(tmp_path: Path) -> None:
    write(
        tmp_path / "x.parquet", pairs(at=last(1_700_000_000_000_000_001, pyarrow.timestamp("ns", tz="UTC")))
    )
    assert len(load_data(tmp_path / "x.parquet", objective="h").rows) == ROWS


def test_a_damaged_page_is_one_message_with_a_cure(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, pairs())
    raw = bytearray(file.read_bytes())
    raw[200:260] = bytes(60)
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"not a readable Parquet file .*; copy, download or write it again"):
        load_data(file, objective="h")
