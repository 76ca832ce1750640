"""B7: rows of different preferences in one batch, against one row at a time, PEFT's mixed adapters, and the bare model.

    python -m benchmarks.generation.decode [--batches 1 8 32] [--tokens 32] [--rounds 5] [--dtype bfloat16]

An adapter of Panacea's form (k = 8, two objectives, all linears, random) steers each row by its own preference, greedily
and without stopping early. PEFT holds a LoRA for each of up to --preferences preferences, in the model's own number format,
and mixes them in one batch by `generate(adapter_names=...)`; the base model is transformers' own with its `generate`.
CPU-seconds on one thread, prompts included. They count only when in float32 each row draws the same tokens in the mixed
batch, alone, and by PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import torch

from benchmarks.generation.peft_models import plain_model, with_adapters
from benchmarks.side_by_side import clocked, figure, in_turn, options, same_tokens, start, write
from benchmarks.training.inputs import OBJECTIVES, PROMPT, random_panacea
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.models.language_model import load

Tokens = list[list[int]]
OURS = "paretune"


def ways(
    source: str, dtype: str, rows: int, tokens: int, preferences: int
) -> dict[str, Callable[[], Tokens]]:
    """Return the ways to answer ``rows`` rows; each returns every row's tokens."""
    lm = load(source, dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # every way decodes the same number of tokens
    policy = random_panacea(lm)
    grid = simplex_grid(2, max(1, min(rows, preferences) - 1)).tolist()
    asked = [Preference(OBJECTIVES[:2], tuple(weights)) for weights in grid][: min(rows, preferences)]
    each = list(islice(cycle(asked), rows))
    gates = policy.gates(asked)
    assert gates is not None
    peft = with_adapters(source, lm.model.dtype, [(policy.adapters[0], gate) for gate in gates])
    base = plain_model(source, lm.model.dtype)
    ids = torch.tensor([lm.encode_prompt(PROMPT)] * rows)
    names = [str(asked.index(preference)) for preference in each]
    sampling = Sampling(tokens, temperature=0.0, batch_size=rows)

    def mixed() -> Tokens:
        return [list(answer.tokens) for answer in policy.generate([PROMPT] * rows, each, sampling)]

    def alone() -> Tokens:
        return [list(policy.generate([PROMPT], [w], sampling)[0].tokens) for w in each]

    def generate(model: torch.nn.Module, **more: object) -> Tokens:
        drawn = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            eos_token_id=None,
            do_sample=False,
            pad_token_id=lm.turn_end,
            **more,
        )
        return drawn[:, ids.shape[1] :].tolist()

    found: dict[str, Callable[[], Tokens]] = {OURS: mixed}
    if rows > 1:
        found["one at a time"] = alone
    found["PEFT, mixed adapters"] = lambda: generate(peft, adapter_names=names)
    found["base model, generate"] = lambda: generate(base)
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "decode")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--preferences", type=int, default=8, help="different ones in a batch, at most")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args(given)
    start()
    figures, equal = [], []
    for rows in arguments.batches:
        shape = rows, arguments.tokens, arguments.preferences
        exact = ways(arguments.model, "float32", *shape)
        *steered, _ = exact
        drawn = {name: exact[name]() for name in steered}
        equal.append(same_tokens(f"tokens at batch {rows}, float32", drawn))
        if len({tuple(row) for row in drawn[OURS]}) < min(rows, 2):
            raise SystemExit("all preferences give the same text, so nothing is mixed")
        del exact
        runs = ways(arguments.model, arguments.dtype, *shape)
        for run in runs.values():
            run()
        taken = in_turn({name: clocked(run) for name, run in runs.items()}, arguments.rounds)
        what = f"{rows} rows of {min(rows, arguments.preferences)} preferences, {arguments.tokens} tokens, {arguments.dtype}"
        figures += [figure(what, taken, OURS, peer) for peer in list(runs)[1:]]
    write(arguments, "B7", "Mixed preferences in one batch", figures, equal)


if __name__ == "__main__":
    main()
