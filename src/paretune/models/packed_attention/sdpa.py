"""Attention in one call under a mask, a group to a row: for devices without a kernel that knows texts of uneven length.

Keys that several heads of queries share are copied for each of them. A mask together with ``enable_gqa`` would leave only the
kernel that keeps the scores; so it is the memory-efficient one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from paretune.models.packed_attention.layout import PackedLayout, bias, expanded, hidden, with_sink

ALIGNED = 8
"""The rows are as long as a multiple of this: the memory-efficient kernel reads the mask in such steps."""


def attend(
    layout: PackedLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """See :class:`paretune.models.packed_attention.backends.Backend`."""
    device, dtype, heads = query.device, query.dtype, query.shape[1]
    rows, places = layout.once(("rows", device), lambda: _rows(layout, device))
    mask = layout.once(("sdpa", window, device, dtype), lambda: bias(_masks(layout, window), device, dtype))
    q, k, v = (states[0].transpose(0, 1)[rows].transpose(1, 2) for states in (query, key, value))
    k, v = expanded(k, heads), expanded(v, heads)
    if sinks is not None:
        k, v, mask = with_sink(k, v, mask, sinks)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)[places][None]


def _width(layout: PackedLayout) -> int:
    """Return the length L of the rows."""
    longest = max(prompt + sum(responses) for prompt, responses in layout.groups)
    return -(-longest // ALIGNED) * ALIGNED


def _rows(layout: PackedLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the token at each place of the rows ``[groups, L]``, 0 where there is none, and the place of each token ``[T]``."""
    sizes = [prompt + sum(responses) for prompt, responses in layout.groups]
    width, start = _width(layout), 0
    rows = torch.zeros(len(sizes), width, dtype=torch.long)
    places = torch.empty(sum(sizes), dtype=torch.long)
    for number, size in enumerate(sizes):
        rows[number, :size] = torch.arange(start, start + size)
        places[start : start + size] = torch.arange(number * width, number * width + size)
        start += size
    return rows.to(device), places.to(device)


def _masks(layout: PackedLayout, window: int | None) -> Tensor:
    """Return bool ``[groups, 1, L, L]``: True where a key is hidden. Places without a token see themselves, so no row is empty."""
    width = _width(layout)
    masks = ~torch.eye(width, dtype=torch.bool).repeat(len(layout.groups), 1, 1, 1)
    number = -1
    for start, seen, first, length in layout.texts():
        number += not seen
        row, own = masks[number, 0, first - start : first - start + length], hidden(seen, length, window)
        row[:, :seen], row[:, first - start : first - start + length] = own[:, :seen], own[:, seen:]
    return masks
