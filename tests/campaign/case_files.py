"""Data files: every form that is read, in every file format, right and with one thing wrong.

A right file gives the same rows in every format. A wrong one is refused with exit 2 and the file's name, or what is left out of it
is said; it never gives other rows without a word. The small files of ``tests/data/cases`` must not end in a traceback either.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.trial import Bench, Fault, Trial, done, picked, plain, refused
from campaign.warm import ROOT, Ended

KIND = "case-files"
WHOLE = 400
CASES = ROOT / "tests" / "data" / "cases"
SUFFIXES = {".jsonl", ".json", ".csv", ".parquet", ".yaml", ".arrow", ".gz"}
SAID = ("left out", "leaves out", "dropped", "skipped", "ignored", "not read", "unread", "missing", "without")
"""Words by which a command says that it did not take all."""
Record = dict[str, Any]
NAN = float("nan")


def _user(text: str) -> list[Record]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> list[Record]:
    return [{"role": "assistant", "content": text}]


@dataclass(frozen=True)
class Form:
    """A form of data: its records, its objective, how many rows it gives, and the columns that must be there."""

    records: Sequence[Record]
    rows: int
    flat: bool = True


FORMS: Mapping[str, Form] = {
    "canonical": Form([{"prompt": _user(f"say {k}"), "responses": [f"one {k}", f"two {k} more"], "scores": {"helpful": [0.5,
    -1.0 * k]}} for k in range(6)], 6, False),
    "preference": Form([{"prompt": f"say {k}", "chosen": f"a good {k}", "rejected": f"bad {k}"} for k in range(6)], 6),
    "preference-messages": Form([{"prompt": _user(f"say {k}"), "chosen": _assistant(f"a good {k}"),
    "rejected": _assistant(f"bad {k}")} for k in range(6)], 6, False),
    "dialogues": Form([{"chosen": [*_user(f"say {k}"), *_assistant(f"a good {k}")], "rejected": [*_user(f"say {k}"),
    *_assistant(f"bad {k}")]} for k in range(6)], 6, False),
    "unpaired": Form([{"prompt": f"say {k // 2}", "completion": f"text {k}", "label": k % 2 == 0} for k in range(6)], 3),
    "completion": Form([{"prompt": f"say {k}", "completion": f"text {k}"} for k in range(6)], 6),
    "prompts": Form([{"prompt": f"say {k}"} for k in range(6)], 6),
    "messages": Form([{"messages": [*_user(f"say {k}"), *_assistant(f"text {k}")]} for k in range(6)], 6, False),
}  # fmt: skip
"""name -> a form with right records; ``flat`` where a CSV file can hold it."""
FORMATS = ("jsonl", "jsonl.gz", "json", "parquet", "csv")


def _other_type(value: Any) -> Any:
    if isinstance(value, bool):
        return "perhaps"
    if isinstance(value, (int, float)):
        return "much"
    return 7  # a text in place of messages can be right


VALUES: Mapping[str, Callable[[Any], Any]] = {
    "null": lambda value: None,
    "NaN": lambda value: NAN,
    "another type": _other_type,
    "nested": lambda value: {"value": value},
    "in a list": lambda value: [value],
    "in two lists": lambda value: [[value]],
    "a number": lambda value: 3.5,
    "empty": lambda value: "",
    "an empty list": lambda value: [],
    "an empty map": lambda value: {},
    "true": lambda value: True if not isinstance(value, bool) else 3,
    "a surrogate": lambda value: "\ud800 half",
}
"""Changes of one value in one record."""
COLUMNS: Mapping[str, Callable[[str], str]] = {
    "renamed": lambda column: f"{column}_x",
    "in capitals": str.upper,
    "with a space": lambda column: f" {column}",
    "in the plural": lambda column: f"{column}s",
}
"""Changes of a column's name, in all records or in the later ones."""
MORE: Mapping[str, Any] = {"system": "Be brief.", "history": [["a", "b"]], "score": 0.5, "scores_x": [1, 2], "notes": "mine",
"tools": [{"name": "f"}], "images": ["x.png"], "weight": 2.0, "rejected_2": "worse", "score_chosen": 3.0}  # fmt: skip
"""Columns that a form does not have."""
READ: Mapping[str, Sequence[str]] = {
    "system": ["Be brief."],
    "history": ['"a"', '"b"'],
    "weight": ['"weight": 2.0'],
}
"""Columns among them that every form reads, and what a row then holds."""


def write(path: Path, records: Sequence[Record]) -> Path:
    """Write records in the format of the path's name."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(records)))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            names = list(dict.fromkeys(name for record in records for name in record))
            made = csv.DictWriter(file, names)
            made.writeheader()
            made.writerows(records)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = dict.fromkeys(
            name for record in records for name in record
        )  # pyarrow takes those of the first alone
        whole = [{name: record.get(name) for name in names} for record in records]
        pq.write_table(pa.Table.from_pylist(whole), path)
    else:
        path.write_text(lines)
    return path


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return right files, wrong files and the small files of the tests."""
    names = [
        f"right {form} {kind}"
        for form, facts in FORMS.items()
        for kind in FORMATS
        if facts.flat or kind != "csv"
    ]
    files = [path for path in sorted(CASES.rglob("*")) if path.is_file() and path.suffix in SUFFIXES]
    names += [f"case {path.relative_to(CASES)}" for path in files]
    names += [f"wrong {number}" for number in range(WHOLE)]
    return [Trial(KIND, plain(name), _bound(name)) for name in picked(names, count, chance)]


def _bound(name: str) -> object:
    what, _, rest = name.partition(" ")
    return lambda bench: {"right": right, "wrong": wrong, "case": case}[what](bench, rest)


def convert(bench: Bench, file: Path, name: str = "out.jsonl") -> Ended:
    """Convert a file to the canonical form."""
    return bench.warm("data", "convert", file, name, "--objective", "helpful", cwd=bench.folder, timeout=60)


def rows_of(file: Path) -> list[Record]:
    """Return the rows of a canonical file without their sources."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "source"} for row in rows]


def right(bench: Bench, rest: str) -> None:
    """Convert a right file; its rows are those of the JSON lines, and have all its texts."""
    name, kind = rest.split()
    form = FORMS[name]
    ended = convert(bench, write(bench.folder / f"data.{kind}", form.records))
    done(ended)
    rows = rows_of(bench.folder / "out.jsonl")
    if len(rows) != form.rows:
        raise Fault(f"{len(rows)} rows instead of {form.rows}")
    said = json.dumps(rows)
    lost = [text for record in form.records for text in texts(record) if json.dumps(text)[1:-1] not in said]
    if lost:
        raise Fault(f"these texts are in no row: {lost[:3]}")
    done(convert(bench, write(bench.folder / "plain.jsonl", form.records), "plain-out.jsonl"))
    if rows_of(bench.folder / "plain-out.jsonl") != rows:
        raise Fault("other rows than from JSON lines")


def texts(value: Any) -> list[str]:
    """Return the texts of a record, without roles."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return (
        [text for key, part in value.items() if key != "role" for text in texts(part)]
        if isinstance(value, dict)
        else []
    )


def wrong(bench: Bench, rest: str) -> str:
    """Convert a file with one thing wrong."""
    chance = bench.chance
    name = chance.choice(sorted(FORMS))
    records = [dict(record) for record in FORMS[name].records]
    change, what, column = changed(records, chance)
    # In a CSV file every value is text.
    flat = FORMS[name].flat and change != "value"
    kinds = [kind for kind in FORMATS if (kind != "csv" or flat) and writable(kind, records)]
    kind = chance.choice(kinds)
    file = bench.folder / f"data.{kind}"
    write(file, records)
    ended = convert(bench, file)
    told = f"{name}.{kind}, {what}"
    try:
        if ended.code != 0 or ended.timed_out:
            refused(ended, [file.name, column])
            return f"{told}: {ended.last_line[:160]}"
        done(ended)
        rows = rows_of(bench.folder / "out.jsonl")
        silent = not any(word in ended.text for word in (*SAID, column))
        if change == "more" and column in READ:
            silent = not all(text in json.dumps(rows[-1]) for text in READ[column])
        whole = write(bench.folder / "whole.jsonl", FORMS[name].records)
        done(convert(bench, whole, "whole-out.jsonl"))
        same = rows == rows_of(bench.folder / "whole-out.jsonl")
        if silent and (not same or change != "value"):
            raise Fault(
                f"taken without a word; {FORMS[name].rows} rows became {len(rows)}, such as {json.dumps(rows[-1:])[:300]}"
            )
    except Fault as fault:
        raise Fault(f"{told}: {fault}") from None
    return f"{told}: taken, and said"


def changed(records: list[Record], chance: random.Random) -> tuple[str, str, str]:
    """Change records in place; return the kind of change, the change in words, and the column that a message must name."""
    column = chance.choice([name for name in sorted(records[0]) if name != "scores"])  # they may be missing
    start = chance.choice((0, 3))
    change = chance.choice(("value", "value", "value", "column", "more", "missing"))
    if change == "value":
        name = chance.choice(sorted(VALUES))
        place = chance.randrange(len(records))
        records[place][column] = VALUES[name](records[place][column])
        return change, f"{column} of record {place} {name}", column
    if change == "column":
        name = chance.choice(sorted(COLUMNS))
        other = COLUMNS[name](column)
        for record in records[start:]:
            record[other] = record.pop(column)
        return change, f"{column} {name} from record {start} on", column
    if change == "missing":
        for record in records[max(1, start) :]:
            del record[column]
        return change, f"{column} is missing from record {max(1, start)} on", column
    other = chance.choice(sorted(MORE))
    for record in records[start:]:
        record[other] = MORE[other]
    return change, f"with the column {other} from record {start} on", other


def writable(kind: str, records: Sequence[Record]) -> bool:
    """Return whether a format can hold these records; a CSV file only holds text."""
    if kind == "csv":
        return all(
            isinstance(value, (str, bool)) and "\ud800" not in str(value)
            for record in records
            for value in record.values()
        )
    if kind != "parquet":
        return True
    import pyarrow as pa

    try:
        pa.Table.from_pylist(list(records))
    except (pa.ArrowException, UnicodeError, OverflowError):
        return False
    return True


def case(bench: Bench, rest: str) -> str:
    """Convert a small file of the tests."""
    file = CASES / rest
    ended = convert(bench, file)
    if ended.code != 0 or ended.timed_out:
        refused(ended, [file.name, file.parent.name])
        return ended.last_line[:200]
    done(ended)
    return "taken"
