"""MOD under every divergence: in a table the mixture of its members is the optimum of the weighted reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles.tabular import total_variation
from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.core.settings import as_values
from paretune.generation.mixing import Divergence, Mixing, combine, combine_general
from paretune.methods import dpo, mod
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.mod import MODConfig
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.losses import Penalty, divergence_gap, pair_loss
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

BETA = 0.8
OBJECTIVES = ("short", "good")
DIVERGENCES: tuple[Divergence, ...] = ("reverse-kl", "forward-kl", "jensen-shannon", "alpha")
FIRST, SECOND = torch.combinations(torch.arange(6)).unbind(1)


def table() -> tuple[Tensor, Tensor]:
    """Return the log-probabilities ``[3, 6]`` of a reference for 3 prompts, and two rewards ``[2, 3, 6]``."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    return reference, 0.5 * torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)


def minimiser(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the log-probabilities ``[3, 6]`` at which a loss of them is least."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits.log_softmax(-1))
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    return logits.detach().log_softmax(-1)


def trained(reference: Tensor, reward: Tensor, penalty: Penalty) -> Tensor:
    """Return the minimiser of the pair loss on exact expectations over all pairs, whose labels are Bradley-Terry in the reward."""
    chance = torch.sigmoid(reward[:, FIRST] - reward[:, SECOND]).flatten()

    def pairs_of(values: Tensor) -> Tensor:
        return torch.stack([values[:, FIRST].flatten(), values[:, SECOND].flatten()], dim=1)

    def loss(logps: Tensor) -> Tensor:
        gap = divergence_gap(pairs_of(logps), pairs_of(reference), penalty)
        return pair_loss(gap, BETA, weight=chance, reversed_weight=1 - chance).mean()

    return minimiser(loss, reference)


def optimum(reference: Tensor, reward: Tensor, penalty: Penalty) -> Tensor:
    """Return the maximiser of ``E[reward] - beta E_ref[f(pi / ref)]``, found without its closed form."""
    a = penalty.alpha
    f = {
        "reverse-kl": lambda t: t * t.log(),
        "forward-kl": lambda t: -t.log(),
        "jensen-shannon": lambda t: t * t.log() - (t + 1) * ((t + 1) / 2).log(),
        "alpha": lambda t: t / a - t ** (1 - a) / (a * (1 - a)),
    }[penalty.divergence]

    def loss(logps: Tensor) -> Tensor:
        return (BETA * reference.exp() * f((logps - reference).exp()) - logps.exp() * reward).sum()

    return minimiser(loss, reference)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_members_and_their_mixture_are_optimal_in_a_table(divergence: Divergence) -> None:
    """Each member maximises its own reward less the penalty, and mixing them the weighted reward, under each divergence."""
    penalty, (reference, rewards) = Penalty(divergence, 0.4), table()
    members = torch.stack([trained(reference, reward, penalty) for reward in rewards], dim=1)
    for j, reward in enumerate(rewards):
        assert total_variation(members[:, j], optimum(reference, reward, penalty)) < 1e-5
    for w in (0.2, 0.5):
        weights = torch.tensor([[w, 1 - w]], dtype=torch.float64).expand(3, 2)
        if divergence == "reverse-kl":
            mixed, _ = combine(members, weights)
        else:
            mixed, _ = combine_general(members, weights, reference, divergence, penalty.alpha)
        best = optimum(reference, w * rewards[0] + (1 - w) * rewards[1], penalty)
        assert total_variation(mixed, best) < 1e-5
    if divergence != "reverse-kl":  # members of DPO are others: the link matters
        plain = torch.stack([trained(reference, reward, Penalty()) for reward in rewards], dim=1)
        assert total_variation(plain[:, 0], members[:, 0]) > 0.01


@pytest.mark.parametrize("divergence", DIVERGENCES[1:])
@pytest.mark.slow
def test_members_of_another_divergence_are_trained_and_mixed(
    lm: LanguageModel, tmp_path: Path, divergence: Divergence
) -> None:
    lab, data = Lab(lm, tmp_path, TRAINING), (make_dataset(), make_dataset(4, seed=9))
    soup = dpo.train(Inputs(lab, *data), DPOConfig())
    policy = mod.train(Inputs(lab, *data), MODConfig(divergence=divergence, alpha=0.4))
    own = {"divergence_alpha": 0.4} if divergence == "alpha" else {}
    for adapter, plain in zip(policy.adapters, soup.adapters, strict=True):
        assert adapter.info.items() >= {"method": "dpo", "divergence": divergence, **own}.items()
        assert not adapters_equal(adapter, plain)
        assert all(factor.isfinite().all() for pair in adapter.factors.values() for factor in pair)
    again = Lab(lm, tmp_path, TRAINING)
    mod.train(Inputs(again, *data), MODConfig(divergence=divergence, alpha=0.4))
    assert all(stage.reused for stage in again.stages)
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy", lm)
    half = Preference.uniform(OBJECTIVES)
    assert loaded.effective(half) == policy.effective(half)
    assert policy.passes == 3, "the reference model is the third copy of a row"
    text = loaded.generate([data[0].rows[0].prompt], [half], Sampling(max_new_tokens=4), [0])
    assert len(text) == 1

    with pytest.raises(
        ModelError, match=f"trained under the divergence {divergence}; it cannot be mixed under reverse-kl"
    ):
        Policy.mod("mod", lm, OBJECTIVES, policy.adapters)
    if divergence == "alpha":
        with pytest.raises(ModelError, match=r"with alpha 0.4; it cannot be mixed with alpha 0.5"):
            Policy.mod("mod", lm, OBJECTIVES, policy.adapters, Mixing("alpha", 0.5))


def test_settings_are_checked_before_a_run() -> None:
    with pytest.raises(ConfigError, match="alpha must be above 0 and below 1, got 1"):
        MODConfig(divergence="alpha", alpha=1.0)
    with pytest.raises(ConfigError, match="normalisers of the reverse KL"):
        MODConfig(divergence="forward-kl", candidates=2)
    with pytest.raises(
        ConfigError, match=r"methods.mod.divergence: unknown value '.*'; .*expected one of: reverse-kl"
    ):
        mod.METHOD.settings({"divergence": "kl"}, "methods.mod")
    assert mod.METHOD.settings({"divergence": "alpha", "alpha": 0.3}, "methods.mod").dpo is None
    assert not {"divergence", "alpha"} & as_values(MODConfig()).keys(), (
        "fingerprints of runs without them stay"
    )
    plain, other = (mod.METHOD.traits(MODConfig(divergence=name)) for name in ("reverse-kl", "forward-kl"))
    assert plain.corners == DPOConfig() and not plain.reference
    assert other.corners is None and other.reference and other == replace(other, beta=None)
