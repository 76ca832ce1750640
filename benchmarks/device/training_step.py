"""A training step of the library on a random model: its time, its memory, its share of the device's products, and its plan."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.device.equality import groups_of
from benchmarks.device.rows import Figures, freed, peak, seconds_of, wait
from paretune.data.pairs import Pair
from paretune.data.rows import Message
from paretune.generation.generate import response_logps
from paretune.models.devices import memory_of
from paretune.models.language_model import LanguageModel
from paretune.models.packed_attention.interface import backend_of
from paretune.planning.calibrate import measure
from paretune.planning.cost import Model, Passes, packed
from paretune.planning.devices import KNOWN, Rates
from paretune.planning.memory import frozen_bytes, training_bytes
from paretune.planning.shapes import Shape
from paretune.planning.work import Step
from paretune.training.loop import Record, Training, TrainingRun
from paretune.training.preference_pairs import PairLoss, fit_pairs
from paretune.training.token_tables import PairTable

BETA, RANK, RATE = 0.1, 16, 1e-6
NEAR = 0.3
"""Largest error of the plan's memory, as a share of the measured."""
STEPS = 5
"""Steps of a measurement: the first two do not count."""


@dataclass(frozen=True)
class Work:
    """The pairs of a step: how many, and the tokens of each prompt and response."""

    pairs: int
    prompt: int
    response: int

    @property
    def lengths(self) -> list[tuple[int, tuple[int, ...]]]:
        """The lengths of prompts and of their two responses, which differ from pair to pair."""
        return [
            (
                self.prompt - 7 * number % max(1, self.prompt // 4),
                (self.response, max(1, self.response - 3 * number)),
            )
            for number in range(self.pairs)
        ]

    def __str__(self) -> str:
        return f"{self.pairs} pairs, prompts of {self.prompt} tokens, responses of {self.response}"


@dataclass(frozen=True)
class Measured:
    """A step as it was measured.

    Attributes:
        seconds: Of a step.
        memory: Peak of memory in bytes; None where it is not counted.
        loss: Of the first step.
        attention: Backend of the attention.
        device_memory: Bytes of the device; 0 for the CPU.
    """

    seconds: float
    memory: float | None
    loss: float
    attention: str = "blocks"
    device_memory: float = 0.0


def table_of(lm: LanguageModel, work: Work) -> PairTable:
    """Return random pairs, with the log-probabilities of the reference, which a run computes once."""
    groups = groups_of(work.lengths, lm.model.config.vocab_size)
    reference = torch.stack(response_logps(lm, groups))
    words = tuple(
        Pair((Message("user", "random"),), "a", "b", "random", row, 0, 1, False, False, (1.0,), (1.0,))
        for row in range(work.pairs)
    )
    prompts = tuple(tuple(prompt) for prompt, _ in groups)
    chosen, rejected = (tuple(tuple(responses[k]) for _, responses in groups) for k in (0, 1))
    zero, one = torch.zeros(work.pairs), torch.ones(work.pairs)
    return PairTable(prompts, chosen, rejected, words, reference, zero, one, one, zero)


def library_step(
    lm: LanguageModel, work: Work, checkpointing: bool = False, accelerator: Accelerator | None = None
) -> Measured:
    """Train a few steps by the library's own loop, on all linear layers."""
    table, ends, records = table_of(lm, work), [], []

    def log(step: int, record: Record) -> None:
        wait(lm.device)
        ends.append(time.perf_counter())
        records.append(record)

    freed(lm.device)
    settings = Training(
        steps=STEPS,
        batch_pairs=work.pairs,
        learning_rate=RATE,
        warmup_ratio=0.0,
        rank=RANK,
        alpha=2.0 * RANK,
        targets=("all-linear",),
        gradient_checkpointing=checkpointing,
    )
    here = accelerator or Accelerator(cpu=lm.device.type == "cpu")
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(lm, settings, here, Path(folder, "checkpoint"), "benchmark", "", log=log)
        fit_pairs(replace(run, notify=lambda text: None), table, None, PairLoss(BETA))
    if not records:  # the first process alone has them
        return Measured(math.nan, None, math.nan)
    steps = [after - before for before, after in pairwise(ends[1:])]
    backend = backend_of(lm.model)
    return Measured(
        statistics.median(steps),
        peak(lm.device),
        float(records[0]["loss"]),
        backend.name if backend else "blocks",
        0.0 if lm.device.type == "cpu" else memory_of(lm.device),
    )


def tokens_of(work: Work) -> int:
    """Return the tokens of a packed step."""
    return sum(prompt + sum(responses) for prompt, responses in work.lengths)


def plan_of(
    measured: Measured, shape: Shape, kind: torch.dtype, work: Work, checkpointing: bool, nf4: bool = False
) -> tuple[Model, Passes]:
    """Return what the plan knows of a step that was measured: the model, and its one forward and backward."""
    name = str(kind).removeprefix("torch.")
    model = Model(
        shape,
        name,
        tuple(shape.targeted(["all-linear"])),
        RANK,
        checkpointing,
        measured.memory is None,
        "nf4" if nf4 else "none",
        measured.device_memory,
        measured.attention,
    )
    targets = sum(sum(responses) for _, responses in work.lengths)
    seen = sum(
        prompt**2 / 2 + sum(response * (prompt + response / 2) for response in responses)
        for prompt, responses in work.lengths
    )
    return model, Passes(tokens_of(work), targets, seen, 1, 3 * work.pairs, RANK, True)


def figures_of(
    measured: Measured,
    shape: Shape,
    kind: torch.dtype,
    work: Work,
    checkpointing: bool,
    ceiling: Ceiling,
    nf4: bool = False,
) -> Figures:
    """Return the figures of a step, beside what the plan says of it."""
    model, passes = plan_of(measured, shape, kind, work, checkpointing, nf4)
    cost = packed(passes, model, ceiling.rates)
    useful = packed(passes, replace(model, checkpointing=False), ceiling.rates)
    figures: dict[str, float | str] = {
        "work": f"{work}{', checkpointing' if checkpointing else ''}",
        "step, ms": 1e3 * measured.seconds,
        "tokens a second": passes.tokens / measured.seconds,
        "share of the measured ceiling of products (MFU), %": 100
        * useful.flops
        / measured.seconds
        / ceiling.products,
        "time that the plan says, as a share of the measured": cost.seconds / measured.seconds,
    }
    if measured.memory is None:
        return {**figures, "peak of memory": "the CPU keeps no count"}
    planned = frozen_bytes(model) + training_bytes(model, Step(passes.tokens, passes.targets, passes.seen))
    share = planned / measured.memory
    return {
        **figures,
        "attention": measured.attention,
        "peak of memory, GB": measured.memory / 1e9,
        "memory that the plan says, as a share of the measured": share,
        "within 30 % of the measured": "yes" if abs(share - 1) <= NEAR else "no",
    }


@dataclass(frozen=True)
class Ceiling:
    """What a device reaches: FLOP/s of a large product, bytes/s of a copy, and the rates that the plan takes."""

    products: float
    copy: float
    rates: Rates

    @classmethod
    def of(cls, device: torch.device, kind: torch.dtype, width: int) -> Ceiling:
        """Measure a device in a number format, with square matrices of ``width``."""
        a, b = (torch.randn(width, width, device=device, dtype=kind) for _ in range(2))
        products = 2 * width**3 / seconds_of(lambda: a @ b, device)
        copy = 2 * a.nbytes / seconds_of(lambda: b.copy_(a), device)
        return cls(products, copy, measure(device, kind))

    def figures(self, device: torch.device) -> Figures:
        """Return it in words, beside the data sheet where the device has one here."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        sheet = next((known for key, known in KNOWN.items() if key in name.lower().replace(" ", "")), None)
        known = math.nan if sheet is None else sheet.rates["bfloat16"].matmul
        return {
            "products, TFLOP/s": self.products / 1e12,
            "copies, GB/s": self.copy / 1e9,
            "products that the plan takes of this machine, TFLOP/s": self.rates.matmul / 1e12,
            "products that the plan takes of the data sheet, TFLOP/s": (
                known / 1e12 if sheet else "no data sheet of this device here"
            ),
            "start of an operation, microseconds": 1e6 * self.rates.launch,
        }
