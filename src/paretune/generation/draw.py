"""Drawing tokens from logits by given random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paretune.models.devices import double

NUCLEUS = (64, 512)
"""Numbers of most likely tokens examined for top-p, one after the other; a row with a wider nucleus is sorted in full."""


ROWS = 16
"""Rows of logits that are worked on together on the CPU."""


def uniforms(seed: int, count: int) -> Tensor:
    """Return ``[count]`` random numbers in [0, 1) (fp64); those for a larger count start with those for a smaller one."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token per row ``[B]`` from logits ``[B, V]`` by inverting the distribution at ``uniform`` ``[B]`` in [0, 1).

    Temperature 0 takes the most likely token. With ``top_p`` below 1, only the smallest set of most likely tokens whose
    probability reaches it can be drawn.
    """
    if temperature == 0:
        return logits.argmax(-1)
    parts = row_parts(logits)
    # Split as the logits are: the numbers may be on another device.
    numbers = uniform.split([len(part) for part in parts])
    return torch.cat(
        [_drawn(part, its, temperature, top_p) for part, its in zip(parts, numbers, strict=True)]
    )


def drawn_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities ``[B]`` of ``tokens`` ``[B]`` under ``logits`` ``[B, V]``."""
    parts = zip(row_parts(logits), row_parts(tokens), strict=True)
    return torch.cat([part.log_softmax(-1).gather(-1, chosen[:, None])[:, 0] for part, chosen in parts])


def row_parts(rows: Tensor) -> Sequence[Tensor]:
    """Return ``rows`` in the parts that are worked on together: on the CPU few, so that what is made of them stays in caches."""
    return rows.split(ROWS) if rows.device.type == "cpu" and len(rows) else (rows,)


def _drawn(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    probabilities = (logits / temperature).softmax(-1)
    if top_p == 1:
        return _invert(probabilities, uniform)
    vocabulary = probabilities.shape[-1]
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    left = torch.arange(len(logits), device=logits.device)
    for count in (*NUCLEUS, vocabulary):
        top, tokens = probabilities[left].topk(min(count, vocabulary), dim=-1)
        drawn[left] = _draw_nucleus(top, tokens, uniform[left.to(uniform.device)], top_p)
        left = left[top.sum(-1) < top_p] if count < vocabulary else left[:0]
        if not len(left):
            break
    return drawn


def _draw_nucleus(top: Tensor, tokens: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Draw ``[B]`` among ``tokens`` ``[B, n]``, whose probabilities ``top`` decrease along each row."""
    before = top.cumsum(-1) - top
    nucleus = top.masked_fill(before >= top_p, 0.0)
    return tokens.gather(-1, _invert(nucleus, uniform)[:, None])[:, 0]


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the index ``[B]`` at which the cumulative weight passes ``uniform`` times the total; its weight is never zero."""
    cumulative = double(weights).cumsum(-1)
    level = uniform.to(cumulative.device)[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, level, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)
    return index.to(weights.device)
