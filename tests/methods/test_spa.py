"""SPA: labels by implicit rewards, agreement with people, what stops it, what is left out, and what a round trains on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from paretune.core.errors import ConfigError
from paretune.core.files import read_json
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.methods import spa
from paretune.methods.base import Inputs
from paretune.methods.spa import SPAConfig, agreement, labelled, own_labels, sampled_rows, usable
from paretune.models.language_model import LanguageModel
from paretune.training.lab import Lab
from paretune.training.token_tables import PairTable
from support.adapters import TRAINING, adapters_equal
from support.world import make_dataset

NAMES = ("short", "good")
PROMPT = (Message("user", "sun moon"),)
SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, batch_size=8)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of words: a random model seldom ends its turn."""

    def drawn(inputs: Inputs, config: SPAConfig, number: int, prompts: list, policies: list) -> list:
        rows = make_dataset(len(prompts), config.responses, seed=number).rows
        return [[(text, False) for text in row.responses] for row in rows]

    monkeypatch.setattr(spa, "draw", drawn)


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=4, learning_rate=1e-2))


@pytest.fixture(scope="module")
def inputs(lab: Lab) -> Inputs:
    return Inputs(lab, make_dataset(), make_dataset(6, seed=9), sampling=SAMPLING)


def test_every_objective_labels_the_same_samples() -> None:
    """Rewards of three samples: objective 0 has them 2 > 0 > 1, objective 1 the other way round."""
    reward = torch.tensor([[1.0, -1.0, 2.0], [0.5, 3.0, 0.0]])
    first = labelled(4, PROMPT, ["a", "b", "c"], reward, 0, "short")
    assert (first.chosen, first.rejected, first.row, first.objective) == ("c", "b", 4, "short")
    assert first.gaps == (3.0, -3.0) and first.labels == (1.0, -1.0)
    second = labelled(4, PROMPT, ["a", "b", "c"], reward, 1, "good")
    assert (second.chosen, second.rejected, second.gaps) == ("b", "c", (-3.0, 3.0))


def test_agreement_with_people(lab: Lab, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    table = lab.pair_table(lab.pairs(inputs.validation, "good", "extremes"), "good")
    gaps = torch.tensor([1.0, -2.0, 0.0, 3.0])
    monkeypatch.setattr(Lab, "implicit_gap", lambda *_: gaps)
    assert agreement(lab, table, None, 0.1) == pytest.approx((1 + 0 + 0.5 + 1) / 4)  # type: ignore[arg-type]


def test_a_round_takes_the_next_prompts() -> None:
    assert sampled_rows(5, 0, 3) == sampled_rows(5, 9, 1) == [0, 1, 2, 3, 4]
    assert [sampled_rows(5, 2, n) for n in (1, 2, 3)] == [[0, 1], [2, 3], [0, 4]]


def test_samples_are_drawn_once_and_kept(lab: Lab, inputs: Inputs) -> None:
    """All samples of a prompt at one preference and from different seeds; the next round's are others."""
    corners, prompts = inputs.corners(SPAConfig().single), [row.prompt for row in inputs.train.rows]
    first = spa.draw(inputs, SPAConfig(), 1, prompts, corners)
    assert [len(part) for part in first] == [2] * 12 and len({text for part in first for text, _ in part}) > 6
    assert spa.draw(inputs, SPAConfig(), 2, prompts, corners) != first
    before = len(lab.stages)
    assert spa.draw(inputs, SPAConfig(), 1, prompts, corners) == first
    assert [stage.reused for stage in lab.stages[before:]] == [True]


def test_texts_that_would_not_do_are_counted(lab: Lab) -> None:
    counts: Counter[str] = Counter()
    drawn = [
        ("red", False),
        ("red", False),
        (" ", False),
        ("blue sun", True),
        ("moon " * 80, False),
        ("good", False),
    ]
    kept = usable(lab, PROMPT, drawn, counts)
    assert list(kept) == ["red", "good"] and kept["red"] == tuple(lab.lm.encode_response("red"))
    assert counts == {"repeated": 1, "empty": 1, "cut or too long": 2}


@pytest.mark.usefixtures("scripted")
def test_labels_are_those_of_the_implicit_rewards(lab: Lab, inputs: Inputs) -> None:
    """Against a table of the same pairs: chosen is ahead by the gap that the pair holds, under its own objective's policy."""
    config = SPAConfig(responses=3)
    policies = dict(zip(NAMES, inputs.corners(config.single), strict=True))
    made = own_labels(inputs, config, 1, policies)
    for i, (name, policy) in enumerate(policies.items()):
        pairs = made[name]
        assert pairs
        table = lab.pair_table(pairs, name)
        gap = lab.implicit_gap(table, policy, config.beta)
        assert bool((gap > 0).all()) and gap.tolist() == pytest.approx(
            [p.gaps[i] for p in pairs], rel=1e-3, abs=1e-5
        )
    (written,) = (lab.folder / "spa").glob("*labels*.json")
    assert [one["row"] for one in read_json(written)["good"]] == [pair.row for pair in made["good"]]


@pytest.mark.usefixtures("scripted")
def test_a_round_goes_on_from_the_policy_before_and_refers_to_it(
    lab: Lab, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[PairTable, PairTable, object, object]] = []
    fit = Lab.fit_pairs

    def noted(self: Lab, name: str, table: PairTable, held_out: PairTable, *rest: object) -> object:
        if name.startswith("spa"):
            seen.append((table, held_out, rest[0], rest[2]))
        return fit(self, name, table, held_out, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Lab, "fit_pairs", noted)
    config = SPAConfig(rounds=1, tolerance=1.0, steps=2, rate=0.5)
    policy = spa.train(inputs, config)
    corners = inputs.corners(config.single)
    for (table, held_out, loss, start), corner in zip(seen, corners, strict=True):
        assert adapters_equal(start, corner) and loss == config.round_loss
        for part in (table, held_out):
            assert torch.equal(part.reference, lab.logps(part, corner))
    assert [adapter.info["round"] for adapter in policy.adapters] == [1, 1]
    assert policy.adapters[0].info["stages"] == ["adapters/dpo-short", "adapters/spa-1-short"]


@pytest.mark.usefixtures("scripted")
def test_a_round_that_people_do_not_bear_out_is_taken_back(
    lab: Lab, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two objectives one falls in round 1 and the other in round 2; a third round is not begun."""
    answers = iter(
        [0.8, 0.7, 0.75, 0.7, 0.6]
    )  # before: 0.8 and 0.7; round 1: 0.75 (falls), 0.7 (keeps); round 2: 0.6 (falls)
    monkeypatch.setattr(spa, "agreement", lambda *_: next(answers))
    policy = spa.train(inputs, SPAConfig(rounds=3, steps=1))
    assert [adapter.info["method"] for adapter in policy.adapters] == ["dpo", "spa"]
    assert policy.adapters[1].info["round"] == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "after 0.800 before; the round is taken back, and this objective is done" in said
    assert "6 held-out pairs of 'short' decide when to stop, too few" in said


@pytest.mark.usefixtures("scripted")
def test_a_fall_within_the_tolerance_is_borne(
    lab: Lab, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.8, 0.7, 0.75, 0.66])
    monkeypatch.setattr(spa, "agreement", lambda *_: next(answers))
    policy = spa.train(inputs, SPAConfig(rounds=1, steps=1, tolerance=0.06))
    assert [adapter.info["method"] for adapter in policy.adapters] == ["spa", "spa"]


def test_samples_that_cannot_be_labelled_leave_the_policies(
    lab: Lab, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        spa, "draw", lambda inputs, config, number, prompts, policies: [[("red", False)] * 2 for _ in prompts]
    )
    policy = spa.train(inputs, SPAConfig(steps=1))
    assert [adapter.info["method"] for adapter in policy.adapters] == ["dpo", "dpo"]
    said = " ".join(capsys.readouterr().err.split())
    assert "0 of 12 prompts have two different samples (left out: 12 repeated)" in said
    assert "no sample can be labelled for 'good', which stays as it is" in said


def test_without_smoothing_the_loss_is_plain() -> None:
    assert SPAConfig(smooth=0.0).round_loss.smoothing is None
    assert SPAConfig(smooth=0.2, window=7).round_loss.smoothing == spa.Smoothing(0.2, 0.1, 7)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"responses": 1}, "responses must be at least 2"),
        ({"rounds": 0}, "rounds must be"),
        ({"tolerance": 2}, "tolerance"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SPAConfig(**settings)
