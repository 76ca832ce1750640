"""From a data set to a reward model and its report: accuracy, calibration and the part of length on held-out pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from paretune.core.errors import DataError
from paretune.core.files import cache_folder, fingerprint
from paretune.core.folder_form import refuse_foreign
from paretune.core.progress import Advance, progress
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.models.adapter import Adapter
from paretune.models.distributed import start
from paretune.models.language_model import LanguageModel
from paretune.models.reward_heads import FORM, RewardModel
from paretune.scoring.agreement import agreement, calibration_error, wilson
from paretune.training.checkpoint import remove_checkpoint
from paretune.training.loop import Training, TrainingRun
from paretune.training.reward_models import LabelledTable, fit_reward, labelled_table, table_rewards
from paretune.training.token_tables import Limit, TooLong

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
MIN_PAIRS = 10
"""Labelled pairs that each part has at least; with fewer, its figures mean nothing."""
MOST_TRAIN_PAIRS = 500
"""Pairs of training that are measured at most, evenly spread over them: reading more takes longer than training on them did."""


@dataclass(frozen=True)
class RewardReport:
    """What a reward model is worth on one objective, on held-out pairs whose label is no tie.

    Attributes:
        objective: The objective.
        accuracy: Share of pairs that it ranks as labelled; equal rewards count a half.
        low, high: Its 95 % interval (Wilson, with the number of prompts as sample size).
        train_accuracy: That share on pairs of training, at most :data:`MOST_TRAIN_PAIRS` of all objectives together.
        train_pairs, test_pairs, test_prompts: Numbers of pairs that were measured, and of held-out prompts.
        log_loss: Mean of ``-log sigmoid(d)`` on held-out pairs, in nats; log 2 is a coin.
        calibration: Expected calibration error: mean of ``|confidence - accuracy|`` over ten bins of confidence.
        longer_accuracy: Share that preferring the longer response ranks as labelled.
        slope: Reward for a nat of length, regressing gaps of reward on gaps of log length through 0, over those pairs of training.
        without_length: Accuracy of the reward less ``slope`` times log length.
        accuracy_shorter: Accuracy on pairs whose preferred response is the shorter; None without any.
        accuracy_longer: That on pairs whose preferred response is the longer; None without any.
    """

    objective: str
    accuracy: float
    low: float
    high: float
    train_accuracy: float
    train_pairs: int
    test_pairs: int
    test_prompts: int
    log_loss: float
    calibration: float
    longer_accuracy: float
    slope: float
    without_length: float
    accuracy_shorter: float | None
    accuracy_longer: float | None

    def __str__(self) -> str:
        return (
            f"{self.objective}: {self.accuracy:.1%} of {self.test_pairs} held-out pairs (95 %: {self.low:.1%} to {self.high:.1%}; "
            f"longer response: {self.longer_accuracy:.1%}; without length: {self.without_length:.1%}; calibration error "
            f"{self.calibration:.3f})"
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """The pairs of a part with the rewards of their responses.

    Attributes:
        table: N pairs.
        rewards: ``[N, 2, M]``.
        logs: Log lengths ``[N, 2]``.
    """

    table: LabelledTable
    rewards: np.ndarray
    logs: np.ndarray

    def gaps(self, m: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return gaps of reward and of log length, preferred less other, of the pairs that objective m decides; their prompts."""
        labels = self.table.labels[:, m].numpy()
        strict = np.flatnonzero(np.nan_to_num(labels))
        signs = np.sign(labels[strict])
        gaps = signs * (self.rewards[strict, 0, m] - self.rewards[strict, 1, m]).astype(np.float64)
        prompts = [self.table.prompts[n] for n in strict.tolist()]
        return gaps, signs * (self.logs[strict, 0] - self.logs[strict, 1]), prompts


def fit_reward_model(
    lm: LanguageModel,
    dataset: ScoredDataset,
    folder: str | Path,
    training: Training,
    test: ScoredDataset | None = None,
    margins: bool = False,
    ties: bool = True,
    too_long: TooLong = "drop",
    say: Callable[[str], None] = print,
) -> list[RewardReport]:
    """Fit a reward model to the labels of all objectives of a data set, write it, and return a report for each objective.

    Prompts are split by key: 70 % train, 15 % validation, which chooses the best parameters, 15 % held out. With ``test`` the
    held-out pairs come from there. A fit that was killed continues from its checkpoint.

    Args:
        lm: The base model.
        dataset: Responses with comparisons or scores on M objectives.
        folder: Folder of the reward model; an earlier one there is replaced.
        training: How the LoRA is trained; ``batch_pairs`` counts pairs.
        test: Held-out data.
        margins: Whether the margins of the data enter the loss.
        ties: Whether ties are kept, with the target 1/2; otherwise they are left out.
        too_long: What happens to long texts.
        say: Receives sentences for the user.

    Raises:
        DataError: A part has too few labelled pairs of an objective, or a test prompt is also in the data.
        ModelError: ``folder`` holds anything but an earlier reward model.
        TrainingError: No pair is short enough, or a loss is not finite.
    """
    began = time.perf_counter()
    refuse_foreign(Path(folder), FORM)
    parts = _parts(dataset, test, training.seed)
    limit = Limit(lm, training.max_tokens, too_long)
    tables = {}
    for name, part in parts.items():
        chosen = [
            pair
            for pair in labelled_pairs(part)
            if ties or any(label for label in pair.labels if label == label)
        ]
        if not chosen:
            raise DataError(f"the {name} part has no labelled pair; add prompts with comparisons or scores")
        tables[name], left = labelled_table(limit, chosen, margins)
        if left:
            say(f"{left} of {len(chosen)} {name} pairs are longer than {limit} and were left out")
    _check_pairs(tables, dataset.objectives)
    key = fingerprint(
        lm.fingerprint,
        str(lm.model.dtype),
        training.decisive,
        [table.fingerprint for table in tables.values()],
        margins,
        ties,
    )
    checkpoint = cache_folder() / "rewards" / f"{key}.safetensors"
    info = {"method": "reward", "objectives": list(dataset.objectives)}
    run = TrainingRun(lm, training, start(lm.device), checkpoint, "reward", key, info=info, notify=say)
    adapter, heads, history = fit_reward(run, tables["train"], tables["validation"])
    read = {"train": tables["train"].spread(MOST_TRAIN_PAIRS), "test": tables["test"]}
    if len(read["train"]) < len(tables["train"]):
        say(f"the training accuracy is measured on {len(read['train'])} of {len(tables['train'])} pairs")
    with progress("rewards", sum(map(len, read.values()))) as advance:
        train, held_out = (_measured(lm, table, adapter, heads, training, advance) for table in read.values())
    reports = [report_of(name, m, train, held_out) for m, name in enumerate(dataset.objectives)]
    fitted_on = sorted({row.key for name in ("train", "validation") for row in parts[name].rows})
    about = {
        "objectives": [asdict(each) for each in reports],
        "history": history,
        "training": training.decisive,
        "margins": margins,
        "ties": ties,
        "seconds": round(time.perf_counter() - began, 1),
        "fitted_on": fitted_on,
    }
    slopes = tuple(each.slope for each in reports)
    RewardModel(adapter, heads, tuple(dataset.objectives), slopes, lm.name, about).save(folder)
    remove_checkpoint(checkpoint)
    return reports


def _measured(
    lm: LanguageModel,
    table: LabelledTable,
    adapter: Adapter,
    heads: Tensor,
    training: Training,
    advance: Advance,
) -> Measured:
    rewards, logs = table_rewards(lm, table, adapter, heads, training.batch_pairs, advance)
    return Measured(table, rewards.numpy(), logs.numpy())


def _parts(dataset: ScoredDataset, test: ScoredDataset | None, seed: int) -> dict[str, ScoredDataset]:
    if test is None:
        return dict(dataset.split(SHARES, seed))
    shared = {row.key for row in dataset.rows} & {row.key for row in test.rows}
    for row in test.rows:
        if row.key in shared:
            raise DataError(
                f"{row.source or row.key}: this prompt is in the training data too, so it is not held out; remove the "
                f"{len(shared)} shared prompts from either file, or give no test file"
            )
    return {**dataset.split({"train": 0.85, "validation": 0.15}, seed), "test": test}


def _check_pairs(tables: dict[str, LabelledTable], objectives: Sequence[str]) -> None:
    for m, objective in enumerate(objectives):
        counts = {name: int((table.labels[:, m].nan_to_num() != 0).sum()) for name, table in tables.items()}
        if min(counts.values()) < MIN_PAIRS:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(
                f"objective {objective!r}: labelled pairs without a tie: {told}; expected at least {MIN_PAIRS} in each part of a "
                f"reward model's fit; add prompts with comparisons of {objective!r}"
            )


def report_of(objective: str, m: int, train: Measured, test: Measured) -> RewardReport:
    """Return the report of objective ``m``."""
    fitted, fitted_logs, _ = train.gaps(m)
    gaps, gap_logs, prompts = test.gaps(m)
    weight = float((fitted_logs**2).sum())
    slope = float((fitted * fitted_logs).sum()) / weight if weight > 0 else 0.0
    right = agreement(gaps)
    low, high = wilson(right, len(set(prompts)))
    return RewardReport(
        objective=objective,
        accuracy=right,
        low=low,
        high=high,
        train_accuracy=agreement(fitted),
        train_pairs=len(fitted),
        test_pairs=len(gaps),
        test_prompts=len(set(prompts)),
        log_loss=float(np.logaddexp(0.0, -gaps).mean()),
        calibration=calibration_error(gaps),
        longer_accuracy=agreement(gap_logs),
        slope=slope,
        without_length=agreement(gaps - slope * gap_logs),
        accuracy_shorter=agreement(gaps[gap_logs < 0]) if (gap_logs < 0).any() else None,
        accuracy_longer=agreement(gaps[gap_logs > 0]) if (gap_logs > 0).any() else None,
    )
