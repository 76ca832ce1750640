"""B8: multi-objective decoding with all copies of a row in one forward, against one model after the other.

    python -m benchmarks.generation.mod [--objectives 2 3] [--batches 1 8] [--tokens 24] [--rounds 5] [--dtype bfloat16]

Random adapters (LoRA of rank 16 on q, k, v, o), one an objective, are mixed at equal weights, greedily and without stopping
early. The other ways run one model after the other for each token, each with a cache of its own, and mix the same way:
``PEFT`` switches PEFT's adapters, in the model's own number format, on transformers' own model, as the released code does,
and ``one by one`` runs this library's gated model as often. CPU-seconds on one thread, prompts included; they count only
when in float32 all draw the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from benchmarks.generation.peft_models import with_adapters
from benchmarks.side_by_side import clocked, figure, in_turn, options, same_tokens, start, write
from benchmarks.training.inputs import OBJECTIVES, PROMPT, random_lora
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.generation.generate import attached
from paretune.models.adapter import stack
from paretune.models.kv_cache import growing_cache
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy import Policy

Tokens = list[list[int]]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def mixed_by_turns(ids: Tensor, tokens: int, forwards: Sequence[Callable[[Tensor], Tensor]]) -> Tokens:
    """Decode greedily from the mixture of the log-probabilities that each of ``forwards`` gives for the last token."""
    drawn = []
    for _ in range(tokens):
        mixed = torch.stack([forward(ids).float().log_softmax(-1) for forward in forwards]).mean(0)
        ids = mixed.argmax(-1)[:, None]
        drawn.append(ids)
    return torch.cat(drawn, dim=1).tolist()


@torch.no_grad()
def one_by_one(lm: LanguageModel, policy: Policy, ids: Tensor, tokens: int) -> Tokens:
    """Decode with a forward of the library's gated model for each adapter and token."""
    gates = policy.gates([Preference.uniform(policy.objectives)])
    assert gates is not None
    with attached(lm, stack(policy.adapters)) as steering:

        def forward(gate: Tensor) -> Callable[[Tensor], Tensor]:
            cache = growing_cache(lm.model.config)

            def run(ids: Tensor) -> Tensor:
                last = torch.tensor([ids.shape[1] - 1])
                with steering.at(gate):
                    found = lm.model(
                        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last
                    )
                return found.logits[:, -1]

            return run

        return mixed_by_turns(ids, tokens, [forward(gate) for gate in gates[0, 1:]])


@torch.no_grad()
def by_peft(model: PeftModel, count: int, ids: Tensor, tokens: int) -> Tokens:
    """Decode with a forward for each PEFT adapter and token."""

    def forward(name: str) -> Callable[[Tensor], Tensor]:
        cache = DynamicCache(config=model.config)

        def run(ids: Tensor) -> Tensor:
            model.set_adapter(name)
            return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

        return run

    return mixed_by_turns(ids, tokens, [forward(str(number)) for number in range(count)])


def ways(source: str, dtype: str, count: int, rows: int, tokens: int) -> dict[str, Callable[[], Tokens]]:
    """Return the ways to mix ``count`` adapters for ``rows`` rows; each returns every row's tokens."""
    lm = load(source, dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # all ways decode the same number of tokens
    objectives = OBJECTIVES[:count]
    adapters = [random_lora(lm, TARGETS, seed, size=0.05) for seed in range(count)]
    policy = Policy.mod("random", lm, objectives, adapters)
    peft = with_adapters(source, lm.model.dtype, [(adapter, None) for adapter in adapters])
    ids = torch.tensor([lm.encode_prompt(PROMPT)] * rows)
    asked = [PROMPT] * rows, [Preference.uniform(objectives)] * rows
    sampling = Sampling(tokens, temperature=0.0, batch_size=rows)
    return {
        "paretune": lambda: [list(answer.tokens) for answer in policy.generate(*asked, sampling)],
        "PEFT": lambda: by_peft(peft, count, ids, tokens),
        "one by one": lambda: one_by_one(lm, policy, ids, tokens),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "mod")
    parser.add_argument("--objectives", type=int, nargs="+", choices=[2, 3], default=[2, 3])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args(given)
    start()
    figures, equal = [], []
    for count in arguments.objectives:
        for rows in arguments.batches:
            shape = count, rows, arguments.tokens
            exact = ways(arguments.model, "float32", *shape)
            what = f"MOD of {count} objectives, batch {rows}"
            drawn = {name: run() for name, run in exact.items()}
            equal.append(same_tokens(f"tokens, {what}, float32", drawn))
            del exact
            runs = ways(arguments.model, arguments.dtype, *shape)
            for run in runs.values():
                run()
            taken = in_turn({name: clocked(run) for name, run in runs.items()}, arguments.rounds)
            what += f", {arguments.tokens} tokens, {arguments.dtype}"
            figures += [figure(what, taken, "paretune", peer) for peer in list(runs)[1:]]
    write(arguments, "B8", "MOD in one forward", figures, equal)


if __name__ == "__main__":
    main()
