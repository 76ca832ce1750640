"""Another objective for a finished run: one more adapter is trained, the others are the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from paretune.cli.main import app
from paretune.core.errors import ConfigError
from paretune.runs.extend import add_objective, extended
from paretune.runs.parse import load_config, parse_config
from paretune.runs.run import run
from support.world import make_dataset, write_model

SCORE = [
    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good|kind"},
]
RED = "{rule: regex, pattern: 'red|sun', how: count}"


def settings(folder: Path, methods: dict[str, Any]) -> dict[str, Any]:
    make_dataset(24).select([]).write(folder / "data.jsonl")
    return {
        "folder": str(folder / "run"),
        "model": str(write_model(folder / "model")),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(folder / "data.jsonl")},
        "score": SCORE,
        "methods": methods,
        "preferences": 2,
        "train": {"steps": 3, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
        "sampling": {"max_new_tokens": 4, "batch_size": 64},
        "evaluate": {"prompts": 2, "resamples": 50},
    }


def adapters(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return name -> time of writing and content of every adapter of a run."""
    files = (folder / "adapters").glob("*/adapter/adapter.safetensors")
    return {file.parts[-3]: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.mark.slow
def test_one_more_objective_is_one_more_adapter(tmp_path: Path) -> None:
    methods = {"dpo-soup": {}, "mod": {}, "rewarded-soup": {"responses": 2}}
    run(parse_config(settings(tmp_path, methods)))
    folder = tmp_path / "run"
    before = adapters(folder)
    assert len(before) == 4
    result = CliRunner().invoke(app, ["add-objective", str(folder), "red", "--score", RED])
    assert result.exception is None, result.output
    after = adapters(folder)
    assert after.keys() - before.keys() == {"dpo-red", "morlhf-short=0.0,good=0.0,red=1.0"}
    assert all(after[name] == kept for name, kept in before.items()), "the others are not written again"
    facts = json.loads((folder / "front.json").read_text())
    assert facts["objectives"] == ["short", "good", "red"]
    for policy in facts["policies"]:
        assert policy["cost"]["adapters"] == policy["cost"]["runs"] == 3
        assert len(policy["points"]) == 3
    trained = [s["name"] for s in facts["stages"] if s["name"].startswith("adapters/") and not s["reused"]]
    assert sorted(trained) == ["adapters/dpo-red", "adapters/morlhf-short=0.0,good=0.0,red=1.0"]
    config = load_config(folder / "config.yaml")
    assert [spec["objective"] for spec in config.score] == ["short", "good", "red"]

    # The config before is kept, and finds its own stages as they were.
    old = load_config(folder / "config-before-red.yaml")
    run(old)
    again = json.loads((folder / "front.json").read_text())
    assert adapters(folder) == after
    kept = [stage for stage in again["stages"] if not stage["name"].startswith("audits/")]
    assert all(stage["reused"] for stage in kept)


def test_what_cannot_be_added_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = settings(tmp_path, {"dpo-soup": {}})

    def written(**changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        config = parse_config({**values, **changes})
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))

    scorer = yaml.safe_load(RED)
    with pytest.raises(ConfigError, match=r"no config.yaml; expected the folder of a run"):
        add_objective(folder, "red", scorer)
    written()
    for objective, spec, message in (
        ("good", scorer, "the objective 'good' is there already"),
        ("red", {"rule": "regexp"}, "did you mean 'regex'"),
        ("red", {"pattern": "x"}, "expected exactly one of rule"),
    ):
        with pytest.raises(ConfigError, match=message):
            add_objective(folder, objective, spec)
    written(methods={"dpo-soup": {}, "modpo": {}})
    with pytest.raises(
        ConfigError,
        match=r"modpo would train for all objectives anew.*only dpo-soup, mod, rewarded-soup grow",
    ):
        add_objective(folder, "red", scorer)
    written(evaluate={"reference_point": {"short": -9, "good": 0}})
    with pytest.raises(ConfigError, match=r"add evaluate.reference_point.red=VALUE"):
        add_objective(folder, "red", scorer)
    assert extended(folder, "red", scorer, ["evaluate.reference_point.red=0"]).evaluate.reference_point == {
        "short": -9, "good": 0, "red": 0,
    }  # fmt: skip
    assert not list(folder.glob("config-before-*"))
    written(preferences=["short=1", "good=1"], objectives=["short", "good"])
    longer = extended(folder, "red", scorer)
    assert longer.preferences == ["short=1", "good=1", "red=1"] and longer.objectives == [
        "short",
        "good",
        "red",
    ]
