"""The answers that a run measured, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.core.errors import DataError
from paretune.data.measured import measured_answers
from paretune.data.readers import write_jsonl

LINE = {
    "policy": "soup",
    "preference": {"concise": 0.5, "warm": 0.5},
    "prompt": [{"role": "user", "content": "Bananas?"}],
    "prompt_id": "k",
    "sample": 0,
    "answer": "Bake bread.",
    "truncated": False,
    "scores": {"concise": -2.0, "warm": 0.5},
}


def written(run: Path, *lines: dict) -> Path:
    write_jsonl(run / "answers.jsonl.gz", lines)
    return run / "answers.jsonl.gz"


def test_answers_of_one_policy_stand_by_their_preference_in_the_order_of_the_file(tmp_path: Path) -> None:
    corner = {**LINE, "preference": {"concise": 1.0, "warm": 0.0}, "answer": "No."}
    run = written(tmp_path, LINE, corner, {**LINE, "policy": "base"}, {**LINE, "prompt_id": "l", "sample": 1})
    (middle, two), (end, one) = measured_answers(run, "soup")
    assert middle == LINE["preference"] and end == corner["preference"]
    assert [(answer.key, answer.sample) for answer in two] == [("k", 0), ("l", 1)]
    assert one[0].text == "No." and one[0].scores == LINE["scores"] and not one[0].truncated
    assert one[0].prompt[0].content == "Bananas?"
    assert measured_answers(run, "nobody") == []


def test_a_score_that_is_none_stays_unknown(tmp_path: Path) -> None:
    run = written(tmp_path, {**LINE, "scores": {"concise": None, "warm": 0.5}})
    [(_, (answer,))] = measured_answers(run, "soup")
    assert answer.scores == {"concise": None, "warm": 0.5}


@pytest.mark.parametrize(
    "line", [{"policy": "soup"}, {**LINE, "preference": [1]}, {**LINE, "sample": "x"}, {**LINE, "scores": 3}]
)
def test_a_line_that_is_no_measured_answer_is_named(tmp_path: Path, line: dict) -> None:
    with pytest.raises(DataError, match=r"answers\.jsonl\.gz:2: .*expected a measured answer"):
        measured_answers(written(tmp_path, LINE, line), "soup")


def test_a_run_without_them_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        measured_answers(tmp_path / "answers.jsonl.gz", "soup")
