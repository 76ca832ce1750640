"""B2: a DPO step in bfloat16 against TRL with its defaults (gradient checkpointing on), and without checkpointing.

    python -m benchmarks.training.step_bf16 [--rounds 5] [--pairs 4] [--prompt 150 200] [--response 60 90] [--targets all-linear]

As `step.py`, with base weights in bfloat16 and a LoRA in float32, which is what both sides train; TRL's mixed precision and
its gradient checkpointing are its defaults (that a layer is recomputed is counted). In bfloat16 two right answers differ,
so both are compared with the library's float32 step, which `step.py` compares with TRL's. That step is also timed here, and
the rates of matrix products in both formats, which bound what bfloat16 can gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmarks.side_by_side import clocked, figure, in_turn, options, same, start, write
from benchmarks.training.inputs import library_step, pair_options, pair_table, random_lora
from benchmarks.training.step import numbers, steps_in_turn
from paretune.models.language_model import load

SHAPE = (1024, 576, 1536)
OURS, FLOAT32 = "paretune", "paretune, float32"


def product_rates(rounds: int) -> dict[str, list[float]]:
    """Return the CPU-seconds of a product of matrices of SHAPE in both formats, a round each, over 20 products."""
    m, k, n = SHAPE

    def products(dtype: torch.dtype) -> object:
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)

        def run() -> None:
            for _ in range(20):
                torch.nn.functional.linear(a, b)

        run()
        return clocked(run)

    return in_turn({"bfloat16": products(torch.bfloat16), "float32": products(torch.float32)}, rounds)


def compare(arguments: argparse.Namespace) -> None:
    """Run the comparison and print it."""
    from benchmarks.training.trl_step import trl_step

    single, half = (load(arguments.model, dtype, "cpu") for dtype in ("float32", "bfloat16"))
    tables = [pair_table(lm, arguments) for lm in (single, half)]
    lora = random_lora(single, arguments.targets, seed=1)
    inputs = (arguments.model, torch.bfloat16, tables[1], lora, arguments.targets)
    steps = {
        FLOAT32: lambda: library_step(single, tables[0], lora, arguments),
        OURS: lambda: library_step(half, tables[1], lora, arguments),
        "TRL's defaults": trl_step(*inputs, checkpointing=True),
        "TRL without checkpointing": trl_step(*inputs),
    }
    seconds, taken = steps_in_turn(steps, arguments.rounds)
    equal = [
        same("loss, gradient norm and rewards (float32 first)", numbers(taken), relative=0.05, absolute=0.1)
    ]
    m, k, n = SHAPE
    rates = product_rates(arguments.rounds)
    for dtype, each in rates.items():
        print(f"{dtype} products: {20 * 2 * m * k * n / min(each) / 1e9:.0f} GFLOP/s")
    what = f"DPO step, bfloat16, {arguments.pairs} pairs"
    figures = [
        figure(what, seconds, OURS, peer, note=note)
        for peer, note in (
            ("TRL's defaults", "bfloat16, gradient checkpointing"),
            ("TRL without checkpointing", ""),
            (FLOAT32, "what bfloat16 gains the library itself"),
        )
    ]
    product = f"20 matrix products {m} x {k} x {n}"
    figures.append(figure(product, rates, "bfloat16", "float32", note="the bound on that gain"))
    write(arguments, "B2", "DPO step in bfloat16", figures, equal)


def main(given: Sequence[str] | None = None) -> None:
    """Read the options and compare."""
    from benchmarks.training.trl_step import quiet

    parser = options(__doc__ or "", "step_bf16")
    pair_options(parser)
    arguments = parser.parse_args(given)
    quiet()
    start()
    compare(arguments)


if __name__ == "__main__":
    main()
