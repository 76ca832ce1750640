"""Where time goes: the profiles of one packed DPO step, and of decoding in a batch, by kinds of operators.

    python -m benchmarks.models.where [--dtype float32 bfloat16] [--pairs 4] [--prompt 150 200] [--response 60 90]
    python -m benchmarks.models.where --decode 8 [--dtype bfloat16]

Beside the time stands what arithmetic asks for, and the rate of one large product of the number format on this machine: what
the frozen matrices reach of it is the share that is left to gain there. The profiler itself adds some percent. ``--decode N``
decodes 64 tokens of N rows, each at its own preference, as `decode.py` does; what a run takes beside its operators is Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.side_by_side import RESULTS, clocked, start
from benchmarks.training.inputs import (
    BETA,
    OBJECTIVES,
    PROMPT,
    RANK,
    SCALE,
    pair_options,
    pair_table,
    random_lora,
    random_panacea,
)
from paretune.core.files import write_json
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.models.language_model import load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering
from paretune.planning.shapes import of_config
from paretune.training.losses import log_ratio_gap, pair_loss

KINDS = {
    "frozen matrices, head, thin products": ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm"),
    "attention, forward": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "attention, backward": ("aten::_scaled_dot_product_flash_attention_for_cpu_backward",),
    "attention by products": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"),
    "adapters, added in place": ("aten::addmm_",),
}
REST = "all else: norms, rotation, activation, sums, copies, the optimiser"
DECODING = {
    "frozen matrices, head": ("mkldnn::_linear_pointwise",),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "adapters": ("aten::mm", "aten::add_"),
}
TOKENS = 64
"""Decoded for each row."""
PRODUCT = (1024, 576, 1536)
"""The plain product ``[m, k] x [k, n]`` whose rate bounds that of a step's matrices."""


def taken(lm, arguments: argparse.Namespace) -> tuple[dict[str, float], float, int, int]:
    """Return the seconds of each kind of operator in a step, those of a step not profiled, tokens and targets."""
    table = pair_table(lm, arguments)
    steering = Steering.attach_adapter(lm.model, random_lora(lm, arguments.targets, seed=1), trainable=True)
    optimizer = torch.optim.AdamW(steering.parameters(), lr=1e-6)
    batch = pack(table.groups(range(len(table))))

    def step() -> None:
        optimizer.zero_grad()
        with steering.at(torch.full((RANK,), SCALE)):
            logps = packed_logps(lm.model, batch).view(-1, 2)
            pair_loss(log_ratio_gap(logps, table.reference), BETA).mean().backward()
        optimizer.step()

    step()
    plain = sorted(clocked(step)() for _ in range(arguments.rounds))[arguments.rounds // 2]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    steering.detach()
    return by_kind(seen, KINDS, REST), plain, batch.input_ids.numel(), len(batch.targets)


def by_kind(seen: profile, kinds: Mapping[str, Sequence[str]], rest: str) -> dict[str, float]:
    """Return the seconds of each kind of operator, and of all others as ``rest``."""
    events = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    found = {kind: sum(events.pop(name, 0.0) for name in names) for kind, names in kinds.items()}
    return found | {rest: sum(events.values())}


def decoded(lm, rows: int, rounds: int) -> tuple[dict[str, float], float]:
    """Return the seconds of each kind of operator in decoding ``rows`` rows, Python's, and those of a run not profiled."""
    vars(lm)["stops"] = frozenset()  # no row ends early
    policy = random_panacea(lm)
    asked = [Preference(OBJECTIVES[:2], tuple(w)) for w in simplex_grid(2, max(1, rows - 1)).tolist()[:rows]]
    sampling = Sampling(TOKENS, temperature=0.0, batch_size=rows)

    def run() -> None:
        policy.generate([PROMPT] * rows, asked, sampling)

    run()
    plain = sorted(clocked(run)() for _ in range(rounds))[rounds // 2]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    found = by_kind(seen, DECODING, "other operators")
    return found | {"Python, beside operators": max(0.0, plain - sum(found.values()))}, plain


def rate(dtype: torch.dtype) -> float:
    """Return the FLOP a second of a plain large product."""
    m, k, n = PRODUCT
    x, weight = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
    run = clocked(lambda: [torch.nn.functional.linear(x, weight) for _ in range(20)])
    run()
    return 20 * 2 * m * k * n / sorted(run() for _ in range(5))[2]


def show(title: str, found: Mapping[str, float]) -> None:
    """Print the seconds of each kind and its share."""
    table = Table("kind of operator", "seconds", "share", title=title)
    for kind, seconds in found.items():
        table.add_row(kind, f"{seconds:.2f}", f"{seconds / sum(found.values()):.0%}")
    Console().print(table)


def main(given: Sequence[str] | None = None) -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--decode", type=int, default=0, metavar="ROWS", help="profile decoding")
    parser.add_argument("--out", type=Path, default=RESULTS / "where.json")
    pair_options(parser)
    arguments = parser.parse_args(given)
    start()
    result = {}
    for dtype in arguments.dtype:
        lm = load(arguments.model, dtype, "cpu")
        if arguments.decode:
            found, plain = decoded(lm, arguments.decode, arguments.rounds)
            show(f"{dtype}: {plain:.2f} s for {TOKENS} tokens of {arguments.decode} rows", found)
            result[dtype] = {"seconds": found, "run": plain}
            continue
        shape = of_config(arguments.model, lm.model.config.to_dict())
        found, plain, tokens, targets = taken(lm, arguments)
        frozen = 4 * (tokens * shape.matrices + targets * shape.vocabulary * shape.hidden)
        show(f"{dtype}: {plain:.2f} s a step, {tokens} tokens", found)
        reached, bound = frozen / found[next(iter(KINDS))] / 1e9, rate(lm.model.dtype) / 1e9
        print(
            f"frozen matrices and head: {frozen / 1e9:.0f} GFLOP, {reached:.0f} GFLOP/s (thin products' time included); a plain "
            f"product of {' x '.join(map(str, PRODUCT))}: {bound:.0f} GFLOP/s"
        )
        result[dtype] = {"seconds": found, "step": plain, "frozen_flop": frozen, "plain_rate": bound * 1e9}
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
