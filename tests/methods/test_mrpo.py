"""MRPO: the mixture of references by worked numbers and laws, its optimum in the tabular world, and references that are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles.tabular import tilted, total_variation
from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference
from paretune.methods import mrpo
from paretune.methods.base import Inputs
from paretune.methods.mrpo import MRPOConfig, referred
from paretune.models.language_model import LanguageModel, load
from paretune.training.lab import Lab
from paretune.training.losses import pair_loss
from paretune.training.references import Reference, adaptive_weight, clipped, mixed, open_reference
from paretune.training.token_tables import PairTable
from support.adapters import TRAINING, adapters_equal
from support.world import WORDS, make_dataset, write_model

NAMES = ("short", "good")


def logs(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# The mixture


def test_worked_means_of_two_references() -> None:
    """p_0 = 0.2 and p_1 = 0.4: at a = 0.25 the harmonic mean is 1 / (0.25 / 0.2 + 0.75 / 0.4) = 0.32."""
    base, other = logs((0.2, 0.5)).log(), logs((0.4, 0.5)).log()
    assert mixed(base, [other], 0.25, "harmonic").exp().tolist() == [pytest.approx([0.32, 0.5])]
    assert mixed(base, [other], 0.5, "geometric").exp().tolist() == [pytest.approx([math.sqrt(0.08), 0.5])]
    three = mixed(base, [other, other / 2], 0.5, "harmonic").exp()[0, 0]
    assert float(three) == pytest.approx(1 / (0.5 / 0.2 + 0.25 / 0.4 + 0.25 / math.sqrt(0.4)))


def test_the_released_formula() -> None:
    """log p = log p_1 + log p_2 - log(a p_1 + (1 - a) p_2), p_2 the base, with a as a number or as the share of the gaps."""
    generator = torch.Generator().manual_seed(0)
    one, two = -torch.rand(2, 6, 2, generator=generator, dtype=torch.float64) * 5
    gaps = [(logps[:, 0] - logps[:, 1]).abs() for logps in (one, two)]
    share = gaps[0] / (gaps[0] + gaps[1])
    assert torch.allclose(adaptive_weight(two, one), share)
    for a in (torch.full((6,), 0.3, dtype=torch.float64), share):
        released = one + two - (a[:, None] * one.exp() + (1 - a[:, None]) * two.exp()).log()
        torch.testing.assert_close(mixed(two, [one], a, "harmonic"), released)
    assert adaptive_weight(two * 0, one * 0).tolist() == [0.5] * 6


@pytest.mark.parametrize("mix", ["harmonic", "geometric"])
def test_laws_of_the_mixture(mix: mrpo.Mix) -> None:
    generator = torch.Generator().manual_seed(1)
    base, one, two = -torch.rand(3, 5, 2, generator=generator, dtype=torch.float64) * 9
    torch.testing.assert_close(mixed(base, [one, two], 1.0, mix), base)
    torch.testing.assert_close(mixed(base, [one], 0.0, mix), one)
    torch.testing.assert_close(mixed(base, [base, base], 0.3, mix), base)
    torch.testing.assert_close(mixed(base, [one, two], 0.4, mix), mixed(base, [two, one], 0.4, mix))
    # A constant of a prompt in all references is one of the mixture, so it leaves the gap.
    torch.testing.assert_close(mixed(base + 2, [one + 2], 0.4, mix), mixed(base, [one], 0.4, mix) + 2)
    assert bool((mixed(base, [one], 0.4, "harmonic") <= mixed(base, [one], 0.4, "geometric") + 1e-12).all())


def test_long_responses_do_not_underflow() -> None:
    base, other = logs((-2000.0, -1500.0)), logs((-2010.0, -1400.0))
    assert mixed(base, [other], 0.5, "harmonic").tolist() == [
        pytest.approx([-2010 + math.log(2), -1500 + math.log(2)])
    ]


def test_worked_clipping() -> None:
    """eta 0.2, mean sizes 10 and 30: chosen may differ by 0.05 and rejected by 0.15 of the base's; each alone by 0.2."""
    base, other = logs((-8.0, -40.0)), logs((-12.0, -20.0))
    assert clipped(base, other, 0.2).tolist() == [pytest.approx([-8.4, -34.0])]
    assert clipped(base, other, 0.2, shared=False).tolist() == [pytest.approx([-9.6, -32.0])]
    near = logs((-8.1, -39.0))
    assert torch.equal(clipped(base, near, 0.5), near) and torch.equal(clipped(base, other, 0.0), base)


@pytest.mark.parametrize("mix", ["harmonic", "geometric"])
def test_the_optimum_of_the_loss_is_the_tilted_mixture(mix: mrpo.Mix) -> None:
    """On exact expectations over all pairs of a table: argmin = p exp(r / beta) up to normalisation, with p the mixture."""
    generator, beta = torch.Generator().manual_seed(0), 0.5
    base, other = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    reward = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    first, second = torch.combinations(torch.arange(6)).unbind(1)

    def pairs(values: Tensor) -> Tensor:
        return torch.stack([values[:, first].flatten(), values[:, second].flatten()], dim=1)

    reference = mixed(pairs(base), [pairs(other)], 0.3, mix)
    chance = torch.sigmoid((reward[:, first] - reward[:, second]).flatten())
    logits = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        ratios = pairs(logits.log_softmax(-1)) - reference
        value = pair_loss(ratios[:, 0] - ratios[:, 1], beta, weight=chance, reversed_weight=1 - chance).mean()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    whole = mixed(base, [other], 0.3, mix)
    assert total_variation(logits.detach().log_softmax(-1), tilted(whole, reward, beta)) < 1e-6
    if mix == "geometric":
        # And it maximises E[r] - beta (a KL(. || p_0) + (1 - a) KL(. || p_1)): the gradient along the simplex vanishes.
        policy = tilted(whole, reward, beta).requires_grad_()
        penalty = 0.3 * (policy - base) + 0.7 * (policy - other)
        values = (reward - beta * penalty).detach()
        torch.testing.assert_close(values, values.mean(-1, keepdim=True).expand_as(values))


# The training


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=3, learning_rate=1e-2))


@pytest.fixture(scope="module")
def inputs(lab: Lab) -> Inputs:
    return Inputs(lab, make_dataset(), make_dataset(4, seed=9), [Preference.uniform(NAMES)])


def table_of(lab: Lab, inputs: Inputs) -> PairTable:
    return lab.pair_table(lab.pairs(inputs.train, "good", "extremes"), "good")


def test_the_other_objective_s_model_is_the_reference(
    lab: Lab, inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = mrpo.train(inputs, MRPOConfig(eta=0.001))
    assert [adapter.info["references"] for adapter in policy.adapters] == [["good"], ["short"]]
    assert "were clipped" in capsys.readouterr().err
    table, short = table_of(lab, inputs), inputs.corner("short", MRPOConfig().single)
    made = referred(lab, table, [Reference("short", short)], MRPOConfig(weight=0.25, eta=9.0))
    assert torch.equal(made.reference, mixed(table.reference, [lab.logps(table, short)], 0.25, "harmonic"))


def test_all_weight_on_the_base_model_is_dpo(lab: Lab, inputs: Inputs) -> None:
    policy = mrpo.train(inputs, MRPOConfig(weight=1.0))
    corners = inputs.corners(MRPOConfig().single)
    for ours, dpo in zip(policy.adapters, corners, strict=True):
        for path in dpo.factors:
            torch.testing.assert_close(ours.factors[path][0], dpo.factors[path][0], rtol=1e-3, atol=1e-5)


def test_named_references_are_adapters_and_models(
    lab: Lab, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs.corner("short", MRPOConfig().single)
    folder = lab.folder / "adapters" / "dpo-short" / "adapter"
    adapter = open_reference(lab, str(folder))
    table = table_of(lab, inputs)
    assert torch.equal(adapter.logps(lab, table), lab.logps(table, adapter.adapter))
    other = write_model(tmp_path / "other", seed=5)
    model = open_reference(lab, str(other))
    before = lab.scoring_forwards
    read = model.logps(lab, table)
    assert lab.scoring_forwards > before and not torch.allclose(read, table.reference)
    own = Lab(load(str(other), "float32", "cpu"), tmp_path / "own", lab.training)
    torch.testing.assert_close(read, own.logps(table))
    policy = mrpo.train(inputs, MRPOConfig(references=(str(other),), weight="adaptive"))
    assert policy.adapters[0].info["references"] == [str(other)]
    assert "knows the label of each pair" in " ".join(capsys.readouterr().err.split())
    again = mrpo.train(inputs, MRPOConfig(references=(str(other),), weight="adaptive"))
    assert adapters_equal(policy.adapters[0], again.adapters[0]) and all(
        stage.reused for stage in lab.stages[-2:]
    )


# What is refused


def test_references_that_would_not_do_are_refused(lab: Lab, tmp_path: Path) -> None:
    other = write_model(tmp_path / "words", words=[*WORDS, "lake"])
    with pytest.raises(
        ConfigError, match=r"another tokenizer than .* \(\d+ entries of the two vocabularies differ\)"
    ):
        open_reference(lab, str(other))
    with pytest.raises(ModelError, match=r"the reference .*none: .*expected a folder with an adapter of"):
        open_reference(lab, str(tmp_path / "none"))
    model = write_model(tmp_path / "model", seed=3)
    foreign = Lab(load(str(model), "float32", "cpu"), tmp_path / "run", replace(TRAINING, steps=1))
    made = foreign.dpo("good", make_dataset(4), make_dataset(4), 0.1)
    made.save(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"the reference .*adapter.* base"):
        open_reference(lab, str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("settings", "objectives", "words"),
    [
        ({}, ("good",), "references: MRPO takes the models of the other objectives where none are named"),
        ({"weight": "adaptive"}, ("a", "b", "c"), "against one further reference, and here are 2"),
        ({"weight": "adaptive", "references": ("x", "y")}, ("a", "b"), "here are 2; give a number"),
    ],
)
def test_settings_that_would_not_do_are_refused(
    settings: dict, objectives: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        mrpo.check(MRPOConfig(**settings), objectives, [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": 1.5}, "weight must be a number from 0 to 1, or adaptive, got 1.5"),
        ({"weight": "clever"}, "weight must be a number from 0 to 1, or adaptive, got 'clever'"),
        ({"eta": -1}, "eta must be at least 0"),
        ({"references": ("",)}, "references holds an empty name"),
    ],
)
def test_values_that_would_not_do_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MRPOConfig(**settings)
