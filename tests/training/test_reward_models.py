"""Reward models: the loss by hand, laws, what is learned, what is told of it, and a fit that is killed and goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.core.errors import DataError, ModelError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.data.rows import Message, Row
from paretune.models.language_model import LanguageModel
from paretune.models.packing import ends, pack, packed_states
from paretune.models.reward_heads import RewardModel, log_lengths, states
from paretune.scoring.agreement import agreement, calibration_error
from paretune.scoring.scorer import build_scorer, score_dataset
from paretune.training.loop import Training
from paretune.training.reward_fit import Measured, fit_reward_model, report_of
from paretune.training.reward_models import LabelledTable, labelled_table, pair_losses
from paretune.training.token_tables import Limit
from support.kills import killed
from support.world import make_dataset

QUICK = Training(
    steps=60, batch_pairs=8, learning_rate=5e-3, rank=4, alpha=8, warmup_ratio=0.0, validate_every=20
)


@pytest.fixture(scope="module")
def data() -> ScoredDataset:
    """Rows whose labels a reward can learn: one objective wants few words, the other the word good."""
    return make_dataset(90, 3, seed=3)


@pytest.fixture(scope="module")
def fitted(
    lm: LanguageModel, data: ScoredDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("reward") / "model"
    return folder, fit_reward_model(lm, data, folder, QUICK)


# The loss


def test_the_loss_by_hand() -> None:
    rewards = torch.tensor([[[1.0, 0.0], [0.2, 3.0]], [[0.5, 0.0], [0.5, 1.0]]])  # [N, 2, M]
    labels = torch.tensor([[1.0, -1.0], [0.0, math.nan]])
    found = pair_losses(rewards, labels, torch.tensor([0.3, 9.0]))
    # d = 0.8 - 0.3 for a chosen first; -3 + 0.3 for a chosen second; a tie at d = 0 costs log 2 whatever the margin.
    assert found[0, 0].item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-5)
    assert found[0, 1].item() == pytest.approx(math.log1p(math.exp(-2.7)), rel=1e-5)
    assert found[1, 0].item() == pytest.approx(math.log(2))
    assert found[1, 1].item() == 0


def test_the_loss_does_not_know_which_response_comes_first() -> None:
    random = torch.Generator().manual_seed(0)
    rewards = torch.randn(20, 2, 3, generator=random)
    labels = torch.rand(20, 3, generator=random) * 2 - 1
    margins = torch.rand(20, generator=random)
    swapped = pair_losses(rewards.flip(1), -labels, margins)
    torch.testing.assert_close(pair_losses(rewards, labels, margins), swapped)


def test_a_whole_label_is_that_of_trl() -> None:
    """-log sigmoid(chosen - rejected - margin), as in Llama 2's report and TRL's RewardTrainer."""
    random = torch.Generator().manual_seed(1)
    rewards, margins = torch.randn(30, 2, 1, generator=random), torch.rand(30, generator=random)
    expected = -torch.nn.functional.logsigmoid(rewards[:, 0, 0] - rewards[:, 1, 0] - margins)
    torch.testing.assert_close(pair_losses(rewards, torch.ones(30, 1), margins)[:, 0], expected)


def test_a_tie_is_cheapest_at_equal_rewards_and_a_strength_at_its_log_odds() -> None:
    gaps = torch.linspace(-3, 3, 241)
    rewards = torch.stack([gaps, torch.zeros_like(gaps)], dim=1)[:, :, None]
    for label in (0.0, 0.5, -0.8):
        losses = pair_losses(rewards, torch.full((241, 1), label), torch.zeros(241))[:, 0]
        best = float(gaps[losses.argmin()])
        assert best == pytest.approx(math.log((1 + label) / (1 - label)), abs=0.03)


# The states


def test_a_state_is_that_of_the_last_token_and_knows_no_sibling(lm: LanguageModel) -> None:
    groups = [((3, 7, 9), ((8, 10, 2), (11,))), ((4, 6), ((12, 9),))]
    batch = pack(groups)
    read = packed_states(lm.model, batch)
    torch.testing.assert_close(states(lm, groups), read[ends(batch)])
    assert batch.input_ids[0, ends(batch)].tolist() == [2, 11, 9]
    for prompt, responses in groups:
        for response in responses:
            alone = states(lm, [(prompt, (response,))])
            where = [r for p, rs in groups for r in rs].index(response)
            torch.testing.assert_close(alone[0], states(lm, groups)[where], atol=1e-5, rtol=1e-5)
    assert log_lengths(groups).tolist() == pytest.approx([math.log(3), 0.0, math.log(2)])


# What is learned and told


@pytest.mark.slow
def test_both_objectives_are_learned_on_one_trunk(fitted: tuple[Path, list]) -> None:
    _, reports = fitted
    assert [report.objective for report in reports] == ["short", "good"]
    for report in reports:
        assert report.accuracy > 0.8 and report.low > 0.5, report
        assert report.low <= report.accuracy <= report.high
        assert report.log_loss < math.log(2)
    short = reports[0]
    assert short.longer_accuracy < 0.2 and short.slope < 0, "shorter is better there"
    assert short.without_length < short.accuracy - 0.1, "its whole preference is length"


@pytest.mark.slow
def test_the_scorer_gives_the_rewards_and_takes_length_out(
    fitted: tuple[Path, list], data: ScoredDataset, lm: LanguageModel
) -> None:
    folder, reports = fitted
    model = RewardModel.load(folder)
    prompts = [row.prompt for row in data.rows[:6] for _ in row.responses]
    texts = [text for row in data.rows[:6] for text in row.responses]
    cut = [False] * len(texts)
    scorer = build_scorer({"objective": "good", "reward": str(folder), "dtype": "float32", "device": "cpu"})
    found = scorer(prompts, texts, cut)
    from paretune.generation.generate import attached

    groups = [
        (lm.encode_prompt(p), [lm.encode_response(t, False)]) for p, t in zip(prompts, texts, strict=True)
    ]
    with torch.no_grad(), attached(lm, model.adapter) as steering, steering.at(model.adapter.gates()):
        own = torch.cat([states(lm, [group]) for group in groups]) @ model.heads[1]
    assert found == pytest.approx(own.tolist(), abs=1e-4)
    without = build_scorer(
        {
            "objective": "x",
            "reward": str(folder),
            "name": "good",
            "length": "removed",
            "dtype": "float32",
            "device": "cpu",
        }
    )
    lengths = np.log([len(lm.encode_response(text, False)) for text in texts])
    assert without(prompts, texts, cut) == pytest.approx(found - reports[1].slope * lengths, abs=1e-4)
    assert not scorer.across_prompts and scorer.fingerprint != without.fingerprint
    bare = tuple(Row(row.prompt, row.responses) for row in data.rows[:4])
    scored = score_dataset(ScoredDataset((), bare), [scorer])
    assert "good" in scored.rows[0].scores


def test_a_text_that_was_cut_is_another_text(fitted: tuple[Path, list]) -> None:
    folder, _ = fitted
    scorer = build_scorer({"objective": "good", "reward": str(folder), "dtype": "float32", "device": "cpu"})
    prompt = (Message("user", "red sun"),)
    whole, cut = scorer([prompt, prompt], ["good moon", "good moon"], [False, True])
    assert whole != cut


def test_calibration_and_agreement() -> None:
    assert agreement(np.array([1.0, -1.0, 0.0])) == 0.5
    random = np.random.default_rng(0)
    gaps = random.normal(0, 2, 20_000)
    right = random.random(len(gaps)) < 1 / (1 + np.exp(-np.abs(gaps)))
    honest = np.where(right, np.abs(gaps), -np.abs(gaps))
    assert calibration_error(honest) < 0.02, "a model that is as sure as it is right"
    assert calibration_error(honest * 5) > 0.1, "one that is too sure"


def test_a_report_of_known_rewards() -> None:
    labels = torch.tensor([[1.0], [-1.0], [0.0], [1.0]])
    table = LabelledTable((), labels, torch.ones(4), torch.zeros(4), ("p", "p", "q", "r"))
    rewards = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [0.0, 1.0]])[:, :, None]
    logs = np.log(np.array([[2.0, 1.0], [1.0, 4.0], [1.0, 1.0], [1.0, 2.0]]))
    part = Measured(table, rewards, logs)
    report = report_of("m", 0, part, part)
    assert report.accuracy == pytest.approx(2 / 3) and report.test_pairs == 3 and report.test_prompts == 2
    assert report.longer_accuracy == pytest.approx(2 / 3)
    gaps, lengths = np.array([1.0, 3.0, -1.0]), np.log([2.0, 4.0, 0.5])
    assert report.slope == pytest.approx(float((gaps * lengths).sum() / (lengths**2).sum()))
    assert report.accuracy_shorter == 0.0 and report.accuracy_longer == 1.0


def test_rows_of_one_prompt_count_as_one_prompt(lm: LanguageModel) -> None:
    """Their pairs share the prompt's difficulty, so that two rows are no two independent cases of the interval."""
    rows = [
        Row((Message("user", text),), ("good", "bad"), {}, {"kind": ((0, 1, 1.0),)})
        for text in ("red", "Red ", "blue")
    ]
    table, _ = labelled_table(
        Limit(lm, 64), labelled_pairs(ScoredDataset(("kind",), tuple(rows))), margins=False
    )
    assert table.prompts[0] == table.prompts[1] != table.prompts[2]
    rewards = np.tile([[[1.0], [0.0]]], (3, 1, 1))
    part = Measured(table, rewards, np.zeros((3, 2)))
    assert report_of("kind", 0, part, part).test_prompts == 2


def test_labels_of_people_ties_margins_and_weights_are_read(lm: LanguageModel) -> None:
    prompt = (Message("user", "red"),)
    labels = {"kind": ((0, 1, 0.5), (1, 2, 0.0))}
    row = Row(prompt, ("good", "bad", "sun"), {}, labels, weight=2.0, margin=0.7)
    chosen = labelled_pairs(ScoredDataset(("kind",), (row,)))
    table, left = labelled_table(Limit(lm, 64), chosen, margins=True)
    assert left == 0 and table.labels[:, 0].tolist() == [0.5, 0.0]
    assert table.weights.tolist() == [2.0, 2.0] and table.margins.tolist() == pytest.approx([0.7, 0.7])
    without, _ = labelled_table(Limit(lm, 64), chosen, margins=False)
    assert without.margins.tolist() == [0.0, 0.0]


def test_few_pairs_of_training_are_measured_and_it_is_said(
    lm: LanguageModel, data: ScoredDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, _ = labelled_table(Limit(lm, 64), labelled_pairs(data), margins=False)
    part = table.spread(20)
    rows = [n * len(table) // 20 for n in range(20)]
    assert len(set(rows)) == 20 and part.groups_of == tuple(table.groups(rows))
    torch.testing.assert_close(part.labels, table.labels[rows], equal_nan=True)
    assert part.prompts == tuple(table.prompts[n] for n in rows)
    assert table.spread(len(table)).fingerprint == table.fingerprint == table.spread(10**6).fingerprint
    monkeypatch.setattr("paretune.training.reward_fit.MOST_TRAIN_PAIRS", 20)
    said: list[str] = []
    reports = fit_reward_model(lm, data, tmp_path / "m", replace(QUICK, steps=2), say=said.append)
    assert [line for line in said if "is measured on 20 of" in line]
    assert all(report.train_pairs <= 20 < report.test_pairs for report in reports)


@pytest.mark.slow
def test_a_killed_fit_goes_on_to_the_same_numbers(
    lm: LanguageModel, data: ScoredDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    training = replace(QUICK, steps=12, checkpoint_every=5, validate_every=6)
    fit_reward_model(lm, data, tmp_path / "whole", training)
    assert killed(8, lambda: fit_reward_model(lm, data, tmp_path / "killed", training)) == -9
    assert not (tmp_path / "killed").exists() and list((tmp_path / "cache/rewards").iterdir())
    fit_reward_model(lm, data, tmp_path / "killed", training)
    assert (
        RewardModel.load(tmp_path / "killed").fingerprint == RewardModel.load(tmp_path / "whole").fingerprint
    )
    assert not list((tmp_path / "cache/rewards").iterdir())


# What is refused


def test_too_few_pairs_and_test_prompts_in_the_data_are_refused(
    lm: LanguageModel, data: ScoredDataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"'short'.*expected at least 10 in each part"):
        fit_reward_model(lm, make_dataset(12, 2), tmp_path / "m", QUICK)
    with pytest.raises(DataError, match="is in the training data too"):
        fit_reward_model(lm, data, tmp_path / "m", QUICK, test=ScoredDataset(data.objectives, data.rows[:3]))


def test_a_folder_of_somebody_and_a_damaged_model_are_one_message(
    lm: LanguageModel, data: ScoredDataset, fitted: tuple[Path, list], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept")
    with pytest.raises(ModelError, match="would be lost"):
        fit_reward_model(lm, data, tmp_path / "mine", QUICK)
    folder, _ = fitted
    with pytest.raises(ModelError, match=r"no objective 'kind'; it has short, good"):
        build_scorer({"objective": "kind", "reward": str(folder)})
    whole = json.loads((folder / "reward.json").read_text())
    copy = tmp_path / "copy"
    RewardModel.load(folder).save(copy)
    for damaged, told in (
        ({**whole, "format": 9}, "format 9"),
        ({**whole, "slopes": [1.0]}, "slopes"),
        ({**whole, "fingerprint": "x"}, "not those that were saved"),
    ):
        (copy / "reward.json").write_text(json.dumps(damaged))
        with pytest.raises(ModelError, match=told):
            RewardModel.load(copy)
    with pytest.raises(ModelError, match="expected the folder of a reward model"):
        RewardModel.load(tmp_path / "nothing")
