"""What a run would do, before it does it: stages, training runs, and an estimate of the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.config import RunConfig
from paretune.lm import EMBEDDED, locate
from paretune.run import load_splits

if TYPE_CHECKING:
    from rich.table import Table

FORWARD_BACKWARD = 6
"""FLOP a parameter and token of a step: 2 forward, 2 for activations, 2 for attention, head and adapters (roughly)."""
SUSTAINED = 0.2
"""Share of a large matrix product's speed that a step reaches; measured fp32 steps lie between 0.3 and 0.5."""
TOKENS_A_WORD = 1.4
DECODING = 6.0
"""Seconds of sampling a token, in units of its forward pass: decoding is bound by memory, not by arithmetic."""


ANCHORED = ("modpo", "dpo-lw", "paretohqd")
"""Methods that are measured at the run's preferences, not between them."""


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
    M, N = len(objectives), len(preferences)
    # Adapters that are trained, tables of pairs in a step, share of `train.steps`, and why so many. The single-objective
    # models are the soup, MOD, SIPO's start, MODPO's margins and the ends of the chord, so they are always trained.
    work: dict[str, tuple[int, int, float, str]] = {
        "dpo-soup": (M, 1, 1, "one an objective"),
        "modpo": (N - corners, 1, 1, "one an inner preference"),
        "panacea": (1, M, 1, f"for all preferences, {M} times the pairs a step"),
        "dpo-lw": (N, 1, 1, "one a preference"),
        "paretohqd": (
            N,
            1,
            1.5,
            "one a preference, the second stage half as long; M + 1 models answer prompts between",
        ),
        "ric": (1, 1, 1.2, "for all preferences; answers are sampled before the online stage"),
        "sipo": (M, 1, 1, "one an objective, after answers were sampled, reviewed and rewritten"),
    }
    rows = [("data", ", ".join(f"{size} {name}" for name, size in sizes.items()) + " prompts")]
    rows.append(("score", ", ".join(named) or "labels of the data"))
    runs = pairs = 0
    for name, (adapters, tables, share, why) in work.items():
        if name in config.methods or name == "dpo-soup":
            training = config.training(name)
            label, steps = "dpo" if name == "dpo-soup" else name, round(share * training.steps)
            count = f"{adapters} run{'s' * (adapters != 1)} of {steps} steps"
            rows.append((f"train: {label}", f"{count}, {why}"))
            runs += adapters
            pairs += adapters * tables * steps * training.accumulate * training.batch_pairs
    prompts = min(sizes["test"], config.evaluate.prompts or sizes["test"])
    fine = config.fine_grid(objectives)
    inner = sum(max(preference.weights) < 1 for preference in fine)
    anchored = sum(name in ANCHORED for name in config.methods)
    points = 1 + len(objectives) + anchored * (len(preferences) - corners)
    points += (len(config.methods) - anchored) * inner
    # The corners of a soup, MOD and MODPO are the single-objective models, which are counted already.
    own = [name for name in config.methods if name not in ("dpo-soup", "mod", "modpo")]
    points += sum(corners if name in ANCHORED else len(fine) - inner for name in own)
    answers = points * prompts * config.evaluate.samples
    rows.append(("front", f"{answers} answers: {points} points on {prompts} held-out prompts"))
    words = [len(text.split()) for row in splits["train"].rows for text in row.responses]
    pair = 2 * TOKENS_A_WORD * (sum(words) / max(1, len(words))) + 60
    parameters = _parameters(config.model)
    if parameters is None:
        return Plan(tuple(rows), runs, None)
    speed = _flops() * SUSTAINED
    read = answers * config.sampling.max_new_tokens * 0.6
    seconds = parameters * (pairs * pair * FORWARD_BACKWARD + read * 2 * DECODING) / speed
    return Plan(tuple(rows), runs, seconds)


def _parameters(model: str) -> float | None:
    """Return the number of parameters from the files of a local model, None for one on the hub."""
    from pathlib import Path

    if model == EMBEDDED:
        return 135e6
    folder = Path(locate(model))
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return weights / 2 if weights else None


def _flops() -> float:
    """Measure a matrix product on this machine, in FLOP a second."""
    import torch

    size = 768
    matrix = torch.randn(size, size)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * size**3 / (time.perf_counter() - start)


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
