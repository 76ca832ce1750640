"""What the pieces of a step and of decoding gain on the CPU, each against the plain way to compute the same.

    python -m benchmarks.models.pieces [--dtype float32 bfloat16] [--rounds 5]

Products with a frozen matrix (576 x 1536) and with the head (49152 x 576), prepacked against plain, by the number of rows; matrices
are taken in turn, so that they come from memory as in a model. Attention of one decoded token by groups of heads against a query a
head. Attention forward and backward by products in bfloat16 against float32. Chunks of the head. Thin products of adapters
that share an input. CPU-seconds on one thread, medians; results are compared first.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.side_by_side import RESULTS, clocked, figure, in_turn, start
from paretune.core.files import write_json
from paretune.models.frozen_linear import FrozenLinear, product
from paretune.models.head import HEAD_CHUNK, target_logps
from paretune.models.packed_attention.backends import BACKENDS
from paretune.models.packed_attention.interface import decoding_attention
from paretune.models.packed_attention.layout import PackedLayout

HEADS, SHARED, WIDTH, VOCABULARY = 9, 3, 64, 49_152
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def products(dtype: torch.dtype, outputs: int, rows: int) -> dict[str, Callable[[], Tensor]]:
    """Return prepacked and plain products of ``rows`` with matrices taken in turn."""
    count = max(2, 100_000_000 // (outputs * 576 * dtype.itemsize))
    plain = [torch.nn.Linear(576, outputs, False, dtype=dtype).requires_grad_(False) for _ in range(count)]
    packed = [FrozenLinear(linear) for linear in plain]
    x, first, second = torch.randn(rows, 576, dtype=dtype), itertools.cycle(packed), itertools.cycle(plain)
    for linear in packed:
        linear.product(x)
    return {"ours": lambda: next(first).product(x), "plain": lambda: F.linear(x, next(second).weight)}


def thin(dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Return the thin products of the adapters of q, k and v, one by one as they are, and as one for all three."""
    x, V = torch.randn(1024, 576, dtype=dtype), [torch.randn(16, 576, dtype=dtype) for _ in range(3)]
    together = torch.cat(V)
    return {
        "ours": lambda: torch.cat([product(x, each) for each in V], dim=-1),
        "plain": lambda: product(x, together),
    }


def decoding(dtype: torch.dtype, rows: int, positions: int) -> dict[str, Callable[[], Tensor]]:
    """Return the attention of one token by groups of heads, and with one query a head."""
    query = torch.randn(rows, HEADS, 1, WIDTH, dtype=dtype)
    key, value = torch.randn(2, rows, SHARED, positions, WIDTH, dtype=dtype)
    mask = torch.ones(rows, 1, 1, positions, dtype=torch.bool)

    def plain() -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return out.transpose(1, 2)

    return {"ours": lambda: decoding_attention(query, key, value, mask, None), "plain": plain}


def attending(prompt: int, response: int) -> dict[str, Callable[[], Tensor]]:
    """Return forward and backward of the attention of a pair: by products in bfloat16, and in float32."""
    layout = PackedLayout(((prompt, (response, response)),))
    states = [torch.randn(1, n, layout.tokens, WIDTH, dtype=torch.bfloat16) for n in (HEADS, SHARED, SHARED)]

    def way(name: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        def run() -> Tensor:
            query, key, value = (x.clone().requires_grad_() for x in states)
            wide = [x.to(dtype) for x in (query, key, value)]
            BACKENDS[name].attend(layout, *wide, None, None, None).to(torch.bfloat16).sum().backward()
            return value.grad

        return run

    return {"ours": way("products", torch.bfloat16), "plain": way("blocks", torch.float32)}


def heads(dtype: torch.dtype, chunk: int) -> dict[str, Callable[[], Tensor]]:
    """Return the log-probabilities and gradients of 600 positions in chunks as they are, and in others."""
    head = FrozenLinear(torch.nn.Linear(576, VOCABULARY, False, dtype=dtype).requires_grad_(False))
    states, targets = (
        torch.randn(600, 576, dtype=dtype, requires_grad=True),
        torch.randint(VOCABULARY, (600,)),
    )

    def way(size: int) -> Callable[[], Tensor]:
        return lambda: target_logps(states, head, targets, size).detach()

    return {"ours": way(HEAD_CHUNK), "plain": way(chunk)}


def repeated(run: Callable[[], Tensor], times: int) -> Callable[[], object]:
    """Return a function that runs ``times`` times: one run may be too short to time."""
    return lambda: [run() for _ in range(times)]


def compared(
    what: str, ways: dict[str, Callable[[], Tensor]], rounds: int, times: int, dtype: torch.dtype
) -> dict[str, object]:
    """Return how many times faster the first way is, after checking that both give the same numbers."""
    found = {name: run().float() for name, run in ways.items()}
    off = float((found["ours"] - found["plain"]).abs().max() / found["plain"].abs().max())
    if not off <= TOLERANCE[dtype]:
        sys.exit(f"{what}: the two ways differ by {off:.2g} of the largest number, so the times mean nothing")
    seconds = in_turn({name: clocked(repeated(run, times)) for name, run in ways.items()}, rounds)
    return figure(f"{what}, {times} times", seconds, "ours", "plain")


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "pieces.json")
    arguments = parser.parse_args(given)
    start()
    done = []
    for name in arguments.dtype:
        dtype = getattr(torch, name)
        for rows, times in ((1, 400), (2, 400), (8, 400), (32, 200), (1024, 20)):
            what = f"{name}, 576 to 1536, {rows} rows"
            done.append(compared(what, products(dtype, 1536, rows), arguments.rounds, times, dtype))
        for rows, times in ((1, 20), (8, 20), (256, 2)):
            what = f"{name}, head, {rows} rows"
            done.append(compared(what, products(dtype, VOCABULARY, rows), arguments.rounds, times, dtype))
        what = f"{name}, thin products of q, k and v against one, 1024 rows"
        done.append(compared(what, thin(dtype), arguments.rounds, 100, dtype))
        for rows, positions in ((1, 256), (8, 64), (8, 256), (8, 1024)):
            what = f"{name}, one token over {positions}, {rows} rows"
            done.append(compared(what, decoding(dtype, rows, positions), arguments.rounds, 50, dtype))
        for chunk in (32, 64, 128):
            what = f"{name}, head by {HEAD_CHUNK} against {chunk}"
            done.append(compared(what, heads(dtype, chunk), arguments.rounds, 1, dtype))
    for prompt, response in ((175, 75), (40, 128), (100, 600)):
        what = f"attention and backward, a pair of {prompt} + 2 x {response}, products in bfloat16 against float32"
        done.append(compared(what, attending(prompt, response), arguments.rounds, 20, torch.bfloat16))
    write_json(arguments.out, {"figures": done})


if __name__ == "__main__":
    main()
