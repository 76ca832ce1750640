"""A front before anything is trained: runs of untrained methods, on prompts alone, beside trained methods, and in a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ConfigError, DataError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.fronts.record import FrontRecord
from paretune.runs.config import RunConfig
from paretune.runs.parse import load_config, parse_config
from paretune.runs.plan import plan
from paretune.runs.run import run
from paretune.runs.tasks import Task, order, perform, world
from support.world import make_dataset, write_model

WORDS = {"short": "red", "good": "good kind good"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def config_of(folder: Path, model: Path, responses: bool = False, **settings: Any) -> RunConfig:
    data = make_dataset(40)
    bare = [replace(row, responses=(), scores={}, truncated=()) for row in data.rows]
    source = data if responses else ScoredDataset((), tuple(bare))
    source.write(folder / "data.jsonl")
    return parse_config(
        {
            "folder": str(folder / "run"),
            "model": str(model),
            "dtype": "float32",
            "device": "cpu",
            "data": {
                "source": str(folder / "data.jsonl"),
                "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
            },
            "score": [
                {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
                {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
            ],
            "methods": {
                "linear-alignment": {"principles": WORDS},
                "prompting": {"principles": {"short": "red"}},
            },
            "preferences": 3,
            "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
            "sampling": {"max_new_tokens": 4, "batch_size": 64},
            "evaluate": {"resamples": 50},
            **settings,
        }
    )


@pytest.mark.slow
def test_prompts_alone_make_a_front_and_nothing_is_trained(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, model)
    page = run(config).read_text()
    record = FrontRecord.read(tmp_path / "run/front.json")
    assert [policy.name for policy in record.policies] == ["linear-alignment", "prompting"]
    assert not (tmp_path / "run/adapters").exists() and "Linear alignment" in page
    assert [policy.cost.passes for policy in record.policies if policy.cost] == [3, 1]
    # The mixture is that of the first policy's own corners, so its ends are where the policy's are.
    corners = [p.mean for p in record.policies[0].points if max(p.preference.values()) == 1]
    assert len(corners) == 2
    assert all(any(point == pytest.approx(mean) for point in record.mixture.points) for mean in corners)
    said = " ".join(capsys.readouterr().err.split())
    assert "prompting: no principle for 'good', so the model is told 'Your answer should be good.'" in said
    assert "no principle for 'short'" not in said and "linear-alignment: no principle" not in said
    assert plan(config).runs == 0 and plan(config).policies == ((), ())


@pytest.mark.slow
def test_beside_a_trained_method_responses_are_needed_and_corners_are_trained(
    tmp_path: Path, model: Path
) -> None:
    methods = {"methods": {"prompting": {"principles": WORDS}, "dpo-soup": {}}}
    with pytest.raises(DataError, match=r"rows have no response; set data.sample"):
        run(config_of(tmp_path, model, **methods))
    run(config_of(tmp_path, model, responses=True, **methods))
    assert sorted(folder.name for folder in (tmp_path / "run/adapters").iterdir()) == [
        "dpo-good",
        "dpo-short",
    ]


def test_a_sweep_measures_the_corners_of_the_first_policy(tmp_path: Path, model: Path) -> None:
    config = config_of(tmp_path, model)
    corner = Preference.one_hot("good", ("short", "good"))
    assert perform(order(config, Task("prepare"))) == {}
    mean = perform(order(config, Task("corner", preference=str(corner))))["mean"]
    assert mean == perform(order(config, Task("point", "linear-alignment", str(corner))))["mean"]
    world.cache_clear()


def test_the_shipped_config_trains_nothing() -> None:
    config = load_config("cold-start")
    assert config.untrained and set(config.methods) == {"prompting", "linear-alignment"}
    assert (
        config.entry("prompting").settings.principles == config.entry("linear-alignment").settings.principles
    )


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            "prompting",
            {"principles": {"god": "x"}},
            r"methods.prompting: principles: unknown objective 'god'",
        ),
        ("prompting", {"principles": {"good": ""}}, "principles.good: expected a sentence"),
        ("prompting", {"principles": ["x"]}, "methods.prompting.principles: expected"),
        (
            "prompting",
            {"place": "assistant"},
            "methods.prompting.place: unknown value 'assistant'; expected one of: system, user",
        ),
        ("linear-alignment", {"strength": 0}, "methods.linear-alignment.strength must be above 0"),
        ("linear-alignment", {"nucleus": 1.2}, "nucleus must be above 0 and at most 1"),
        ("linear-alignment", {"nucleus_temperature": 0}, "nucleus_temperature must be above 0"),
    ],
)
def test_words_and_numbers_that_would_not_do_are_refused_before_anything_is_read(
    tmp_path: Path, model: Path, method: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(config_of(tmp_path, model, methods={method: settings}))
    assert not (tmp_path / "run").exists()
