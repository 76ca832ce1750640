"""Random values in random columns of random rows: whatever comes out is a data set or a ParetuneError, never a traceback."""

from __future__ import annotations

import csv
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError
from paretune.data.formats import KNOWN_COLUMNS
from paretune.data.known import KNOWN
from paretune.data.load import KEYS, load_data
from paretune.data.rows import COLUMNS
from paretune.data.summary import inspect

NAMES = (
    *KNOWN_COLUMNS,
    *COLUMNS,
    "response_0",
    "response_1",
    "scores.h.0",
    "rejected_messages",
    "context",
    "response1",
    "response2",
    "overall_preference",
    "answers",
    "is_safe",
    "better_response_id",
    "safer_response_id",
    "feedback",
    "passages",
    "prediction 1",
    "preference",
    "tools",
    "x",
)
TALK = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "yes"}]
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2.5, 1e400, -1e308, 10**400, "", " ", "a", "b c", "4", "nan", "[]", "[{", '[{"role": "user"}]',
    "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: ", "\ud83d", "\x00", [], {}, [[]], [None], ["a", "b"], [1, 2],
    ["a", 1], {"a": 1}, {"role": "assistant", "content": "a"}, {"from": "gpt", "value": "b"}, {"from": None, "value": 1},
    {"role": 5, "content": []}, TALK, TALK[1:], TALK[:1], [{"from": "human", "value": "Q?"}], [{}], [{"role": "user"}],
    [{"answer": "a", "rank": 1}], [{"response": "a", "annotations": None}], {"h": [1, 0]}, {"h": [[0, 1, 1]]}, {"h": 3},
    {"h": [[9]]},
    [{"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image"}]}], [["q", "a"]], [["q"]], [[1, 2]],
    {"errors": [{"error type": "Irrelevant"}], "missing-info": []}, {"errors": 3, "missing-info": None},
)  # fmt: skip


def value(chance: random.Random, depth: int = 0) -> Any:
    if depth < 2 and chance.random() < 0.1:
        return [value(chance, depth + 1) for _ in range(chance.randrange(3))]
    if depth < 2 and chance.random() < 0.1:
        return {chance.choice(NAMES): value(chance, depth + 1) for _ in range(chance.randrange(3))}
    return chance.choice(LEAVES)


def good(name: str, chance: random.Random) -> Any:
    """Return a value that may fit the column, so that reading comes past the first check."""
    return {
        "messages": TALK, "conversations": TALK, "history": [["q", "a"]], "responses": ["a", "b"], "scores": [1, 2],
        "ratings": [1, 2], "generations": ["a", "b"], "completions": ["a", "b"], "label": True, "score": 1, "weight": 1,
        "margin": 0, "rejected_messages": [*TALK[:1], {"role": "assistant", "content": "no"}],
    }.get(name, chance.choice(["a", "b", "Q?"]))  # fmt: skip


SHAPES = (
    ("prompt", "chosen", "rejected", "weight", "margin", "system", "history", "score_chosen", "score_rejected",
     "generations", "ratings"),
    ("messages", "rejected_response", "system"),
    ("messages", "rejected_messages"),
    ("instruction", "input", "output", "rejected_response"),
    ("prompt", "generations", "ratings"),
    ("prompt", "completion", "label"),
    ("messages", "label"),
    ("prompt", "completion", "score"),
    ("prompt", "response"),
    ("messages",),
    ("conversations", "chosen", "rejected"),
    ("prompt", "responses", "scores", "labels", "truncated", "source", "weight", "margin"),
    ("prompt", "response_0", "response_1", "scores.h.0", "labels", "truncated"),
    ("prompt", "labels", "truncated"),
    ("prompt",),
)  # fmt: skip


def records(chance: random.Random) -> list[dict[str, Any]]:
    names = chance.choice(SHAPES)
    made = []
    for _ in range(chance.randrange(1, 4)):
        record = {name: good(name, chance) for name in names if chance.random() < 0.9}
        for _ in range(chance.randrange(3)):
            record[chance.choice((*names, *NAMES) if chance.random() < 0.5 else names)] = value(chance)
        made.append(record)
    return made


def write(path: Path, rows: list[dict[str, Any]], chance: random.Random) -> None:
    if path.suffix == ".csv":
        header = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
        with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in rows:
                cells = [row.get(name, "") for name in header]
                texts = [c if isinstance(c, str) else json.dumps(c) for c in cells]
                if sys.version_info < (3, 11):  # its module csv writes no NUL
                    texts = [text.replace("\0", " ") for text in texts]
                writer.writerow(texts)
        return
    texts = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(texts)}]" if path.suffix == ".json" else "\n".join(texts))


def spec(path: Path, chance: random.Random) -> Any:
    """Return a source: the file, a known set in it, or a column map of random keys."""
    kind = chance.random()
    if kind < 0.5:
        return {"path": str(path), "objective": "h"} if chance.random() < 0.5 else str(path)
    if kind < 0.7:
        return {"name": chance.choice(list(KNOWN)), "path": str(path)}
    columns: dict[Any, Any] = {"path": str(path), "prompt": chance.choice(("prompt", "messages"))}
    columns["responses"] = chance.choice(
        (["chosen", "rejected"], "responses", "response", "generations", ["a"], "completion")
    )
    columns["scores"] = chance.choice(
        (None, {"h": "scores"}, {"h": ["score_chosen", "score_rejected"]}, {"h": "score"})
    )
    columns["labels"] = chance.choice((None, {"h": {"column": "label", "values": {True: 1, "b": -1}}}))
    columns = {key: columns[key] for key in columns if columns[key] is not None}
    for _ in range(chance.randrange(3)):
        columns[chance.choice(KEYS)] = value(chance) if chance.random() < 0.7 else chance.choice(NAMES)
    return columns


@pytest.mark.parametrize("seed", range(8))
def test_only_errors_with_a_message_come_out_of_random_data(seed: int, tmp_path: Path) -> None:
    chance, read = random.Random(seed), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(250):
            path = tmp_path / f"helpful{number}.{chance.choice(('jsonl', 'jsonl', 'json', 'csv'))}"
            rows = records(chance)
            write(path, rows, chance)
            source = spec(path, chance)
            try:
                dataset = load_data(source, objective=chance.choice((None, "h")))
                inspect(dataset)
                dataset.write(tmp_path / f"again{chance.choice(('.jsonl', '.csv', '.parquet'))}")
                read += 1
            except ParetuneError as error:
                assert str(error)
            except Exception as error:
                raise AssertionError(f"{source!r} on {rows!r}") from error
    assert read > 0  # not all of it is refused
