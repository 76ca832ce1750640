"""What to do about a text that is not JSON, as far as its form shows it."""

from __future__ import annotations

import re
from typing import Any

BINARY = {
    b"\x1f\x8b": "this is a gzip file: give its name the ending .gz, as in .jsonl.gz",
    b"PAR1": "this is a Parquet file: give its name the ending .parquet",
    b"ARROW1": "this is an Arrow file: give its name the ending .arrow",
    b"PK\x03\x04": "this is a zip file (or a spreadsheet): unpack it, or save it as CSV, and name the file in it",
    b"\xfd7zXZ\0": "this is an xz file: give its name the ending .jsonl.xz",
    b"\x28\xb5\x2f\xfd": "this is a zstd file: unpack it (zstd -d) and name the file in it",
    b"SQLite format 3\0": "this is a data base of SQLite: export its table as CSV",
}
"""What files begin with that are no text -> what to do."""


def binary(raw: bytes) -> str:
    """Return what to do about a file of another format, "" where its beginning tells of none."""
    return next((told for magic, told in BINARY.items() if raw.startswith(magic)), "")


def cure(text: str, position: int) -> str:
    """Return what to do about a text in which no JSON can be read from ``position`` on, to end a message with."""
    return f"; {_cure(text, text[:position], text[position:].strip())}"


def _cure(text: str, before: str, rest: str) -> str:
    if told := binary(text[:16].encode(errors="replace")):
        return told
    if "\0" in text:
        if text.strip("\0 \n"):
            return "the text has bytes of zero, as UTF-16 has: save the file as UTF-8"
        return (
            "the rest of the file is bytes of zero: it was not written to its end, so copy or write it again"
        )
    if text.startswith("version https://git-lfs"):
        return "this is a pointer of Git LFS and not the data: run git lfs pull"
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "this is a web page and not the data: download the file itself"
    if rest == ",":
        return "a comma ends the line: write one object per line, and nothing between them"
    if rest.startswith("{"):
        return _of_several_objects(before)
    if text.strip() in ("{", "["):
        return "an object or list goes on in the next line: name a JSON array .json, or write one object per line (jq -c)"
    if re.match(r"\[\{\s*'", text):
        return "this is a Python list: write the cell with json.dumps"
    if rest.startswith(("#", "//", "/*")):
        return "JSON has no comments: remove it"
    if re.match(r"(True|False|None)\b", rest):
        return "JSON has true, false and null: write the line with json.dumps"
    if rest.startswith("'"):
        return "JSON has double quotes: write the line with json.dumps"
    if rest.startswith(("}", "]")) and before.rstrip().endswith(","):
        return "a comma stands before the end of an object or list: remove it"
    if not text.rstrip().endswith(("}", "]")):
        return "it ends too early: copy or write the file again, with each object whole in its line"
    return "write it with a program for JSON, such as json.dumps or jq"


def _of_several_objects(before: str) -> str:
    if "\n" in before.rstrip(" "):
        return "for one object per line name the file .jsonl"
    if "\r" in before.rstrip(" "):
        return "lines end with a carriage return alone: end each with a line feed"
    return "two objects stand in one line: write one object per line"


def columns_of(values: Any) -> str:
    """Return what to do about an object in place of a list of records, "" where it shows nothing."""
    if not isinstance(values, dict) or not values:
        return ""
    inner = list(values.values())
    alike = (
        len(inner) > 1
        and all(isinstance(each, (list, dict)) for each in inner)
        and len({len(each) for each in inner}) == 1
    )
    if alike and not any(isinstance(item, dict) for each in inner if isinstance(each, list) for item in each):
        return "write one object per row (pandas: to_json(orient='records')), or "
    lists = [repr(name) for name, value in values.items() if isinstance(value, list)]
    return f"save the list under {' or '.join(lists)} alone, or " if lists else ""
