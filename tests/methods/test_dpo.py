"""The settings by which DPO also imitates or anchors the chosen response reach every method that trains on pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference, simplex_grid
from paretune.core.settings import as_values, parse
from paretune.data.pairs import pairs
from paretune.generation.generate import attached, response_logps
from paretune.methods import METHODS, dpo, dpo_lw, mod, modpo, mrpo, spo
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.mod import MODConfig
from paretune.methods.modpo import MODPOConfig
from paretune.methods.mrpo import MRPOConfig
from paretune.methods.spo import SPOConfig
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.training import lab as labs
from paretune.training.lab import Lab
from paretune.training.preference_pairs import PairLoss
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

DATA, HELD_OUT = make_dataset(), make_dataset(4, seed=9)


def inputs(lm: LanguageModel, folder: Path) -> Inputs:
    preferences = [Preference(DATA.objectives, tuple(w)) for w in simplex_grid(2, 2).tolist()]
    return Inputs(Lab(lm, folder, TRAINING), DATA, HELD_OUT, preferences)


def chosen_nats(lm: LanguageModel, adapter: Adapter) -> float:
    """Return the mean log-probability of the chosen responses of the first objective, per token."""
    groups = [
        (lm.encode_prompt(pair.prompt), [lm.encode_response(pair.chosen, pair.chosen_truncated)])
        for pair in pairs(DATA, DATA.objectives[0])
    ]
    with attached(lm, adapter) as steering:
        sums = torch.cat(response_logps(lm, groups, steering, adapter.gates()))
    return float((sums / torch.tensor([len(responses[0]) for _, responses in groups])).mean())


@pytest.mark.slow
def test_imitating_raises_the_chosen_responses(lm: LanguageModel, tmp_path: Path) -> None:
    plain, again, imitating = (
        inputs(lm, tmp_path / name).corners(config)[0]
        for name, config in (
            ("plain", DPOConfig(0.5)),
            ("again", DPOConfig(0.5, nll=0)),
            ("imitating", DPOConfig(0.5, nll=2)),
        )
    )
    assert adapters_equal(plain, again) and not adapters_equal(plain, imitating)
    assert chosen_nats(lm, imitating) > chosen_nats(lm, plain) + 0.05


@pytest.mark.slow
def test_votes_and_the_alignment_of_sipo_imitate_too(lm: LanguageModel, tmp_path: Path) -> None:
    given = replace(
        inputs(lm, tmp_path), preferences=[Preference.one_hot(DATA.objectives[0], DATA.objectives)]
    )
    plain, imitating, anchored = (
        dpo_lw.train(given, dpo_lw.DPOLWConfig(0.5, nll=nll, anchor=anchor)).adapters[0]
        for nll, anchor in ((0.0, 0.0), (2.0, 0.0), (0.0, 3.0))
    )
    assert chosen_nats(lm, imitating) > chosen_nats(lm, plain) + 0.05
    assert chosen_nats(lm, anchored) > chosen_nats(lm, plain) + 0.05
    sipo = METHODS["sipo"]
    aligned = sipo.settings({"beta": 0.5, "nll": 2.0, "refine": False}, "methods.sipo")
    stages = {stage.name for stage in (tmp_path / "adapters").iterdir()}
    sipo.train(given, aligned)
    made = {stage.name for stage in (tmp_path / "adapters").iterdir()} - stages
    given.corners(DPOConfig(0.5, nll=2.0))
    assert {stage.name for stage in (tmp_path / "adapters").iterdir()} - stages == made, "those of the soup"


@pytest.mark.parametrize(
    ("method", "config", "trainings"),
    [
        (dpo, DPOConfig(nll=0.7, anchor=0.4), 2),
        (mod, MODConfig(nll=0.7, anchor=0.4), 2),
        (modpo, MODPOConfig(nll=0.7, anchor=0.4), 3),
        (spo, SPOConfig(nll=0.7, anchor=0.4), 3),
        (mrpo, MRPOConfig(nll=0.7, anchor=0.4), 4),
    ],
)
@pytest.mark.slow
def test_every_single_objective_model_of_a_method_imitates(
    method: ModuleType,
    config: DPOConfig,
    trainings: int,
    lm: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, train = [], labs.fit_pairs

    def fit_pairs(run, table, validation, loss):
        weights.append((loss.nll, loss.anchor))
        return train(run, table, validation, loss)

    monkeypatch.setattr(labs, "fit_pairs", fit_pairs)
    given = inputs(lm, tmp_path)
    method.train(given, config)
    assert weights == [(0.7, 0.4)] * trainings
    # The mixture's single-objective models are those of the method, and are not trained again.
    corners = method.METHOD.traits(config).corners or config.single
    assert corners == DPOConfig(nll=0.7, anchor=0.4)
    given.corners(corners)
    assert len(weights) == trainings


def test_the_default_is_dpo_and_keeps_its_name_in_stages() -> None:
    assert as_values(DPOConfig()) == {"beta": 0.1, "pairs": "extremes"}
    assert as_values(DPOConfig(nll=1))["nll"] == 1
    assert (
        PairLoss(0.1).facts() == PairLoss(0.1, anchor=0.0).facts() and "anchor" not in PairLoss(0.1).facts()
    )
    assert PairLoss(0.1, anchor=1.0).facts()["anchor"] == 1.0
    for wrong in (-0.1, float("nan"), "much"):
        with pytest.raises(ConfigError, match="nll"):
            parse(DPOConfig, {"nll": wrong}, "methods.dpo-soup")
