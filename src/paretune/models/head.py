"""The log-probabilities of targets under a frozen head, a chunk of positions at a time: no logits are kept."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from paretune.models.frozen_linear import FrozenLinear

HEAD_CHUNK = 256
"""Positions projected to the vocabulary at a time on a CPU: fewer make slower products."""
NEAR = 8
"""Positions whose softmax a CPU forms at a time: their float32 logits stay in its caches."""
SHARE, TIGHT = 1 / 64, 1 / 8
"""Shares of an accelerator's memory, and of what is free of it, that the logits of a chunk may fill."""
FEWEST, MOST = 64, 8192
"""Positions of a chunk at least, and at most."""


def chunk_for(memory: float, free: float, vocabulary: int, size: int) -> int:
    """Return how many positions an accelerator projects at a time.

    It is a power of two by the device's memory, so that runs on it do alike, and less where little is free.

    Args:
        memory: Bytes of the device.
        free: Bytes that are free beside the model.
        vocabulary: Number of tokens.
        size: Bytes of a number of the model.
    """
    most = min(SHARE * memory, TIGHT * free) / logit_bytes(vocabulary, size)
    chunk = FEWEST
    while chunk < MOST and 2 * chunk <= most:
        chunk *= 2
    return chunk


def logit_bytes(vocabulary: int, size: int) -> int:
    """Return the bytes of a position's logits: as computed in numbers of ``size`` bytes, and in float32 with their exponentials."""
    return vocabulary * (size + 8)


@functools.cache
def chunk_of(device: torch.device, vocabulary: int, size: int) -> int:
    """Return how many positions ``device`` projects at a time; asked once, when the model has its place there."""
    if device.type != "cuda":
        return HEAD_CHUNK
    free, memory = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return chunk_for(memory, free + reserved, vocabulary, size)


def target_logps(hidden: Tensor, head: FrozenLinear, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Return the log-probability ``[S]`` (fp32) of ``targets [S]``, given hidden states ``[S, d]``.

    Differentiable with respect to ``hidden``. ``chunk`` is the number of positions at a time; by default as the device has room.
    """
    logps: Tensor = _TargetLogps.apply(hidden, head, targets, chunk)
    return logps


class _TargetLogps(torch.autograd.Function):
    """Log-softmax at the targets, in chunks; the gradient is formed in the forward pass, so no logits are kept.

    The head is frozen, so d logp_t / d h_t = W[target] - softmax(h_t W^T) W is known at once and is as small as h.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, head: FrozenLinear, targets: Tensor, chunk: int | None
    ) -> Tensor:
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        wanted = hidden.requires_grad
        gradient = torch.empty_like(hidden) if wanted else None
        rows = chunk or chunk_of(hidden.device, head.out_features, hidden.element_size())
        near = NEAR if hidden.device.type == "cpu" else rows
        wide = head.widens(hidden)
        kind = torch.float32 if wide else hidden.dtype
        product, transposed_product = (
            head.wide_products() if wide else (head.product, head.transposed_product)
        )
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits, wished = product(hidden[part].to(kind)), targets[part]
            for at in range(0, len(wished), near):
                few = slice(at, at + near)
                all_logps = logits[few].float().log_softmax(-1)
                logps[part][few] = all_logps.gather(-1, wished[few, None])[:, 0]
                if wanted:
                    logits[few] = all_logps.exp_()
            if gradient is not None:  # the logits are probabilities now
                gradient[part] = head.weight[wished] - transposed_product(logits)
        ctx.save_for_backward(gradient) if wanted else None
        return logps

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outputs[0][:, None].to(gradient.dtype) * gradient), None, None, None
