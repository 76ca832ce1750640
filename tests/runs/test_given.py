"""Data sets given in Python: a run on them is that on their file, goes on where it stopped, and can be read from its config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import paretune
from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset
from paretune.data.load import load_data
from paretune.runs.checks import check_config
from paretune.runs.config import RunConfig
from paretune.runs.given import keep_given, read_given
from paretune.runs.parse import load_config
from paretune.runs.prepare import load_splits
from paretune.runs.run import to_yaml
from support.runs_world import tiny_model
from support.world import make_dataset

datasets = pytest.importorskip("datasets")


def pairs(name: str, count: int = 30, first: int = 0) -> Any:
    """Pairs in TRL's form, whose labels name no objective."""
    numbers = range(first, first + count)
    return datasets.Dataset.from_dict(
        {
            "prompt": [f"sun {n}" for n in numbers],
            "chosen": [f"good {name} moon" for _ in numbers],
            "rejected": [f"red {name} stone {n}" for n in numbers],
        }
    )


def named() -> list[dict[str, Any]]:
    return [
        {"path": pairs("kind"), "objective": "short"},
        {"path": pairs("blue", first=10), "objective": "good"},
    ]


def settings(folder: Path, model: Path, data: Any) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "model": str(model),
        "dtype": "float32",
        "device": "cpu",
        "data": data,
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good", "how": "count"},
        ],
        "methods": {"dpo-soup": {"beta": 0.5}},
        "preferences": 3,
        "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
        "sampling": {"max_new_tokens": 4, "batch_size": 64},
        "evaluate": {"resamples": 20, "prompts": 3},
    }


@pytest.mark.slow
def test_a_run_on_data_in_memory_is_kept_continued_and_read_from_its_config(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    report = paretune.run(RunConfig(**settings(tmp_path / "run", model, {"source": named()})))
    stages = {file: file.read_bytes() for file in (tmp_path / "run").rglob("stage.json")}
    assert report.is_file() and stages
    kept = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["source"]
    assert [Path(file).parent for file in kept] == [tmp_path / "run/data"] * 2
    assert all(Path(file).is_file() and Path(file).name.startswith("given-") for file in kept)
    # Objects made anew, and the config with the files alone: the same data, so every stage is found.
    for config in (
        RunConfig(**settings(tmp_path / "run", model, {"source": named()})),
        load_config(tmp_path / "run/config.yaml"),
    ):
        paretune.run(config)
        assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("stage.json")} == stages
        record = paretune.FrontRecord.read(tmp_path / "run/front.json")
        assert all(stage.reused for stage in record.stages), [s.name for s in record.stages if not s.reused]


@pytest.mark.parametrize("form", ["alone", "list", "source", "scored"])
def test_a_data_set_stands_for_its_source(form: str) -> None:
    one = make_dataset(20)
    given = datasets.Dataset.from_list(
        [
            {"prompt": r.prompt[0].content, "responses": list(r.responses), "scores": r.scores}
            for r in one.rows
        ]
    )
    data: Any = {"alone": given, "list": [given], "source": {"source": given}, "scored": one}[form]
    config = RunConfig(data=data)
    parts = load_splits(read_given(config))
    assert sum(len(part.rows) for part in parts.values()) == 20
    assert parts["train"].objectives == ("short", "good")


def test_what_is_kept_is_the_same_data_in_the_same_order(tmp_path: Path) -> None:
    """The first row is scored on the second objective alone; the order of objectives stays that of the data."""
    rows = [replace(row, scores={"good": row.scores["good"]}) for row in make_dataset(1).rows]
    source = ScoredDataset(("short", "good"), (*rows, *make_dataset(9, seed=3).rows))
    config = RunConfig(folder=str(tmp_path / "run"), data={"source": source, "test": given_test()})  # type: ignore[arg-type]
    read = read_given(config)
    kept = keep_given(read)
    assert isinstance(read.data.source, ScoredDataset) and isinstance(kept.data.source, str)
    for before, after in ((read.data.source, kept.data.source), (read.data.test, kept.data.test)):
        assert load_data(after).fingerprint == before.fingerprint
        assert load_data(after).objectives == before.objectives
    assert yaml.safe_load(yaml.safe_dump(kept.model_dump(mode="json")))["data"]["test"] == kept.data.test
    assert keep_given(kept) is kept and read_given(kept) is kept


def given_test() -> Any:
    return datasets.Dataset.from_dict({"prompt": ["a", "b"]})


def test_the_split_of_the_source_holds_for_each_of_its_entries(tmp_path: Path) -> None:
    by_split = datasets.DatasetDict({"train": given_test(), "test": pairs("kind", 4)})
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f'{{"prompt": "of {split}"}}\n')
    source = [{"path": by_split, "objective": "short"}, str(tmp_path)]
    read = read_given(RunConfig(data={"source": source, "split": "test"}))  # type: ignore[arg-type]
    assert read.data.split is None and len(read.data.source[0].rows) == 4
    assert load_data(read.data.source[1]).rows[0].prompt[0].content == "of test"
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        read_given(RunConfig(data={"source": by_split, "split": "tests"}))  # type: ignore[arg-type]


def test_a_path_of_python_is_a_source(tmp_path: Path) -> None:
    make_dataset(20).write(tmp_path / "mine.jsonl")
    config = RunConfig(**settings(tmp_path / "run", tmp_path, {"source": tmp_path / "mine.jsonl"}))
    check_config(config)
    assert yaml.safe_load(to_yaml(config))["data"]["source"] == str(tmp_path / "mine.jsonl")
    assert load_splits(config)["train"].objectives == ("short", "good")


def test_data_that_are_read_already_take_no_path_split_or_objective() -> None:
    data = make_dataset(4)
    assert load_data(data).fingerprint == data.fingerprint
    assert (
        load_data(data, directions={"good": "lower"}).rows[0].scores["good"][0]
        == -data.rows[0].scores["good"][0]
    )
    for options in ({"path": "x"}, {"split": "test"}, {"objective": "good"}):
        with pytest.raises(DataError, match="read already; leave out"):
            load_data(data, **options)  # type: ignore[arg-type]
