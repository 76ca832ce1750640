"""The columns weight and margin of the data in the losses of MODPO, DPO-LW and Panacea, by worked numbers.

At the start every gap is 0, so with weight .5 and margin 2 the loss of a pair is .5 log(1 + e^2), whatever the preference.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.methods import dpo_lw, modpo, panacea
from paretune.methods.base import Inputs
from paretune.methods.dpo_lw import DPOLWConfig, vote
from paretune.methods.modpo import MODPOConfig, stamp
from paretune.methods.panacea import PanaceaConfig, objective_data
from paretune.models.language_model import LanguageModel
from paretune.models.steering import trained
from paretune.training.conditioned import ConditionedTask
from paretune.training.lab import Lab
from paretune.training.learner import conditioned_adapter
from paretune.training.losses import pair_loss
from support.adapters import TRAINING, training_run
from support.world import make_dataset

OBJECTIVES = ("short", "good")
WEIGHT, MARGIN = 0.5, 2.0
PLAIN, STATED = math.log(2), math.log(1 + math.exp(MARGIN))


def stating(data: ScoredDataset, weight: float = WEIGHT, margin: float = MARGIN) -> ScoredDataset:
    """Return data whose rows all state a weight and a margin."""
    return replace(data, rows=tuple(replace(row, weight=weight, margin=margin) for row in data.rows))


DATA = make_dataset(), make_dataset(4, seed=9)


def first_loss(lab: Lab, stage: str) -> dict[str, Any]:
    """Return the record of a stage's first step."""
    (file,) = lab.folder.glob(f"adapters/{stage}*/history.json")
    return json.loads(file.read_text())[0]


@pytest.mark.parametrize(("scale_loss", "factor"), [(False, 1.0), (True, 0.4)])
def test_modpo_holds_a_margin_of_the_data_in_its_own_objectives_reward(
    lm: LanguageModel, tmp_path: Path, scale_loss: bool, factor: float
) -> None:
    """Eq. 11 with w_k = .4: z = (beta gap - .3 - .4 m) / .4, so that m is asked of r_k whatever w is."""
    lab = Lab(lm, tmp_path, TRAINING)
    table = lab.pair_table(lab.pairs(stating(DATA[0]), "good", "extremes"), "good")
    stamped = stamp(table, torch.full((len(table),), 0.3), 0.4, scale_loss)
    gap = torch.tensor([1.5])
    loss = pair_loss(gap, 0.1, margin=stamped.margin[:1], scale=stamped.scale[:1], weight=stamped.weight[:1])
    z = (0.15 - 0.3) / 0.4 - MARGIN
    assert float(loss) == pytest.approx(factor * WEIGHT * math.log(1 + math.exp(-z)), rel=1e-5)


@pytest.mark.parametrize(("weight", "margin"), [(WEIGHT, MARGIN), (1.0, 0.0), (0.0, 0.0)])
def test_modpo_starts_at_the_loss_of_the_data(
    lm: LanguageModel, tmp_path: Path, weight: float, margin: float
) -> None:
    """Scores as margins that are worth nothing, so that the other objective asks for nothing."""
    lab = Lab(lm, tmp_path, TRAINING)
    parts = [stating(part, weight, margin) for part in DATA]
    config = MODPOConfig(margin="scores", margin_scale={"short": 0.0, "good": 0.0})
    modpo.train(Inputs(lab, *parts, [Preference.parse("short=0.4,good=0.6")]), config)
    record = first_loss(lab, "modpo-")
    assert record["loss"] == pytest.approx(weight * math.log(1 + math.exp(margin)), abs=1e-5)


def test_the_margin_models_of_modpo_are_trained_with_them(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    inputs = Inputs(lab, *map(stating, DATA), [Preference.parse("short=0.4,good=0.6")])
    modpo.train(inputs, MODPOConfig())
    assert first_loss(lab, "dpo-short")["loss"] == pytest.approx(WEIGHT * STATED, abs=1e-5)


def test_loss_weighting_asks_the_margin_of_the_response_that_is_preferred(
    lm: LanguageModel, tmp_path: Path
) -> None:
    """Both for chosen, both ways, a tie with rejected, rejected alone (twice): w_j 5/4 a vote, times the row's weight."""
    lab = Lab(lm, tmp_path, TRAINING)
    table = lab.pair_table(labelled_pairs(stating(make_dataset(6))))
    nan = float("nan")
    labels = [(1.0, 1.0), (1.0, -1.0), (0.0, -1.0), (nan, -1.0), (-1.0, nan)]
    few = replace(
        table,
        pairs=tuple(replace(p, labels=x) for p, x in zip(table.pairs, labels, strict=False)),
        margin=table.margin[:5],
        weight=table.weight[:5],
    )
    stamped = vote(few, Preference.parse("short=0.3,good=0.7"))
    columns = stamped.margin, stamped.weight, stamped.reversed_weight
    loss = pair_loss(torch.zeros(5), 0.1, margin=columns[0], weight=columns[1], reversed_weight=columns[2])
    shares = [1.25, 1.25, 0.875, 0.875, 0.375]
    parts = [STATED, PLAIN, STATED, STATED, STATED]
    expected = [WEIGHT * share * part for share, part in zip(shares, parts, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    assert stamped.margin.tolist() == [2.0, 0.0, -2.0, -2.0, -2.0]


def test_loss_weighting_starts_at_the_loss_of_the_data(lm: LanguageModel, tmp_path: Path) -> None:
    """All weight on one objective that labels every pair: the loss is DPO's on its pairs."""
    data = [replace(part, rows=tuple(scored(row) for row in part.rows)) for part in DATA]
    lab = Lab(lm, tmp_path, TRAINING)
    dpo_lw.train(Inputs(lab, *map(stating, data), [Preference.parse("short=1,good=0")]), DPOLWConfig())
    assert first_loss(lab, "dpo-lw-")["loss"] == pytest.approx(WEIGHT * STATED, abs=1e-5)


def scored(row: Any) -> Any:
    """Return a row on which ``short`` tells all responses apart, and ``good`` prefers what ``short`` does."""
    values = tuple(float(n) for n in range(len(row.responses)))
    return replace(row, scores={"short": values, "good": values}, labels={})


@pytest.mark.parametrize(
    "options", [{}, {"data": "labelled"}, {"per": "row"}, {"aggregation": "tchebycheff"}]
)
def test_panacea_starts_at_the_loss_of_the_data(
    lm: LanguageModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    panacea.train(Inputs(lab, *map(stating, DATA)), PanaceaConfig(rank=3, **options))
    record = first_loss(lab, "panacea")
    for name in OBJECTIVES:
        assert record[f"loss/{name}"] == pytest.approx(WEIGHT * STATED, abs=1e-5)


def test_panaceas_loss_of_modpo_asks_the_margin_of_each_objectives_own_reward(
    lm: LanguageModel, tmp_path: Path
) -> None:
    """z_t = -(sum of the others' w_j r_j) / w_t - m at gap 0, with given rewards of the other objective."""
    lab = Lab(lm, tmp_path, TRAINING)
    config = PanaceaConfig(loss="modpo", rank=3, per="row")
    data = objective_data(lab, stating(DATA[0]), config, lab.train_table)
    rewards = [torch.full((len(table), 2), 0.3) for table in data.pair_tables]
    data = replace(data, margins=tuple(rewards))
    run = training_run(lm)
    learner = conditioned_adapter(run, 2, config)
    task = ConditionedTask(run, learner, data, None, config.beta)
    weights, rows = torch.tensor([[0.25, 0.75], [0.8, 0.2]]), [range(2), range(2)]
    everywhere = torch.ones(2, 2).bool()
    with (
        trained(learner.steering, False),
        torch.no_grad(),
        task._losses(data, rows, weights, everywhere) as (losses, _, _),
    ):
        found = losses.tolist()
    for row, (w, values) in enumerate(zip(weights.tolist(), found, strict=True)):
        for t, value in enumerate(values):
            z = -w[1 - t] * 0.3 / w[t] - MARGIN
            assert value == pytest.approx(WEIGHT * math.log(1 + math.exp(-z)), rel=1e-4), (row, t)
