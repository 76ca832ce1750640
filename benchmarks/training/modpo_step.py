"""B3: a MODPO step for two objectives, caches warm, against the calls of the official program (`official_modpo.py`).

    python -m benchmarks.training.modpo_step [--rounds 5] [--pairs 4] [--prompt 150 200] [--response 60 90] [--targets all-linear]

Float32, a LoRA of rank 16 from the same values (not zero), a margin model with a LoRA of its own, weights one half each.
The library has the reference's and the margin model's log-probabilities in its cache, as in every step of a run but none of
the official program's. CPU-seconds of one step on one thread; they count only when both give the same loss for every pair
before, and the same loss, norm of the gradient and rewards in every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.side_by_side import figure, options, same, start, write
from benchmarks.training.inputs import (
    BETA,
    RATE,
    Step,
    library_step,
    log_probabilities,
    pair_options,
    pair_table,
    random_lora,
    training,
)
from benchmarks.training.step import numbers, steps_in_turn
from paretune.methods.modpo import stamp
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel, load
from paretune.models.steering import trained
from paretune.training.learner import one_adapter
from paretune.training.loop import Training, TrainingRun
from paretune.training.preference_pairs import PairLoss, PairTask
from paretune.training.token_tables import PairTable

WEIGHT = 0.5


def pair_losses(lm: LanguageModel, table: PairTable, start: Adapter, settings: Training) -> list[float]:
    """Return the library's loss of every pair at ``start``."""
    run = TrainingRun(lm, settings, Accelerator(cpu=True), Path(), "benchmark", "", start)
    learner = one_adapter(run)
    with trained(learner.steering, gradient_checkpointing=False), torch.no_grad():
        task = PairTask(run, learner, table, None, PairLoss(BETA))
        with learner.steering.at(task.gate):
            return task.losses(table, range(len(table)))[0].tolist()


def official_step(
    source: str, table: PairTable, start: Adapter, margin: Adapter, targets: Sequence[str]
) -> tuple[Callable[[], Step], list[float]]:
    """Return a function that takes one step of the official kind from ``start``, and its loss of every pair there."""
    from benchmarks.training import official_modpo as official
    from benchmarks.training.trl_step import set_lora

    model = official.two_adapters(source, targets, {"default": start, "margin": margin})
    batch = official.padded(table, range(len(table)))
    optimizer = torch.optim.AdamW(official.trained(model), lr=RATE, weight_decay=0.0)

    def take() -> Step:
        set_lora(model, start)
        begin = time.process_time()
        loss, rewards, norm = official.step(model, optimizer, batch, WEIGHT, BETA)
        seconds = time.process_time() - begin
        chosen, rejected = rewards.chunk(2)
        return Step(seconds, float(loss.mean()), norm, float(chosen.mean()), float(rejected.mean()))

    with torch.no_grad():
        return take, official.losses(model, batch, WEIGHT, BETA)[0].tolist()


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    from benchmarks.training.trl_step import quiet

    parser = options(__doc__ or "", "modpo_step")
    pair_options(parser)
    arguments = parser.parse_args(given)
    quiet()
    start()
    lm = load(arguments.model, "float32", "cpu")
    lora, margin = (random_lora(lm, arguments.targets, seed) for seed in (1, 2))
    table = pair_table(lm, arguments)
    ratios = log_probabilities(lm, table, margin) - table.reference
    table = stamp(table, (1 - WEIGHT) * BETA * (ratios[:, 0] - ratios[:, 1]), WEIGHT, scale_loss=False)
    take, theirs = official_step(arguments.model, table, lora, margin, arguments.targets)
    ours = pair_losses(lm, table, lora, training(table, arguments, 1))
    peer = "the official calls"
    equal = [same("losses of the pairs", {"paretune": ours, peer: theirs}, relative=1e-4, absolute=2e-4)]
    steps = {"paretune": lambda: library_step(lm, table, lora, arguments), peer: take}
    seconds, taken = steps_in_turn(steps, arguments.rounds)
    equal.append(same("loss, gradient norm and rewards", numbers(taken), relative=1e-4, absolute=2e-4))
    what = f"MODPO step, two objectives, float32, {arguments.pairs} pairs"
    write(arguments, "B3", "MODPO step", [figure(what, seconds, "paretune", peer)], equal)


if __name__ == "__main__":
    main()
