"""GD2PO, DVAO, guarded weights and floors on a tiny model: what they log, resuming, what is shared, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.methods import METHODS, morlhf
from paretune.methods.base import Inputs
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.runs.parse import parse_config
from paretune.scoring.scorer import build_scorer
from paretune.training import loop
from paretune.training.lab import Lab
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

NAMES = ("short", "good")
HALF = Preference.uniform(NAMES)
SETTINGS = replace(TRAINING, steps=6, learning_rate=2e-2, accumulate=2, checkpoint_every=2)
SCORERS = (
    build_scorer({"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}),
    build_scorer({"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"}),
)


def trained(
    lm: LanguageModel, folder: Path, kind: str = "morlhf", asked: Preference = HALF, **values: Any
) -> Policy:
    config = METHODS[kind].settings({"responses": 3, **values}, f"methods.{kind}")
    sampling = Sampling(max_new_tokens=5, batch_size=64)
    lab = Lab(lm, folder, SETTINGS)
    return morlhf.train(
        Inputs(lab, make_dataset(12), make_dataset(4, seed=9), [asked], SCORERS, sampling), config
    )


def history(folder: Path) -> list[dict[str, float]]:
    (file,) = (folder / "adapters").glob("*/history.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("gdpo", {"aggregation": "gd2po", "estimator": "grpo"}),
        ("gdpo", {"aggregation": "dvao"}),
        ("gdpo", {"aggregation": "dvao", "estimator": "grpo"}),
        ("morlhf", {"aggregation": "guarded", "guard_target": 1.0, "guard_rate": 1.0}),
    ],
)
@pytest.mark.slow
def test_each_aggregation_trains_another_adapter_under_its_own_name(
    lm: LanguageModel, tmp_path: Path, kind: str, values: dict[str, Any]
) -> None:
    plain = {name: value for name, value in values.items() if name == "estimator"}
    first = trained(lm, tmp_path / "plain", kind, **plain).adapters[0]
    made = trained(lm, tmp_path / "other", kind, **values).adapters[0]
    assert not adapters_equal(first, made)
    assert made.info["aggregation"] == values["aggregation"] and made.info["method"] == kind


def test_a_guarded_weight_rises_where_the_advantage_opposes_it(lm: LanguageModel, tmp_path: Path) -> None:
    asked = Preference.parse("short=0.9,good=0.1")
    trained(
        lm, tmp_path, asked=asked, aggregation="guarded", guard_rate=2.0, guard_target=0.9, guard_memory=1.0
    )
    counted = [record["counted/good"] for record in history(tmp_path)]
    assert counted[0] == pytest.approx(0.1) and counted[-1] > 0.11 and counted == sorted(counted)


@pytest.mark.parametrize(
    "values", [{"aggregation": "guarded", "guard_rate": 2.0}, {"floors": {"good": 5.0}, "floor_rate": 0.5}]
)
@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_weights(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    whole = trained(lm, tmp_path / "whole", epochs=2, **values)
    step = loop._Loop.step

    def stopping(run: Any, number: int, held_out: Any) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return step(run, number, held_out)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Loop, "step", stopping)
        trained(lm, tmp_path / "killed", epochs=2, **values)
    again = trained(lm, tmp_path / "killed", epochs=2, **values)
    assert adapters_equal(whole.adapters[0], again.adapters[0])
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def test_a_floor_that_is_missed_is_trained_for_and_said(
    lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All weight on short answers; the floor asks for more good words than there are tokens."""
    corner = Preference.one_hot("short", NAMES)
    policy = trained(lm, tmp_path, asked=corner, floors={"good": 50.0}, floor_rate=0.02)
    records = history(tmp_path)
    climbed = [record["multiplier/good"] for record in records]
    assert climbed[0] == 0.0 and climbed == sorted(climbed) and climbed[-1] > 1
    assert all(record["counted/short"] == 1.0 for record in records)
    (row,) = policy.adapters[0].info["floors"]
    assert row["floor"] == 50.0 and row["reached"] < 50 and row["multiplier"] == climbed[-1]
    assert "the floor of 'good' was not reached" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_floor_that_does_not_bind_changes_nothing_but_the_name_of_the_stage(
    lm: LanguageModel, tmp_path: Path
) -> None:
    free = trained(lm, tmp_path / "free").adapters[0]
    held = trained(lm, tmp_path / "held", floors={"good": -100.0}).adapters[0]
    assert adapters_equal(free, held) and held.info["floors"][0]["multiplier"] == 0.0
    assert held.info["stage"] == free.info["stage"]


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("gdpo", {"aggregation": "gd2po"}, "aggregation: gd2po with estimator: rloo"),
        ("gdpo", {"aggregation": "sum"}, "GDPO is the method of aggregation: decoupled or gd2po or dvao"),
        ("morlhf", {"aggregation": "dvao"}, "MORLHF is the method of aggregation: sum or guarded"),
        ("morlhf", {"aggregation": "guarded", "estimator": "dpo", "beta": 0.1}, "a pair has none"),
        ("gdpo", {"aggregation": "dvao", "gradients": "raco"}, "gradients: raco with aggregation: dvao"),
        ("morlhf", {"floors": {"good": 1.0}, "form": "conditioned"}, "use form: anchors"),
        ("gdpo", {"floors": {"good": 1.0}}, "a multiplier weighs rewards on one scale"),
        ("gdpo", {"consensus": 1.5}, "consensus"),
        ("morlhf", {"floors": {"good": "high"}}, "floors"),
    ],
)
def test_what_would_not_do_is_refused(kind: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        METHODS[kind].settings(values, f"methods.{kind}")


def test_floors_of_a_reward_that_adapts_twice_or_of_an_unknown_objective_are_refused(
    lm: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="gradients: linear"):
        trained(lm, tmp_path, floors={"good": 1.0}, gradients="raco")
    with pytest.raises(ConfigError, match="floors: unknown objective 'god'; did you mean 'good'"):
        trained(lm, tmp_path, floors={"god": 1.0})
    config = METHODS["morlhf"].settings({"floors": {"god": 1.0}}, "methods.morlhf")
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        METHODS["morlhf"].check(config, NAMES, [HALF])
    assert (
        parse_config({"methods": {"mine": {"method": "gdpo", "aggregation": "dvao"}}})
        .entry("mine")
        .settings.aggregation
        == "dvao"
    )
