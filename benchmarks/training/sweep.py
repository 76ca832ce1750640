"""B4: a MODPO sweep over five preferences, end to end, against five runs of the kind people start today.

    python -m benchmarks.training.sweep [--rounds 5] [--pairs 4] [--epochs 2] [--batch 2] [--targets all-linear] [--only-parts]

The library loads the model once, tokenises, caches the reference's and the margin models' log-probabilities, trains the two
single-objective adapters (which are also the margin models) and three anchors between them, and saves the policy. The peer
is five runs that each load the model, train and save: TRL's DPOTrainer with the reference in the loop at the two ends, and
the calls of the official MODPO program (`official_modpo.py`) in between, with the margin model given. Data: the
quickstart's answers, scored by its two rules; float32; a LoRA of rank 16. CPU-seconds of everything, on one thread; the
peer is not charged for tokenising, and only the library reads a held-out pair at the end of each run. They count only when
all runs begin at the same LoRA, take the same pairs in the same order and have the same loss at every step (--tolerance:
Adam's first steps have the size of the learning rate whatever the gradient, so where a gradient is rounding alone the
weights go apart, and by it the losses of later steps).

At last the library's own time is told by parts, of one more sweep under Python's profiler, which adds some percent;
--only-parts tells that alone, without the comparison, and writes no file.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.side_by_side import clocked, figure, in_turn, options, same, start, write
from benchmarks.training.inputs import BETA, OBJECTIVES, RANK, SCALE
from paretune.core.files import read_json
from paretune.core.preference import Preference, preference_grid
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import pairs
from paretune.data.shipped import shipped_file
from paretune.methods import modpo
from paretune.methods.base import Inputs
from paretune.methods.modpo import MODPOConfig, chosen_objective
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel, load
from paretune.scoring.scorer import build_scorer, score_dataset
from paretune.training.lab import Lab
from paretune.training.loop import Training, attach, data_order, learning_rate
from paretune.training.token_tables import PairTable, tokenise

RULES = (
    {"objective": OBJECTIVES[0], "rule": "length", "unit": "words", "direction": "lower", "per": 10},
    {"objective": OBJECTIVES[1], "rule": "sentiment", "how": "sum"},
)
CONFIG = MODPOConfig(beta=BETA)

PARTS = {
    "training steps": ("loop.py", "step"),
    "frozen passes: reference, margins": ("kept_logps.py", "_computed"),
    "validation": ("preference_pairs.py", "validate"),
    "loading the model": ("language_model.py", "load"),
    "saving adapters": ("adapter.py", "save"),
}
"""Part of a sweep -> the function of the library whose time it is, with all that it calls."""

Losses = dict[str, list[float]]
"""Preference -> the loss of every step of its run."""


@dataclass(frozen=True)
class Work:
    """What both sides get: the data, the preferences and how to train."""

    source: str
    train: ScoredDataset
    held_out: ScoredDataset
    preferences: list[Preference]
    settings: Training


def make_work(arguments: argparse.Namespace) -> Work:
    """Return as many rows of the quickstart's data as asked for that pair for both objectives, and one more to hold out."""
    data = score_dataset(ScoredDataset.read(shipped_file()), [build_scorer(rule) for rule in RULES])
    paired = [{pair.row for pair in pairs(data, objective, CONFIG.pairs)} for objective in data.objectives]
    rows = [data.rows[number] for number in sorted(set.intersection(*paired))[: arguments.pairs + 1]]
    settings = Training(
        steps=arguments.pairs * arguments.epochs // arguments.batch,
        batch_pairs=arguments.batch,
        rank=RANK,
        alpha=RANK * SCALE,
        targets=tuple(arguments.targets),
        validate_every=arguments.pairs * arguments.epochs // arguments.batch,
    )
    return Work(
        arguments.model,
        ScoredDataset(data.objectives, tuple(rows[:-1])),
        ScoredDataset(data.objectives, tuple(rows[-1:])),
        preference_grid(data.objectives, 4),
        settings,
    )


def by_library(work: Work) -> Losses:
    """Run the sweep by the library."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(load(work.source, "float32", "cpu"), Path(folder), work.settings)
        policy = modpo.train(Inputs(lab, work.train, work.held_out, work.preferences), CONFIG)
        policy.save(Path(folder, "policy"))
        histories = [Path(folder, adapter.info["stage"], "history.json") for adapter in policy.adapters]
        return {
            str(preference): [record["loss"] for record in read_json(history)]
            for preference, history in zip(work.preferences, histories, strict=True)
        }


def parts(work: Work) -> dict[str, float]:
    """Return the CPU-seconds of each of :data:`PARTS` in a sweep by the library, and of all else."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(by_library, work)
    stats = pstats.Stats(profile)
    taken = {
        (Path(file).name, name): row[3]
        for (file, _, name), row in stats.stats.items()  # type: ignore[attr-defined]
        if "paretune" in Path(file).parts
    }
    found = {part: taken[function] for part, function in PARTS.items()}
    return found | {"all else": stats.total_tt - sum(found.values())}  # type: ignore[attr-defined]


def told(spent: dict[str, float]) -> None:
    """Print the CPU-seconds of each part and its share of all."""
    for part, taken in spent.items():
        print(f"{part}: {taken:.1f} CPU-s, {taken / sum(spent.values()):.1%}")


def by_runs(work: Work, tables: dict[str, PairTable], begin: Adapter) -> Losses:
    """Run the sweep as five runs; ``begin`` is the LoRA that all start from."""
    losses: Losses = {}
    with tempfile.TemporaryDirectory() as folder:
        margins = {}
        for preference in work.preferences:
            (k,) = (
                (o for o in preference.objectives if preference[o] == 1)
                if 1 in preference.weights
                else (None,)
            )
            if k is not None:
                losses[str(preference)], margins[k] = dpo_run(work, tables[k], begin, Path(folder, k))
        for preference in work.preferences:
            if str(preference) not in losses:
                k = chosen_objective(preference, CONFIG)
                (other,) = set(preference.objectives) - {k}
                out = Path(folder, str(len(losses)))
                losses[str(preference)] = modpo_run(
                    work, tables[k], begin, margins[other], preference[k], out
                )
    return {str(preference): losses[str(preference)] for preference in work.preferences}


def dpo_run(work: Work, table: PairTable, begin: Adapter, out: Path) -> tuple[list[float], Adapter]:
    """Train a single objective by TRL and save it; return the losses and the adapter, with ``begin``'s modules."""
    from benchmarks.training.trl_step import make_trainer, set_lora
    from paretune.models.adapter import from_peft

    settings = work.settings
    draws = settings.steps * settings.batch_pairs
    order = data_order(len(table), draws, settings.seed)
    trainer, _ = make_trainer(
        work.source,
        torch.float32,
        table,
        order,
        settings.batch_pairs,
        settings.targets,
        rate=settings.learning_rate,
    )
    set_lora(trainer.model, begin)
    trainer.create_optimizer()
    trainer.lr_scheduler = schedule(trainer.optimizer, settings)
    trainer.train()
    trainer.model.save_pretrained(out)
    return [record["loss"] for record in trainer.state.log_history if "loss" in record], from_peft(out)


def modpo_run(
    work: Work, table: PairTable, begin: Adapter, margin: Adapter, weight: float, out: Path
) -> list[float]:
    """Train an anchor by the official calls and save it; return the losses."""
    from benchmarks.training import official_modpo as official

    settings = work.settings
    model = official.two_adapters(work.source, settings.targets, {"default": begin, "margin": margin})
    optimizer = torch.optim.AdamW(official.trained(model), lr=settings.learning_rate, weight_decay=0.0)
    rates = schedule(optimizer, settings)
    order = data_order(len(table), settings.steps * settings.batch_pairs, settings.seed)
    losses = []
    for number in range(settings.steps):
        rows = order[number * settings.batch_pairs : (number + 1) * settings.batch_pairs]
        batch = official.padded(table, rows)
        losses.append(float(official.step(model, optimizer, batch, weight, BETA)[0].mean()))
        rates.step()
    model.save_pretrained(out, selected_adapters=["default"])
    return losses


def schedule(optimizer: torch.optim.Optimizer, settings: Training) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the library's schedule for a peer's optimiser."""

    def factor(step: int) -> float:
        return learning_rate(min(step, settings.steps - 1), settings) / settings.learning_rate

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def given_to_peers(lm: LanguageModel, work: Work) -> tuple[dict[str, PairTable], Adapter]:
    """Return the tokens of each objective's pairs, and the LoRA that a fresh run of the library starts from."""
    tables = {
        objective: tokenise(lm, pairs(work.train, objective, CONFIG.pairs), work.settings.max_tokens)[0]
        for objective in work.train.objectives
    }
    steering, scale = attach(lm, work.settings)
    begin = steering.adapter(scale)
    steering.detach()
    return tables, begin


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    from benchmarks.training.trl_step import quiet

    parser = options(__doc__ or "", "sweep")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--targets", nargs="+", default=["all-linear"])
    parser.add_argument("--tolerance", type=float, default=1e-3, help="on the losses, relative")
    parser.add_argument("--only-parts", action="store_true", help="tell the library's time by parts alone")
    arguments = parser.parse_args(given)
    quiet()
    start()
    work = make_work(arguments)
    if arguments.only_parts:
        told(parts(work))
        return
    tables, begin = given_to_peers(load(work.source, "float32", "cpu"), work)
    found: dict[str, list[float]] = {"paretune": [], "five runs": []}

    def library() -> None:
        found["paretune"] += [loss for losses in by_library(work).values() for loss in losses]

    def runs() -> None:
        found["five runs"] += [loss for losses in by_runs(work, tables, begin).values() for loss in losses]

    seconds = in_turn({"paretune": clocked(library), "five runs": clocked(runs)}, arguments.rounds)
    equal = [same("losses of every step of every run", found, relative=arguments.tolerance)]
    what = (
        f"MODPO at five preferences, {arguments.pairs} pairs, {work.settings.steps} steps a run, end to end"
    )
    figures = [figure(what, seconds, "paretune", "five runs")]
    spent = parts(work)
    told(spent)
    write(arguments, "B4", "MODPO sweep", figures, equal, parts=spent)


if __name__ == "__main__":
    main()
