"""The data of a run for others: answers as a table, a card beside them, and a data set on the hub that `datasets` loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from paretune.core.errors import ConfigError, ParetuneError
from paretune.data.dataset import ScoredDataset
from paretune.data.load import load_data
from paretune.data.readers import read_records
from paretune.fronts.record import FrontRecord
from paretune.reports.card import About
from paretune.runs.about_data import sources_of
from paretune.runs.share_data import push_data
from support.command import call
from support.fake_hub import FakeHub, put_in
from support.runs_world import small_run, tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(place / "cache"))
        return small_run(place / "small", tiny_model(place / "model"), methods={"dpo-soup": {"beta": 0.5}})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = put_in(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr("paretune.policies.shared.api", lambda: hub)
    return hub


def head(file: Path) -> Any:
    """Return the head of a card as the hub's library reads it, which refuses one that is not valid."""
    return DatasetCard.load(file, ignore_metadata_errors=False).data


@pytest.mark.slow
def test_a_run_keeps_its_answers_with_their_scores(run: Path) -> None:
    answers = [record for _, record in read_records(run / "data/answers.jsonl.gz")]
    scores = [record for _, record in read_records(run / "scores.jsonl")]
    assert len(answers) == len(scores) > 0
    for answer, score in zip(answers, scores, strict=True):
        assert answer["prompt_id"] == score["prompt"] and isinstance(answer["answer"], str)
        assert [answer[key] for key in ("policy", "preference", "sample", "scores")] == [
            score[key] for key in ("policy", "preference", "sample", "scores")
        ]
    record = FrontRecord.read(run / "front.json")
    shown = {answer["answer"] for answer in answers if answer["policy"] == "base"}
    assert record.base.responses and set(record.base.responses) <= shown


@pytest.mark.slow
def test_the_card_beside_the_data_of_a_run_says_what_they_are(run: Path) -> None:
    text = (run / "data/README.md").read_text()
    facts = head(run / "data/README.md")
    assert facts.pretty_name == "Data of small" and facts.get("configs") is None
    record = FrontRecord.read(run / "front.json")
    for name in ("train", "validation", "test"):
        rows = len(ScoredDataset.read(run / f"data/{name}.jsonl.gz").rows)
        assert f"| {name} | {rows} | {record.splits[name]} |" in text
    for words in (
        "`train.jsonl.gz`",
        "`answers.jsonl.gz`",
        "small.jsonl",
        "not stated",
        "| prompt_id |",
        "Higher is better",
    ):
        assert words in text


def test_pushed_data_are_a_data_set_with_two_parts(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    about = About(licence="cc-by-4.0", languages=("en",), datasets=("team/source",))
    address, counts = push_data(run, "anna/data", about, public=True, revision="v1")
    assert address == "https://hub.test/anna/data" and hub.kinds == {"anna/data": "dataset"}
    assert hub.private == {"anna/data": False}
    files = hub.files("anna/data", "v1")
    assert set(files) == {
        "README.md",
        "answers/test.parquet",
        *(f"rows/{n}.parquet" for n in ("train", "validation", "test")),
    }
    facts = head(files["README.md"])
    assert (facts.license, facts.language, facts.source_datasets) == ("cc-by-4.0", ["en"], ["team/source"])
    assert facts.size_categories == ["n<1K"] and "preference" in facts.get("tags")
    folder = str(files["README.md"].parent)
    for part, split in (("rows", "train"), ("rows", "validation"), ("rows", "test"), ("answers", "test")):
        loaded = datasets.load_dataset(folder, part, split=split, cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == counts[f"{part}/{split}"]
    answer = datasets.load_dataset(folder, "answers", split="test", cache_dir=str(tmp_path / "cache"))[0]
    assert answer["prompt"][0]["role"] == "user" and set(answer["scores"]) == {"short", "good"}
    # The rows are read back as they were, but for where they came from.
    back = load_data(datasets.load_dataset(folder, "rows", split="train", cache_dir=str(tmp_path / "cache")))
    assert back.fingerprint == ScoredDataset.read(run / "data/train.jsonl.gz").fingerprint
    for file in files.values():
        assert str(run.parent).encode() not in file.read_bytes(), file


def test_what_cannot_be_sent_is_one_message(
    run: Path,
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        ConfigError, match="--public: the data hold texts, whose licence the run does not know"
    ):
        push_data(run, "anna/data", About(), public=True)
    with pytest.raises(ConfigError, match="expected the name of a repository on the hub"):
        push_data(run, "data", About())
    with pytest.raises(ParetuneError, match=r"no front\.json; expected the folder of a finished run"):
        push_data(tmp_path, "anna/data", About())
    for option in ("--policy", "--base"):
        code, _, err = call(monkeypatch, capsys, "push", run, "anna/data", "--data", option, "a/b")
        assert code == 2 and f"{option}: is for a policy; leave it out with --data" in err
    assert not hub.private
    code, out, err = call(monkeypatch, capsys, "push", run, "anna/data", "--data")
    assert code == 0 and "rows/train " in out and "paretune init hub:anna/data" in out, err
    assert hub.private == {"anna/data": True}


def test_a_run_of_an_earlier_version_sends_its_rows(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "data/answers.jsonl.gz").unlink()
    _, counts = push_data(old, "anna/data", About())
    assert set(counts) == {"rows/train", "rows/validation", "rows/test"}
    assert [part["config_name"] for part in head(hub.files("anna/data")["README.md"]).get("configs")] == [
        "rows"
    ]


def test_sources_are_named_with_the_licence_that_is_known() -> None:
    given = [
        "hh-rlhf",
        {"hub": "team/pairs@v2"},
        {"path": "/home/anna/mine.jsonl"},
        "hub:team/more",
        {"name": "helpsteer2"},
    ]
    assert sources_of(given, None) == (
        ("hh-rlhf", "MIT"),
        ("team/pairs@v2", ""),
        ("mine.jsonl", ""),
        ("team/more", ""),
        ("helpsteer2", "CC-BY-4.0"),
    )
    assert sources_of("/runs/a/data/given-0123456789abcdef.parquet") == (("data given in Python", ""),)
    assert sources_of("quickstart")[0][1] == "Apache-2.0"
