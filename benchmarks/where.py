"""Where the time of a training step goes: the profile of one packed DPO step by kinds of operators.

    python benchmarks/where.py [--dtype float32 bfloat16] [--pairs 4] [--prompt 150 200] [--response 60 90]

Beside the time stands what arithmetic asks for, and the rate of one large product of the number format on this machine: what
the frozen matrices reach of it is the share that is left to gain there. The profiler itself adds some percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from inputs import BETA, RANK, SCALE, pair_options, pair_table, random_lora
from paretune.files import write_json
from paretune.lm import load
from paretune.losses import log_ratio_gap, pair_loss
from paretune.packing import pack, packed_logps
from paretune.shapes import of_config
from paretune.steering import Steering
from side_by_side import RESULTS, clocked, start

KINDS = {
    "frozen matrices, head, thin products": ("mkldnn::_linear_pointwise",),
    "attention, forward": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "attention, backward": ("aten::_scaled_dot_product_flash_attention_for_cpu_backward",),
    "adapters, added in place": ("aten::mm", "aten::addmm_", "aten::addmm"),
}
REST = "all else: norms, rotation, activation, sums, copies, the optimiser"


def taken(lm, arguments: argparse.Namespace) -> tuple[dict[str, float], float, int, int]:
    """Return the seconds of each kind of operator in a step, those of a step not profiled, tokens and targets."""
    table = pair_table(lm, arguments)
    steering = Steering.attach_adapter(lm.model, random_lora(lm, arguments.targets, seed=1), trainable=True)
    optimizer = torch.optim.AdamW(steering.parameters(), lr=1e-6)
    batch = pack(table.groups(range(len(table))), "cpu", lm.model.dtype)

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
    events = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    found = {kind: sum(events.pop(name, 0.0) for name in names) for kind, names in KINDS.items()}
    return found | {REST: sum(events.values())}, plain, batch.input_ids.numel(), len(batch.targets)


def rate(dtype: torch.dtype) -> float:
    """Return the FLOP a second of a plain large product."""
    x, weight = (torch.randn(*size, dtype=dtype) for size in ((1024, 576), (1536, 576)))
    run = clocked(lambda: [torch.nn.functional.linear(x, weight) for _ in range(20)])
    run()
    return 20 * 2 * 1024 * 576 * 1536 / sorted(run() for _ in range(5))[2]


def main(given: Sequence[str] | None = None) -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=RESULTS / "where.json")
    pair_options(parser)
    arguments = parser.parse_args(given)
    start()
    result = {}
    for dtype in arguments.dtype:
        lm = load(arguments.model, dtype, "cpu")
        shape = of_config(arguments.model, lm.model.config.to_dict())
        found, plain, tokens, targets = taken(lm, arguments)
        whole = sum(found.values())
        frozen = 4 * (tokens * shape.matrices + targets * shape.vocabulary * shape.hidden)
        table = Table(
            "kind of operator", "seconds", "share", title=f"{dtype}: {plain:.2f} s a step, {tokens} tokens"
        )
        for kind, seconds in found.items():
            table.add_row(kind, f"{seconds:.2f}", f"{seconds / whole:.0%}")
        reached, bound = frozen / found[next(iter(KINDS))] / 1e9, rate(lm.model.dtype) / 1e9
        Console().print(table)
        print(
            f"frozen matrices and head: {frozen / 1e9:.0f} GFLOP, {reached:.0f} GFLOP/s (thin products' time included); a plain "
            f"product of 1024 x 576 x 1536: {bound:.0f} GFLOP/s"
        )
        result[dtype] = {"seconds": found, "step": plain, "frozen_flop": frozen, "plain_rate": bound * 1e9}
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
