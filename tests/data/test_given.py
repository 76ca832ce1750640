"""Files of other people's forms, one kind of trouble each, in ``given/``: the rows they are, or the message that says the cure.

``given/expected.json`` has an entry for each: the rows as [prompt, responses, what else a row holds], or the message, in which FILE
is the path; and the notes. Without anything else, a pair's first response is preferred under the objective h.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset
from paretune.data.load import load_data
from paretune.data.rows import Row
from support.command import call

GIVEN = Path(__file__).parent / "given"
EXPECTED: list[dict[str, Any]] = json.loads((GIVEN / "expected.json").read_text())


def told(row: Row) -> list[Any]:
    """Return a row as ``expected.json`` has it."""
    plain = len(row.prompt) == 1 and row.prompt[0].role == "user"
    prompt = row.prompt[0].content if plain else " | ".join(f"{m.role}: {m.content}" for m in row.prompt)
    beside: dict[str, Any] = {}
    if row.scores:
        beside["scores"] = {
            n: [None if math.isnan(v) else v for v in values] for n, values in row.scores.items()
        }
    labels = {name: [list(c) for c in values] for name, values in row.labels.items()}
    if labels != ({"h": [[0, 1, 1.0]]} if len(row.responses) == 2 and not row.scores else {}):
        beside["labels"] = labels
    if row.weight != 1 or row.margin != 0:
        beside |= {"weight": row.weight, "margin": row.margin}
    if any(row.truncated):
        beside["truncated"] = list(row.truncated)
    return [prompt, list(row.responses), beside]


def read(file: Path, split: str | None) -> ScoredDataset:
    if file.suffix == ".yaml":
        from paretune.cli.data import load_source

        return load_source(str(file), None, None, split)
    return load_data(file, split, objective="h")


def outcome(file: Path, split: str | None) -> dict[str, Any]:
    name = str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = read(file, split)
    except DataError as error:
        return {"message": str(error).replace(name, "FILE").replace(str(GIVEN), "GIVEN")}
    notes = [note.replace(name, "FILE").replace(str(GIVEN), "GIVEN") for note in dataset.notes]
    return {"rows": [told(row) for row in dataset.rows]} | ({"notes": notes} if notes else {})


@pytest.mark.parametrize("entry", EXPECTED, ids=lambda entry: f"{entry['file']}-{entry.get('split')}")
def test_a_file_is_the_right_rows_or_a_message_with_the_cure(entry: dict[str, Any]) -> None:
    right = {key: entry[key] for key in ("rows", "message", "notes") if key in entry}
    assert outcome(GIVEN / entry["file"], entry.get("split")) == right


def test_every_file_has_an_entry() -> None:
    about = ("expected.json", "state.json", "dataset_info.json", "dataset_dict.json", "dataset_infos.json")
    files = {
        file.relative_to(GIVEN).as_posix()
        for file in GIVEN.rglob("*")
        if file.is_file() and file.name not in about
    }
    folders = {entry["file"] for entry in EXPECTED if (GIVEN / entry["file"]).is_dir()}
    named = {entry["file"] for entry in EXPECTED}
    assert not {
        file for file in files - named if not any(file.startswith(f"{folder}/") for folder in folders)
    }


def test_a_bad_file_ends_the_command_with_code_2(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    file, target = GIVEN / "unknown-response-column" / "caps.jsonl", tmp_path / "o.jsonl"
    code, _, said = call(monkeypatch, capsys, "data", "convert", str(file), str(target), "--objective", "h")
    assert code == 2 and "column 'Chosen' is not read" in said.replace("\n", " ") and not target.exists()


def test_an_objective_that_names_nothing_is_said(tmp_path: Path) -> None:
    scored = tmp_path / "scored.jsonl"
    scored.write_text('{"prompt": "a", "responses": ["b", "c"], "scores": {"warm": [1, 2]}}\n')
    with pytest.raises(DataError, match=r"name their objectives \(warm\), so objective=foo has no meaning"):
        load_data(scored, objective="foo")
    with pytest.raises(
        DataError, match=r"a known set names its objectives \(helpful, harmless\), so objective=foo"
    ):
        load_data("hh-rlhf", objective="foo")
    with pytest.warns(UserWarning, match="objective=foo is not used: the data have no labels"):
        load_data(GIVEN / "later-columns" / "nectar_none.jsonl", objective="foo")


def test_a_path_beside_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is where the files of a known set lie"):
        load_data(GIVEN / "csv" / "kto.csv", path=tmp_path)


def test_columns_left_out_knowingly_are_no_error() -> None:
    file = GIVEN / "other-forms" / "ties.jsonl"
    (row,) = load_data({"path": str(file), "objective": "h", "ignore": ["tie"]}).rows
    assert row.responses == ("b", "c")


def test_an_objective_beside_a_column_map_that_names_its_own_is_said(tmp_path: Path) -> None:
    source = {"path": str(GIVEN / "other-files" / "read.jsonl"), "prompt": "q", "responses": ["x", "y"]}
    with pytest.warns(UserWarning, match="objective=foo is not used: scores and labels of a column map"):
        load_data({**source, "objective": "foo"})
