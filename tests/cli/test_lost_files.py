"""A finished run that has lost a file: a command that needs it says so, and never gives another answer without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.errors import ScoreError
from paretune.core.work_log import FILE as PROGRESS
from paretune.core.work_log import WorkLog
from paretune.data.dataset import ScoredDataset
from paretune.fronts.record import FrontRecord
from paretune.models.language_model import LanguageModel
from paretune.runs.scores import responses_scored
from paretune.scoring.cache import ScoreCache
from support import records
from support.command import call
from support.studio_world import write_run
from support.world import make_dataset

FLOOR = "concise >= -5"


@pytest.fixture
def run(lm: LanguageModel, tmp_path: Path) -> Path:
    """A run with a front, its policies, and the data that it was trained on."""
    folder = write_run(tmp_path / "run", lm, 2)
    (folder / "versions.json").write_text("{}")
    made = make_dataset(12, 2)
    rows = [
        row.of_checked(
            **{**vars(row), "scores": {"concise": row.scores["short"], "warm": row.scores["good"]}}
        )
        for row in made.rows
    ]
    for name, part in (("train", rows[:9]), ("validation", rows[9:])):
        ScoredDataset(("concise", "warm"), tuple(part)).write(folder / "data" / f"{name}.jsonl.gz")
    return folder


def lose(file: Path, how: str) -> None:
    file.unlink()
    if how == "a folder":
        file.mkdir()


@pytest.mark.parametrize("how", ["deleted", "a folder"])
@pytest.mark.parametrize("name", ["train", "validation"])
def test_choose_does_not_reweight_what_is_left(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    code, out, err = call(monkeypatch, capsys, "choose", run, FLOOR, "--policy", "soup", "--json")
    assert code == 0, err
    assert json.loads(out)["dual"]["prompts"] == 12
    lose(run / f"data/{name}.jsonl.gz", how)
    code, _, err = call(monkeypatch, capsys, "choose", run, FLOOR, "--policy", "soup", "--json")
    assert code == 2
    assert f"{name}.jsonl.gz: there is no such file" in err and "the command of the run again" in err


def test_choose_needs_no_data_outside_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "front.json").write_bytes((run / "front.json").read_bytes())
    code, out, err = call(
        monkeypatch, capsys, "choose", tmp_path / "front.json", FLOOR, "--policy", "soup", "--json"
    )
    assert code == 0, err
    assert json.loads(out).get("dual") is None


@pytest.mark.parametrize("how", ["deleted", "a folder"])
def test_a_grid_is_not_exported_without_its_scores(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, how: str
) -> None:
    lose(run / "front.json", how)
    for form in (("--grid", "3"), ("--format", "gguf")):
        code, _, err = call(monkeypatch, capsys, "export", run, tmp_path / "out", "--policy", "soup", *form)
        assert code == 2 and "front.json: there is no such file" in " ".join(err.split()), err
        assert not (tmp_path / "out").exists()


def test_responses_scored_do_not_get_fewer_where_their_cache_was_cut(tmp_path: Path) -> None:
    assert responses_scored(tmp_path) == 0
    ScoreCache(tmp_path / "cache" / "logps.sqlite").put({"a": 1.0, "b": 2.0})
    assert responses_scored(tmp_path) == 2
    facts = records.record(("concise", "warm"), [], scoring_forwards=5)
    (tmp_path / "front.json").write_text(json.dumps(facts))
    assert FrontRecord.read(tmp_path / "front.json").scoring_forwards == 5
    assert responses_scored(tmp_path) == 5
    (tmp_path / "front.json").write_text("{")
    assert responses_scored(tmp_path) == 2


def test_a_log_of_work_takes_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).mkdir(parents=True)
    WorkLog("run", tmp_path)._write()
    assert (tmp_path / PROGRESS).is_file()


def test_a_cache_that_was_cut_within_its_keys_is_noticed(tmp_path: Path) -> None:
    """SQLite opens it, counts all rows and finds none of them, so that each would be there twice."""
    file = tmp_path / "whole.sqlite"
    ScoreCache(file).put({f"key {number:04}": float(number) for number in range(60)})
    whole = file.read_bytes()
    cut = tmp_path / "cut.sqlite"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ScoreError, match=r"cut\.sqlite: the score cache is damaged.*delete the file"):
        ScoreCache(cut).get(["key 0001"])
    assert len(ScoreCache(file)) == 60
