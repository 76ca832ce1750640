"""Attention text by text, and of a long text block by block: no work is done where a mask would hide it. The CPU's, in float32.

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
RESPONSE_BLOCK = 256
"""Response tokens that are attended together. Most responses are one block; of longer ones the masks grow with the length alone."""


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
    biases = layout.once(
        ("blocks", window, device, dtype), lambda: block_biases(layout, window, device, dtype)
    )
    product = partial(F.scaled_dot_product_attention, scale=scale, enable_gqa=query.shape[1] != key.shape[1])

    def attended(q: Tensor, k: Tensor, v: Tensor, end: int, mask: Tensor) -> Tensor:
        seen = mask.shape[1]
        if seen < k.shape[2]:
            k, v = k[:, :, end - seen : end], v[:, :, end - seen : end]
        if sinks is not None:
            k, v, mask = with_sink(k, v, mask, sinks)
        return product(q, k, v, attn_mask=mask)

    sizes = [mask.shape[0] for texts in biases for masks in texts for mask in masks]
    blocks = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    pieces = []
    for texts in biases:
        before: list[tuple[Tensor, Tensor]] = []
        for masks in texts:
            parts = [next(blocks) for _ in masks]
            read = [*before, *((k, v) for _, k, v in parts)]
            keys, values = (torch.cat(states, dim=2) for states in zip(*read, strict=True))
            end = sum(k.shape[2] for k, _ in before)
            before = before or [(keys, values)]  # the prompt, which every response reads
            for (q, _, _), mask in zip(parts, masks, strict=True):
                end += q.shape[2]
                pieces.append(attended(q, keys, values, end, mask))
    return torch.cat(pieces, dim=2).transpose(1, 2)


Biases = tuple[tuple[tuple[Tensor, ...], ...], ...]
"""For each group and each of its texts, the prompt first, the biases of its blocks: ``[n, keys that any of them sees]``."""


def block_biases(
    layout: PackedLayout, window: int | None, device: torch.device, dtype: torch.dtype
) -> Biases:
    """Return the biases of all blocks, which are parts of one tensor: what a token sees depends on how far back a key is."""
    cut = [
        [
            _blocks(0, prompt, PROMPT_BLOCK, window),
            *(_blocks(prompt, each, RESPONSE_BLOCK, window) for each in responses),
        ]
        for prompt, responses in layout.groups
    ]
    sizes = [size for texts in cut for blocks in texts for size in blocks]
    rows, columns = (max(each) for each in zip(*sizes, strict=True))
    band = bias(hidden(columns - rows, rows, window), device, dtype)
    return tuple(
        tuple(tuple(band[rows - length :, columns - keys :] for length, keys in blocks) for blocks in texts)
        for texts in cut
    )


def _blocks(seen: int, length: int, size: int, window: int | None) -> list[tuple[int, int]]:
    """Return the tokens of each block of a text, and the keys that any of them sees; ``seen`` keys are before the text."""
    found = []
    for first in range(0, length, size):
        tokens, before = min(size, length - first), seen + first
        # Keys that are too far back for all of the block are left out.
        found.append((tokens, tokens + (before if window is None else min(before, window - 1))))
    return found
