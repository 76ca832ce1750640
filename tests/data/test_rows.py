from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.data.readers import read_records
from paretune.data.rows import Message, Row
from support.any_rows import OBJECTIVES, rows

BAD = Path(__file__).parents[1] / "bad_input" / "data"
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def small(count: int = 40) -> ScoredDataset:
    rows = [Row(ask(f"question {i}"), ("a", "b"), {"warm": (i, -i)}, source=f"f:{i}") for i in range(count)]
    return ScoredDataset(("warm",), tuple(rows))


# Round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back(suffix, data, tmp_path_factory) -> None:
    chosen = data.draw(st.lists(st.sampled_from(OBJECTIVES), unique=True).map(tuple))
    found = ScoredDataset(OBJECTIVES, tuple(data.draw(st.lists(rows(), min_size=1, max_size=4))))
    dataset = found.select(chosen)
    path = tmp_path_factory.mktemp("round") / f"data{suffix}"
    try:
        dataset.write(path)
    except DataError as error:  # Python 3.10 writes no NUL
        assert suffix == ".csv" and sys.version_info < (3, 11) and "\\x00" in repr(dataset)
        assert "a row holds a character that CSV cannot hold with this Python" in str(error)
        return
    again = ScoredDataset.read(path)
    assert again == dataset
    assert again.fingerprint == dataset.fingerprint


def test_long_cells_survive_csv(tmp_path) -> None:
    dataset = ScoredDataset((), (Row(ask("x" * 200_000), ('line\r\n"quoted", ü',), source="s"),))
    dataset.write(tmp_path / "long.csv")
    assert ScoredDataset.read(tmp_path / "long.csv") == dataset


def test_a_plain_text_prompt_is_one_user_message_and_missing_columns_have_defaults(tmp_path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text(
        '\ufeff{"prompt": "Hi", "responses": ["a"]}\n\n{"prompt": "Ho", "responses": []}\n', encoding="utf-8"
    )
    dataset = ScoredDataset.read(path)
    assert dataset.objectives == ()
    assert dataset.rows[0] == Row(ask("Hi"), ("a",), {}, {}, (False,), f"{path}:1")
    assert dataset.rows[1].responses == () and dataset.rows[1].source == f"{path}:3"


def test_csv_written_by_hand(tmp_path) -> None:
    path = tmp_path / "hand.csv"
    path.write_text('prompt,response_0,response_1,scores.warm.0,scores.warm.1\nHi,"a\nb",c,1.5,\nHo,d,,,\n')
    first, second = ScoredDataset.read(path).rows
    assert (
        first.responses == ("a\nb", "c")
        and first.scores["warm"][0] == 1.5
        and math.isnan(first.scores["warm"][1])
    )
    assert second.responses == ("d",) and second.scores == {} and second.source == f"{path}:4"


def test_objectives_are_found_in_order_and_can_be_chosen(tmp_path) -> None:
    row = Row(ask("q"), ("a", "b"), {"z": (1, 2), "y": (3, 4)}, {"x": ((0, 1, 1),)})
    path = tmp_path / "d.jsonl"
    ScoredDataset(("x", "z", "y"), (row,)).write(path)
    assert ScoredDataset.read(path).objectives == ("x", "z", "y")
    only = ScoredDataset.read(path, ["y", "x"])
    assert only.objectives == ("y", "x") and set(only.rows[0].scores) == {"y"}
    with pytest.raises(DataError, match="unknown objective 'zz'"):
        ScoredDataset.read(path, ["zz"])


# Bad input: file, line and column


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_json.jsonl", ":2: not valid JSON (Expecting ',' delimiter at character 17)"),
        ("not_object.jsonl", ":1: expected a JSON object, got [1, 2]"),
        ("text_score.jsonl", ":3: column 'scores.warm': expected a number or null, got 'high'"),
        ("bool_score.jsonl", ":1: column 'scores.warm': expected a number or null, got True"),
        ("nan_score.jsonl", ":1: column 'scores.warm': NaN is not JSON; write null for a missing number"),
        ("infinite_score.jsonl", ":1: column 'scores.warm': -Infinity is not JSON; write null"),
        ("huge_score.jsonl", ":1: column 'scores.warm': infinite, or too large for 64 bits"),
        ("score_not_list.jsonl", ":1: column 'scores.warm': expected a list of numbers, got 0.5"),
        ("score_count.jsonl", ":1: column 'scores.warm': 3 scores for 2 responses"),
        ("label_index.jsonl", ":1: column 'labels.warm': no response 2; expected an index from 0 to 1"),
        ("label_self.jsonl", ":1: column 'labels.warm': response 1 is compared with itself"),
        ("label_strength.jsonl", ":1: column 'labels.warm': strength 2.0 is outside [-1, 1]"),
        ("label_form.jsonl", ":1: column 'labels.warm': expected [a, b, p]"),
        ("empty_response.jsonl", ":1: column 'responses[1]': empty response"),
        ("number_response.jsonl", ":1: column 'responses[0]': expected text, got 7"),
        ("responses_text.jsonl", ":1: column 'responses': expected a list of texts, got 'a'"),
        ("responses_missing.jsonl", ":1: column 'responses' is missing; found 'prompt', 'truncated'"),
        ("unknown_column.jsonl", ":1: unknown column 'score'; did you mean 'scores'?"),
        ("unknown_role.jsonl", ":1: column 'prompt[0].role': unknown role 'users'; did you mean 'user'?"),
        ("empty_prompt.jsonl", ":1: column 'prompt': empty prompt"),
        ("assistant_last.jsonl", ":1: column 'prompt': the last message is the assistant's"),
        ("message_form.jsonl", ":1: column 'prompt[0]': expected {'role': ..., 'content': ...}, got 'Hi'"),
        ("tool_calls.jsonl", ":1: column 'prompt[0].tool_calls': only role and content are supported"),
        ("truncated_count.jsonl", ":1: column 'truncated': 1 values for 2 responses"),
        ("truncated_form.jsonl", ":1: column 'truncated': expected true or false, got 1"),
        ("objective_twice.jsonl", ":1: column 'warm' appears twice in one object"),
        ("surrogate.jsonl", ":1: column 'responses[0]': half of a surrogate pair at character 2"),
        ("not_utf8.jsonl", ":2: not UTF-8 (byte 0xff at position 14)"),
        ("no_rows.jsonl", ": no rows; expected at least one prompt"),
        ("cut_off.jsonl.gz", ": damaged or cut off compressed file"),
        ("not_gzip.jsonl.gz", ": damaged or cut off compressed file"),
        ("not_parquet.parquet", ": not a readable Parquet file"),
        ("text_score.csv", ":4: column 'scores.warm.0': expected a number or an empty cell, got 'high'"),
        (
            "underscore_score.csv",
            ":4: column 'scores.warm.0': expected a number or an empty cell, got '1_000'",
        ),
        ("gap.csv", ":2: column 'response_0': empty, but a later response is not"),
        ("score_beyond.csv", ":2: column 'scores.warm.1': a score, but there is no response 1"),
        ("cells.csv", ":3: 2 cells, but the header has 3 columns"),
        ("header_twice.csv", ":1: column 'prompt' appears twice in the header"),
        ("quote.csv", ":2: not valid CSV"),
        ("labels_cell.csv", ":2: column 'labels': not valid JSON"),
        ("empty.csv", ":1: the file is empty"),
        ("rows.txt", ": unknown file type '.txt'; expected a name ending in one of .jsonl"),
        ("missing.jsonl", ": no such file"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_column(name, message) -> None:
    with pytest.raises(DataError) as caught:
        ScoredDataset.read(BAD / name)
    assert str(caught.value).startswith(f"{BAD / name}{message}")


def test_every_bad_file_is_tested() -> None:
    marks = test_a_malformed_file_is_named_with_line_and_column.pytestmark
    named = {name for mark in marks if mark.name == "parametrize" for name, _ in mark.args[1]}
    assert {path.name for path in BAD.iterdir()} <= named


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (("warm", "warm"), "warm"),
        (("a=b",), "a=b"),
        (("",), "''"),
        (("cold",), "f:0: unknown objective 'warm'; expected one of: cold"),
    ],
)
def test_objectives_that_cannot_be_named_are_refused(objectives, message) -> None:
    with pytest.raises(DataError, match=message):
        ScoredDataset(objectives, small().rows)


def test_writing_to_an_unknown_type_or_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"unknown file type '.txt'; expected a name ending in one of .jsonl"):
        small().write(tmp_path / "data.txt")
    with pytest.raises(DataError, match="no rows to write"):
        ScoredDataset((), ()).write(tmp_path / "data.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_numpy_scores_are_accepted_and_an_infinite_one_is_refused() -> None:
    row = Row(ask("q"), ("a", "b"), {"warm": tuple(np.array([1, np.nan], dtype=np.float32))})
    assert row == Row(ask("q"), ("a", "b"), {"warm": (1.0, math.nan)})
    with pytest.raises(DataError, match=r"f:1: column 'scores.warm': infinite"):
        Row(ask("q"), ("a",), {"warm": (math.inf,)}, source="f:1")


# The table


def test_matrix_has_nan_for_missing() -> None:
    row = Row(ask("q"), ("a", "b"), {"warm": (1, math.nan)})
    matrix = ScoredDataset(("cold", "warm"), (row,)).matrix(row)
    assert np.array_equal(matrix, [[np.nan, 1], [np.nan, np.nan]], equal_nan=True)


def test_all_missing_scores_are_the_same_as_none() -> None:
    assert Row(ask("q"), ("a",), {"warm": (math.nan,)}) == Row(ask("q"), ("a",))


def test_fingerprint_is_of_content_and_order_not_of_source_and_equal_in_another_process() -> None:
    dataset = small(3)
    moved = ScoredDataset(("warm",), tuple(replace(row, source="elsewhere") for row in dataset.rows))
    assert moved.fingerprint == dataset.fingerprint
    assert ScoredDataset(("warm",), dataset.rows[::-1]).fingerprint != dataset.fingerprint
    changed = replace(dataset.rows[0], truncated=(True, False))
    assert ScoredDataset(("warm",), (changed, *dataset.rows[1:])).fingerprint != dataset.fingerprint
    code = (
        "from paretune.data.rows import Message, Row\nfrom paretune.data.dataset import ScoredDataset\n"
        "rows = [Row((Message('user', f'question {i}'),), ('a', 'b'), {'warm': (i, -i)}) for i in range(3)]\n"
        "import sys; assert not {'torch', 'pyarrow'} & set(sys.modules)\n"
        "print(ScoredDataset(('warm',), tuple(rows)).fingerprint)"
    )
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=paths, check=True
    )
    assert other.stdout.strip() == dataset.fingerprint


def test_key_folds_case_and_white_space_only() -> None:
    key = Row(ask("What is\n  Up?"), ()).key
    assert key == Row(ask(" what IS up? "), ("x",)).key
    assert key != Row(ask("what is up"), ()).key
    assert key != Row((Message("system", ""), *ask("what is up?")), ()).key


def test_with_scores_adds_or_replaces() -> None:
    dataset = small(2).with_scores("cold", [[1, 2], [3, math.nan]])
    assert dataset.objectives == ("warm", "cold") and dataset.rows[0].scores == {
        "warm": (0, 0),
        "cold": (1, 2),
    }
    assert dataset.with_scores("warm", [[5, 6], [7, 8]]).rows[1].scores["warm"] == (7, 8)
    with pytest.raises(DataError, match="scores for 1 rows, the data set has 2"):
        dataset.with_scores("cold", [[1, 2]])
    with pytest.raises(DataError, match=r"f:1: column 'scores.cold': 1 scores for 2 responses"):
        dataset.with_scores("cold", [[1, 2], [1]])


def test_concatenate_keeps_rows_apart_over_the_union_of_objectives() -> None:
    first, second = small(2), small(2).select([]).with_scores("cold", [[1, 2], [3, 4]])
    both = concatenate([first, second])
    assert both.objectives == ("warm", "cold") and both.rows == (*first.rows, *second.rows)


# Splits


def test_split_keeps_prompts_together_and_loses_nothing() -> None:
    dataset = concatenate([small(200), small(150)])
    parts = dataset.split({"train": 0.7, "test": 0.3})
    train, test = ({row.key for row in parts[name].rows} for name in ("train", "test"))
    assert not train & test
    assert len(parts["train"].rows) + len(parts["test"].rows) == 350
    assert 0.6 < len(train) / 200 < 0.8


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_adding_rows_moves_no_other(seed, more) -> None:
    def place(dataset: ScoredDataset) -> dict[str, str]:
        parts = dataset.split({"a": 0.5, "b": 0.4}, seed)
        return {row.key: name for name, part in parts.items() for row in part.rows}

    before, after = place(small(60)), place(small(60 + more))
    assert {key: after.get(key) for key in before} == before


def test_split_depends_on_the_seed_and_fractions_below_one_leave_rows_out() -> None:
    dataset = small(200)
    first = dataset.split({"a": 0.5}, seed=1)["a"]
    assert first.rows != dataset.split({"a": 0.5}, seed=2)["a"].rows
    assert first.rows == dataset.split({"a": 0.5}, seed=1)["a"].rows
    assert 60 < len(first.rows) < 140
    assert len(dataset.split({"a": 0.1, "b": 0.2, "c": 0.7})["c"].rows) < 200


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"a": 0.8, "b": 0.3}, "split a=0.8, b=0.3: expected fractions above 0 with a sum of at most 1"),
        ({"a": 1.0, "b": 0.0}, "expected fractions above 0"),
        ({"a": math.nan}, "expected fractions above 0"),
        ({}, "expected fractions above 0"),
        ({"a": 0.999999, "b": 1e-9}, "part 'b' is empty with 40 different prompts; add data"),
    ],
)
def test_impossible_splits_are_refused(fractions, message) -> None:
    with pytest.raises(DataError, match=message):
        small().split(fractions)


# Records


def test_records_of_every_suffix_are_the_same(tmp_path) -> None:
    import lzma

    lines = '{"a": "1"}\n{"a": "2"}\n'
    (tmp_path / "d.jsonl").write_text(lines)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "d.json").write_text(json.dumps([{"a": "1"}, {"a": "2"}]))
    (tmp_path / "d.csv").write_text("a\n1\n2\n")
    for path in tmp_path.iterdir():
        assert [record for _, record in read_records(path)] == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        ("robot", "Hi", "unknown role 'robot'; expected one of: system, user, assistant, tool"),
        ("users", "Hi", "unknown role 'users'; did you mean 'user'"),
        (None, "Hi", "unknown role None"),
        ("user", None, "message of the user: expected text, got "),
        ("tool", ["Hi"], "message of the tool: expected text, got "),
    ],
)
def test_what_is_no_message_is_refused_when_it_is_made(role, content, message) -> None:
    with pytest.raises(DataError, match=message):
        Message(role, content)
