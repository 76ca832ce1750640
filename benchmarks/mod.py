"""Multi-objective decoding with all copies of a row in one forward, against one model after the other.

    python benchmarks/mod.py [--batches 1 8] [--tokens 32] [--rounds 5] [--dtype float32] [--model smollm2-135m]

Two random adapters (LoRA of rank 16 on q, k, v, o) are mixed at equal weights, greedily and without stopping early. The other
ways run one model after the other for each token, each with a cache of its own, and mix the same way: ``peft`` switches PEFT's
adapters on transformers' own model, as the released code does, and ``apart`` runs this library's gated model twice. Times are
wall-clock seconds, taken in turn in one process. They count only when all give the same tokens, which is checked first in
float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache

from paretune.adapter import Adapter, stack, to_peft
from paretune.files import write_json
from paretune.generate import Sampling, attached
from paretune.kv_cache import growing_cache
from paretune.lm import LanguageModel, load, locate
from paretune.memory import keep_freed_memory
from paretune.policy import Policy
from paretune.preference import Preference
from paretune.rows import Message
from paretune.steering import target_shapes

OBJECTIVES = ("concise", "warm")
PROMPT = (
    Message("user", "How do I tell my flatmate that the kitchen is a mess without starting a quarrel?"),
)


def random_adapter(lm: LanguageModel, seed: int) -> Adapter:
    """Return a LoRA that is large enough to change the text."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: (
            torch.randn(outputs, 16, generator=generator) * 0.05,
            torch.randn(16, inputs, generator=generator) * 0.05,
        )
        for path, (outputs, inputs) in target_shapes(
            lm.model, ["q_proj", "k_proj", "v_proj", "o_proj"]
        ).items()
    }
    return Adapter(factors, 2.0, lm.fingerprint)


@torch.no_grad()
def one_after_the_other(lm: LanguageModel, policy: Policy, rows: int, tokens: int) -> list[tuple[int, ...]]:
    """Decode ``rows`` copies of the prompt with a forward for each adapter and token."""
    ids = torch.tensor([lm.encode_prompt(PROMPT)] * rows)
    gates = policy.gates([Preference.uniform(OBJECTIVES)])
    assert gates is not None
    caches = [growing_cache(lm.model.config) for _ in OBJECTIVES]
    drawn, last = [], torch.tensor([ids.shape[1] - 1])
    with attached(lm, stack(policy.adapters)) as steering:
        for _ in range(tokens):
            mixed = torch.zeros(rows, 1)
            for gate, cache in zip(gates[0, 1:], caches, strict=True):
                with steering.at(gate):
                    found = lm.model(
                        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last
                    )
                mixed = mixed + found.logits[:, -1].float().log_softmax(-1) / len(OBJECTIVES)
            ids, last = mixed.argmax(-1)[:, None], torch.tensor([0])
            drawn.append(ids)
    return [tuple(row) for row in torch.cat(drawn, dim=1).tolist()]


def with_peft(lm: LanguageModel, source: str, adapters: tuple[Adapter, ...]) -> PeftModel:
    """Return a model of its own with the adapters, loaded by PEFT under the names 0, 1, .."""
    model = AutoModelForCausalLM.from_pretrained(locate(source), dtype=lm.model.dtype).eval()
    with tempfile.TemporaryDirectory() as folder:
        for number, adapter in enumerate(adapters):
            to_peft(adapter, f"{folder}/{number}")
        model = PeftModel.from_pretrained(model, f"{folder}/0", adapter_name="0")
        for number in range(1, len(adapters)):
            model.load_adapter(f"{folder}/{number}", adapter_name=str(number))
    return model.requires_grad_(False)


@torch.no_grad()
def peft_after_the_other(
    lm: LanguageModel, model: PeftModel, rows: int, tokens: int
) -> list[tuple[int, ...]]:
    """Decode ``rows`` copies of the prompt with a forward for each PEFT adapter and token."""
    ids = torch.tensor([lm.encode_prompt(PROMPT)] * rows)
    caches = [DynamicCache(config=model.config) for _ in OBJECTIVES]
    drawn = []
    for _ in range(tokens):
        mixed = torch.zeros(rows, 1)
        for number, cache in enumerate(caches):
            model.set_adapter(str(number))
            found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            mixed = mixed + found.logits[:, -1].float().log_softmax(-1) / len(OBJECTIVES)
        ids = mixed.argmax(-1)[:, None]
        drawn.append(ids)
    return [tuple(row) for row in torch.cat(drawn, dim=1).tolist()]


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mod.json"))
    arguments = parser.parse_args()
    keep_freed_memory()
    lm = load(arguments.model, arguments.dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # both ways decode the same number of tokens
    policy = Policy.mod("random", lm, OBJECTIVES, [random_adapter(lm, seed) for seed in (0, 1)])
    peft = with_peft(lm, arguments.model, policy.adapters)
    result: dict[str, dict[str, list[float]]] = {}
    for rows in arguments.batches:
        sampling = Sampling(arguments.tokens, temperature=0.0, batch_size=rows)
        asked = [PROMPT] * rows, [Preference.uniform(OBJECTIVES)] * rows

        def together(sampling: Sampling = sampling, asked: tuple = asked) -> list[tuple[int, ...]]:
            return [answer.tokens for answer in policy.generate(*asked, sampling)]

        def apart(rows: int = rows) -> list[tuple[int, ...]]:
            return one_after_the_other(lm, policy, rows, arguments.tokens)

        def switched(rows: int = rows) -> list[tuple[int, ...]]:
            return peft_after_the_other(lm, peft, rows, arguments.tokens)

        variants: dict[str, Callable[[], list[tuple[int, ...]]]] = {
            "together": together,
            "apart": apart,
            "peft": switched,
        }
        found = [run() for run in variants.values()]
        if arguments.dtype == "float32" and any(tokens != found[0] for tokens in found):
            sys.exit("the ways give different tokens, so the times mean nothing")
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(arguments.rounds):
            for name, run in variants.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        for name, times in seconds.items():
            gain = [other / mine for mine, other in zip(seconds["together"], times, strict=True)]
            print(
                f"batch {rows}, {name:9} {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f}), "
                f"{statistics.median(gain):.2f}x ({min(gain):.2f} to {max(gain):.2f})"
            )
        result[str(rows)] = seconds
    write_json(arguments.out, {"seconds": result, "settings": {**vars(arguments), "out": str(arguments.out)}})


if __name__ == "__main__":
    main()
