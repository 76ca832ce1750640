"""Attention in one call of FlexAttention: compiled for the device from a rule of who sees whom, which leaves hidden blocks out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from paretune.models.packed_attention.layout import PackedLayout

BLOCK = 128
"""Tokens of a block of queries or keys. Batches are padded to a multiple of it, so that kernels are compiled for few lengths."""


def attend(
    layout: PackedLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """See :class:`paretune.models.packed_attention.backends.Backend`.

    A sink takes its share of the softmax: with the log-sum l of the other scores, the output is theirs times sigmoid(l - sink).
    """
    tokens, device = layout.tokens, query.device
    mask = layout.once(("flex", window, device), lambda: block_mask(layout, window, device))
    short = -tokens % BLOCK
    q, k, v = (torch.nn.functional.pad(states, (0, 0, 0, short)) for states in (query, key, value))
    out, rest = kernel(device.type)(
        q,
        k,
        v,
        block_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=sinks is not None),
    )
    if sinks is not None:
        out = out * torch.sigmoid(rest.lse - sinks.detach().float()[:, None])[..., None].to(out.dtype)
    return out[:, :, :tokens].transpose(1, 2)


@functools.cache
def kernel(device: str) -> Callable[..., Any]:
    """Return FlexAttention as it is run on a kind of device: on the CPU without a compiler, which is slow and keeps the scores."""
    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def block_mask(layout: PackedLayout, window: int | None, device: torch.device) -> BlockMask:
    """Return the mask of a layout: the rule, and which blocks of keys each block of queries reads, in part or in full.

    It is made for one block of queries after the other: the whole mask ``[T, T]`` would fill gigabytes.
    """
    group, text, position = (part.to(device) for part in _places(layout))

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = (group[q] == group[k]) & ((text[k] == 0) | (text[k] == text[q]))
        back = position[q] - position[k]
        earlier = same & (back >= 0)
        return earlier if window is None else earlier & (back < window)

    every, none = torch.arange(len(group), device=device), torch.zeros((), dtype=torch.long, device=device)
    some, whole = [], []
    for queries in every.split(BLOCK):
        seen = visible(none, none, queries[:, None], every[None]).unflatten(1, (-1, BLOCK))
        whole.append(seen.all(2).all(0))
        some.append(seen.any(2).any(0) & ~whole[-1])
    part, full = (torch.stack(rows)[None, None] for rows in (some, whole))
    return BlockMask.from_kv_blocks(
        *_listed(part), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(len(group),) * 2
    )


def _places(layout: PackedLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each token its group, its text in it (0 for the prompt) and its position in prompt + text.

    Each token of the padding is a group of its own: it sees itself, so no row of scores is empty.
    """
    groups, texts, positions = [], [], []
    group, text = -1, 0
    for _, seen, _, length in layout.texts():
        group, text = (group, text + 1) if seen else (group + 1, 0)
        groups.append(torch.full((length,), group))
        texts.append(torch.full((length,), text))
        positions.append(torch.arange(seen, seen + length))
    short = -layout.tokens % BLOCK
    groups.append(torch.arange(-short, 0))
    texts.append(torch.zeros(short, dtype=torch.long))
    positions.append(torch.zeros(short, dtype=torch.long))
    return torch.cat(groups), torch.cat(texts), torch.cat(positions)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys are chosen in each row of bool ``[1, 1, n, n]``, and which, these first (both int32)."""
    return blocks.sum(-1, dtype=torch.int32), blocks.int().argsort(dim=-1, descending=True, stable=True).int()
