"""The training loop: TRL's DPO as oracle, one forward and one backward a step, resume, caches, clear failures."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oracles import trl_lora
from paretune.core.errors import ScoreError, TrainingError
from paretune.core.preference import preference_grid
from paretune.data.pairs import pairs
from paretune.methods import modpo
from paretune.methods.base import Inputs
from paretune.methods.modpo import MODPOConfig
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering
from paretune.training.lab import Lab
from paretune.training.loop import Training, data_order, learning_rate
from paretune.training.losses import Penalty, divergence_gap, log_ratio_gap, pair_loss
from support.adapters import TRAINING, adapters_equal
from support.kills import killed
from support.world import make_dataset


@pytest.fixture
def calls(lm: LanguageModel) -> Iterator[dict[str, int]]:
    """Count forwards of the decoder with and without gradients, and backwards through the loss."""
    counts = {"train": 0, "frozen": 0}

    def count(*_: object) -> None:
        counts["train" if torch.is_grad_enabled() else "frozen"] += 1

    handle = lm.model.get_decoder().register_forward_hook(count)
    yield counts
    handle.remove()


def test_learning_rate_rises_then_falls_to_zero() -> None:
    settings = Training(steps=100, warmup_ratio=0.1, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and 0 < rates[99] < 0.001
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_data_order_is_whole_passes() -> None:
    order = data_order(7, 20, seed=3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and order[:7] != order[7:14]
    assert order == data_order(7, 40, seed=3)[:20]


@pytest.mark.parametrize(
    ("penalty", "theirs_called"),
    [
        (Penalty(), {}),
        (Penalty("forward-kl"), {"f_divergence_type": "forward_kl"}),
        (Penalty("jensen-shannon"), {"f_divergence_type": "js_divergence"}),
        (Penalty("alpha", 0.3), {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7}),
    ],
    ids=lambda value: getattr(value, "divergence", ""),
)
def test_one_step_equals_trl(
    lm: LanguageModel, tmp_path: Path, penalty: Penalty, theirs_called: dict[str, object]
) -> None:
    """Loss and every adapter gradient of one batch equal those of TRL's DPOTrainer with PEFT's LoRA, fp32.

    TRL's coefficient is 1 - alpha. Exponentials enlarge the differences in the last digits of the log-ratios.
    """
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    lab = Lab(lm, tmp_path / "lab", TRAINING)
    table = lab.pair_table(pairs(make_dataset(4), "good"))
    torch.manual_seed(5)
    steering = trl_lora.random_steering(lm.model)
    with steering.at(torch.full((trl_lora.RANK,), trl_lora.SCALE)):
        logps = packed_logps(lm.model, pack(table.groups(range(len(table))))).view(-1, 2)
        loss = pair_loss(divergence_gap(logps, table.reference, penalty), 0.1).mean()
        loss.backward()
    values = {name: parameter.detach().clone() for name, parameter in steering.named_parameters()}
    ours = {name: parameter.grad.clone() for name, parameter in steering.named_parameters()}
    steering.detach()

    records = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in table.pairs
    ]
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=len(table),
            beta=0.1,
            max_length=None,
            **trl_lora.PLAIN,
            **theirs_called,
        ),
        train_dataset=Dataset.from_list(records),
        processing_class=lm.tokenizer,
        peft_config=trl_lora.lora_config(),
    )
    theirs = trainer.model
    modules = trl_lora.copy_factors(theirs, values)
    batch = next(iter(trainer.get_train_dataloader()))
    # The same token ids as ours go in, so that templates cannot hide a difference (or make one).
    ids, mask, completion = _trl_batch(table)
    batch.update(input_ids=ids, attention_mask=mask, completion_mask=completion)
    theirs.zero_grad()
    their_loss = trainer.compute_loss(theirs, batch)
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    assert len(modules) == 4
    trl_lora.check_gradients(modules, ours, 1e-5 if penalty == Penalty() else 1e-4)


def _trl_batch(table: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = [(p, c) for p, c in zip(table.prompts, table.chosen, strict=True)]  # type: ignore[attr-defined]
    rows += [(p, r) for p, r in zip(table.prompts, table.rejected, strict=True)]  # type: ignore[attr-defined]
    width = max(len(p) + len(r) for p, r in rows)
    ids, mask, completion = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end], mask[i, :end] = torch.tensor(prompt + response), 1
        completion[i, len(prompt) : end] = 1
    return ids, mask, completion


def test_a_step_is_one_forward_and_one_backward(
    lm: LanguageModel, tmp_path: Path, calls: dict[str, int]
) -> None:
    backwards = []
    lab = Lab(lm, tmp_path, replace(TRAINING, validate_every=100))
    plain = lab.accelerator.backward
    lab.accelerator.backward = lambda loss: (backwards.append(1), plain(loss))[1]  # type: ignore[method-assign]
    table = lab.pair_table(pairs(make_dataset(), "good"))
    calls.update(train=0, frozen=0)
    lab.fit("dpo-good", table, None, 0.1)
    assert calls == {"train": TRAINING.steps, "frozen": 0} and len(backwards) == TRAINING.steps


@pytest.mark.slow
def test_a_sweep_scores_frozen_models_once(lm: LanguageModel, tmp_path: Path, calls: dict[str, int]) -> None:
    """Five preferences: reference and margin passes once each, and every training step is one forward."""
    dataset, held_out = make_dataset(10), make_dataset(4, seed=9)
    lab = Lab(lm, tmp_path, TRAINING)
    modpo.train(Inputs(lab, dataset, held_out, preference_grid(["short", "good"], 4)), MODPOConfig())
    trained = [stage for stage in lab.stages if not stage.reused]
    assert len(trained) == 5 and calls["train"] == 5 * TRAINING.steps
    scored = lab.scoring_forwards
    frozen = calls["frozen"]
    again = Lab(lm, tmp_path, TRAINING)
    modpo.train(Inputs(again, dataset, held_out, preference_grid(["short", "good"], 8)), MODPOConfig())
    assert again.scoring_forwards == 0 and scored > 0
    new = [stage for stage in again.stages if not stage.reused]
    validations = len(new) * 2 * math.ceil(4 / TRAINING.batch_pairs)
    assert len(new) == 4 and calls["frozen"] - frozen <= validations


def test_training_leaves_the_base_model_as_it_was(lm: LanguageModel, tmp_path: Path) -> None:
    before = {name: x.clone() for name, x in lm.model.state_dict().items()}
    adapter = Lab(lm, tmp_path, TRAINING).dpo("good", make_dataset(), make_dataset(4, seed=9), 0.1)
    after = lm.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert any(bool(U.any()) for U, _ in adapter.factors.values())


def test_loss_falls_and_margins_grow(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, replace(TRAINING, steps=40, learning_rate=1e-2))
    table = lab.pair_table(pairs(make_dataset(8), "short"))
    lab.fit("dpo-short", table, None, 0.1)
    history = json.loads((tmp_path / "adapters/dpo-short/history.json").read_text())
    first, last = history[:5], history[-5:]
    assert sum(r["loss"] for r in last) < 0.8 * sum(r["loss"] for r in first)
    assert sum(r["rewards/margins"] for r in last) > sum(r["rewards/margins"] for r in first)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_killed_run_resumes_to_the_same_weights(lm: LanguageModel, tmp_path: Path) -> None:
    data = make_dataset(), make_dataset(4, seed=9)
    whole = Lab(lm, tmp_path / "whole", TRAINING).dpo("good", *data, 0.1)
    status = killed(5, lambda: Lab(lm, tmp_path / "killed", TRAINING).dpo("good", *data, 0.1))
    assert status == -signal.SIGKILL
    assert not (tmp_path / "killed/adapters/dpo-good").exists()
    checkpoints = (
        list((tmp_path / "killed/checkpoints").glob("*.safetensors"))
        if (tmp_path / "killed/checkpoints").exists()
        else []
    )
    assert len(checkpoints) == 1
    lab = Lab(lm, tmp_path / "killed", TRAINING)
    resumed = lab.dpo("good", *data, 0.1)
    assert adapters_equal(whole, resumed)
    histories = [
        json.loads((tmp_path / name / "adapters/dpo-good/history.json").read_text())
        for name in ("whole", "killed")
    ]
    assert histories[0] == histories[1]
    assert not list((tmp_path / "killed/checkpoints").glob("*"))
    spent = [
        json.loads((tmp_path / name / "adapters/dpo-good/stage.json").read_text())["spent"]
        for name in ("whole", "killed")
    ]
    assert spent[1]["tokens_read"] == spent[0]["tokens_read"], (
        "what the killed process read until its checkpoint counts"
    )
    finished = Lab(lm, tmp_path / "killed", TRAINING)
    assert adapters_equal(whole, finished.dpo("good", *data, 0.1)) and finished.stages[0].reused


def test_accumulation_equals_the_large_batch(lm: LanguageModel, tmp_path: Path) -> None:
    data = make_dataset(), make_dataset(4, seed=9)
    settings = replace(TRAINING, batch_pairs=4)
    large = Lab(lm, tmp_path / "a", settings).dpo("good", *data, 0.1)
    small = Lab(lm, tmp_path / "b", replace(settings, batch_pairs=1, accumulate=4)).dpo("good", *data, 0.1)
    for path in large.factors:
        for x, y in zip(large.factors[path], small.factors[path], strict=True):
            torch.testing.assert_close(x, y, atol=2e-4, rtol=1e-3)


def test_gradient_checkpointing_gives_the_same_adapter(lm: LanguageModel, tmp_path: Path) -> None:
    data = make_dataset(), make_dataset(4, seed=9)
    plain = Lab(lm, tmp_path / "a", TRAINING).dpo("good", *data, 0.1)
    saving = Lab(lm, tmp_path / "b", replace(TRAINING, gradient_checkpointing=True)).dpo("good", *data, 0.1)
    assert adapters_equal(plain, saving) and not lm.model.training


def test_one_stage_under_two_settings_keeps_both(lm: LanguageModel, tmp_path: Path) -> None:
    """Two methods of a run with another beta or training each find theirs again in the next run."""
    data = make_dataset(), make_dataset(4, seed=9)

    def both(lab: Lab) -> list[Adapter]:
        soup = lab.dpo("good", *data, 0.1)
        with lab.trained_by(replace(TRAINING, steps=4)):
            margin = lab.dpo("good", *data, 0.5)
        return [soup, margin, lab.dpo("good", *data, 0.1)]

    first, second, third = both(Lab(lm, tmp_path, TRAINING))
    assert adapters_equal(first, third) and not adapters_equal(first, second)
    again = Lab(lm, tmp_path, TRAINING)
    assert all(map(adapters_equal, both(again), (first, second, third)))
    assert len(again.stages) == 3 and all(stage.reused for stage in again.stages)


def test_best_validation_weights_are_kept(lm: LanguageModel, tmp_path: Path) -> None:
    """With an absurd rate the loss explodes after the first validation; the kept weights are not the last ones."""
    lab = Lab(lm, tmp_path, replace(TRAINING, learning_rate=0.5, steps=8, validate_every=1, clip_norm=1e9))
    table, held_out = (lab.pair_table(pairs(d, "good")) for d in (make_dataset(), make_dataset(6, seed=9)))
    lab.fit("dpo-good", table, held_out, 0.1)
    history = json.loads((tmp_path / "adapters/dpo-good/history.json").read_text())
    losses = [record["validation_loss"] for record in history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best < len(losses) - 1
    adapter = lab.fit("dpo-good", table, held_out, 0.1)
    steering = Steering.attach_adapter(lm.model, adapter)
    with steering.at(adapter.gates()), torch.no_grad():
        logps = packed_logps(lm.model, pack(held_out.groups(range(len(held_out))))).view(-1, 2)
    steering.detach()
    assert pair_loss(log_ratio_gap(logps, held_out.reference), 0.1).mean().item() == pytest.approx(
        losses[best], rel=1e-4
    )


def test_nan_stops_the_run_with_step_and_rows(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paretune.training.preference_pairs as fit

    lab = Lab(lm, tmp_path, TRAINING)
    table = lab.pair_table(pairs(make_dataset(), "good"))
    plain, count = fit.pair_loss, [0]

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        count[0] += 1
        return plain(*args, **kwargs) * (float("nan") if count[0] == 3 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(fit, "pair_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"dpo-good: the loss is not finite at step 3, on row \d+ \(responses"
    ):
        lab.fit("dpo-good", table, None, 0.1)
    assert not (tmp_path / "adapters/dpo-good").exists()


def test_missing_margin_names_the_pair(lm: LanguageModel, tmp_path: Path) -> None:
    table = Lab(lm, tmp_path, TRAINING).pair_table(pairs(make_dataset(), "good"))
    with pytest.raises(
        TrainingError, match=r"margin of 1 of \d+ pairs is missing or not finite, first at row"
    ):
        table.stamp(margin=torch.tensor([float("nan")] + [0.0] * (len(table) - 1)))
    with pytest.raises(TrainingError, match="unknown column 'margins'"):
        table.stamp(margins=0.0)


def test_too_long_pairs_are_dropped_never_cut(lm: LanguageModel, tmp_path: Path) -> None:
    found = pairs(make_dataset(), "good")
    lengths = [
        len(lm.encode_prompt(p.prompt)) + max(len(lm.encode_response(t)) for t in (p.chosen, p.rejected))
        for p in found
    ]
    limit = max(lengths) - 1
    lab = Lab(lm, tmp_path, replace(TRAINING, max_tokens=limit))
    assert len(lab.pair_table(found)) == sum(length <= limit for length in lengths) < len(found)
    with pytest.raises(TrainingError, match=r"all \d+ pairs are longer than max_tokens=3"):
        Lab(lm, tmp_path, replace(TRAINING, max_tokens=3)).pair_table(found)


def test_training_stops_when_the_objective_is_learned(lm: LanguageModel, tmp_path: Path) -> None:
    settings = replace(TRAINING, steps=12, validate_every=2, learning_rate=2e-2)
    table, held_out = (pairs(d, "good") for d in (make_dataset(), make_dataset(6, seed=9)))

    def train(folder: str, stop_below: float | None) -> tuple[Adapter, list[dict[str, float]]]:
        lab = Lab(lm, tmp_path / folder, replace(settings, stop_below=stop_below))
        adapter = lab.fit("good", lab.pair_table(table), lab.pair_table(held_out), 0.1)
        return adapter, json.loads((lab.folder / "adapters/good/history.json").read_text())

    _, whole = train("whole", None)
    validated = [record["validation_loss"] for record in whole if "validation_loss" in record]
    assert len(whole) == 12 and validated[1] < validated[0]
    stopped, history = train("stopped", validated[1])
    assert history == whole[:4], "the first validation that reaches it is the second"
    never, history = train("never", 1e-9)
    assert len(history) == 12 and not adapters_equal(stopped, never)


def test_only_pairs_that_will_be_drawn_are_scored(lm: LanguageModel, tmp_path: Path) -> None:
    found = pairs(make_dataset(), "good")
    lab = Lab(lm, tmp_path, replace(TRAINING, steps=2, accumulate=2, batch_pairs=1))
    table = lab.train_table(found)
    assert len(table) == 4 < len(found) and set(table.pairs) < set(found)
    assert lab.scoring_forwards == 8 and lab.train_table(found).pairs == table.pairs
    other = Lab(lm, tmp_path, replace(lab.training, seed=1)).train_table(found)
    assert other.pairs != table.pairs
    assert Lab(lm, tmp_path, replace(TRAINING, steps=len(found))).train_table(found).pairs == tuple(found)


def test_an_answer_in_the_pairs_of_two_objectives_is_scored_once(lm: LanguageModel, tmp_path: Path) -> None:
    dataset = make_dataset()
    lab = Lab(lm, tmp_path, TRAINING)
    tables = [lab.pair_table(pairs(dataset, objective)) for objective in ("good", "short")]
    answers = {
        (prompt, answer)
        for table in tables
        for prompt, *both in zip(table.prompts, table.chosen, table.rejected, strict=True)
        for answer in both
    }
    assert lab.scoring_forwards == len(answers) < sum(2 * len(table) for table in tables)
    alone = Lab(lm, tmp_path / "alone", TRAINING).pair_table(pairs(dataset, "short"))
    torch.testing.assert_close(tables[1].reference, alone.reference, atol=1e-4, rtol=0)


def test_damaged_cache_and_checkpoint_name_the_file(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    found = pairs(make_dataset(), "good")
    lab.pair_table(found)
    (tmp_path / "cache" / "logps.sqlite").write_bytes(b"damaged")
    with pytest.raises(ScoreError, match=r"logps\.sqlite: the score cache is damaged"):
        lab.pair_table(found)


def test_pairs_are_drawn_among_those_that_are_short_enough(lm: LanguageModel, tmp_path: Path) -> None:
    """The choice has as many pairs as the run has steps for, although most of the data are too long."""
    short = pairs(make_dataset(6), "good")
    padded = [replace(pair, chosen=pair.chosen + " word" * 60) for pair in short * 5]
    mixed = [*padded[:15], *short, *padded[15:]]
    limit = max(
        len(lm.encode_prompt(p.prompt)) + max(len(lm.encode_response(t)) for t in (p.chosen, p.rejected))
        for p in short
    )
    lab = Lab(
        lm, tmp_path, replace(TRAINING, max_tokens=limit, steps=len(short) - 2, batch_pairs=1, accumulate=1)
    )
    table = lab.train_table(mixed, "good")
    assert len(table) == len(short) - 2 and set(table.pairs) <= set(short)
    (said,) = lab.left_out
    assert "drawn pairs of the objective 'good' are longer than" in said


def test_weight_and_margin_of_the_data_are_in_the_loss(lm: LanguageModel, tmp_path: Path) -> None:
    dataset = make_dataset(4)
    rows = tuple(replace(row, weight=0.5, margin=2.0) for row in dataset.rows)
    table = Lab(lm, tmp_path, TRAINING).pair_table(pairs(replace(dataset, rows=rows), "good"))
    assert table.weight.tolist() == [0.5] * len(table) and table.margin.tolist() == [2.0] * len(table)
    weighed = pair_loss(torch.zeros(1), 0.1, margin=table.margin[:1], weight=table.weight[:1])
    assert float(weighed) == pytest.approx(0.5 * math.log(1 + math.exp(2)))


def test_a_missing_pair_names_the_objective(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="no prompt has two responses that the objective 'good' tells apart"
    ):
        Lab(lm, tmp_path, TRAINING).pair_table([], "good")
