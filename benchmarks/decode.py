"""Eight rows of different preferences in one batch, against one row at a time and against the bare model's `generate`.

    python benchmarks/decode.py [--rows 8] [--tokens 48] [--rounds 5] [--dtype float32] [--model smollm2-135m]

A Panacea-shaped adapter (k = 8, two objectives, all linears, random) steers each row by its own preference, greedily and
without stopping early. Times are wall-clock seconds, taken in turn in one process. They count only when the mixed batch
gives the tokens that each row gives alone, which is checked first in float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from paretune.files import write_json
from paretune.generate import Sampling
from paretune.lm import LanguageModel, load
from paretune.policy import Policy
from paretune.preference import Preference, simplex_grid
from paretune.rows import Message
from paretune.singular import initial
from paretune.steering import target_shapes

OBJECTIVES = ("concise", "warm")
PROMPT = (
    Message("user", "How do I tell my flatmate that the kitchen is a mess without starting a quarrel?"),
)


def random_policy(lm: LanguageModel) -> Policy:
    """Return a Panacea policy whose update is random and large enough to change the text."""
    adapter, gates = initial(target_shapes(lm.model, ["all-linear"]), 8, 2, init="small")
    for parameter in gates.named_parameters().values():
        parameter.data.uniform_(1.0, 2.0)
    folded = gates.fold(replace(adapter, base=lm.fingerprint))
    return Policy.conditioned("random", lm, OBJECTIVES, folded)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode.json"))
    arguments = parser.parse_args()
    lm = load(arguments.model, arguments.dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # every variant decodes the same number of tokens
    policy = random_policy(lm)
    weights = simplex_grid(2, arguments.rows - 1).tolist()
    preferences = [Preference(OBJECTIVES, tuple(row)) for row in weights]
    sampling = Sampling(arguments.tokens, temperature=0.0, batch_size=arguments.rows)
    prompts = [PROMPT] * arguments.rows
    ids = torch.tensor([lm.encode_prompt(PROMPT)] * arguments.rows)

    def mixed() -> list[tuple[int, ...]]:
        return [answer.tokens for answer in policy.generate(prompts, preferences, sampling)]

    def alone() -> list[tuple[int, ...]]:
        return [policy.generate([PROMPT], [w], sampling)[0].tokens for w in preferences]

    def base() -> None:
        lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=arguments.tokens,
            min_new_tokens=arguments.tokens,
            do_sample=False,
            pad_token_id=lm.turn_end,
        )

    together, apart = mixed(), alone()
    if arguments.dtype == "float32" and together != apart:
        sys.exit("the mixed batch and the single rows differ, so the times mean nothing")
    if len(set(together)) < 2:
        sys.exit("all preferences give the same text, so nothing is mixed")
    variants: dict[str, Callable[[], object]] = {
        "mixed": mixed,
        "one at a time": alone,
        "base generate": base,
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:14} {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
    gain = [b / a for a, b in zip(seconds["mixed"], seconds["one at a time"], strict=True)]
    cost = [a / b for a, b in zip(seconds["mixed"], seconds["base generate"], strict=True)]
    print(f"mixed batch against one at a time: {statistics.median(gain):.2f}x faster")
    print(f"mixed batch against the base model's generate: {statistics.median(cost):.2f}x the time")
    write_json(
        arguments.out, {"seconds": seconds, "settings": {**vars(arguments), "out": str(arguments.out)}}
    )


if __name__ == "__main__":
    main()
