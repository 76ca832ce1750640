"""What a bfloat16 model gains where its products of many rows are formed in float32: a training step, and decoding.

    python -m benchmarks.models.wide [--rounds 3] [--rows 64] [--tokens 16]

paretune does so where the processor is slow at bfloat16 (:func:`paretune.models.frozen_linear.slow_bfloat16`, printed). The two
ways take turns in one process on one thread, with the pairs and the adapter of B1. They count only when both losses are near that
of the float32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.models.where import OBJECTIVES, PROMPT, random_panacea
from benchmarks.side_by_side import Way, clocked, figure, in_turn, options, same, start, write
from benchmarks.training.inputs import BETA, RANK, SCALE, pair_options, pair_table, random_lora
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.models import frozen_linear
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering
from paretune.training.losses import log_ratio_gap, pair_loss

WIDE, NARROW = "products in float32", "products in bfloat16"


@contextmanager
def products(wide: bool) -> Iterator[None]:
    """Have the processor be taken for one that is slow at bfloat16, or fast."""
    measured = frozen_linear.slow_bfloat16
    frozen_linear.slow_bfloat16 = lambda: wide  # type: ignore[assignment]
    try:
        yield
    finally:
        frozen_linear.slow_bfloat16 = measured


def both(run: Callable[[], object]) -> dict[str, Way]:
    """Return the two ways to run something, each run once before."""

    def way(wide: bool) -> Way:
        def timed() -> float:
            with products(wide):
                return clocked(run)()

        timed()
        return timed

    return {WIDE: way(True), NARROW: way(False)}


def step_of(lm: LanguageModel, arguments) -> Callable[[], float]:
    """Return a step on the pairs of B1 that returns its loss; nothing is updated."""
    table = pair_table(lm, arguments)
    steering = Steering.attach_adapter(lm.model, random_lora(lm, arguments.targets, seed=1), trainable=True)
    batch = pack(table.groups(range(len(table))))

    def step() -> float:
        for parameter in steering.parameters():
            parameter.grad = None
        with steering.at(torch.full((RANK,), SCALE)):
            logps = packed_logps(lm.model, batch).view(-1, 2)
            loss = pair_loss(log_ratio_gap(logps, table.reference), BETA).mean()
            loss.backward()
        return loss.item()

    return step


def main(given: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = options(__doc__ or "", "wide", rounds=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16)
    pair_options(parser)
    arguments = parser.parse_args(given)
    start()
    slow = frozen_linear.slow_bfloat16()
    print(f"this processor is {'slow' if slow else 'fast'} at bfloat16", flush=True)
    exact = step_of(load(arguments.model, "float32", "cpu"), arguments)()
    lm = load(arguments.model, "bfloat16", "cpu")
    step = step_of(lm, arguments)
    losses: dict[str, list[float]] = {"float32 model": [exact]}
    for name, wide in ((WIDE, True), (NARROW, False)):
        with products(wide):
            losses[name] = [step()]
    equal = [same("losses", losses, 0.05, 0.05)]
    figures = [figure("DPO step of B1, bfloat16", in_turn(both(step), arguments.rounds), WIDE, NARROW)]
    decoder = load(arguments.model, "bfloat16", "cpu")
    vars(decoder)["stops"] = frozenset()  # no row ends early
    policy = random_panacea(decoder)
    asked = [
        Preference(OBJECTIVES[:2], tuple(weights))
        for weights in simplex_grid(2, max(1, arguments.rows - 1)).tolist()[: arguments.rows]
    ]
    sampling = Sampling(arguments.tokens, temperature=0.0, batch_size=arguments.rows)
    decode = both(lambda: policy.generate([PROMPT] * arguments.rows, asked, sampling))
    what = f"{arguments.tokens} tokens of {arguments.rows} rows, bfloat16"
    figures.append(figure(what, in_turn(decode, arguments.rounds), WIDE, NARROW))
    write(arguments, "wide", "Products of bfloat16 in float32", figures, equal, slow=slow)


if __name__ == "__main__":
    main()
