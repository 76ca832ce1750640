"""What choices gain end to end on a CPU: copies of frozen weights and attention by products in training, and quick decoding.

    python -m benchmarks.models.gains [--rounds 5] [--dtype bfloat16 float32] [--rows 1 8]

A DPO step in float32 (with AVX-512) that multiplies with the frozen weights as they are, and one that keeps a copy of them in
oneDNN's layout for each direction. A step in bfloat16 with attention by products in bfloat16, and with attention in float32 (a
CPU that is slow at bfloat16 takes the second by itself, and has no first). 64 greedy tokens, prompts included, of rows that each
have their own preference, by the block of :mod:`paretune.models.decoding_block`, and by the model's own; they count only where in
float32 both drew the same tokens. CPU-seconds on one thread, in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.side_by_side import clocked, figure, in_turn, options, same, same_tokens, start, write
from benchmarks.training.inputs import (
    OBJECTIVES,
    PROMPT,
    library_step,
    pair_options,
    pair_table,
    random_lora,
    random_panacea,
)
from benchmarks.training.step import numbers, steps_in_turn
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.models import frozen_linear
from paretune.models.decoding_block import DecodingBlock
from paretune.models.frozen_linear import FrozenLinear, slow_bfloat16
from paretune.models.language_model import LanguageModel, load

TOKENS = 64
FEW, OWN = "few operations", "the model's own"
AS_IT_IS, COPIES = "weights as they are", "a copy for each direction"


@contextmanager
def copies(wanted: bool) -> Iterator[None]:
    """Have training keep a copy of each frozen weight for each direction, or leave the choice to the library."""
    held = frozen_linear.layout_gains, frozen_linear.wide_vectors
    if wanted:
        frozen_linear.layout_gains = lambda kind: True
        frozen_linear.wide_vectors = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        frozen_linear.layout_gains, frozen_linear.wide_vectors = held


def step_with(lm: LanguageModel, wanted: bool, arguments: argparse.Namespace) -> Callable[[], object]:
    """Return a step of B1 with copies of the weights, or as the library does it; fails where it keeps others."""
    table, lora = pair_table(lm, arguments), random_lora(lm, arguments.targets, seed=1)
    layers = [each for each in lm.model.get_decoder().modules() if isinstance(each, FrozenLinear)]

    def step() -> object:
        with copies(wanted):
            taken = library_step(lm, table, lora, arguments)
        # Short texts may have a copy in the forward pass either way.
        if any((True, torch.float32) in each._packed for each in layers) != wanted:
            raise SystemExit("a step keeps other copies of the weights than it should")
        return taken

    return step


def decoding(lm: LanguageModel, rows: int, few: bool) -> Callable[[], list[list[int]]]:
    """Return what decodes greedily and returns the tokens of each row."""
    vars(lm)["stops"] = frozenset()  # no row ends early
    policy = random_panacea(lm)
    asked = [Preference(OBJECTIVES[:2], tuple(w)) for w in simplex_grid(2, max(1, rows - 1)).tolist()[:rows]]
    sampling = Sampling(TOKENS, temperature=0.0, batch_size=rows)
    blocks = list(lm.model.get_decoder().layers)
    quick = type(blocks[0])
    if not issubclass(quick, DecodingBlock):
        raise SystemExit("the blocks of this model do not decode by few operations")
    kind = quick if few else quick.__mro__[2]

    def run() -> list[list[int]]:
        for block in blocks:
            block.__class__ = kind
        try:
            answers = policy.generate([PROMPT] * rows, asked, sampling)
        finally:
            for block in blocks:
                block.__class__ = quick
        return [list(answer.tokens) for answer in answers]

    return run


def main(given: Sequence[str] | None = None) -> None:
    """Run both comparisons and print them."""
    parser = options(__doc__ or "", "gains")
    parser.add_argument("--dtype", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    pair_options(parser)
    arguments = parser.parse_args(given)
    start()
    figures, equal = [], []
    if frozen_linear.wide_vectors():
        both = {
            way: step_with(load(arguments.model, "float32", "cpu"), wanted, arguments)
            for way, wanted in {AS_IT_IS: False, COPIES: True}.items()
        }
        seconds, taken = steps_in_turn(both, arguments.rounds)
        equal.append(same("loss, gradient norm and rewards, float32", numbers(taken), relative=0, absolute=0))
        figures.append(figure(f"DPO step, float32, {arguments.pairs} pairs", seconds, AS_IT_IS, COPIES))
        del both
    if not slow_bfloat16():
        names = {"products in bfloat16": "products", "attention in float32": "blocks"}
        models = {
            way: load(arguments.model, "bfloat16", "cpu", attention=name) for way, name in names.items()
        }
        tables = {way: pair_table(lm, arguments) for way, lm in models.items()}
        lora = random_lora(next(iter(models.values())), arguments.targets, seed=1)

        def step(way: str) -> Callable[[], object]:
            return lambda: library_step(models[way], tables[way], lora, arguments)

        seconds, taken = steps_in_turn({way: step(way) for way in names}, arguments.rounds)
        equal.append(same("loss, gradient norm and rewards", numbers(taken), relative=0.05, absolute=0.1))
        what = f"DPO step, bfloat16, {arguments.pairs} pairs"
        figures.append(figure(what, seconds, *names))
        del models, tables
    for dtype in sorted(arguments.dtype, key=lambda name: name != "float32"):
        lm = load(arguments.model, dtype, "cpu")
        for rows in arguments.rows:
            ways = {name: decoding(lm, rows, name == FEW) for name in (FEW, OWN)}
            found = {name: run() for name, run in ways.items()}
            if lm.model.dtype == torch.float32:
                equal.append(same_tokens(f"tokens of {rows} rows, float32", found))
            seconds = in_turn({name: clocked(run) for name, run in ways.items()}, arguments.rounds)
            figures.append(figure(f"{rows} rows, {TOKENS} tokens, {dtype}", seconds, FEW, OWN))
    write(arguments, "gains", "What attention by products and few operations gain", figures, equal)


if __name__ == "__main__":
    main()
