"""MODPO in the tabular world, where the optimum is known, and its choices and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.settings import as_values
from paretune.methods.base import Inputs
from paretune.methods.modpo import MODPOConfig, chosen_objective, with_scale
from paretune.models.language_model import LanguageModel
from paretune.training.lab import Lab
from paretune.training.losses import pair_loss
from support.adapters import TRAINING
from support.offset_world import offset_data, offset_scorers

BETA = 0.5


def tabular_optimum(preference: tuple[float, float], method: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Train a table of logits on exact expectations over all pairs; return the log-probabilities of the policy and of the optimum.

    4 prompts, 8 answers, two rewards. Preferences are Bradley-Terry in the rewards, so the expected loss over labels is
    exact: each ordered pair counts with the probability that its first answer is preferred.
    """
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 8, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards = torch.randn(2, 4, 8, generator=generator, dtype=torch.float64)
    weight_k, weight_j = preference
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=3000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )
    first, second = torch.combinations(torch.arange(8)).unbind(1)

    def gaps(values: torch.Tensor) -> torch.Tensor:
        return values[..., first] - values[..., second]

    def loss() -> torch.Tensor:
        gap = gaps(logits.log_softmax(-1) - reference).flatten()
        chance = torch.sigmoid(gaps(rewards)).flatten(1)  # [2, pairs]: objective i prefers the first answer
        if method == "modpo":
            margin = weight_j * gaps(rewards[1]).flatten()
            value = pair_loss(
                gap, BETA, margin=margin, scale=1 / weight_k, weight=chance[0], reversed_weight=1 - chance[0]
            )
        else:
            votes = weight_k * chance[0] + weight_j * chance[1]
            value = pair_loss(gap, BETA, weight=votes, reversed_weight=1 - votes)
        return value.mean()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    scalarised = weight_k * rewards[0] + weight_j * rewards[1]
    return logits.detach().log_softmax(-1), tilted(reference, scalarised, BETA)


@pytest.mark.parametrize("preference", [(1.0, 0.0), (0.7, 0.3), (0.3, 0.7)])
def test_modpo_reaches_the_optimum_of_the_scalarised_reward(preference: tuple[float, float]) -> None:
    """pi proportional to pi_ref exp(w.r / beta): needs margins on the scale of r_j and the right sign and 1 / w_k."""
    assert total_variation(*tabular_optimum(preference, "modpo")) < 1e-6


def test_loss_weighting_does_not() -> None:
    assert total_variation(*tabular_optimum((0.5, 0.5), "dpo-lw")) > 0.01
    assert total_variation(*tabular_optimum((1.0, 0.0), "dpo-lw")) < 1e-6


def test_the_objective_of_the_largest_weight_is_trained() -> None:
    preference = Preference.parse("a=0.2,b=0.5,c=0.3")
    assert chosen_objective(preference, MODPOConfig()) == "b"
    assert chosen_objective(preference, MODPOConfig(objective="a")) == "a"


def test_small_weight_is_refused_with_the_cure() -> None:
    preference = Preference.parse("a=0.02,b=0.98")
    with pytest.raises(
        ConfigError, match=r"weight 0.02 is below min_weight 0.05.*Use objective: b \(or auto\)"
    ):
        chosen_objective(preference, MODPOConfig(objective="a"))
    assert chosen_objective(preference, MODPOConfig(objective="a", min_weight=0.01)) == "a"


def test_without_weight_the_one_other_objective_is_trained() -> None:
    """K = 2 and w_k = 0 is the other margin model; for K > 2 only where one objective has all the weight."""
    config = MODPOConfig(objective="a")
    assert chosen_objective(Preference.parse("a=0,b=1"), config) == "b"
    assert chosen_objective(Preference.parse("a=0,b=0,c=1"), config) == "c"
    with pytest.raises(ConfigError, match=r"weight 0 is below min_weight 0.05.*Use objective: c"):
        chosen_objective(Preference.parse("a=0,b=0.4,c=0.6"), config)


def test_margin_beta_is_checked() -> None:
    assert (MODPOConfig(beta=0.5).reward_beta, MODPOConfig(beta=0.5, margin_beta=0.1).reward_beta) == (
        0.5,
        0.1,
    )
    with pytest.raises(ConfigError, match="margin_beta must be above 0, got 0"):
        MODPOConfig(margin_beta=0.0)
    with pytest.raises(ConfigError, match="margin: scores has none"):
        MODPOConfig(margin="scores", margin_beta=0.1)
    assert "margin_beta" not in as_values(MODPOConfig()), "fingerprints of runs without it stay"
    assert as_values(MODPOConfig(margin_beta=0.1))["margin_beta"] == 0.1


def test_an_offset_of_the_prompt_takes_no_worth_from_a_score(lm: LanguageModel, tmp_path: Path) -> None:
    """One deviation is worth 1 by default: within prompts it is 1, and pooled over prompts of other offsets 5 times as large."""
    data, offsets = offset_data(5.0)
    worth = []
    for across in (False, True):
        inputs = Inputs(Lab(lm, tmp_path, TRAINING), data, data, (), offset_scorers(offsets, across))
        scaled = with_scale(inputs, MODPOConfig(margin="scores"), {"helpful"}, {})
        worth.append(dict(scaled.margin_scale or {})["helpful"])
    assert worth[0] == pytest.approx(1, abs=0.1) and worth[1] < 0.3
