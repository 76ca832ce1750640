"""A run as data: the scores of its single answers, its rows and frames, runs side by side, and what is said of fitted heads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.errors import ConfigError, ParetuneError
from paretune.core.files import read_json
from paretune.data.readers import read_records
from paretune.data.score_files import read_scores
from paretune.evaluation.from_scores import judge_scores
from paretune.fronts.front import Interval
from paretune.fronts.inference import compare
from paretune.fronts.record import FrontRecord
from paretune.fronts.record_facts import ScorerFacts
from paretune.fronts.score_records import read_table
from paretune.runs.compare import compare_runs
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.runs.scores import scorer_cautions
from support.command import call
from support.runs_world import small_run, tiny_model

RESAMPLES = 50


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return the model and two runs on the same data; the second trained longer, and is measured off the simplex too."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(place / "cache"))
        model = tiny_model(place / "model")
        first = small_run(place / "first", model)
        second = small_run(
            place / "second", model, train={"steps": 6}, evaluate={"extrapolations": ["short=1.2,good=-0.2"]}
        )
    return model, first, second


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.slow
def test_judging_the_scores_of_a_run_gives_the_verdicts_of_its_report(
    runs: tuple[Path, Path, Path], number: int
) -> None:
    record = FrontRecord.read(runs[number] / "front.json")
    judged = judge_scores(read_scores(runs[number]), resamples=RESAMPLES)
    assert judged.comparisons == record.comparisons and judged.uncompared == record.uncompared
    assert judged.reference_point == record.reference_point and judged.mixture == record.mixture
    measured = ("mean", "low", "high", "band_low", "band_high", "shrunk", "on_front")
    for mine, theirs in zip(judged.policies, record.policies, strict=True):
        assert {name: each.to_dict() for name, each in mine.figures.items()} == {
            name: each.to_dict() for name, each in theirs.figures.items()
        }
        assert mine.non_dominated == theirs.non_dominated
        points = zip(
            [*mine.points, *mine.extrapolations], [*theirs.points, *theirs.extrapolations], strict=True
        )
        for a, b in points:
            assert [getattr(a, name) for name in measured] == [getattr(b, name) for name in measured]


@pytest.mark.slow
def test_the_scores_are_those_of_the_points_that_the_run_keeps(runs: tuple[Path, Path, Path]) -> None:
    lines = [json.loads(line) for line in (runs[1] / "scores.jsonl").read_text().splitlines()]
    assert {line["policy"] for line in lines} == {"dpo-soup", "modpo", "base", "corners"}
    assert {line["sample"] for line in lines} == {0, 1}
    kept = [read_json(file)["scores"] for file in (runs[1] / "fronts").glob("*.json")]
    mine = [[s["scores"]["short"], s["scores"]["good"]] for s in lines if s["policy"] == "base"]
    assert any(np.array(scores).reshape(-1, 2).tolist() == mine for scores in kept)


def test_a_frame_has_a_row_for_each_policy_preference_and_objective(runs: tuple[Path, Path, Path]) -> None:
    record = FrontRecord.read(runs[2] / "front.json")
    frame = record.to_frame()
    policy = record.policies[0]
    row = frame[(frame.policy == policy.name) & (frame.objective == "good") & (frame.point == 1)].iloc[0]
    assert row["mean"] == policy.points[1].mean[1] and row["low"] == policy.points[1].low[1]
    assert row.weight_short == policy.points[1].preference["short"] and not row.extrapolated
    assert len(frame) == 2 * (1 + sum(len(p.points) + len(p.extrapolations) for p in record.policies))
    assert frame.extrapolated.sum() == 2 * sum(len(p.extrapolations) for p in record.policies) > 0
    assert list(record.to_frame("tests").verdict) == [test.verdict for test in record.comparisons]
    figures = record.to_frame("figures")
    assert set(figures[figures.policy == "modpo"].figure) == set(record.policy("modpo").figures)


def test_a_frame_of_prompts_makes_the_fronts_of_the_run_again(runs: tuple[Path, Path, Path]) -> None:
    record = FrontRecord.read(runs[2] / "front.json")
    fronts = read_table(record.to_frame("prompts")).fronts()
    for policy in record.policies:
        inside = [w for w in fronts[policy.name].preferences if w.min() >= 0]
        means = fronts[policy.name].means[: len(inside)]
        assert np.allclose(means, [point.mean for point in policy.points], rtol=1e-12)


def test_what_a_record_has_not_is_said(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    record = FrontRecord.parse(read_json(runs[1] / "front.json"))
    with pytest.raises(ParetuneError, match="no scores of single answers"):
        record.to_rows("prompts")
    with pytest.raises(ParetuneError, match="did you mean 'points'"):
        record.to_rows("point")  # type: ignore[arg-type]
    (tmp_path / "scores.jsonl").write_text('{"policy": "a"}\n')
    record.write(tmp_path / "front.json")
    with pytest.raises(ParetuneError, match=r"scores.jsonl:1: not as a run writes it"):
        FrontRecord.read(tmp_path / "front.json").to_rows("prompts")


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl", "table.parquet"])
def test_a_table_of_a_run_is_judged_as_the_run(
    runs: tuple[Path, Path, Path],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, error = call(monkeypatch, capsys, "figures", runs[1], tmp_path / name, "--what", "prompts")
    assert code == 0, error
    judged = judge_scores(read_scores(tmp_path / name), resamples=RESAMPLES)
    assert judged.comparisons == FrontRecord.read(runs[1] / "front.json").comparisons


def test_runs_compare_at_common_preferences_on_common_prompts(runs: tuple[Path, Path, Path]) -> None:
    compared = compare_runs(runs[1:])
    assert [(test.first, test.second) for test in compared.comparisons] == [
        (f"first/{a}", f"second/{b}") for a in ("dpo-soup", "modpo") for b in ("dpo-soup", "modpo")
    ]
    assert all(test.adjusted is not None for test in compared.comparisons) and not compared.notes
    assert len(compare_runs(runs[1:], ["modpo"]).comparisons) == 1
    one, other = (read_scores(folder).policies()["modpo"] for folder in runs[1:])
    inside = [n for n, w in enumerate(other.preferences) if not w.extrapolated]
    expected, found = compare(one.front, other.at(inside).front), compared.comparisons[3]
    assert (found.difference, found.error, found.prompts) == (expected.difference, expected.error, 7)


def _changed(source: Path, target: Path, **changes: Any) -> Path:
    """Copy what compare reads of a run, with other facts in its record."""
    target.mkdir()
    facts = read_json(source / "front.json")
    (target / "front.json").write_text(json.dumps({**facts, **changes}))
    (target / "scores.jsonl").write_bytes((source / "scores.jsonl").read_bytes())
    return target


def test_runs_that_do_not_compare_say_why(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    facts = read_json(runs[2] / "front.json")
    scorers = {**facts["scorers"], "good": {"fingerprint": "another"}}
    with pytest.raises(ParetuneError, match=r"first and other do not compare: good is scored otherwise"):
        compare_runs([runs[1], _changed(runs[2], tmp_path / "other", scorers=scorers)])
    apart = _changed(runs[2], tmp_path / "apart")
    text = (apart / "scores.jsonl").read_text().replace('"prompt": "', '"prompt": "x')
    (apart / "scores.jsonl").write_text(text)
    with pytest.raises(ParetuneError, match=r"0 of their 7 and 7 held-out prompts are the same"):
        compare_runs([runs[1], apart])
    with pytest.raises(ConfigError, match="at least two different folders"):
        compare_runs([runs[1], runs[1]])
    with pytest.raises(ConfigError, match="did you mean 'modpo'"):
        compare_runs(runs[1:], ["mopo"])
    with pytest.raises(ParetuneError, match=r"no front.json; expected the folder of a finished run"):
        compare_runs([runs[1], tmp_path])
    (apart / "scores.jsonl").unlink()
    with pytest.raises(ParetuneError, match=r"a run of an earlier version has none"):
        compare_runs([runs[1], apart])


def test_what_a_difference_may_also_come_from_is_said(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    facts = read_json(runs[2] / "front.json")
    sampling = {**facts["sampling"], "temperature": 1.5}
    compared = compare_runs(
        [runs[1], _changed(runs[2], tmp_path / "hot", sampling=sampling, model="another")]
    )
    assert any(f"temperature {facts['sampling']['temperature']} and 1.5" in note for note in compared.notes)
    assert any("base models differ" in note for note in compared.notes)
    assert ("first/base", "hot/base") in [(test.first, test.second) for test in compared.comparisons]


def test_the_names_of_base_model_and_corners_are_no_methods() -> None:
    for name in ("base", "corners"):
        config = {"name": "x", "methods": {name: {"method": "dpo-soup"}}, "data": {"source": "quickstart"}}
        score = [{"objective": "short", "rule": "length"}, {"objective": "good", "rule": "length"}]
        with pytest.raises(ConfigError, match=f"methods: '{name}' is what"):
            run(parse_config({**config, "score": score}))


def test_a_head_that_saw_the_held_out_prompts_or_is_not_shown_to_beat_chance_is_a_caution() -> None:
    def facts(low: float, seen: int | None) -> dict[str, ScorerFacts]:
        right = Interval(0.76, low, 0.9)
        return {
            "warm": ScorerFacts(
                fingerprint="x", accuracy=right, train_accuracy=0.97, pairs=40, prompts=20, seen=seen
            )
        }

    assert scorer_cautions(facts(0.6, 0)) == () == scorer_cautions(facts(0.6, None))
    assert "was fitted on 3 of this run's held-out prompts" in scorer_cautions(facts(0.6, 3))[0]
    assert "ranks 76% of 40 held-out pairs" in scorer_cautions(facts(0.45, 0))[0]
    assert scorer_cautions({"short": ScorerFacts(fingerprint="rule")}) == ()


def test_every_line_of_the_scores_is_json_without_missing_numbers(runs: tuple[Path, Path, Path]) -> None:
    for _, row in read_records(runs[2] / "scores.jsonl"):
        assert all(math.isfinite(value) for value in row["scores"].values())
        assert set(row) == {"policy", "preference", "prompt", "sample", "scores", "scorer"}
