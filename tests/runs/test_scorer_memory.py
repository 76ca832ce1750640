"""Scorers' models in the plan: held while they score, once for all that share one, in the bits that are asked for."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from paretune.planning.scorer_shapes import BACKBONES, find
from paretune.planning.shapes import KNOWN
from paretune.planning.work import Stage
from paretune.runs.config import RunConfig
from paretune.runs.estimate import Estimate, estimate
from paretune.runs.memory import LIGHTER, held, planned_model
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from paretune.runs.scorer_models import ScorerModel, scorer_models
from support.reward_models import llama
from support.world import make_dataset

RULE = {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}
BIG = {"objective": "good", "model": "owner/big-reward-8B"}
EIGHT = 2 * KNOWN["8b"].parameters
"""Bytes of an 8B model in bfloat16, near enough: a reward model has no head."""


def config_of(folder: Path, *score: dict[str, Any], labels: bool = True, **changes: object) -> RunConfig:
    data = make_dataset(40)
    (data if labels else data.select([])).write(folder / "data.jsonl")
    values = {
        "model": "smollm2-135m",
        "dtype": "bfloat16",
        "data": {"source": str(folder / "data.jsonl")},
        "score": [RULE, *score],
        "methods": {"dpo-soup": {"beta": 0.5}},
        "preferences": 3,
        "train": {"steps": 6, "batch_pairs": 2, "rank": 4},
        "sampling": {"max_new_tokens": 6, "batch_size": 8},
        "evaluate": {"samples": 2, "preferences": 3},
    }
    return parse_config({**values, **changes})


def on_card(config: RunConfig, model: str = "1b") -> Estimate:
    return estimate(plan(config), config, model, "rtx4090")


def models_of(config: RunConfig, host: bool = False) -> list[ScorerModel]:
    dtype = "float32" if host else "bfloat16"
    return scorer_models(plan(config), config, planned_model(config, KNOWN["1b"], dtype, host))


def test_a_reward_model_is_held_while_it_scores(tmp_path: Path) -> None:
    with_rule, with_model = (
        on_card(config_of(tmp_path, second))
        for second in ({"objective": "good", "rule": "regex", "pattern": "good"}, BIG)
    )
    assert "scorers" not in with_rule.memory and "scoring" not in with_rule.phases
    assert with_model.memory["scorers"] == pytest.approx(EIGHT, rel=0.08)
    assert with_model.peak - with_rule.peak == pytest.approx(EIGHT, rel=0.1)
    assert set(with_model.phases["scoring"]) == {"scorers", "activations"}
    # The data have labels, so nothing is scored while the single-objective models train.
    assert "scorers" not in with_model.phases["training"]
    assert any("by its name it has 8 billion parameters" in one for one in with_model.assumptions)


def test_what_shares_a_model_counts_once_and_8_bits_count_half(tmp_path: Path) -> None:
    second, other = {**BIG, "objective": "kind", "index": 1}, {**BIG, "model": "owner/other-8B"}
    one, shared = (models_of(config_of(tmp_path, *score)) for score in ((BIG,), (BIG, second)))
    assert len(one) == len(shared) == 1 and one[0].weights == shared[0].weights
    apart = models_of(config_of(tmp_path, BIG, {**other, "objective": "kind"}))
    assert len(apart) == 2 and sum(model.weights for model in apart) == pytest.approx(2 * one[0].weights)
    (eight,) = models_of(config_of(tmp_path, {**BIG, "quantization": "int8"}))
    assert 0.5 * one[0].weights < eight.weights < 0.6 * one[0].weights
    assert eight.weights == pytest.approx(one[0].lighter().weights) and eight.lighter() == eight
    # Texts of 3 tokens take less than those of 30, and 8 of them less than 16.
    short = models_of(config_of(tmp_path, {**BIG, "max_length": 3, "batch_size": 8}))[0]
    assert short.working < 0.5 * one[0].working


def test_a_model_on_another_device_or_behind_an_address_takes_nothing_here(tmp_path: Path) -> None:
    rubric = tmp_path / "good.md"
    rubric.write_text("Is the answer good?\n\nanswer: a number from 1 to 5\n")
    assert not models_of(config_of(tmp_path, {**BIG, "device": "cpu"}))
    assert len(models_of(config_of(tmp_path, {**BIG, "device": "cpu"}), host=True)) == 1
    judge = {"objective": "good", "judge": str(rubric), "model": "8b"}
    assert not models_of(config_of(tmp_path, {**judge, "url": "http://localhost:9/v1"}))
    assert not models_of(config_of(tmp_path, {"objective": "good", "endpoint": "http://localhost:9"}))
    (here,) = models_of(config_of(tmp_path, judge))
    assert here.weights == EIGHT and here.working > 0
    (four,) = models_of(config_of(tmp_path, {**judge, "quantization": "nf4"}))
    assert four.weights < 0.4 * EIGHT


def test_a_head_that_is_fitted_and_a_judge_that_labels_for_it(tmp_path: Path) -> None:
    rubric = tmp_path / "good.md"
    rubric.write_text("Is the answer good?\n")
    labels = {"judge": str(rubric), "model": "8b", "pairs": 2}
    judge, encoder = models_of(
        config_of(tmp_path, {"objective": "good", "head": "fit", "labels": labels}, labels=False)
    )
    stages = {
        "labels": Stage("labels", ""),
        "heads": Stage("heads", "", embedded=9.0),
        "front": Stage("front: base", "", judged=9.0),
        "train": Stage("train: dpo", ""),
    }
    assert [name for name, stage in stages.items() if judge.used(stage)] == ["labels"]
    assert [name for name, stage in stages.items() if encoder.used(stage)] == ["heads", "front"]
    assert encoder.weights == pytest.approx(4 * 22.6e6, rel=0.02)  # the encoder has 22.7 million numbers


def test_on_policy_training_holds_the_reward_models_beside_the_step(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        BIG,
        methods={"morlhf": {}},
        labels=False,
        data={"source": str(tmp_path / "data.jsonl"), "sample": 2},
    )
    phases = on_card(config).phases
    assert {"scorers", "optimiser"} <= set(phases["training"])
    assert phases["training"]["scorers"] == phases["sampling"]["scorers"] == phases["scoring"]["scorers"]


def test_8_bits_are_advice_where_the_scorers_are_what_is_too_large(tmp_path: Path) -> None:
    config = config_of(tmp_path, {**BIG, "model": "owner/big-reward-14B"})
    planned = on_card(config, "8b")
    assert planned.device.count > 1 and planned.fitting[-1] == LIGHTER
    saved = {one.setting: one.saved for one in planned.savings}[LIGHTER]
    assert saved == pytest.approx(14e9, rel=0.15)  # the half
    lighter = [{**spec, "quantization": "int8"} for spec in config.score[1:]]
    fitting = config_of(tmp_path, *lighter, quantization="nf4")
    assert on_card(fitting, "8b").device.count == 1
    assert LIGHTER not in [one.setting for one in on_card(fitting, "8b").savings]


def test_the_parameters_are_those_in_the_files(tmp_path: Path) -> None:
    folder = llama(tmp_path / "reward", pad=True, num_labels=3)
    with safe_open(folder / "model.safetensors", "pt") as file:
        total = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    found = find(str(folder), KNOWN["8b"])
    assert found.note == "" and found.dtype == "float32"
    assert found.shape.parameters == pytest.approx(total, rel=0.02)
    (held_by,) = models_of(config_of(tmp_path, {**BIG, "model": str(folder)}))
    assert held_by.weights == pytest.approx(4 * total, rel=0.02)


def test_sizes_by_name() -> None:
    like = KNOWN["4b"]
    for name, parameters in {
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": 0.6e9,
        "RLHFlow/ArmoRM-Llama3-8B-v0.1": 8e9,
        "Ray2333/gpt2-large-helpful-reward_model": 774e6,
        "OpenAssistant/reward-model-deberta-v3-large-v2": BACKBONES["deberta-v3-large"],
        "owner/reward-27b": 27e9,
    }.items():
        assert find(name, like).shape.parameters == pytest.approx(parameters, rel=0.01), name
    for name in ("owner/reward-8x7b", "owner/reward-v2"):
        found = find(name, like)
        assert found.shape.parameters == like.parameters and "as large as 4b" in found.note


def test_the_peak_of_held_is_that_of_its_largest_stage(tmp_path: Path) -> None:
    config = config_of(tmp_path, BIG)
    planned, model = plan(config), planned_model(config_of(tmp_path, BIG), KNOWN["1b"], "bfloat16", False)
    alone, beside = held(planned, model), held(planned, model, scorer_models(planned, config, model))
    assert beside.where.startswith("front") and beside.peak > alone.peak + 0.9 * EIGHT
