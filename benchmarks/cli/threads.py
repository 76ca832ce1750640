"""What waiting costs: small products and activations on some threads, in seconds by the clock and of the processors.

    OMP_NUM_THREADS=2 GOMP_SPINCOUNT=2000 python -m benchmarks.cli.threads

How threads wait is read when torch is loaded, so each way is a process of its own. Other programs make the difference: start it
beside them.
"""

from __future__ import annotations

import os
import time

import torch
import torch.nn.functional as F  # noqa: N812

ROUNDS = 150
"""Times that two products and an activation are done."""


def main() -> None:
    """Print the threads, how they wait, and the seconds."""
    x, up, down = torch.randn(64, 576), torch.randn(1536, 576), torch.randn(576, 1536)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            F.linear(F.silu(F.linear(x, up)), down)

    run(5)
    clock, used = time.perf_counter(), time.process_time()
    run(ROUNDS)
    clock, used = time.perf_counter() - clock, time.process_time() - used
    spins = os.environ.get("GOMP_SPINCOUNT", "unset")
    print(
        f"{torch.get_num_threads()} threads, GOMP_SPINCOUNT {spins}: {clock:.2f} s by the clock, {used:.2f} CPU-s"
    )


if __name__ == "__main__":
    main()
