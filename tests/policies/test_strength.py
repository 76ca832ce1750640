"""The strength of steering: a factor on the update, beta as an input in training, and what has none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError, PreferenceError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.methods import panacea
from paretune.methods.base import Inputs
from paretune.methods.panacea import PanaceaConfig
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.training.conditioning import Conditioning, draw_strengths
from paretune.training.lab import Lab
from paretune.training.losses import pair_loss
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

NAMES = ("short", "good")
SETTINGS = replace(TRAINING, steps=4, learning_rate=1e-2)


def trained(lm: LanguageModel, folder: Path, **values: Any) -> Policy:
    lab = Lab(lm, folder, SETTINGS)
    return panacea.train(
        Inputs(lab, make_dataset(12), make_dataset(4, seed=9)), PanaceaConfig(rank=2, **values)
    )


@pytest.fixture(scope="module")
def policy(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return trained(lm, tmp_path_factory.mktemp("lab"))


def test_a_preference_has_a_direction_and_a_strength() -> None:
    half = Preference.uniform(NAMES)
    weak = half.at(0.5)
    assert weak != half and weak.at(1) == half and hash(weak) != hash(half)
    assert weak.as_dict() == half.as_dict() and str(weak) == f"{half} at strength 0.5"
    assert weak.over(("good", "short")).strength == 0.5
    for wrong in (-0.1, math.inf, math.nan, True, "1"):
        with pytest.raises(PreferenceError, match="strength"):
            half.at(wrong)  # type: ignore[arg-type]


def test_gates_are_scaled_for_each_row_and_0_is_the_base_model(policy: Policy) -> None:
    w = Preference.parse("short=0.3,good=0.7")
    one, weak, none = policy.gates([w, w.at(0.25), w.at(0)])
    torch.testing.assert_close(weak, 0.25 * one)
    assert not none.any() and torch.equal(policy.gates([w])[0], one)
    assert len({policy.effective(w.at(t)) for t in (0, 0.25, 1)}) == 3
    prompt = make_dataset(1).rows[0].prompt
    ids, response = policy.lm.encode_prompt(prompt), policy.lm.encode_response("good kind", False)
    base = Policy.base(policy.lm, NAMES).distribution(ids, response, w)
    torch.testing.assert_close(policy.distribution(ids, response, w.at(0)), base, atol=1e-5, rtol=1e-4)
    far = [float((policy.distribution(ids, response, w.at(t)) - base).abs().max()) for t in (0.5, 1.0, 2.0)]
    assert 0 < far[0] < far[1] < far[2]
    both = policy.generate([prompt] * 2, [w, w.at(0)], Sampling(max_new_tokens=4), [3, 3])
    (alone,) = Policy.base(policy.lm, NAMES).generate([prompt], [w], Sampling(max_new_tokens=4), [3])
    assert both[1].tokens == alone.tokens


def test_an_anchor_keeps_the_strength_of_what_was_asked(policy: Policy, lm: LanguageModel) -> None:
    lora = replace(policy.adapters[0], info={})
    corner = Preference.one_hot("short", NAMES)
    anchors = Policy.anchors("a", lm, NAMES, [lora], [corner])
    asked = Preference.uniform(NAMES).at(2)
    assert anchors.used([asked]) == [corner.at(2)]
    torch.testing.assert_close(anchors.gates([asked]), 2 * anchors.gates([corner]))


def test_policies_without_gates_of_one_update_refuse_it(policy: Policy, lm: LanguageModel) -> None:
    mixed = Policy.mod("mixed", lm, NAMES, policy.adapters * 2)
    for other in (mixed, Policy.base(lm, NAMES)):
        with pytest.raises(PreferenceError, match="has no strength to set"):
            other.gates([Preference.uniform(NAMES).at(0.5)])


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_where_logits_are_linear_the_optimum_of_beta_is_that_of_any_strength(strength: float) -> None:
    """pi_t = pi_ref exp(t r / beta): the update times t minimises DPO's loss at beta / t where it does so at beta and t = 1."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    reward, beta = torch.randn(3, 6, generator=generator, dtype=torch.float64), 0.4
    update = reward / beta
    steered = (base + strength * update).log_softmax(-1)
    assert total_variation(steered, tilted(base, reward, beta / strength)) < 1e-12
    first, second = torch.combinations(torch.arange(6)).unbind(1)
    chance = torch.sigmoid(reward[:, first] - reward[:, second])
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    ratio = (base + strength * scale * update).log_softmax(-1) - base
    gap = ratio[:, first] - ratio[:, second]
    pair_loss(beta / strength * gap, 1.0, weight=chance, reversed_weight=1 - chance).mean().backward()
    assert scale.grad is not None and abs(float(scale.grad)) < 1e-12


def test_strengths_are_drawn_log_uniformly_and_again_the_same() -> None:
    settings = Conditioning(strengths=(0.5, 2.0))
    drawn = draw_strengths(settings, 4000, (0, 1))
    assert drawn.min() >= 0.5 and drawn.max() <= 2.0
    assert float(np.log(drawn).mean()) == pytest.approx(0, abs=0.03)
    assert np.array_equal(drawn, draw_strengths(settings, 4000, (0, 1)))


@pytest.mark.parametrize("values", [{}, {"per": "row"}, {"data": "labelled"}], ids=str)
def test_training_with_strengths_is_another_training_and_is_logged(
    lm: LanguageModel, tmp_path: Path, values: dict[str, Any]
) -> None:
    plain = trained(lm, tmp_path / "plain", **values).adapters[0]
    dialled = trained(lm, tmp_path / "dial", strengths=(0.5, 2.0), **values).adapters[0]
    assert not adapters_equal(plain, dialled)
    text = next((tmp_path / "dial" / "adapters").glob("*/history.json")).read_text()
    assert '"strength"' in text
    assert (
        list(dialled.info["conditioning"]["strengths"]) == [0.5, 2.0]
        and "strengths" not in plain.info["conditioning"]
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strengths": (2.0, 3.0)}, "expected two numbers above 0 with 1 between them"),
        ({"strengths": (0.0, 1.0)}, "got 0 and 1"),
        ({"strengths": (0.5, 2.0), "loss": "sft"}, "strengths with loss: sft"),
    ],
)
def test_strengths_that_would_not_do_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PanaceaConfig(**values)
