"""Supervised fine-tuning: the loss against transformers' own, going on from an adapter, stages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import TrainingError
from paretune.data.pairs import pairs
from paretune.generation.generate import attached
from paretune.models.language_model import LanguageModel
from paretune.training.demonstrations import Demonstration, DemonstrationTask, tokenise_demonstrations
from paretune.training.lab import Lab
from paretune.training.learner import one_adapter
from paretune.training.losses import nll_loss
from paretune.training.preference_pairs import PairLoss, PairTask
from support.adapters import TRAINING, adapters_equal, training_run
from support.world import make_dataset


def demonstrations(count: int = 6) -> list[Demonstration]:
    """Return the first responses of made data; the second one was cut."""
    return [
        Demonstration(row.prompt, row.responses[0], number == 1, row.source)
        for number, row in enumerate(make_dataset(count).rows)
    ]


def test_loss_is_transformers_loss_on_response_tokens(lm: LanguageModel) -> None:
    table, dropped = tokenise_demonstrations(lm, demonstrations(), 64)
    assert dropped == 0
    assert [ids[-1] == lm.turn_end for ids in table.responses] == [True, False, True, True, True, True]
    total, targets = 0.0, 0
    for prompt, response in zip(table.prompts, table.responses, strict=True):
        ids = torch.tensor([prompt + response])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            total += float(lm.model(input_ids=ids, labels=labels).loss) * len(response)
        targets += len(response)
    run = training_run(lm, replace(TRAINING, batch_pairs=6))
    learner = one_adapter(run)
    try:
        task = DemonstrationTask(run, learner, table, table)
        assert task.validate() == {"validation_loss": pytest.approx(total / targets, rel=1e-5)}
        with task.batch(0, 0, {}) as (loss, record):
            assert float(loss) == pytest.approx(total / targets, rel=1e-5)
            assert record["tokens"] == sum(map(len, table.prompts)) + targets
    finally:
        learner.steering.detach()


def test_constant_logits_cost_the_log_of_the_vocabulary(lm: LanguageModel) -> None:
    table, _ = tokenise_demonstrations(lm, demonstrations(), 64)
    head = lm.model.get_output_embeddings().weight
    kept = head.detach().clone()
    learner = one_adapter(training_run(lm))
    try:
        with torch.no_grad():
            head.zero_()
        task = DemonstrationTask(training_run(lm), learner, table, table)
        assert task.validate() == {"validation_loss": pytest.approx(math.log(head.shape[0]), rel=1e-6)}
    finally:
        with torch.no_grad():
            head.copy_(kept)
        learner.steering.detach()


def test_a_run_goes_on_from_an_adapter_and_is_found_again(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    items = demonstrations()
    first = lab.fit_demonstrations("one", items, items[:2])
    again = lab.fit_demonstrations("one", items, items[:2])
    assert adapters_equal(first, again) and [stage.reused for stage in lab.stages] == [False, True]
    with lab.trained_by(replace(TRAINING, learning_rate=1e-12)):
        still = lab.fit_demonstrations("two", items, start=first)
        other = lab.fit_demonstrations("two-fresh", items)
    groups = [(lm.encode_prompt(item.prompt), [lm.encode_response(item.response)]) for item in items]
    for adapter, expected in ((still, first), (other, None)):
        values, wanted = lab.response_logps(groups, adapter), lab.response_logps(groups, expected)
        torch.testing.assert_close(torch.cat(values), torch.cat(wanted), rtol=0, atol=1e-4)
    moved = lab.fit_demonstrations("three", items, start=first)
    assert not adapters_equal(moved, first) and moved.scale == first.scale


def test_pairs_go_on_from_an_adapter_and_imitate_chosen(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, replace(TRAINING, batch_pairs=4))
    start = lab.fit_demonstrations("start", demonstrations())
    table = lab.pair_table(pairs(make_dataset(4), "good"))
    table = replace(table, reference=lab.logps(table, start))
    run = training_run(lm, lab.training, start=start)
    learner = one_adapter(run)
    try:
        task = PairTask(run, learner, table, None, PairLoss(0.1, nll=0.5))
        with learner.steering.at(task.gate):
            loss, _, _ = task.losses(table, range(len(table)))
            weight, reversed_weight = torch.linspace(0, 1, len(table)), torch.linspace(0.6, 0.2, len(table))
            voted, _, _ = task.losses(
                table.stamp(weight=weight, reversed_weight=reversed_weight), range(len(table))
            )
    finally:
        learner.steering.detach()
    lengths = torch.tensor([len(ids) for ids in table.chosen])
    expected = math.log(2) + 0.5 * nll_loss(
        table.reference[:, 0], lengths
    )  # the policy is the reference here
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    # Rejected is imitated as much as votes prefer it, and a pair without a vote asks for nothing.
    other = torch.tensor([len(ids) for ids in table.rejected])
    asked = weight * expected + reversed_weight * (math.log(2) + 0.5 * nll_loss(table.reference[:, 1], other))
    torch.testing.assert_close(voted.detach(), asked, rtol=1e-4, atol=1e-5)
    assert not adapters_equal(
        lab.fit("dpo", table, None, 0.1), lab.fit("sipo", table, None, 0.1, start=start)
    )
    with attached(lm, start):
        pass  # the model is free again


def test_responses_that_are_all_too_long_are_said(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="none of 6 responses to imitate has at most 3 tokens"):
        Lab(lm, tmp_path, replace(TRAINING, max_tokens=3)).fit_demonstrations("x", demonstrations())
    with pytest.raises(TrainingError, match="none of 0 responses"):
        Lab(lm, tmp_path, TRAINING).fit_demonstrations("x", [])
