"""Objects of the `datasets` library, and `hub:owner/name` where a path could stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.core.errors import DataError
from paretune.data.load import load_data

datasets = pytest.importorskip("datasets")
PAIRS = {"prompt": ["a", "b"], "chosen": ["x y", "z"], "rejected": ["w", "v v"]}


def test_a_data_set_in_memory_is_read_as_its_file_is(tmp_path: Path) -> None:
    given = datasets.Dataset.from_dict(PAIRS)
    given.to_json(tmp_path / "pairs.jsonl")
    read, from_file = (
        load_data(given, objective="helpful"),
        load_data(tmp_path / "pairs.jsonl", objective="helpful"),
    )
    assert read.fingerprint == from_file.fingerprint and read.rows[0].source.endswith(":1")
    assert load_data(given.to_iterable_dataset(), objective="helpful").fingerprint == read.fingerprint
    by_split = datasets.DatasetDict({"train": given, "test": given.select([0])})
    assert load_data(by_split, objective="helpful").fingerprint == read.fingerprint
    assert len(load_data(by_split, "test", objective="helpful").rows) == 1
    assert len(load_data([given, by_split], objective="helpful").rows) == 4
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        load_data(by_split, "tests")
    with pytest.raises(DataError, match="no rows"):
        load_data(given.select([]))


def test_a_column_map_reads_a_data_set_in_memory() -> None:
    given = datasets.Dataset.from_dict({"q": ["a"], "good": ["x"], "bad": ["y"]})
    mapped = {"path": given, "prompt": "q", "chosen": "good", "rejected": "bad", "objective": "kind"}
    assert load_data(mapped).objectives == ("kind",)
    with pytest.raises(DataError, match="path: expected text"):
        load_data({"path": 3})


def test_a_data_set_of_the_hub_stands_where_a_path_could(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(hub: str, **options: object) -> object:
        asked.append((hub, options["split"]))
        return datasets.Dataset.from_dict(PAIRS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read = load_data("hub:team/pairs", objective="helpful")
    assert read.objectives == ("helpful",) and asked == [("team/pairs", "train")]
    assert (
        load_data({"hub": "team/pairs", "objective": "helpful", "split": "test"}).fingerprint
        == read.fingerprint
    )
    assert asked[1] == ("team/pairs", "test")
