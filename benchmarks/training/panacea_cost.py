"""B6: what Panacea's one adapter costs where it is not shown to be below MODPO's anchors.

    python -m benchmarks.training.panacea_cost [--front docs/results/panacea/figures.json] [--rounds 5]

Two parts, for a training run of both is hours and is committed. The tokens that each trained on are read from a finished
run's `front.json` (or the figures kept of one); they count only when its paired test over prompts does not show the
conditioned policy below the anchors (utility at the preferences that both serve). The time of a token is measured: a step of
a conditioned adapter (a LoRA an objective, a preference a row, as that run's `config.yaml` has it) and a step of one plain
LoRA take turns on the same pairs; that of an anchor is a plain step. These count only when both, which start at the base
model exactly, give log-probabilities equal to the reference's (so rewards of 0) and a loss of log 2, on the same number of
tokens. The cost is the product of both ratios.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import Way, figure, in_turn, options, same, start, write
from benchmarks.training.inputs import (
    BETA,
    OBJECTIVES,
    TwoSteps,
    pair_options,
    pair_table,
    training,
    two_steps,
)
from paretune.core.files import read_json
from paretune.models.language_model import LanguageModel, load
from paretune.training.conditioned import ObjectiveData, fit_conditioned
from paretune.training.conditioning import Conditioning
from paretune.training.loop import TrainingRun
from paretune.training.preference_pairs import PairLoss, fit_pairs
from paretune.training.token_tables import PairTable

CONDITIONED, PLAIN = "one conditioned adapter", "anchors"
CONDITIONING = Conditioning(
    rank=0,
    groups=16,
    init="lora",
    per="row",
    draw="corners",
    corner_share=0.75,
    rate_factor=1.2,
    gate_rate_factor=1.0,
)


def trained_tokens(
    front: Mapping[str, Any], anchors: str, conditioned: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the tokens each policy of a run trained on, and the test between the two.

    Raises:
        SystemExit: the run has no such policy, or its test shows the conditioned one below.
    """
    policies = {policy["name"]: policy for policy in front["policies"]}
    missing = {anchors, conditioned} - set(policies)
    if missing:
        sys.exit(f"the run has no policy {', '.join(sorted(missing))}; it has {', '.join(policies)}")
    tests = [
        test for test in front["comparisons"] if {test["first"], test["second"]} == {anchors, conditioned}
    ]
    (test,) = tests
    if test["verdict"] == f"{anchors} above":
        sys.exit(f"{conditioned} is below {anchors}, so its cost means nothing: {test}")
    facts = {"what": "utility at common preferences not below the anchors'", "test": test}
    return {name: policies[name]["cost"]["tokens"] for name in (conditioned, anchors)}, facts


def fits(
    lm: LanguageModel, table: PairTable, arguments: argparse.Namespace
) -> dict[str, Callable[[], TwoSteps]]:
    """Return the training of each kind for two steps on the whole table."""
    settings = training(table, arguments, 2)
    data = ObjectiveData(OBJECTIVES[:2], (table, table))

    def conditioned(run: TrainingRun) -> object:
        return fit_conditioned(run, data, None, BETA, CONDITIONING)

    def plain(run: TrainingRun) -> object:
        return fit_pairs(run, table, None, PairLoss(BETA))

    return {
        CONDITIONED: lambda: two_steps(conditioned, lm, settings),
        PLAIN: lambda: two_steps(plain, lm, settings),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "panacea_cost")
    pair_options(parser)
    parser.add_argument("--front", type=Path, default=Path("docs/results/panacea/figures.json"))
    parser.add_argument("--anchors", default="modpo", help="name of their policy in the run")
    parser.add_argument("--conditioned", default="lora", help="name of its policy in the run")
    arguments = parser.parse_args(given)
    start()
    tokens, facts = trained_tokens(read_json(arguments.front), arguments.anchors, arguments.conditioned)
    lm = load(arguments.model, "float32", "cpu")
    runs = fits(lm, pair_table(lm, arguments), arguments)
    losses = {name: [run().first["loss"]] for name, run in runs.items()}

    def way(name: str) -> Way:
        def run() -> float:
            ran = runs[name]()
            losses[name].append(ran.first["loss"])
            return 1000 * ran.seconds / ran.second["tokens"]

        return run

    each = in_turn({name: way(name) for name in runs}, arguments.rounds)
    start_loss = {"log 2": [math.log(2)] * (arguments.rounds + 1), **losses}
    equal = [facts, same("losses at the start", start_loss, relative=0.0, absolute=1e-4)]
    counted = {CONDITIONED: [tokens[arguments.conditioned]], PLAIN: [tokens[arguments.anchors]]}
    whole = {name: [counted[name][0] * value / 1000 for value in each[name]] for name in each}
    read = f"{arguments.conditioned} and {arguments.anchors} in {arguments.front}"
    figures = [
        figure("tokens trained on for the front", counted, CONDITIONED, PLAIN, "tokens", read),
        figure("training, a token, float32", each, CONDITIONED, PLAIN, "CPU-ms"),
        figure("training for the front", whole, CONDITIONED, PLAIN, "CPU-s", "the product of both"),
    ]
    write(arguments, "B6", "Panacea beside MODPO's anchors", figures, equal)


if __name__ == "__main__":
    main()
