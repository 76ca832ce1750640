"""mDPO's two text terms: worked numbers, the released loss, the one forward against separate ones, and what they change."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from paretune.core.errors import ConfigError
from paretune.methods import panacea
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.panacea import PanaceaConfig, contrast_groups, objective_data, with_contrast
from paretune.models.language_model import LanguageModel
from paretune.models.packing import pack, packed_logps
from paretune.planning.lengths import Texts
from paretune.training.conditioned import ConditionedTask
from paretune.training.conditioning import Conditioning, without
from paretune.training.lab import Lab
from paretune.training.learner import conditioned_adapter, one_adapter
from paretune.training.losses import anchor_loss, contrast_loss, log_ratio_gap, pair_loss
from paretune.training.preference_pairs import PairLoss, PairTask
from support.adapters import TRAINING, adapters_equal, training_run
from support.world import make_dataset

NAMES = ("short", "good")


# The terms


def test_worked_terms() -> None:
    """beta 0.5: chosen is 2 nats likelier than under the reference, and 4 nats likelier under the right preference."""
    assert float(anchor_loss(torch.tensor([-3.0]), torch.tensor([-5.0]), 0.5)) == pytest.approx(
        math.log1p(math.exp(-1))
    )
    assert float(anchor_loss(torch.tensor([-5.0]), torch.tensor([-5.0]), 0.5)) == pytest.approx(math.log(2))
    assert float(contrast_loss(torch.tensor([-3.0]), torch.tensor([-7.0]), 0.5)) == pytest.approx(
        math.log1p(math.exp(-2))
    )


def test_the_released_loss() -> None:
    """-log s(b h_text) - log s(b h_condition) - log s(b h_anchor), where the reference reads no condition."""
    policy, reference = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    damaged = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    conditional = (policy[:, 0] - damaged) - (reference[:, 0] - reference[:, 0])
    released = sum(
        -F.logsigmoid(0.1 * gap)
        for gap in (
            (policy[:, 0] - policy[:, 1]) - (reference[:, 0] - reference[:, 1]),
            conditional,
            policy[:, 0] - reference[:, 0],
        )
    )
    ours = pair_loss(log_ratio_gap(policy, reference), 0.1)
    ours = ours + contrast_loss(policy[:, 0], damaged, 0.1) + anchor_loss(policy[:, 0], reference[:, 0], 0.1)
    torch.testing.assert_close(ours, released)


def test_a_preference_without_one_objective() -> None:
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.4, 0.6, 0.0]])
    assert without(weights, [0, 1, 2]).tolist() == [
        pytest.approx([0, 0.375, 0.625]),
        pytest.approx([0.5, 0, 0.5]),
        pytest.approx([0.4, 0.6, 0]),
    ]
    assert without(weights[:0], []).shape == (0, 3)


# The anchor term


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=12, learning_rate=1e-2))


@pytest.fixture(scope="module")
def inputs(lab: Lab) -> Inputs:
    return Inputs(lab, make_dataset(), make_dataset(4, seed=9))


def test_the_loss_of_a_pair_has_the_anchor_of_chosen(lab: Lab, tmp_path: Path) -> None:
    table = lab.pair_table(lab.pairs(make_dataset(), "good", "extremes"), "good")
    base = lab.logps(table)
    table = replace(table, reference=base + torch.tensor([1.5, -0.5]))
    run, rows = training_run(lab.lm, lab.training, tmp_path), [0, 1, 2]
    trial = PairTask(run, one_adapter(run), table, None, PairLoss(0.5, anchor=0.7))
    try:
        with trial.learner.steering.at(trial.gate):
            losses, *_ = trial.losses(table, rows)
    finally:
        trial.learner.steering.detach()
    expected = math.log1p(math.exp(0.5 * 2.0)) + 0.7 * math.log1p(math.exp(0.5 * 1.5))
    assert losses.tolist() == pytest.approx([expected] * 3, rel=1e-4)


def test_the_anchor_raises_the_chosen_responses(inputs: Inputs) -> None:
    lab = inputs.lab
    table = lab.pair_table(lab.pairs(inputs.train, "short", "extremes"), "short")
    plain, again, anchored = (
        inputs.corner("short", config)
        for config in (DPOConfig(0.5), DPOConfig(0.5, anchor=0), DPOConfig(0.5, anchor=3))
    )
    assert adapters_equal(plain, again)
    rise = [float((lab.logps(table, model) - table.reference)[:, 0].mean()) for model in (plain, anchored)]
    assert rise[1] > max(0.0, rise[0])


# The contrast of preferences


def conditioned(lab: Lab, config: PanaceaConfig, folder: Path) -> ConditionedTask:
    """A task whose adapter is random, so that preferences matter."""
    data = objective_data(lab, make_dataset(), config, lab.pair_table)
    run = training_run(lab.lm, lab.training, folder)
    learner = conditioned_adapter(run, 2, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (
            *dict(learner.steering.named_parameters()).values(),
            *learner.singular.named_parameters().values(),
        ):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return ConditionedTask(run, learner, data, None, 0.5)


@pytest.mark.parametrize("loss", ["dpo", "sft"])
def test_the_one_forward_reads_chosen_under_both_preferences(lab: Lab, tmp_path: Path, loss: str) -> None:
    """Against separate forwards at w and at w without the objective; an objective without weight is not contrasted."""
    task = conditioned(lab, PanaceaConfig(rank=2, contrast=0.4, loss=loss), tmp_path)  # type: ignore[arg-type]
    weights, rows = torch.tensor([[0.3, 0.7], [1.0, 0.0]]), [[0, 3], [2, 5]]
    wanted = torch.ones(2, 2).bool()
    try:
        with task._losses(task.train, rows, weights, wanted) as (losses, _, tokens), torch.no_grad():
            found = losses.detach().clone()
        plain = replace(task.conditioning, contrast=0.0)
        task.conditioning = plain
        with task._losses(task.train, rows, weights, wanted) as (losses, _, fewer):
            without_it = losses.detach().clone()

        def nats(j: int, t: int, w: torch.Tensor) -> torch.Tensor:
            table, row = task.train.pair_tables[t], rows[t][j]
            batch = pack([(table.prompts[row], [table.chosen[row]])], lab.lm.device)
            with (
                task.learner.steering.at(task.learner.gates(w[None]), index=torch.zeros_like(batch.groups)),
                torch.no_grad(),
            ):
                return packed_logps(lab.lm.model, batch)

        expected = torch.zeros(2, 2)
        for j, t in ((0, 0), (0, 1), (1, 0)):
            right, wrong = nats(j, t, weights[j]), nats(j, t, without(weights[j : j + 1], [t])[0])
            assert abs(float(right - wrong)) > 1e-3
            expected[j, t] = 0.4 * float(contrast_loss(right, wrong, 0.5))
    finally:
        task.learner.steering.detach()
    torch.testing.assert_close(found - without_it, expected, rtol=1e-3, atol=1e-4)
    tables = task.train.pair_tables
    again = [(tables[t], rows[t][j]) for j, t in ((0, 0), (0, 1), (1, 0))]
    assert tokens - fewer == sum(len(table.prompts[row]) + len(table.chosen[row]) for table, row in again)


@pytest.mark.parametrize(
    ("loss", "data", "term"),
    [
        *(("dpo", "separate", term) for term in ("", "nll", "anchor", "contrast")),
        *(("dpo", "labelled", term) for term in ("", "nll", "anchor")),
        *(("sft", "separate", term) for term in ("", "contrast")),
    ],
)
def test_the_weight_of_a_pair_multiplies_every_term(
    lab: Lab, tmp_path: Path, loss: str, data: str, term: str
) -> None:
    config = PanaceaConfig(rank=2, data=data, loss=loss, **({term: 0.5} if term else {}))  # type: ignore[arg-type]
    task = conditioned(lab, config, tmp_path)
    rows = [[0, 3]] * len(task.train.tables)
    found = []
    try:
        for weight in (1.0, 3.0):
            tables = [
                table.stamp(weight=torch.full([len(table)], weight)) for table in task.train.pair_tables
            ]
            stamped = replace(task.train, tables=tuple(tables))
            preferences, wanted = torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.ones(2, 2).bool()
            with task._losses(stamped, rows, preferences, wanted) as (losses, present, _):
                found.append((losses * present).detach().clone())
    finally:
        task.learner.steering.detach()
    assert (found[0] != 0).any()
    torch.testing.assert_close(found[1], 3 * found[0])


@pytest.mark.slow
def test_the_contrast_makes_the_policy_heed_the_preference(inputs: Inputs, tmp_path: Path) -> None:
    """The chosen response of an objective is further ahead under its own corner than under the other one."""
    ahead = {}
    for contrast in (0.0, 5.0):
        lab = Lab(inputs.lab.lm, tmp_path / str(contrast), replace(inputs.lab.training, steps=30))
        config = PanaceaConfig(
            rank=4, rate_factor=1.0, gate_rate_factor=5.0, draw="corners", contrast=contrast
        )
        policy = panacea.train(replace(inputs, lab=lab), config)
        total = 0.0
        for i, name in enumerate(NAMES):
            table = lab.pair_table(lab.pairs(inputs.train, name, "extremes"), name)
            groups = [(prompt, [chosen]) for prompt, chosen in zip(table.prompts, table.chosen, strict=True)]
            own, other = (
                torch.cat(policy.logps(groups, [panacea.Preference.one_hot(NAMES[k], NAMES)] * len(groups)))
                for k in (i, 1 - i)
            )
            total += float((own - other).mean())
        ahead[contrast] = total
    assert ahead[5.0] > ahead[0.0] + 0.1


@pytest.mark.parametrize("data", ["separate", "labelled"])
@pytest.mark.parametrize(
    ("terms", "weights"), [("anchor", (1.0, 0.0)), ("nll", (0.0, 2.0)), ("both", (1.0, 2.0))]
)
def test_the_terms_of_a_conditioned_adapter_are_those_of_the_preferred_response(
    lab: Lab, tmp_path: Path, data: Literal["separate", "labelled"], terms: str, weights: tuple[float, float]
) -> None:
    anchor, nll = weights
    task = conditioned(lab, PanaceaConfig(rank=2, anchor=anchor, nll=nll, data=data), tmp_path)
    task.learner.steering.detach()
    logps, reference, lengths = (torch.tensor([pair]) for pair in ([-2.0, -6.0], [-3.0, -4.0], [4.0, 3.0]))
    signs = None if data == "separate" else torch.tensor([[False, True]])
    for beta in (0.5, torch.tensor([0.5])):
        zeros, weight = torch.zeros(1, 1 if signs is None else 2), torch.tensor([2.0])
        made = task._beside(zeros, logps, reference, lengths, beta, weight, signs)
        first = anchor * math.log1p(math.exp(-0.5)) + nll * 2 / 4
        second = anchor * math.log1p(math.exp(1.0)) + nll * 6 / 3
        assert (made / 2).tolist() == [pytest.approx([first] if signs is None else [first, second])]


def test_imitation_beside_dpo_raises_the_chosen_responses_of_a_conditioned_adapter(inputs: Inputs) -> None:
    lab = inputs.lab
    table = lab.pair_table(lab.pairs(inputs.train, NAMES[0], "extremes"), NAMES[0])
    chosen = [(prompt, [text]) for prompt, text in zip(table.prompts, table.chosen, strict=True)]
    at = [panacea.Preference.one_hot(NAMES[0], NAMES)] * len(chosen)
    nats = []
    for nll in (0.0, 3.0):
        policy = panacea.train(inputs, PanaceaConfig(rank=2, nll=nll))
        nats.append(float(torch.cat(policy.logps(chosen, at)).mean()))
    assert nats[1] > nats[0] + 0.05


def test_the_plan_counts_what_is_read_again() -> None:
    training = replace(TRAINING, batch_pairs=4)
    assert contrast_groups(PanaceaConfig(contrast=1.0), training, 2) == 8, (
        "a uniform draw gives both objectives weight"
    )
    corners = contrast_groups(PanaceaConfig(contrast=1.0, draw="corners", corner_share=1.0), training, 3)
    assert corners == 4
    pairs = Texts(10, 20.0, 6.0, 2.0, spread=4.0)
    both = with_contrast(pairs, 1.0)
    assert both.count == 10 and both.tokens == pytest.approx(pairs.tokens + 20 + 6)


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"anchor": 1.0, "loss": "sft"}, "anchor with loss: sft"),
        ({"nll": 1.0, "loss": "sft"}, "nll with loss: sft: the loss is imitation already"),
        ({"nll": 1.0, "loss": "policy-gradient"}, "nll with loss: policy-gradient: scored"),
        ({"nll": -1.0}, "nll must be at least 0"),
        (
            {"contrast": 1.0, "loss": "policy-gradient"},
            "contrast with loss: policy-gradient: scored",
        ),
        ({"contrast": 1.0, "data": "labelled"}, "contrast with data: labelled"),
        ({"contrast": -1.0}, "contrast must be at least 0"),
        ({"anchor": -1.0}, "anchor must be at least 0"),
    ],
)
def test_terms_that_would_not_do_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PanaceaConfig(**settings)


def test_one_objective_has_no_wrong_preference() -> None:
    with pytest.raises(
        ConfigError, match="contrast: the run has the objective 'good' alone, so no preference is wrong"
    ):
        panacea.check(PanaceaConfig(contrast=1.0), ("good",), [])
    panacea.check(PanaceaConfig(contrast=1.0), NAMES, [])
    panacea.check(PanaceaConfig(), ("good",), [])


def test_settings_without_the_terms_keep_their_identity() -> None:
    from paretune.core.settings import as_values

    assert not {"anchor", "contrast", "nll"} & set(as_values(Conditioning()))
    assert as_values(Conditioning(contrast=0.5))["contrast"] == 0.5
