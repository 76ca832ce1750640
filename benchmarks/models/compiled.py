"""What torch.compile gains on the CPU: a decode step of fixed shape, forward and backward of fixed shape, the gated activation.

    python -m benchmarks.models.compiled [--rounds 5] [--dtype bfloat16]

The model is transformers' own, without adapters and without this library's layers, so that the figures bound what compiling
could gain here: a decode step with a cache that grows, with a static one, and with a static one compiled; a training pass on a
padded batch; the activation `silu(g) u` with its backward pass. CPU-seconds on one thread. Needs a C++ compiler. The ways must
agree: the same greedy tokens, the same loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import DynamicCache, StaticCache

from benchmarks.generation.peft_models import plain_model
from benchmarks.side_by_side import clocked, figure, in_turn, options, same, same_tokens, start, write

ROWS, PROMPT, TOKENS = 8, 48, 32
TEXTS = (4, 256)
ACTIVATION = (1, 1294, 1536)

Decode = Callable[[], list[list[int]]]


def decoding(model: torch.nn.Module, compiled: torch.nn.Module) -> dict[str, Decode]:
    """Return the ways to decode ``TOKENS`` greedy tokens for ``ROWS`` rows."""
    ids = torch.randint(100, 40_000, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0))

    def way(step: torch.nn.Module, static: bool) -> Decode:
        @torch.no_grad()
        def run() -> list[list[int]]:
            config = model.config
            cache = (
                StaticCache(config=config, max_cache_len=PROMPT + TOKENS)
                if static
                else DynamicCache(config=config)
            )
            logits = model(input_ids=ids, past_key_values=cache).logits[:, -1]
            drawn = []
            for _ in range(TOKENS):
                drawn.append(logits.argmax(-1))
                logits = step(input_ids=drawn[-1][:, None], past_key_values=cache).logits[:, -1]
            return torch.stack(drawn, 1).tolist()

        return run

    return {
        "growing cache": way(model, False),
        "static cache": way(model, True),
        "static cache, compiled": way(compiled, True),
    }


def training(model: torch.nn.Module, compiled: torch.nn.Module) -> dict[str, Callable[[], float]]:
    """Return the ways to run forward and backward of the hidden states of a padded batch; each returns their mean square."""
    embedded = torch.randn(*TEXTS, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    embedded = embedded.to(model.dtype)

    def way(step: torch.nn.Module) -> Callable[[], float]:
        def run() -> float:
            hidden = step(inputs_embeds=embedded.clone().requires_grad_(), use_cache=False).last_hidden_state
            loss = hidden.float().square().mean()
            loss.backward()
            return float(loss.detach())

        return run

    return {"as it is": way(model), "compiled": way(compiled)}


def activating(dtype: torch.dtype) -> dict[str, Callable[[], float]]:
    """Return the ways to run the gated activation forward and backward, ten times."""
    gate, up, gradient = torch.randn(3, *ACTIVATION, generator=torch.Generator().manual_seed(0)).to(dtype)

    def plain(g: Tensor, u: Tensor) -> Tensor:
        return F.silu(g) * u

    def way(activation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], float]:
        def run() -> float:
            for _ in range(10):
                g, u = gate.clone().requires_grad_(), up.clone().requires_grad_()
                activation(g, u).backward(gradient)
            assert g.grad is not None
            return float(g.grad.float().square().mean())

        return run

    return {"as it is": way(plain), "compiled": way(torch.compile(plain))}


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "compiled")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args(given)
    start()
    dtype = getattr(torch, arguments.dtype)
    # In bfloat16 two right ways soon draw different tokens; in float32 the first ones have to agree.
    for kind in (torch.float32, dtype):
        model = plain_model(arguments.model, kind)
        ways = decoding(model, torch.compile(model, dynamic=False))
        drawn = {name: [row[:4] for row in run()] for name, run in ways.items()}
        if kind == torch.float32:
            equal = [same_tokens("first four tokens, float32", drawn)]
        if kind == dtype:
            break
    taken = in_turn({name: clocked(run) for name, run in ways.items()}, arguments.rounds)
    what = f"{TOKENS} tokens of {ROWS} rows, {arguments.dtype}"
    figures = [figure(what, taken, "static cache, compiled", name) for name in list(ways)[:2]]
    decoder = model.get_decoder().requires_grad_(False)
    loose = 1e-4 if dtype == torch.float32 else 0.02
    passes = {
        f"forward and backward of {TEXTS[0]} texts of {TEXTS[1]} tokens": training(
            decoder, torch.compile(decoder, dynamic=False)
        ),
        "gated activation and its backward": activating(dtype),
    }
    for what, both in passes.items():
        equal.append(same(what, {name: [run()] for name, run in both.items()}, relative=loose))
        taken = in_turn({name: clocked(run) for name, run in both.items()}, arguments.rounds)
        figures.append(figure(f"{what}, {arguments.dtype}", taken, "compiled", "as it is"))
    write(arguments, "compiled", "torch.compile", figures, equal)


if __name__ == "__main__":
    main()
