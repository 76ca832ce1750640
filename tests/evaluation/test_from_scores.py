"""Policies judged by a table of scores: verdicts, roles, and scores that show nothing."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from paretune.core.errors import ConfigError, DataError
from paretune.evaluation.from_scores import Roles, judge_scores
from paretune.fronts.front import mixture
from paretune.fronts.inference import compare, holm
from paretune.fronts.record import FrontRecord
from paretune.fronts.score_records import read_table
from paretune.reports.picture import write_picture
from paretune.reports.report import write_report
from paretune.reports.wording import summary
from support.score_rows import score_rows


def test_verdicts_are_those_of_comparing_the_fronts_judged_together():
    table = read_table(score_rows(lift=1.5))
    fronts, record = table.fronts(), judge_scores(table, resamples=50)
    corners = fronts["corners"]
    pairs = [
        (fronts[name], other)
        for name in "ab"
        for other in (fronts["base"], mixture(corners, fronts[name].preferences))
    ]
    expected = holm([compare(*pair) for pair in [*pairs, (fronts["a"], fronts["b"])]])
    assert [(test.verdict, test.difference, test.low, test.adjusted) for test in record.comparisons] == [
        (test.verdict, test.difference, test.low, test.adjusted) for test in expected
    ]
    assert record.comparisons[0].verdict == "a above" and record.comparisons[-1].verdict == "a above"
    assert 0 <= record.policies[0].points[0].on_front <= 1 and record.policies[0].points[0].band_low


@pytest.mark.parametrize(("base", "corners"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_record_report_and_picture_are_made_of_what_there_is(tmp_path, base, corners):
    record = judge_scores(read_table(score_rows(base=base, corners=corners)), resamples=50)
    record.write(tmp_path / "front.json")
    again = FrontRecord.read(tmp_path / "front.json")
    assert math.isnan(again.base.mean[0]) != base and bool(again.mixture.points) == corners
    page = write_report(again, tmp_path).read_text(encoding="utf-8")
    write_picture(again, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert ('"base"' in page) and ("nan" not in page.lower().replace("nanoseconds", "").replace("isnan", ""))
    assert ("Against the base model" in summary(again)) == base
    expected = {"b", *(["base"] if base else []), *(["mixture of corners"] if corners else [])}
    assert {test.second for test in again.comparisons} == expected


def test_base_and_corners_may_have_any_name():
    rows = score_rows()
    named = {"base": "sft", "corners": "none"}
    rows = [
        {**row, "policy": named.get(row["policy"], row["policy"])}
        for row in rows
        if row["policy"] != "corners"
    ]
    for objective in ("warm", "concise"):
        rows += [
            {k: v for k, v in row.items() if k != "preference"} | {"policy": f"only-{objective}"}
            for row in score_rows()
            if row["policy"] == "corners" and row["preference"][objective] == 1
        ]
    roles = Roles("sft", {"warm": "only-warm", "concise": "only-concise"})
    record = judge_scores(read_table(rows, unseeded=roles.unseeded), roles, resamples=50)
    same = judge_scores(read_table(score_rows()), resamples=50)
    assert record.comparisons == same.comparisons and record.mixture == same.mixture
    for wrong, message in (
        (Roles("stf"), "--base stf: did you mean 'sft'"),
        (Roles(None, {"warm": "only-warm"}), "none for 'concise'"),
        (Roles(None, {"wram": "only-warm", "concise": "only-concise"}), "did you mean 'warm'"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge_scores(read_table(rows), wrong)


def test_training_seeds_are_judged_as_one_method():
    random = np.random.default_rng(1)
    rows = [
        {**row, "seed": seed, "warm": row["warm"] + random.normal() / 9}
        for row in score_rows(policies=["a"], corners=False, lift=1.5)
        for seed in (0, 1, 2)
    ]
    test = judge_scores(read_table(rows), resamples=50).comparisons[0]
    assert test.first == "a" and test.seeds == (3, 0) and test.verdict == "a above"


def test_preferences_with_weights_below_0_are_in_no_figure():
    rows = [
        {**row, "preference": {"warm": 1.2, "concise": -0.2}}
        for row in score_rows(policies=["a"], base=False, corners=False)
        if row["preference"]["warm"] == 1
    ]
    record = judge_scores(read_table([*score_rows(), *rows]), resamples=50)
    assert len(record.policies[0].extrapolations) == 1 and len(record.policies[0].points) == 3


def test_a_constant_objective_is_a_caution_and_scores_that_never_vary_are_refused():
    rows = score_rows()
    record = judge_scores(read_table([{**row, "warm": 1.0} for row in rows]), resamples=50)
    assert "has the score 1 on warm" in record.cautions[0]
    with pytest.raises(DataError, match=r"row 1: every answer has the scores .* so they rank nothing"):
        judge_scores(read_table([{**row, "warm": 1.0, "concise": 0.0} for row in rows]))


def test_one_prompt_and_no_policy_are_refused():
    with pytest.raises(DataError, match=r"row 1: one prompt \('q0'\) .* at least two prompts"):
        judge_scores(read_table(score_rows(prompts=1)))
    with pytest.raises(DataError, match="the only policies are base, corners"):
        judge_scores(read_table([row for row in score_rows() if row["policy"] in ("base", "corners")]))


def test_prompts_that_are_left_out_are_counted():
    record = judge_scores(read_table(score_rows()[:-1]), resamples=50, common_prompts=True)
    assert record.num_prompts == 19 and any("1 prompt that" in text for text in record.cautions)


def test_judging_scores_loads_no_torch():
    code = (
        "import sys, paretune; paretune.judge_scores; paretune.read_scores; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
