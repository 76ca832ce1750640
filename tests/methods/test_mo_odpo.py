"""MO-ODPO: the best against the worst of a policy's own responses, by worked numbers and on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.methods import METHODS, mo_odpo
from paretune.methods.base import Inputs
from paretune.methods.mo_odpo import MOODPOConfig
from paretune.models.language_model import LanguageModel
from paretune.scoring.function_scorer import from_function
from paretune.scoring.scorer import build_scorer
from paretune.training.lab import Lab
from paretune.training.losses import pair_loss
from paretune.training.rl.advantages import best_and_worst
from paretune.training.rl.estimators import Estimator, Forward
from paretune.training.rl.goal import RLSettings
from support.adapters import TRAINING
from support.world import make_dataset

SHORT = build_scorer({"objective": "short", "rule": "length", "unit": "words", "direction": "lower"})
GOOD = build_scorer({"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"})
SETTINGS = replace(TRAINING, steps=3, accumulate=2, learning_rate=1e-2)


def test_the_best_against_the_worst_by_hand() -> None:
    rewards = torch.tensor([[0.2, 0.9, -1.0], [2.0, 2.0, 2.0], [1.0, 3.0, 3.0]])
    assert best_and_worst(rewards).tolist() == [[0, 1, -1], [0, 0, 0], [-1, 1, 0]]
    assert torch.equal(
        best_and_worst(-rewards[:1]), -best_and_worst(rewards[:1])
    )  # the opposite wish, the opposite pair
    assert torch.equal(best_and_worst(3 * rewards + 1), best_and_worst(rewards))  # by how much does not count


def test_the_loss_is_dpo_on_the_pair_and_its_gradient_leaves_the_others_alone() -> None:
    """Two prompts with three responses of one token: ratios of chosen and rejected alone, and a tie that adds nothing."""
    logps = torch.tensor([-1.0, -2.0, -0.5, -1.0, -1.5, -2.5], requires_grad=True)
    reference = torch.tensor([-1.2, -1.9, -0.7, -1.0, -1.0, -1.0])
    packed = SimpleNamespace(responses=torch.arange(6), lengths=torch.ones(6))
    goal = SimpleNamespace(settings=RLSettings(beta=0.5, estimator="dpo"), server=None)
    forward = Forward(logps, logps.detach(), reference, packed)  # type: ignore[arg-type]
    advantages = best_and_worst(torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, 1.0]]))
    loss = Estimator(goal).loss(forward, advantages)  # type: ignore[arg-type]
    gap = (logps[1] - reference[1]) - (logps[2] - reference[2])
    assert loss.item() == pytest.approx(float(pair_loss(gap, 0.5)) / 2)
    loss.backward()
    slope = 0.5 * torch.sigmoid(-0.5 * gap.detach()) / 2
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([0, -float(slope), float(slope), 0, 0, 0])


def trained(
    lm: LanguageModel, folder: Path, scorers: Any = (SHORT, GOOD), **values: Any
) -> tuple[Any, list[dict[str, float]]]:
    lab = Lab(lm, folder, SETTINGS)
    sampling = Sampling(max_new_tokens=5, batch_size=64)
    inputs = Inputs(lab, make_dataset(12), make_dataset(4, seed=9), (), scorers, sampling)
    policy = mo_odpo.train(inputs, MOODPOConfig(**values))
    (file,) = (folder / "adapters").glob("*/history.json")
    return policy, json.loads(file.read_text())


@pytest.mark.parametrize("condition", ["prompt", "gates"])
def test_it_starts_at_the_reference_and_serves_every_preference(
    lm: LanguageModel, tmp_path: Path, condition: str
) -> None:
    policy, history = trained(lm, tmp_path, condition=condition, groups=2)
    first = history[0]
    assert "clipped" not in first and 0 <= first["ties"] < 1
    if condition == "gates":  # the reference does not read what the prompt asks for
        assert first["kl"] == 0.0
        assert first["loss"] == pytest.approx((1 - first["ties"]) * torch.tensor(2.0).log().item(), abs=1e-5)
    assert history[1]["kl"] != 0.0
    assert policy.adapters[0].info["method"] == "mo-odpo" and policy.adapters[0].info["estimator"] == "dpo"
    assert not policy.anchor_preferences
    policy.generate(
        [make_dataset(1).rows[0].prompt],
        [Preference.parse("short=0.37,good=0.63")],
        Sampling(max_new_tokens=2),
    )


def test_later_steps_on_the_same_responses_read_them_once(lm: LanguageModel, tmp_path: Path) -> None:
    _, history = trained(lm, tmp_path, epochs=3)
    assert [record["sampled_tokens"] > 0 for record in history] == [True, False, False]
    assert history[1]["loss"] != pytest.approx(history[0]["loss"], abs=1e-6)


def test_ties_are_counted_and_teach_nothing(lm: LanguageModel, tmp_path: Path) -> None:
    """An answer is good or bad by its prompt alone while training: all responses to it are alike."""

    def constant(prompts: Any, responses: Any, truncated: Any) -> list[float]:
        return [float(len(str(prompt)) % 7) for prompt in prompts]

    scorers = [from_function(name, name, constant) for name in ("short", "good")]
    policy, history = trained(lm, tmp_path, scorers)
    assert [record["ties"] for record in history] == [1.0] * 3 and all(
        record["loss"] == 0 for record in history
    )
    assert not any(bool(U.any()) for U, _ in policy.adapters[0].factors.values())


def test_settings_that_would_not_do_are_refused() -> None:
    with pytest.raises(ConfigError, match="beta"):
        MOODPOConfig(beta=0.0)
    with pytest.raises(ConfigError, match="beta: 0 with estimator: dpo"):
        RLSettings(beta=0.0, estimator="dpo")
    with pytest.raises(ConfigError, match="responses"):
        METHODS["mo-odpo"].settings({"responses": 1}, "methods.mo-odpo")
    with pytest.raises(ConfigError, match="dpo knows only which response is the best"):
        METHODS["morlhf"].settings({"estimator": "dpo", "scalarisation": "tchebycheff"}, "methods.morlhf")
