"""A training step and a token of decoding in CPU-seconds, for a CPU whose oneDNN is held to fewer instructions.

ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 OMP_NUM_THREADS=1 python -m benchmarks.models.instructions bfloat16
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch

from paretune.core.sampling import Sampling
from paretune.generation.generate import generate
from paretune.models.language_model import load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering

ROWS, TOKENS = 64, 4
PROMPT = list(range(100, 145))


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main(dtype: str) -> None:
    """Print the CPU-seconds of a step of 600 tokens, and of a token of one of 64 rows."""
    torch.set_num_threads(1)
    lm = load("smollm2-135m", dtype)
    prompts = [[token + row for token in PROMPT] for row in range(ROWS)]

    def decode(tokens: int) -> None:
        generate(lm, prompts, Sampling(max_new_tokens=tokens, batch_size=ROWS), list(range(ROWS)))

    short = _seconds(lambda: decode(2))
    token = (_seconds(lambda: decode(2 + TOKENS)) - short) / (TOKENS * ROWS)
    steering = Steering.attach(lm.model, ("q_proj", "k_proj", "v_proj", "o_proj"), 16)
    batch = pack([(PROMPT, [PROMPT[:20], PROMPT[:35]])] * 6, lm.device)

    def step() -> None:
        with steering.at(torch.full((16,), 2.0)):
            packed_logps(lm.model, batch).sum().backward()

    step()
    print(
        f"{os.environ.get('ONEDNN_MAX_CPU_ISA', 'all instructions')}, {dtype}: step {_seconds(step):.2f} CPU-s, "
        f"token {1000 * token:.1f} CPU-ms"
    )


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["auto"])
