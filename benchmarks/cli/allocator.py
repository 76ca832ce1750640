"""What keeping freed memory gains: training steps and decoding with glibc's defaults and as the command line sets it.

    python -m benchmarks.cli.allocator [--rounds 5] [--model smollm2-135m] [--dtype auto]

Each round forks a process for either setting in turn; it warms up once and then times a packed training step (4 pairs)
and the decoding of 32 rows, in process CPU-seconds on one thread. Both settings must give the same loss and tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from paretune.cli.allocator import keep_freed_memory
from paretune.core.files import write_json
from paretune.core.sampling import Sampling
from paretune.generation.generate import generate
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering

SETTINGS = ("default", "kept")


def work(lm: LanguageModel) -> dict[str, Callable[[], object]]:
    """Return the two jobs; each returns what it computed."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.model.config.vocab_size

    def draw(count: int) -> list[int]:
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()

    groups = [(draw(60), [draw(100), draw(100)]) for _ in range(4)]
    prompts = [draw(40) for _ in range(32)]

    def step() -> object:
        steering = Steering.attach(lm.model, ["q_proj", "k_proj", "v_proj", "o_proj"], 16, lm.fingerprint)
        try:
            with steering.at(torch.full((16,), 2.0)):
                loss = packed_logps(lm.model, pack(groups, lm.device)).mean()
                loss.backward()
        finally:
            steering.detach()
        return float(loss.detach())

    def decode() -> object:
        drawn = generate(lm, prompts, Sampling(24, batch_size=32), range(32))
        return [response.tokens for response in drawn]

    return {"step": step, "decode": decode}


def measure(jobs: dict[str, Callable[[], object]], kept: bool) -> dict[str, list[object]]:
    """Return seconds and result of each job, measured in a forked process."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        with os.fdopen(read) as stream:
            return dict(json.load(stream))
    os.close(read)
    if kept and not keep_freed_memory():
        sys.exit("this C library cannot be asked to keep freed memory")
    found = {}
    for name, job in jobs.items():
        job()
        start = time.process_time()
        result = job()
        found[name] = [time.process_time() - start, result]
    with os.fdopen(write, "w") as stream:
        json.dump(found, stream)
    os._exit(0)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/allocator.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jobs = work(load(arguments.model, arguments.dtype, "cpu"))
    seconds: dict[str, dict[str, list[float]]] = {name: {s: [] for s in SETTINGS} for name in jobs}
    for _ in range(arguments.rounds):
        results = {setting: measure(jobs, setting == "kept") for setting in SETTINGS}
        for name in jobs:
            if results["default"][name][1] != results["kept"][name][1]:
                sys.exit(f"{name} gives other results with the other setting, so the times mean nothing")
            for setting in SETTINGS:
                seconds[name][setting].append(float(str(results[setting][name][0])))
    for name, times in seconds.items():
        gain = sorted(a / b for a, b in zip(times["default"], times["kept"], strict=True))
        print(
            f"{name:7} default {statistics.median(times['default']):.2f} s, kept {statistics.median(times['kept']):.2f} s: "
            f"{statistics.median(gain):.2f}x faster ({gain[0]:.2f} to {gain[-1]:.2f})"
        )
    write_json(
        arguments.out, {"seconds": seconds, "settings": {**vars(arguments), "out": str(arguments.out)}}
    )


if __name__ == "__main__":
    main()
