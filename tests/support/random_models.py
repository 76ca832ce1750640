"""Random adapters and tokens for the tiny Llama."""

from __future__ import annotations

import torch

from paretune.models.adapter import Adapter
from paretune.models.steering import Steering

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def ids(rows: int = 3, tokens: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 128, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def random_adapter(
    model, rank: int = 4, scale: float = 2.0, seed: int = 0, targets=ALL, base: str = "b"
) -> Adapter:
    """Random on both sides: an adapter with U = 0 would hide every mistake."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and path.rpartition(".")[2] in targets:
            U = torch.randn(module.out_features, rank, generator=generator) * 0.2
            V = torch.randn(rank, module.in_features, generator=generator) * 0.2
            factors[path] = (U, V)
    return Adapter(factors, scale, base, {"seed": seed})


@torch.no_grad()
def logits(model, tokens: torch.Tensor, **kwargs) -> torch.Tensor:
    return model(input_ids=tokens, **kwargs).logits


def checkpointed(model, mode: str, steering: Steering) -> None:
    model.train()
    if mode == "steering":
        steering.enable_checkpointing()
    elif mode != "none":
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": mode == "reentrant"}
        )
    if mode == "reentrant":
        model.enable_input_require_grads()
