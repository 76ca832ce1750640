"""Several sources as one: a file of pairs for each objective, named on the command line or by its own name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.data import named_sources
from paretune.core.errors import ConfigError
from paretune.runs.named_sources import NamedSource, load_together


def pairs(file: Path, count: int = 4) -> Path:
    rows = [{"prompt": f"Say {n}", "chosen": f"red {n}", "rejected": f"moon {n}"} for n in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def specs(*texts: object) -> Any:
    return load_together(named_sources([str(text) for text in texts]))


def test_each_file_names_its_objective_unless_it_is_stated(tmp_path: Path) -> None:
    helpful, kind = pairs(tmp_path / "helpful.jsonl"), pairs(tmp_path / "kind-ones.jsonl", 3)
    sources, data = specs(helpful, kind)
    assert sources == [
        {"path": str(helpful), "objective": "helpful"},
        {"path": str(kind), "objective": "kind-ones"},
    ]
    assert data.objectives == ("helpful", "kind-ones") and len(data.rows) == 7
    assert specs(f"warm={helpful}", kind)[1].objectives == ("warm", "kind-ones")
    assert specs(helpful)[1].objectives == ("preferred",), "a single file says nothing by its name"
    assert specs(f"warm={helpful}", f"warm={kind}")[1].objectives == ("warm",), "stated twice: one objective"


def test_data_that_name_their_objectives_keep_them(tmp_path: Path) -> None:
    file = tmp_path / "scored.jsonl"
    file.write_text('{"prompt": "a", "responses": ["b", "c"], "scores": {"warm": [1, 2]}}\n')
    sources, data = specs(file, pairs(tmp_path / "brief.jsonl"))
    assert sources[0] == str(file) and data.objectives == ("warm", "brief")


def test_two_files_of_one_name_must_be_told_apart(tmp_path: Path) -> None:
    first, second = pairs(tmp_path / "a/pairs.jsonl"), pairs(tmp_path / "b/pairs.jsonl")
    with pytest.raises(
        ConfigError,
        match=r"both would be 'pairs' by their names; say what each compares: pairs=.* OBJECTIVE=",
    ):
        specs(first, second)
    assert specs(f"warm={first}", second)[1].objectives == ("warm", "pairs")


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(Path("lr=1.jsonl"))
    assert named_sources(["lr=1.jsonl", "warm=lr=1.jsonl", "hub:team/warm-pairs"]) == [
        NamedSource("lr=1.jsonl", "lr=1.jsonl", ""),
        NamedSource("lr=1.jsonl", "lr=1.jsonl", "warm"),
        NamedSource("hub:team/warm-pairs", "hub:team/warm-pairs", ""),
    ]
    assert NamedSource("hub:team/warm-pairs", "").stem == "warm-pairs"


def test_a_data_set_of_the_hub_is_named_by_its_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(hub: str, **options: object) -> object:
        asked.append((hub, options.get("revision")))
        return datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["x y"], "rejected": ["w"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    sources, data = specs("hub:team/polite@v2", pairs(tmp_path / "brief.jsonl"))
    assert sources[0] == {"path": "hub:team/polite@v2", "objective": "polite"}
    assert data.objectives == ("polite", "brief") and set(asked) == {("team/polite", "v2")}
