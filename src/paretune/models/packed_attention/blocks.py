"""Attention text by text, and of a long prompt block by block: no work is done where a mask would hide it. The CPU's.

Each call has a mask and, where queries share keys, ``enable_gqa``: on CUDA this pair falls to the kernel that keeps the scores.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from paretune.models.packed_attention.layout import PackedLayout, bias, hidden, with_sink

PROMPT_BLOCK = 64
"""Prompt tokens that are attended together: keys behind a block are left out, where a causal kernel computes and hides most."""


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

    Texts are cut by ``split``, whose backward is one concatenation; that of a slice is a full tensor of zeros for each.
    """
    device, dtype = query.device, query.dtype
    biases = layout.once(("blocks", window, device, dtype), lambda: _biases(layout, window, device, dtype))
    product = partial(F.scaled_dot_product_attention, scale=scale, enable_gqa=query.shape[1] != key.shape[1])

    def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        far = k.shape[2] - mask.shape[1]
        if far:
            k, v = k[:, :, far:], v[:, :, far:]
        if sinks is not None:
            k, v, mask = with_sink(k, v, mask, sinks)
        return product(q, k, v, attn_mask=mask)

    sizes = [mask.shape[0] for blocks, masks in biases for mask in (*blocks, *masks)]
    texts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    pieces = []
    for blocks, masks in biases:
        parts = [next(texts) for _ in blocks]
        prompt_k, prompt_v = (torch.cat([part[slot] for part in parts], dim=2) for slot in (1, 2))
        end = 0
        for (q, _, _), mask in zip(parts, blocks, strict=True):
            end += q.shape[2]
            pieces.append(attended(q, prompt_k[:, :, :end], prompt_v[:, :, :end], mask))
        for mask in masks:
            q, k, v = next(texts)
            k, v = torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)
            pieces.append(attended(q, k, v, mask))
    return torch.cat(pieces, dim=2).transpose(1, 2)


Biases = tuple[tuple[tuple[Tensor, ...], tuple[Tensor, ...]], ...]
"""For each group the biases of the blocks of its prompt, and of its responses: ``[n, keys that any of them sees]``."""


def _biases(layout: PackedLayout, window: int | None, device: torch.device, dtype: torch.dtype) -> Biases:
    def of(seen: int, length: int) -> Tensor:
        # Keys that are too far back for all of the text are left out.
        near = seen if window is None else min(seen, window - 1)
        return bias(hidden(near, length, window), device, dtype)

    return tuple(
        (
            tuple(of(first, min(PROMPT_BLOCK, prompt - first)) for first in range(0, prompt, PROMPT_BLOCK)),
            tuple(of(prompt, response) for response in responses),
        )
        for prompt, responses in layout.groups
    )
