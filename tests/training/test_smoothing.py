"""Smoothing of labels: worked margins and thresholds, the loss of the paper, and memory that a killed run goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paretune.core.errors import ConfigError, TrainingError
from paretune.models.language_model import LanguageModel
from paretune.training import loop
from paretune.training.lab import Lab
from paretune.training.learner import one_adapter
from paretune.training.losses import log_ratio_gap
from paretune.training.preference_pairs import PairLoss, PairTask
from paretune.training.smoothing import Smoother, Smoothing, extrapolated_margin, threshold
from support.adapters import TRAINING, adapters_equal, training_run
from support.world import make_dataset

ALWAYS = Smoothing(smooth=0.3, doubtful=0.5, window=2, begin=0.0)


def test_worked_margins() -> None:
    """Gaps 3 and 1, beta 0.5, e = 2: 0.5 (3 * 3 - 2 * 1) = 3.5; e = 0 is the policy's own gap."""
    logps, reference = torch.tensor([[-1.0, -4.0]]), torch.tensor([[-2.0, -3.0]])
    assert extrapolated_margin(logps, reference, 0.5, 2.0).tolist() == [3.5]
    assert extrapolated_margin(logps, reference, 0.5, 0.0).tolist() == [1.5]
    assert extrapolated_margin(logps.requires_grad_(), reference, 0.5, 0.0).requires_grad is False


def test_the_threshold_is_a_quantile() -> None:
    margins = np.random.default_rng(0).normal(size=37).tolist()
    assert threshold(margins, 0.1) == pytest.approx(float(np.quantile(margins, 0.1)))
    assert threshold([], 0.5) == -torch.inf


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(
        lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=8, accumulate=2, checkpoint_every=3)
    )


def test_only_the_last_steps_decide_and_not_the_first_share(lab: Lab) -> None:
    """Two forwards of a step know the steps before it alone; with begin 0.25 of 8 steps nothing is doubted in steps 0 and 1."""
    run = training_run(lab.lm, lab.training)
    smoother = Smoother(replace(ALWAYS, begin=0.25, extrapolate=0.0), run, 1.0)

    def doubt(step: int, micro: int, *gaps: float) -> list[float]:
        logps = torch.tensor([[gap, 0.0] for gap in gaps])
        return smoother.doubt(step, micro, logps, torch.zeros_like(logps)).tolist()

    assert doubt(0, 0, -9.0, 1.0) == [0, 0] and doubt(0, 1, 2.0) == [0]
    assert doubt(1, 0, 3.0, 5.0) == [0, 0] and doubt(1, 1, 4.0) == [0]
    assert run.memory == {"0": [-9.0, 1.0, 2.0], "1": [3.0, 5.0, 4.0]}
    assert doubt(2, 0, 2.4, 2.6) == pytest.approx([0.3, 0]), "the median of six margins is 2.5"
    assert doubt(2, 1, 2.5) == pytest.approx([0.3])
    assert doubt(3, 0, 3.4, 3.6) == pytest.approx([0, 0]), "step 0 is forgotten: the median is 2.8"
    assert sorted(run.memory) == ["1", "2", "3"]
    assert doubt(3, 0, 1.0) == pytest.approx([0.3]) and run.memory["3"] == [1.0], (
        "a step that is repeated begins anew"
    )


def test_the_loss_is_the_paper_s(lab: Lab, tmp_path: Path) -> None:
    """-(1 - a + a I) log sigmoid(z) - a (1 - I) log sigmoid(-z), on a step in which some of the pairs are doubted."""
    table = lab.pair_table(lab.pairs(make_dataset(), "good", "extremes"), "good")
    table = replace(
        table,
        reference=table.reference + torch.randn(len(table), 2, generator=torch.Generator().manual_seed(0)),
    )
    run = training_run(lab.lm, lab.training, tmp_path)
    trial = PairTask(run, one_adapter(run), table, None, PairLoss(0.5, smoothing=ALWAYS))
    rows = list(range(6))
    base = lab.logps(table)[rows]
    margins = extrapolated_margin(base, table.reference[rows], 0.5, 1.0)
    run.memory["0"] = margins.tolist()
    try:
        with trial.learner.steering.at(trial.gate):
            smoothed, *_ = trial.losses(table, rows, (1, 0))
            plain, *_ = trial.losses(table, rows)
    finally:
        trial.learner.steering.detach()
    z, sure = 0.5 * log_ratio_gap(base, table.reference[rows]), margins > margins.quantile(0.5)
    assert 0 < int(sure.sum()) < 6
    expected = -(1 - 0.3 + 0.3 * sure) * F.logsigmoid(z) - 0.3 * ~sure * F.logsigmoid(-z)
    torch.testing.assert_close(smoothed.detach().cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.detach().cpu(), -F.logsigmoid(z), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_remembers_the_margins(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed within a step past a checkpoint; without the memory in it the threshold, and so the adapter, would be another."""
    table = lab.pair_table(lab.pairs(make_dataset(), "good", "extremes"), "good")
    loss = PairLoss(0.5, smoothing=replace(ALWAYS, window=5))
    whole = lab.fit_pairs("whole", table, None, loss, None)
    plain = lab.fit_pairs("plain", table, None, PairLoss(0.5), None)
    assert not adapters_equal(whole, plain)
    step, forward, calls = loop._Loop.step, PairTask.batch, list[int]()

    def deadly(self: PairTask, number: int, micro: int, held_out: loop.Record) -> object:
        calls.append(number)
        if (number, micro) == (5, 1):
            raise KeyboardInterrupt
        return forward(self, number, micro, held_out)

    with monkeypatch.context() as patch:
        patch.setattr(PairTask, "batch", deadly)
        with pytest.raises(KeyboardInterrupt):
            lab.fit_pairs("killed", table, None, loss, None)
    assert step is loop._Loop.step and max(calls) == 5
    killed = lab.fit_pairs("killed", table, None, loss, None)
    assert adapters_equal(killed, whole)


def test_a_checkpoint_whose_memory_is_damaged_is_refused(lab: Lab, tmp_path: Path) -> None:
    from paretune.training import checkpoint

    file, tensors = tmp_path / "x.safetensors", {"weight/a": torch.zeros(2)}
    progress = checkpoint.Progress(step=1, history=[{"loss": 1.0}], memory={"0": [1.5, -2.0]})
    checkpoint.save(file, "key", progress, tensors)
    found, _ = checkpoint.restore(file, "key", 3, tensors, [])
    assert found.memory == {"0": [1.5, -2.0]}
    checkpoint.save(file, "key", replace(progress, memory={"0": "many"}), tensors)  # type: ignore[dict-item]
    with pytest.raises(TrainingError, match="cannot read the checkpoint"):
        checkpoint.restore(file, "key", 3, tensors, [])


@pytest.mark.parametrize(
    ("name", "value"), [("smooth", 1.5), ("doubtful", -0.1), ("window", 0), ("begin", 2.0)]
)
def test_settings_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Smoothing(**{name: value})  # type: ignore[arg-type]
