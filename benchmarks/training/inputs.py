"""Random inputs of the benchmarks, the same for all ways, and the library's own training step."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from paretune.data.pairs import Pair
from paretune.data.rows import Message
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.singular_gates import initial
from paretune.models.targets import target_shapes
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.loop import Record, Training, TrainingRun
from paretune.training.preference_pairs import PairLoss, fit_pairs
from paretune.training.token_tables import PairTable

RANK, SCALE = 16, 2.0
BETA = 0.1
RATE = 1e-6
OBJECTIVES = ("concise", "warm", "plain")
PROMPT = (
    Message("user", "How do I tell my flatmate that the kitchen is a mess without starting a quarrel?"),
)


@dataclass(frozen=True)
class Step:
    """One training step: its CPU-seconds, loss, norm of the gradient, and mean rewards of chosen and rejected."""

    seconds: float
    loss: float
    norm: float
    chosen: float
    rejected: float

    @property
    def numbers(self) -> list[float]:
        """What the gate compares."""
        return [self.loss, self.norm, self.chosen, self.rejected]


@dataclass(frozen=True)
class TwoSteps:
    """Two steps of the library's own loop: the CPU-seconds of the second, from the end of the first, and both records."""

    seconds: float
    first: Record
    second: Record


def pair_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`pair_table` and of the adapted layers."""
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, nargs=2, default=[150, 200], metavar=("LOW", "HIGH"))
    parser.add_argument("--response", type=int, nargs=2, default=[60, 90], metavar=("LOW", "HIGH"))
    parser.add_argument("--targets", nargs="+", default=["all-linear"], help="or q_proj k_proj v_proj o_proj")


def pair_table(lm: LanguageModel, arguments: argparse.Namespace, seed: int = 0) -> PairTable:
    """Return pairs of random tokens, of lengths drawn between the given bounds, with the reference's log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = lm.model.config.vocab_size

    def draw(bounds: list[int]) -> tuple[int, ...]:
        low, high = bounds
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    count = arguments.pairs
    rows = [
        (draw(arguments.prompt), draw(arguments.response), draw(arguments.response)) for _ in range(count)
    ]
    prompts, chosen, rejected = zip(*rows, strict=True)
    words = [
        Pair((Message("user", "random tokens"),), "a", "b", "random", row, 0, 1, False, False, (1.0,), (1.0,))
        for row in range(count)
    ]
    zero, one = torch.zeros(count), torch.ones(count)
    table = PairTable(
        prompts, chosen, rejected, tuple(words), torch.full((count, 2), math.nan), zero, one, one, zero
    )
    return replace(table, reference=log_probabilities(lm, table))


def log_probabilities(lm: LanguageModel, table: PairTable, adapter: Adapter | None = None) -> torch.Tensor:
    """Return the log-probabilities ``[N, 2]`` of a table's responses, as a run caches them."""
    with tempfile.TemporaryDirectory() as folder:
        return Lab(lm, Path(folder)).logps(table, adapter)


def random_lora(lm: LanguageModel, targets: list[str], seed: int, size: float = 0.02) -> Adapter:
    """Return a LoRA whose update is not zero, so that it has a gradient on both factors and changes the text."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path, (outputs, inputs) in target_shapes(lm.model, targets).items():
        V = (torch.rand(RANK, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
        factors[path] = (torch.randn(outputs, RANK, generator=generator) * size, V)
    return Adapter(factors, SCALE, lm.fingerprint)


def random_panacea(lm: LanguageModel, objectives: tuple[str, ...] = OBJECTIVES[:2]) -> Policy:
    """Return a policy of Panacea's form (k = 8, all linears) whose update is random and large enough to change the text."""
    adapter, gates = initial(target_shapes(lm.model, ["all-linear"]), 8, len(objectives), init="small")
    generator = torch.Generator().manual_seed(0)
    for parameter in gates.named_parameters().values():
        parameter.data.uniform_(6.0, 12.0, generator=generator)
    folded = gates.fold(replace(adapter, base=lm.fingerprint))
    return Policy.conditioned("random", lm, objectives, folded)


def training(table: PairTable, arguments: argparse.Namespace, steps: int) -> Training:
    """Return the settings of ``steps`` steps on the whole table."""
    return Training(
        steps=steps,
        batch_pairs=len(table),
        learning_rate=RATE,
        warmup_ratio=0.0,
        rank=RANK,
        alpha=RANK * SCALE,
        targets=tuple(arguments.targets),
    )


def two_steps(fit: Callable[[TrainingRun], object], lm: LanguageModel, settings: Training) -> TwoSteps:
    """Train by ``fit`` for two steps; see :class:`TwoSteps`."""
    ends: list[float] = []
    records: list[Record] = []

    def log(step: int, record: Record) -> None:
        ends.append(time.process_time())
        records.append(record)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "checkpoint")
        fit(TrainingRun(lm, settings, Accelerator(cpu=True), checkpoint, "benchmark", "", log=log))
    return TwoSteps(ends[1] - ends[0], records[0], records[1])


def library_step(lm: LanguageModel, table: PairTable, start: Adapter, arguments: argparse.Namespace) -> Step:
    """Train two steps from ``start`` by the library's own loop.

    What the first computes is what a peer's step from there computes. The time is that of the second, with packing, clipping
    and the optimiser, and without what a run does once.
    """
    ran = two_steps(
        lambda run: fit_pairs(replace(run, start=start), table, None, PairLoss(BETA)),
        lm,
        training(table, arguments, 2),
    )
    first = ran.first
    return Step(
        ran.seconds,
        first["loss"],
        first["grad_norm"],
        first["rewards/chosen"],
        first["rewards/rejected"],
    )
