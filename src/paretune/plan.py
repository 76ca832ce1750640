"""What a run would do, before it does it: stages, training runs, and an estimate of the time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from paretune.config import RunConfig
from paretune.lm import EMBEDDED, computing, locate
from paretune.methods.morlhf import MORLHFConfig
from paretune.methods.paretohqd import ParetoHqDConfig
from paretune.methods.ric import MOST_PROMPTS, RiCConfig
from paretune.methods.sipo import SIPOConfig, sampled_at
from paretune.preference import Preference
from paretune.run import load_splits

if TYPE_CHECKING:
    from rich.table import Table

FORWARD_BACKWARD = 6
"""FLOP a parameter and token of a step: 2 forward, 2 for activations, 2 for attention, head and adapters (roughly)."""
TOKENS_A_WORD = 1.4
DECODING = 6.0
"""Seconds of sampling a token, in units of its forward pass: decoding is bound by memory, not by arithmetic."""


ANCHORED = ("modpo", "dpo-lw", "paretohqd")
"""Methods that are measured at the run's preferences, not between them; MORLHF's anchors are too."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        rows: (stage, what it does) in order.
        runs: adapters that are trained.
        seconds: rough estimate for this machine; None where the size of the model is not known here.
    """

    rows: tuple[tuple[str, str], ...]
    runs: int
    seconds: float | None


def plan(config: RunConfig) -> Plan:
    """Return what ``paretune run`` would do; loads the data, not the model."""
    splits = load_splits(config)
    sizes = {name: len({row.key for row in part.rows}) for name, part in splits.items()}
    named = [str(spec.get("objective")) for spec in config.score]
    objectives = list(config.objectives) or list(dict.fromkeys([*splits["train"].objectives, *named]))
    preferences = config.grid(objectives)
    config.extrapolations(objectives)
    corners = sum(max(preference.weights) == 1 for preference in preferences)
    rows = [("data", ", ".join(f"{size} {name}" for name, size in sizes.items()) + " prompts")]
    rows.append(("score", ", ".join(named) or "labels of the data"))
    runs = pairs = drawn = 0
    # The single-objective models are the soup, MOD, SIPO's start, MODPO's margins and the ends of the chord, so they are
    # always trained.
    for name in dict.fromkeys(["dpo-soup", *config.methods]):
        if config.kind(name) == "mod":
            continue
        work = _work(name, config, preferences, corners, sizes["train"])
        training = config.training(name)
        label = "dpo" if name == "dpo-soup" else name
        count = f"{work.adapters} run{'s' * (work.adapters != 1)} of {work.steps} steps"
        rows.append((f"train: {label}", f"{count}, {work.why}"))
        runs += work.adapters
        pairs += work.adapters * work.tables * work.steps * training.accumulate * training.batch_pairs
        drawn += work.answers
    prompts = min(sizes["test"], config.evaluate.prompts or sizes["test"])
    fine = config.fine_grid(objectives)
    inner = sum(max(preference.weights) < 1 for preference in fine)
    kinds = [config.kind(name) for name in config.methods]
    anchors = [_anchors(name, config) for name in config.methods]
    anchored = sum(anchors)
    points = 1 + len(objectives) + anchored * (len(preferences) - corners)
    points += (len(kinds) - anchored) * inner
    # The corners of a soup, MOD and MODPO are the single-objective models, which are counted already.
    shared = ("dpo-soup", "mod", "modpo")
    own = [anchor for kind, anchor in zip(kinds, anchors, strict=True) if kind not in shared]
    points += sum(corners if anchor else len(fine) - inner for anchor in own)
    answers = points * prompts * config.evaluate.samples
    rows.append(("front", f"{answers} answers: {points} points on {prompts} held-out prompts"))
    words = [len(text.split()) for row in splits["train"].rows for text in row.responses]
    pair = 2 * TOKENS_A_WORD * (sum(words) / max(1, len(words))) + 60
    parameters = _parameters(config.model)
    if parameters is None:
        return Plan(tuple(rows), runs, None)
    read = (answers + drawn) * config.sampling.max_new_tokens * 0.6
    seconds = parameters * (pairs * pair * FORWARD_BACKWARD + read * 2 * DECODING) / _flops(config)
    return Plan(tuple(rows), runs, seconds)


def _anchors(name: str, config: RunConfig) -> bool:
    """Tell whether a method of the run has one adapter for each of its preferences."""
    settings = config.method(name)
    return config.kind(name) in ANCHORED or (isinstance(settings, MORLHFConfig) and settings.form == "anchors")


@dataclass(frozen=True)
class Work:
    """What a method trains and draws.

    Attributes:
        adapters: that are trained.
        tables: of pairs in a step.
        steps: of each adapter, all stages together.
        why: so many.
        answers: drawn for training, at most.
    """

    adapters: int
    tables: int
    steps: int
    why: str
    answers: int = 0


def _work(
    name: str, config: RunConfig, preferences: Sequence[Preference], corners: int, prompts: int
) -> Work:
    """Return the work of a method at ``preferences``, some of them corners, on so many training prompts."""
    settings = config.method(name) if name in config.methods else None
    steps, M, N = config.training(name).steps, len(preferences[0].weights), len(preferences)
    if isinstance(settings, ParetoHqDConfig):
        first = settings.steps or steps
        later = (settings.stage2_steps or max(1, first // 2)) if settings.stage2 else 0
        drawn = (M + 1) * min(settings.prompts, prompts) if settings.stage2 else 0
        why = "one a preference" + (f"; {drawn} answers of M + 1 models are drawn between" if drawn else "")
        return Work(N, 1, first + later, why, drawn)
    if isinstance(settings, RiCConfig):
        drawn = settings.iterations * (settings.prompts or min(prompts, MOST_PROMPTS))
        total = steps + settings.iterations * (settings.online_steps or max(1, round(steps / 5)))
        return Work(1, 1, total, f"for all preferences; {drawn} answers are drawn on the way", drawn)
    if isinstance(settings, SIPOConfig):
        tried = len(sampled_at(preferences[0].objectives, preferences, settings))
        drawn = settings.rounds * min(settings.conflicts, prompts) * tried * (3 if settings.refine else 1)
        total = steps + settings.rounds * (settings.steps or steps)
        return Work(
            M, 1, total, f"one an objective; up to {drawn} answers, reviews and rewrites are drawn", drawn
        )
    if isinstance(settings, MORLHFConfig):
        own, adapters = config.training(name), N if settings.form == "anchors" else 1
        each = own.accumulate * own.batch_pairs * settings.responses * math.ceil(steps / settings.epochs)
        why = f"{'one a preference' if adapters > 1 else 'for all preferences'}; {adapters * each} answers are drawn on the way"
        return Work(adapters, math.ceil(settings.responses / 2), steps, why, adapters * each)
    return {
        "dpo-soup": Work(M, 1, steps, "one an objective"),
        "modpo": Work(N - corners, 1, steps, "one an inner preference"),
        "panacea": Work(1, M, steps, f"for all preferences, {M} times the pairs a step"),
        "dpo-lw": Work(N, 1, steps, "one a preference"),
    }[config.kind(name)]


def _parameters(model: str) -> float | None:
    """Return the number of parameters from the files of a local model, None for one on the hub."""
    from pathlib import Path

    if model == EMBEDDED:
        return 135e6
    folder = Path(locate(model))
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return weights / 2 if weights else None


def _flops(config: RunConfig) -> float:
    """Measure a small feed-forward block on this machine in the run's number format, forward and backward, in FLOP a second."""
    import torch

    device, dtype = computing(config.dtype, config.device)
    width, rows = 576, 1024
    hidden = torch.randn(rows, width, device=device, dtype=dtype, requires_grad=True)
    up, down = (
        torch.randn(shape, device=device, dtype=dtype) for shape in ((width, 3 * width), (3 * width, width))
    )
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        (torch.nn.functional.silu(hidden @ up) @ down + hidden).sum().backward()
        assert hidden.grad is not None
        float(hidden.grad.sum())  # waits for an accelerator
        seconds.append(time.perf_counter() - start)
    # Two products forward and two backward. Not the fastest time: a machine that is shared is slow in the middle.
    return 4 * 2 * rows * 3 * width * width / median(seconds)


def render(plan: Plan) -> Table:
    """Return the plan as a table for the terminal."""
    from rich.table import Table

    estimate = (
        "unknown (the model is not on this machine)"
        if plan.seconds is None
        else f"about {max(1, round(plan.seconds / 60))} min"
    )
    table = Table("stage", "what", title=f"{plan.runs} training runs, {estimate}")
    for stage, what in plan.rows:
        table.add_row(stage, what)
    return table
