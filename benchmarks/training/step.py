"""B1: a DPO step in float32 against TRL's DPOTrainer, with the reference in the loop (its default) and precomputed.

    python -m benchmarks.training.step [--rounds 5] [--pairs 4] [--prompt 150 200] [--response 60 90] [--targets all-linear]

All ways train a LoRA of rank 16 from the same values (not zero) on the same tokens: the library by its own loop with the
reference's log-probabilities cached, TRL by its own `train()`. Times are CPU-seconds of one step on one thread: of TRL from
the beginning of the forward to the end of the optimiser, of the library also the packing of the batch. They count only when
in every round all ways give the same loss, norm of the gradient and rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.side_by_side import figure, in_turn, options, same, start, write
from benchmarks.training.inputs import Step, library_step, pair_options, pair_table, random_lora
from paretune.models.language_model import load


def steps_in_turn(
    steps: Mapping[str, Callable[[], Step]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[Step]]]:
    """Take the steps in turn once to warm up and ``rounds`` times for their CPU-seconds; return these and all steps."""
    taken: dict[str, list[Step]] = {name: [step()] for name, step in steps.items()}

    def way(name: str) -> Callable[[], float]:
        def run() -> float:
            taken[name].append(steps[name]())
            return taken[name][-1].seconds

        return run

    return in_turn({name: way(name) for name in steps}, rounds), taken


def numbers(taken: Mapping[str, Sequence[Step]]) -> dict[str, list[float]]:
    """Return what each way computed in all its steps."""
    return {name: [number for step in done for number in step.numbers] for name, done in taken.items()}


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    from benchmarks.training.trl_step import quiet, trl_step

    parser = options(__doc__ or "", "step")
    pair_options(parser)
    arguments = parser.parse_args(given)
    quiet()
    start()
    lm = load(arguments.model, "float32", "cpu")
    table = pair_table(lm, arguments)
    lora = random_lora(lm, arguments.targets, seed=1)
    inputs = (arguments.model, lm.model.dtype, table, lora, arguments.targets)
    steps = {
        "paretune": lambda: library_step(lm, table, lora, arguments),
        "TRL, reference in the loop": trl_step(*inputs),
        "TRL, reference precomputed": trl_step(*inputs, precomputed=True),
    }
    seconds, taken = steps_in_turn(steps, arguments.rounds)
    equal = [same("loss, gradient norm and rewards", numbers(taken), relative=1e-4, absolute=2e-4)]
    what = f"DPO step, float32, {arguments.pairs} pairs"
    figures = [figure(what, seconds, "paretune", peer) for peer in list(steps)[1:]]
    write(arguments, "B1", "DPO step in float32", figures, equal)


if __name__ == "__main__":
    main()
