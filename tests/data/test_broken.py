"""Broken records of one's own data: one message names them all, by line and column."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import DataError
from paretune.data.broken import LOOKED_AT, NAMED
from paretune.data.load import load_data

HEADER = ["No.", "Question", "Reply A", "Reply B", "Kinder?"]
MAP: dict[str, Any] = {
    "prompt": "Question",
    "responses": ["Reply A", "Reply B"],
    "labels": {"kind": {"column": "Kinder?", "values": {"A": 1, "B": -1, "n/a": None}}},
}


def sheet(path: Path, changes: dict[int, dict[str, str]], count: int = 12) -> dict[str, Any]:
    """Write a sheet of ``count`` rows, of which row n (from 0) stands in line n + 2; return the source that reads it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number in range(count):
            cells = dict(
                zip(HEADER, (str(number), f"q{number}", f"a{number}", f"b{number}", "A"), strict=True)
            )
            writer.writerow({**cells, **changes.get(number, {})}.values())
    return {"path": str(path), **MAP}


def test_one_message_names_every_broken_record(tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    source = sheet(file, {1: {"Reply B": ""}, 4: {"Kinder?": "?"}, 7: {"Question": "  "}})
    with pytest.raises(DataError) as error:
        load_data(source)
    assert str(error.value) == (
        f"{file}:3: column 'Reply B': expected text or messages, got ''; write them, or leave the record out; "
        f"broken too: {file}:6, {file}:9"
    )


def test_many_are_counted(tmp_path: Path) -> None:
    source = sheet(tmp_path / "sheet.csv", {n: {"Reply A": ""} for n in range(1, 40, 2)}, 40)
    with pytest.raises(DataError, match=f"and {19 - NAMED} more$") as error:
        load_data(source)
    assert str(error.value).count("sheet.csv:") == 1 + NAMED


def test_a_blank_cell_is_told_under_the_name_that_the_column_has(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"sheet.csv:4: column 'Question': expected text or messages, got '  '"
    ):
        load_data(sheet(tmp_path / "sheet.csv", {2: {"Question": "  "}}))


def test_where_the_first_record_is_broken_the_map_may_be_wrong(tmp_path: Path) -> None:
    source = sheet(tmp_path / "sheet.csv", {}) | {"prompt": "Ask"}
    with pytest.raises(DataError) as error:
        load_data(source)
    assert "column 'Ask' is missing; found 'No.', 'Question'" in str(error.value)
    assert "broken too" not in str(error.value)


def test_the_first_record_decides_the_form_of_those_behind_a_broken_one(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    records = [good, good | {"chosen": ""}, {"prompt": "q", "completion": "a"}, good]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(DataError, match=rf"^{file}:2: .*broken too: {file}:3$"):
        load_data(str(file), objective="h")


def test_an_error_about_all_records_is_not_counted_as_a_broken_one(tmp_path: Path) -> None:
    """The rest behind a broken record lacks a column that the records before it have."""
    file = tmp_path / "some.jsonl"
    records = [
        {"q": "1", "a": "x", "b": "y", "w": 2.0},
        {"q": "2", "a": "", "b": "y"},
        {"q": "3", "a": "x", "b": "y"},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = {
        "path": str(file),
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "objective": "h",
        "weight": "w",
    }
    with pytest.raises(DataError, match=r"some.jsonl:2: column 'a': .* leave the record out$"):
        load_data(source)


@pytest.mark.parametrize(
    "record, broken",
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosen": ""}),
        ({"prompt": "q", "completion": "a", "label": True}, {"label": "perhaps"}),
        ({"prompt": [{"role": "user", "content": "q"}], "responses": ["a", "b"]}, {"responses": ["a", ""]}),
    ],
)
def test_public_forms_and_the_canonical_one_name_them_too(
    tmp_path: Path, record: dict[str, Any], broken: dict[str, Any]
) -> None:
    file = tmp_path / "pairs.jsonl"
    records = [record, record | broken, record, record | broken, record | broken]
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(DataError, match=rf"^{file}:2: .*broken too: {file}:4, {file}:5$"):
        load_data(str(file), objective="h" if "responses" not in record else None)


def test_a_file_that_cannot_be_read_on_ends_the_search(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"})
    bad = good.replace('"a"', '""')
    file.write_text(f"{good}\n{bad}\n{good}\n{{\n{good}\n")
    with pytest.raises(DataError, match=r"pairs.jsonl:2: column 'chosen': .* leave the record out$"):
        load_data(str(file), objective="h")


def test_only_so_many_records_are_looked_at(tmp_path: Path) -> None:
    last = LOOKED_AT + 5
    source = sheet(tmp_path / "sheet.csv", {1: {"Reply B": ""}, last: {"Reply B": ""}}, last + 1)
    with pytest.raises(DataError, match=r"sheet.csv:3: .* leave the record out$"):
        load_data(source)


def test_rows_with_too_few_or_too_many_cells_are_named_together(tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    sheet(file, {})
    lines = file.read_text().splitlines()
    lines[2], lines[5] = "1,q1,a1", lines[5] + ",more"
    file.write_text("\n".join(lines))
    with pytest.raises(
        DataError, match=r"sheet.csv:3: 3 cells, but the header has 5 columns; .*; the same in line 6$"
    ):
        load_data({"path": str(file), **MAP})


def test_a_label_that_stands_for_no_comparison_is_null_in_the_map(tmp_path: Path) -> None:
    source = sheet(
        tmp_path / "sheet.csv", {0: {"Kinder?": "N/A"}, 1: {"Kinder?": ""}, 2: {"Kinder?": "b "}}, 4
    )
    labels = [row.labels.get("kind") for row in load_data(source).rows]
    assert labels == [None, None, ((0, 1, -1.0),), ((0, 1, 1.0),)]


def test_a_value_that_the_map_lacks_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"value 'same' is not in the map; .*give it a number in the map \(null: not"
    ):
        load_data(sheet(tmp_path / "sheet.csv", {2: {"Kinder?": "same"}}))


def test_a_byte_that_is_not_utf8_is_told_by_its_line(tmp_path: Path) -> None:
    """A spreadsheet that was saved in the letters of one country."""
    file = tmp_path / "sheet.csv"
    source = sheet(file, {4: {"Reply A": "Größe"}})
    file.write_bytes(file.read_text(encoding="utf-8").encode("cp1252"))
    with pytest.raises(
        DataError, match=r"sheet.csv:6: not UTF-8 \(byte 0xf6 at position 8\); save the file as UTF-8$"
    ):
        load_data(source)


@pytest.mark.parametrize("name", ["sheet.xlsx", "sheet.tsv"])
def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"unknown file type .*; save a spreadsheet as CSV with commas$"):
        load_data({"path": str(tmp_path / name), **MAP})
