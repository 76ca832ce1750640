"""Bone Soup and soups between anchors: coefficients by worked numbers, the optimum in the tabular world, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError, ModelError, PreferenceError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.evaluation.evaluate import HeldOut, evaluate
from paretune.methods import bone_soup, dpo_lw, modpo
from paretune.methods.base import Inputs
from paretune.methods.bone_soup import BoneSoupConfig, backbones
from paretune.methods.dpo_lw import DPOLWConfig
from paretune.methods.modpo import MODPOConfig
from paretune.methods.morlhf import MORLHFConfig
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import find_sources
from paretune.policies.gating import Between
from paretune.policies.policy import Policy, is_interpolated
from paretune.scoring.scorer import build_scorer
from paretune.serving.sources import serve_source
from paretune.training.lab import Lab
from support.adapters import TRAINING
from support.world import make_dataset

TWO, THREE = ("short", "good"), ("a", "b", "c")


def shares(trained: list[Preference], *weights: list[float]) -> list[list[float]]:
    return Between(tuple(trained)).shares(np.array(weights)).tolist()


# The coefficients


def test_the_coefficients_undo_the_mixing() -> None:
    """c = B^-T w with b = 0.7: 0.7 c1 + 0.3 c2 = w1, 0.3 c1 + 0.7 c2 = w2."""
    mixed = backbones(TWO, 0.7)
    assert [w.weights for w in mixed] == [pytest.approx((0.7, 0.3)), pytest.approx((0.3, 0.7))]
    corner, half, own = shares(mixed, [1.0, 0.0], [0.5, 0.5], [0.7, 0.3])
    assert corner == pytest.approx([1.75, -0.75]) and half == pytest.approx([0.5, 0.5]) and own == [1.0, 0.0]
    # b = 0.6 of three: c = (w - 0.2) / 0.4.
    assert shares(backbones(THREE, 0.6), [1.0, 0.0, 0.0])[0] == pytest.approx([2.0, -0.5, -0.5])
    assert shares(backbones(THREE, 1.0), [0.2, 0.3, 0.5])[0] == pytest.approx([0.2, 0.3, 0.5]), "a plain soup"


@pytest.mark.parametrize("main", [0.6, 0.8, 1.0])
def test_optimal_backbones_hold_the_optimum_of_every_preference(main: float) -> None:
    """In logits, where a soup is exact: pi_i is the optimum of row i of B, and sum_i c_i log pi_i that of w."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 8, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards, beta = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64), 0.5
    mixed = backbones(THREE, main)
    optima = torch.stack(
        [
            tilted(reference, torch.einsum("m,mxy->xy", torch.from_numpy(w.array()), rewards), beta)
            for w in mixed
        ]
    )
    for w in ([1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.5, 0.5]):
        (c,) = shares(mixed, w)
        soup = reference + torch.einsum("k,kxy->xy", torch.tensor(c, dtype=torch.float64), optima - reference)
        wanted = tilted(
            reference, torch.einsum("m,mxy->xy", torch.tensor(w, dtype=torch.float64), rewards), beta
        )
        assert total_variation(soup.log_softmax(-1), wanted) < 1e-5, "shares are rounded to six decimals"


def test_between_anchors_shares_are_barycentric_and_outside_the_nearest_answers() -> None:
    grid = preference_grid(TWO, 2)
    places = {w.weights: k for k, w in enumerate(grid)}
    quarter, half, corner = shares(grid, [0.25, 0.75], [0.5, 0.5], [1.0, 0.0])
    assert quarter[places[0.5, 0.5]] == 0.5 and quarter[places[0.0, 1.0]] == 0.5
    assert (
        half[places[0.5, 0.5]] == 1.0 and corner[places[1.0, 0.0]] == 1.0 and sorted(half) == [0.0, 0.0, 1.0]
    )
    inner = [Preference.parse(f"short={w},good={1 - w}") for w in (0.25, 0.5, 0.75)]
    assert shares(inner, [1.0, 0.0])[0] == [0.0, 0.0, 1.0]
    assert shares(inner[:1], [1.0, 0.0])[0] == [1.0]


def test_barycentric_shares_meet_the_preference() -> None:
    """Laws on three objectives: shares are at least 0, sum to 1, and the anchors' mean by them is the preference."""
    grid = preference_grid(THREE, 3)
    asked = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    found = np.array(shares(grid, *asked.tolist()))
    assert found.min() >= 0 and np.allclose(found.sum(1), 1, atol=1e-5)
    assert np.allclose(found @ np.stack([w.over(THREE).array() for w in grid]), asked, atol=1e-5)
    assert ((found > 0).sum(1) <= 3).all(), "of one cell alone"


# The policies


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=4, learning_rate=1e-2))


@pytest.mark.parametrize(
    ("train", "config"), [(modpo.train, MODPOConfig), (dpo_lw.train, DPOLWConfig)], ids=["modpo", "dpo-lw"]
)
def test_anchors_serve_any_preference_as_a_soup(lab: Lab, tmp_path: Path, train: Any, config: Any) -> None:
    grid = preference_grid(TWO, 2)
    inputs = Inputs(lab, make_dataset(), make_dataset(4, seed=9), grid)
    snapped, soup = train(inputs, config()), train(inputs, config(between="soup"))
    asked = Preference.parse("short=0.25,good=0.75")
    assert snapped.used([asked]) != [asked] and soup.used([asked]) == [asked] and not soup.anchor_preferences
    assert all(soup.effective(w) == snapped.effective(w) for w in grid), (
        "the same points at trained preferences"
    )
    assert [is_interpolated(soup, w) for w in (*grid, asked)] == [False, False, False, True]
    assert not is_interpolated(snapped, asked)
    # The gates are the exact mean of two updates.
    parts = soup.gates([asked])[0].split([adapter.rank for adapter in soup.adapters])  # type: ignore[index]
    factors = [float(part[0]) / adapter.scale for part, adapter in zip(parts, soup.adapters, strict=True)]
    assert sorted(factors) == pytest.approx([0.0, 0.5, 0.5])
    beyond = Preference.of({"good": 1.5, "short": -0.5}, TWO, allow_extrapolation=True)
    with pytest.raises(PreferenceError, match="answers with soups of the adapters around a preference"):
        soup.gates([beyond])
    soup.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy", lab.lm)
    assert loaded.effective(asked) == soup.effective(asked) and is_interpolated(loaded, asked)
    (source,) = find_sources(tmp_path / "policy")
    served = serve_source(source, {}, None)
    assert served.is_interpolated(asked) and not served.is_interpolated(grid[0]) and not source.anchors


def test_an_interpolated_point_is_marked(lab: Lab) -> None:
    inputs = Inputs(lab, make_dataset(), make_dataset(4, seed=9), preference_grid(TWO, 2))
    policy = modpo.train(inputs, MODPOConfig(between="soup"))
    held_out = HeldOut(
        [row.prompt for row in make_dataset(2, seed=5).rows],
        ["a", "b"],
        [build_scorer({"objective": name, "rule": "length", "unit": "words"}) for name in TWO],
        Sampling(max_new_tokens=3),
    )
    found = evaluate(policy, [Preference.uniform(TWO), Preference.parse("short=0.3,good=0.7")], held_out)
    assert found.interpolated == (False, True)


def test_two_adapters_of_one_preference_make_no_soup(lm: LanguageModel, lab: Lab) -> None:
    inputs = Inputs(lab, make_dataset(), make_dataset(4, seed=9), [Preference.uniform(TWO)])
    (adapter,) = dpo_lw.train(inputs, DPOLWConfig()).adapters
    with pytest.raises(ModelError, match=r"one adapter per preference; short=0.5,good=0.5 has several"):
        Policy.anchors("x", lm, TWO, [adapter, adapter], [Preference.uniform(TWO)] * 2, "soup")


# What is refused


@pytest.mark.parametrize(("main", "objectives"), [(0.5, TWO), (0.3, TWO), (1 / 3, THREE)])
def test_backbones_that_are_all_alike_are_refused(main: float, objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="all backbones would be trained for the same; choose one above"):
        bone_soup.check(BoneSoupConfig(main_weight=main), objectives, [])
    bone_soup.check(BoneSoupConfig(main_weight=0.6), objectives, [])


def test_numbers_out_of_bounds_and_soups_of_one_adapter_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"main_weight must be above 0 and at most 1, got 1.2"):
        BoneSoupConfig(main_weight=1.2)
    with pytest.raises(ConfigError, match="between: soup is of anchors"):
        MORLHFConfig(form="conditioned", between="soup")
