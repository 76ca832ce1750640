"""Padded eager attention over the texts of a packed batch, as an oracle; and varlen attention that reads the kernel's indices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Sizes = list[tuple[int, list[int]]]
"""Tokens of each prompt and of its responses."""


def padded(
    sizes: Sizes,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None = None,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return the attention ``[1, T, H, d]`` where each prompt + response is a row by itself, padded to the longest.

    A prompt's own output is read from a row of the prompt alone.
    """
    T, rows, start = query.shape[2], [], 0
    for prompt, responses in sizes:
        before = list(range(start, start + prompt))
        rows.append((before, 0))
        first = start + prompt
        for response in responses:
            rows.append((before + list(range(first, first + response)), prompt))
            first += response
        start = first
    width = max(len(ids) for ids, _ in rows)
    out = torch.zeros(1, T, query.shape[1], value.shape[3], dtype=query.dtype)
    for ids, own in rows:
        places = torch.tensor(ids + [0] * (width - len(ids)))
        q, k, v = (x[:, :, places] for x in (query, key, value))
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * (scale or 1 / math.sqrt(q.shape[-1]))
        i, j = torch.arange(width)[:, None], torch.arange(width)[None]
        seen = (j <= i) & (j > i - (window or width))
        scores = scores.masked_fill(~seen, -1e30)
        if sinks is not None:
            scores = torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], dim=-1)
        attended = (scores.softmax(-1)[..., :width] @ v).transpose(1, 2)
        mine = torch.tensor(ids[own:])
        out = out.index_copy(1, mine, attended[:, own : len(ids)])
    return out


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``torch.nn.attention.varlen.varlen_attn`` documents: sequences by their ends, aligned at the bottom right.

    ``query [T, H, d]``, ``key [K, G, d]``. Query i of n over m keys stands at position ``i + m - n``; it sees ``window_size[0]``
    keys before it and ``window_size[1]`` behind it, -1 for all.
    """
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    out = torch.empty_like(query)
    pieces = []
    for number in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[number] : cu_seq_q[number + 1]].transpose(0, 1)
        k, v = (x[cu_seq_k[number] : cu_seq_k[number + 1]].transpose(0, 1) for x in (key, value))
        n, m = q.shape[1], k.shape[1]
        assert 0 < n <= max_q and 0 < m <= max_k
        k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
        scores = q @ k.transpose(1, 2) * (scale or 1 / math.sqrt(q.shape[-1]))
        back = torch.arange(n)[:, None] + m - n - torch.arange(m)[None]
        left, right = window_size
        seen = (back >= -right if right >= 0 else back == back) & (
            back <= left if left >= 0 else back == back
        )
        pieces.append((scores.masked_fill(~seen, -math.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(pieces).to(out.dtype)
