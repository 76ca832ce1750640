"""Tables of scores: what is read of records of any tool, and what is refused, by its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from paretune.core.errors import ConfigError, DataError
from paretune.fronts.front import Front
from paretune.fronts.score_records import read_table
from support.score_rows import score_rows

ROWS = score_rows(base=False, corners=False)


def placed(rows):
    return [(f"s.jsonl:{n}", row) for n, row in enumerate(rows, start=1)]


def test_a_table_makes_a_front_of_each_policy():
    fronts = read_table(ROWS).fronts()
    assert list(fronts) == ["a", "b"] and isinstance(fronts["a"], Front)
    first = [row["warm"] for row in ROWS if row["policy"] == "a" and row["preference"]["warm"] == 1.0]
    assert fronts["a"].objectives == ("warm", "concise") and fronts["a"].scores[0, :, 0].tolist() == first
    assert fronts["a"].preferences.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


@pytest.mark.parametrize(
    "form",
    [
        lambda w: {"preference": f"warm={w},concise={1 - w}"},
        lambda w: {"preference": f'{{"warm": {w}, "concise": {1 - w}}}'},
        lambda w: {"weight_warm": w, "weight_concise": 1 - w},
        lambda w: {"preference": {"warm": w, "concise": 1 - w}},
    ],
)
def test_preferences_are_read_as_objects_as_text_and_as_columns(form):
    rows = [
        {k: v for k, v in row.items() if k != "preference"} | form(row["preference"]["warm"]) for row in ROWS
    ]
    read = read_table(rows).fronts()["b"]
    assert np.array_equal(read.scores, read_table(ROWS).fronts()["b"].scores)
    assert np.array_equal(read_table(pd.DataFrame(rows)).fronts()["b"].scores, read.scores)


def test_columns_of_other_names_are_read_where_they_are_named():
    rows = [
        {
            "model": r["policy"],
            "id": r["prompt"],
            "w": r["preference"],
            "rm": r["warm"],
            "concise": r["concise"],
        }
        for r in ROWS
    ]
    columns = {"policy": "model", "prompt": "id", "preference": "w", "warm": "rm"}
    assert np.array_equal(
        read_table(rows, columns).fronts()["a"].scores, read_table(ROWS).fronts()["a"].scores
    )
    with pytest.raises(
        DataError, match=r"no column 'policy'; the columns are model, id, .*--column policy=NAME"
    ):
        read_table(rows)
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        read_table(rows, {"policy": "mode"})
    with pytest.raises(ConfigError, match="column polcy=model: did you mean 'policy'"):
        read_table(rows, {**columns, "polcy": "model"})


def test_scores_of_an_object_are_those_of_columns():
    nested = [
        {"policy": r["policy"], "prompt": r["prompt"], "preference": r["preference"]}
        | {"scores": {"warm": r["warm"], "concise": r["concise"]}}
        for r in ROWS
    ]
    assert np.array_equal(read_table(nested).fronts()["a"].scores, read_table(ROWS).fronts()["a"].scores)


def test_a_column_that_is_not_read_is_named():
    assert read_table([{**row, "answer": "x"} for row in ROWS]).notes == ("not read: the column answer",)


def test_several_answers_to_a_prompt_are_numbered_and_their_mean_counts():
    rows = [{**row, "sample": s, "warm": row["warm"] + s} for row in ROWS for s in (0, 1)]
    policy = read_table(rows).policies()["a"]
    assert policy.scores.shape == (3, 20, 2, 2)
    assert np.allclose(policy.front.scores[..., 0], read_table(ROWS).fronts()["a"].scores[..., 0] + 0.5)


def test_training_seeds_are_policies_of_one_method_and_those_of_the_base_model_are_answers():
    rows = [{**row, "seed": s} for row in score_rows(policies=["a"], corners=False) for s in (0, 1)]
    policies = read_table(rows).policies()
    assert list(policies) == ["a-seed-0", "a-seed-1", "base"] and policies["base"].scores.shape[2] == 2


BAD = {
    "not a number": ({"warm": float("nan")}, r"s.jsonl:4: column 'warm': nan; expected a finite number"),
    "empty": ({"warm": None}, r"s.jsonl:4: column 'warm': empty; expected a finite number"),
    "infinite": ({"warm": float("inf")}, r"s.jsonl:4: column 'warm': inf"),
    "too large": ({"warm": 1e31}, r"s.jsonl:4: column 'warm': 1e\+31"),
    "text": ({"warm": "high"}, r"s.jsonl:4: column 'warm': 'high' is no number"),
    "underscores": ({"warm": "1_0"}, r"s.jsonl:4: column 'warm': '1_0' is no number"),
    "true": ({"warm": True}, r"s.jsonl:4: column 'warm': True is no number"),
    "no policy": ({"policy": ""}, r"s.jsonl:4: column 'policy': empty"),
    "no prompt": ({"prompt": None}, r"s.jsonl:4: column 'prompt': empty"),
    "off the simplex": ({"preference": {"warm": 2}}, r"s.jsonl:4: column 'preference'.*sum to 2"),
    "another objective": ({"preference": "warn=1"}, r"s.jsonl:\d+: .*'?warn"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_cell_is_refused_by_file_and_line(case):
    change, message = BAD[case]
    rows = [*ROWS[:3], {**ROWS[3], **change}, *ROWS[4:]]
    with pytest.raises(DataError, match=message):
        read_table(placed(rows)).policies()


def test_a_row_without_a_score_is_refused_by_file_and_line():
    rows = [*ROWS[:3], {k: v for k, v in ROWS[3].items() if k != "concise"}, *ROWS[4:]]
    with pytest.raises(DataError, match=r"s.jsonl:4: no score on 'concise'"):
        read_table(placed(rows))


def test_an_answer_that_stands_twice_is_refused():
    with pytest.raises(
        DataError, match=r"s.jsonl:121: a second answer of 'a' to prompt 'q0'.*s.jsonl:1\); number"
    ):
        read_table(placed([*ROWS, ROWS[0]])).policies()


def test_policies_on_different_prompts_are_refused_or_judged_on_the_common_ones():
    rows = ROWS[:-1]
    with pytest.raises(
        DataError, match=r"s.jsonl:20: 'a' answers prompt 'q19', but 'b' at .*--common-prompts"
    ):
        read_table(placed(rows)).policies()
    assert len(read_table(rows).policies(common_prompts=True)["a"].prompts) == 19
    with pytest.raises(DataError, match="no prompt is answered by all policies"):
        apart = [{**row, "prompt": row["policy"] + row["prompt"]} for row in ROWS]
        read_table(apart).policies(common_prompts=True)


def test_prompts_with_different_numbers_of_answers_are_refused():
    rows = [{**row, "sample": 0} for row in ROWS] + [{**ROWS[5], "sample": 1}]
    with pytest.raises(DataError, match=r"s.jsonl:6: 'a' has 2 answers to prompt 'q5' and 1 to others"):
        read_table(placed(rows)).policies()


def test_scores_of_different_scorers_are_refused_by_file_and_line():
    rows = [{**row, "scorer": "rm-2" if n == 7 else "rm-1"} for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match=r"s.jsonl:8: scored by rm-2, but s.jsonl:1 by rm-1"):
        read_table(placed(rows)).check_scorers()


def test_no_row_and_one_objective_are_refused():
    with pytest.raises(DataError, match="no row of scores"):
        read_table([])
    with pytest.raises(DataError, match=r"0 objectives \(none\).*--objectives a,b"):
        read_table([{"policy": "a", "prompt": "q", "warm": 1.0}])
