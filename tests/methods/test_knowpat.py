"""KnowPAT: lists of the data, the one forward against separate ones, the weights of objectives, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.methods import knowpat
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.knowpat import KnowPATConfig
from paretune.models.language_model import LanguageModel
from paretune.training.lab import Lab
from paretune.training.learner import one_adapter
from paretune.training.list_losses import alignment_loss
from paretune.training.lists import ListLoss, ListTable, ListTask, list_table, weighed
from paretune.training.losses import pair_loss
from support.adapters import TRAINING, training_run
from support.world import make_dataset

NAMES = ("short", "good")
PROMPT = (Message("user", "sun moon"),)


def row(*responses: str, number: int = 0, **values: object) -> Row:
    return Row(PROMPT, responses, source=f"made:{number}", **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=3, learning_rate=1e-2))


def test_the_same_responses_are_ranked_by_each_objective(lab: Lab) -> None:
    """Scores rank, ties do not; a comparison counts before scores; what was cut is above none."""
    made = row(
        "red",
        "red blue",
        "good",
        scores={"short": (-1.0, -2.0, -1.0), "good": (0.0, 0.0, 3.0)},
        labels={"good": ((0, 1, 1.0),)},
        truncated=(False, False, True),
    )
    table = list_table(lab, ScoredDataset(NAMES, (made,)), reference=False)
    assert table.better[0].int().tolist() == [
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],
    ]
    assert table.ranked.tolist() == [[True, True]] and table.reference == ()


def test_what_is_no_list_is_left_out_and_said(lab: Lab) -> None:
    scores = {"short": (-1.0, -2.0)}
    rows = (
        row("red", number=0, scores={"short": (-1.0,)}),
        row("red", "red", number=1, scores=scores),
        row("red", "blue", number=2, scores={"short": (1.0, 1.0)}),
        row("red", "red blue", "moon " * 80, number=3, scores={"short": (-1.0, -2.0, -80.0)}),
    )
    lab.left_out.clear()
    table = list_table(lab, ScoredDataset(NAMES, rows), reference=False)
    assert table.wheres == ("made:3",) and len(table.responses[0]) == 2
    assert lab.left_out == [
        "2 of 4 lists hold one response (or one text alone), and were left out: nothing is ranked",
        "1 of 4 lists have responses that no objective tells apart, and were left out",
        "1 responses with their prompt are longer than max_tokens=64 and were left out of their lists",
    ]
    with pytest.raises(
        TrainingError,
        match=r"none of 2 prompts has two responses that some objective ranks .* 2 have one response",
    ):
        list_table(lab, ScoredDataset(NAMES, rows[:2]), reference=False)


def test_the_mean_over_all_lists_is_the_weighted_mean_of_each_objective(lab: Lab) -> None:
    rows = list(make_dataset(4).rows)
    rows[0] = replace(rows[0], scores={"short": rows[0].scores["short"]}, weight=2.0)
    table = weighed(
        list_table(lab, ScoredDataset(NAMES, tuple(rows)), reference=False), np.array([0.25, 0.75])
    )
    assert table.weights[:, 0].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.25])
    assert table.weights[:, 1].tolist() == pytest.approx([0, 1, 1, 1])


def task(lab: Lab, table: ListTable, folder: Path, loss: ListLoss) -> ListTask:
    run = training_run(lab.lm, lab.training.settled(False), folder)
    return ListTask(run, one_adapter(run), table, table, loss)


@pytest.mark.parametrize("form", ["knowpat", "plackett-luce"])
def test_one_forward_reads_a_prompt_once_for_all_lists(lab: Lab, tmp_path: Path, form: str) -> None:
    """Against log-probabilities read apart: lists of two and three responses in one batch."""
    rows = list(make_dataset(3).rows)
    rows[1] = replace(
        rows[1],
        responses=rows[1].responses[:2],
        truncated=(False,) * 2,
        scores={name: values[:2] for name, values in rows[1].scores.items()},
    )
    table = list_table(lab, ScoredDataset(NAMES, tuple(rows)), reference=True)
    trial = task(lab, table, tmp_path, ListLoss(form, align=0.5, sft=2.0))  # type: ignore[arg-type]
    try:
        with trial.learner.steering.at(trial.gate):
            losses, tokens = trial.losses(table, [0, 1, 2])
    finally:
        trial.learner.steering.detach()
    assert tokens == sum(len(p) + sum(map(len, r)) for p, r in table.groups(range(3)))
    for n in range(3):
        own, lengths = table.reference[n], torch.tensor([len(ids) for ids in table.responses[n]])
        means, better = (own / lengths)[None], table.better[n][None]
        aligned = alignment_loss(means, better, torch.ones_like(means).bool())[0]
        if form == "plackett-luce":  # a fresh adapter is the reference: every order is as likely as any other
            aligned = torch.tensor(
                [float(sum(np.log1p(d.sum()) for d in b.numpy())) for b in table.better[n]]
            )
        best = [int(b.sum(1).argmax()) for b in table.better[n]]
        expected = 0.5 * aligned - 2.0 * means[0][best]
        torch.testing.assert_close(losses[n].detach().cpu(), expected.float(), rtol=1e-4, atol=1e-5)


def test_pairs_under_plackett_luce_are_dpo(lab: Lab) -> None:
    """Lists of two, without imitation, at one-hot: the adapter is DPO's up to the rounding of other code."""
    rows = tuple(
        replace(
            r,
            responses=r.responses[:2],
            truncated=(False,) * 2,
            scores={n: s[:2] for n, s in r.scores.items()},
        )
        for r in make_dataset(8).rows
    )
    rows = tuple(r for r in rows if r.scores["good"][0] != r.scores["good"][1])
    data = ScoredDataset(NAMES, rows)
    lab = Lab(
        lab.lm, lab.folder, replace(lab.training, steps=len(rows))
    )  # all pairs are drawn, as all lists are
    inputs = Inputs(lab, data, data, [Preference.one_hot("good", NAMES)])
    policy = knowpat.train(inputs, KnowPATConfig(form="plackett-luce", beta=0.5, sft=0.0))
    dpo = inputs.corner("good", DPOConfig(beta=0.5))
    table = lab.pair_table(lab.pairs(data, "good", "extremes"), "good")
    ours, theirs = (lab.implicit_gap(table, adapter, 1.0) for adapter in (policy.adapters[0], dpo))
    assert float(theirs.abs().max()) > 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_front_of_two_rankings(lab: Lab) -> None:
    """Each one-hot adapter makes the best responses of its own objective likelier than the other's adapter does."""
    data, longer = (
        make_dataset(),
        Lab(lab.lm, lab.folder, replace(lab.training, steps=12, learning_rate=2e-2)),
    )
    corners = [Preference.one_hot(name, NAMES) for name in NAMES]
    policy = knowpat.train(Inputs(longer, data, data, corners), KnowPATConfig(form="plackett-luce", sft=0.0))
    gaps = torch.zeros(2, 2)
    for i, name in enumerate(NAMES):
        table = longer.pair_table(longer.pairs(data, name, "extremes"), name)
        for j, adapter in enumerate(policy.adapters):
            gaps[i, j] = longer.implicit_gap(table, adapter, 1.0).mean()
            loss = pair_loss(longer.implicit_gap(table, adapter, 1.0), 0.1).mean()
            assert i != j or float(loss) < np.log(2)
    assert gaps[0, 0] > gaps[0, 1] and gaps[1, 1] > gaps[1, 0]


def test_an_objective_that_ranks_nothing_is_refused(lab: Lab) -> None:
    rows = tuple(replace(r, scores={"short": r.scores["short"]}) for r in make_dataset(4).rows)
    data = ScoredDataset(NAMES, rows)
    with pytest.raises(TrainingError, match="KnowPAT: 'good' ranks none of 4 lists"):
        knowpat.train(Inputs(lab, data, data, [Preference.uniform(NAMES)]), KnowPATConfig())
    for settings, words in (({"align": 0}, "align must be above 0"), ({"sft": -1}, "sft must be at least 0")):
        with pytest.raises(ConfigError, match=words):
            KnowPATConfig(**settings)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_names_its_lists(lab: Lab, tmp_path: Path) -> None:
    table = list_table(lab, make_dataset(2), reference=True)
    wrong = replace(table, reference=tuple(column * torch.nan for column in table.reference))
    trial = task(lab, wrong, tmp_path, ListLoss("plackett-luce"))
    try:
        with (
            pytest.raises(TrainingError, match="the loss is not finite at step 1, on made:"),
            trial.batch(0, 0, {}),
        ):
            pass
    finally:
        trial.learner.steering.detach()
