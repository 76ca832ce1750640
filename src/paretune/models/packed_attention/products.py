"""Attention block by block by batched products in the model's own 16-bit format: for a CPU that is fast at bfloat16.

Such a CPU forms products several times as fast in bfloat16 as in float32. Its fused kernel gains nothing by that: it multiplies the
scores in float32, and its backward pass has no fast products at all. Scores are not rounded to 8 bits here, which trained models
do not bear where these are large: two products give them with 16. The whole layer is one node of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paretune.models.packed_attention.layout import PackedLayout, bias, hidden

BLOCK = {True: 128, False: 256}
"""Tokens of a prompt (True) and of a response (False) that are attended together."""
KEPT_KEYS = 512
"""Most keys of a block whose probabilities are kept for the backward pass. Others are formed again: memory grows by the token."""


@dataclass(frozen=True, eq=False)
class Block:
    """Tokens of one text that are attended together.

    Attributes:
        tokens: Their places in the row of tokens.
        keys: Places of the keys that any of them sees, in one piece or two: the end of the prompt, and the text's own.
        bias: What is added to the scores of n tokens with R queries each: float32 ``[n R, K]``, 0 or -inf.
    """

    tokens: slice
    keys: tuple[slice, ...]
    bias: Tensor

    def of(self, states: Tensor) -> Tensor:
        """Return the keys or values of the block ``[G, K, d]`` of those of all tokens ``[G, T, d]``; a copy without gaps."""
        return torch.cat([states[:, places] for places in self.keys], dim=1)

    def add(self, total: Tensor, gradient: Tensor) -> None:
        """Add the gradient of the block's keys or values ``[G, K, d]`` to that of all tokens ``[G, T, d]``."""
        sizes = [places.stop - places.start for places in self.keys]
        for places, part in zip(self.keys, gradient.split(sizes, dim=1), strict=True):
            total[:, places] += part


def attend(
    layout: PackedLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """See :class:`paretune.models.packed_attention.backends.Backend`; no sinks."""
    assert sinks is None
    shared = query.shape[1] // key.shape[1]
    key_of = "products", window, shared, query.device
    blocks = layout.once(key_of, lambda: blocks_of(layout, window, shared, query.device))
    out: Tensor = _Attention.apply(
        query, key, value, blocks, query.shape[-1] ** -0.5 if scale is None else scale
    )
    return out


def blocks_of(layout: PackedLayout, window: int | None, shared: int, device: torch.device) -> list[Block]:
    """Return the blocks of all texts, for ``shared`` queries a key; their biases are parts of one tensor."""
    cut = list(_cut(layout, window))
    rows = max(tokens.stop - tokens.start for tokens, _ in cut)
    columns = max(_count(keys) for _, keys in cut)
    band = bias(hidden(columns - rows, rows, window), device, torch.float32).repeat_interleave(shared, dim=0)
    return [
        Block(tokens, keys, band[(rows - tokens.stop + tokens.start) * shared :, columns - _count(keys) :])
        for tokens, keys in cut
    ]


def _cut(layout: PackedLayout, window: int | None) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Yield the tokens and the keys of each block."""
    for start, seen, first, length in layout.texts():
        size = BLOCK[not seen]
        for begin in range(first, first + length, size):
            end = min(begin + size, first + length)
            before = seen + begin - first  # tokens that the block's first one sees beside itself
            keys = end - begin + (before if window is None else min(before, window - 1))
            own = min(keys, end - first)
            pieces = slice(start + seen - (keys - own), start + seen), slice(end - own, end)
            if keys == own:
                yield slice(begin, end), pieces[1:]
            elif start + seen == end - own:
                yield slice(begin, end), (slice(pieces[0].start, end),)
            else:
                yield slice(begin, end), pieces


def _count(places: tuple[slice, ...]) -> int:
    return sum(each.stop - each.start for each in places)


class _Attention(torch.autograd.Function):
    """The attention of a packed batch ``[1, T, H, d]``: ``softmax(scale q k^T + bias) v``.

    Queries that share keys are rows of one product. With P the probabilities and dP = dO v^T, the gradient of the scores is
    ``dS = P (dP - sum_k P dP)``. That sum is ``dO . O``, and it is taken off inside the product, before this is rounded: else most
    of what is left would be lost where values have much in common. Only blocks change their layout: they fit the caches.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[Block], scale: float
    ) -> Tensor:
        q, k, v = _by_token(query, key.shape[1]), key[0], value[0]
        out = query.new_empty(*q.shape[:3], v.shape[-1])
        kept: list[Tensor | None] = []
        wanted = any(ctx.needs_input_grad)
        for block in blocks:
            p = _probabilities(_rows(q, block), block, block.of(k), scale)
            part = _part(out, block)
            part.copy_(torch.bmm(p, block.of(v)).view(part.shape))
            kept.append(p if wanted and p.shape[-1] <= KEPT_KEYS else None)
        ctx.blocks, ctx.scale = blocks, scale
        whole = out.flatten(1, 2)[None]
        ctx.save_for_backward(query, key, value, whole, *kept)
        return whole

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        scale, shared = ctx.scale, key.shape[1]
        common = (
            (outputs[0].float() * out)
            .sum(-1, keepdim=True)
            .neg_()
            .to(out.dtype)[0]
            .unflatten(1, (shared, -1))
        )
        q, k, v = _by_token(query, shared), key[0], value[0]
        out_gradient, dq = _by_token(outputs[0].transpose(1, 2), shared), query.new_empty(q.shape)
        # Sums over the responses of a prompt, so in float32.
        dk, dv = (torch.zeros(states.shape, dtype=torch.float32, device=k.device) for states in (k, v))
        for block, p in zip(ctx.blocks, kept, strict=True):
            keys, rows, out_rows = block.of(k), _rows(q, block), _rows(out_gradient, block)
            p = _probabilities(rows, block, keys, scale) if p is None else p
            block.add(dv, torch.bmm(p.transpose(1, 2), out_rows))
            dp = torch.baddbmm(_rows(common, block), out_rows, block.of(v).transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            part = _part(dq, block)
            torch.mul(torch.bmm(ds, keys).view(part.shape), scale, out=part)
            block.add(dk, torch.bmm(ds.transpose(1, 2), rows))
        dk.mul_(scale)
        return dq.flatten(1, 2).transpose(0, 1)[None], dk.to(k.dtype)[None], dv.to(v.dtype)[None], None, None


def _by_token(states: Tensor, shared: int) -> Tensor:
    """Return ``[1, H, T, d]`` as ``[T, G, R, d]``, where R heads share the keys of each of G; a view."""
    return states[0].transpose(0, 1).unflatten(1, (shared, -1))


def _part(states: Tensor, block: Block) -> Tensor:
    """Return what the tokens of a block have of ``[T, G, R, d]`` as ``[G, n, R, d]``; a view."""
    return states[block.tokens].transpose(0, 1)


def _rows(states: Tensor, block: Block) -> Tensor:
    """Return what the tokens of a block have of ``[T, G, R, d]`` as rows ``[G, n R, d]``, without gaps in memory."""
    return _part(states, block).flatten(1, 2).contiguous()


def _probabilities(rows: Tensor, block: Block, keys: Tensor, scale: float) -> Tensor:
    """Return the softmax of a block's scores ``[G, n R, K]`` in the format of ``rows``, of scores that are exact to 16 bits."""
    back = keys.transpose(1, 2)
    rounded = torch.bmm(rows, back)
    # The product once more, less what it was rounded to, before it is rounded: that is half the time of a product in float32.
    rest = torch.baddbmm(rounded, rows, back, beta=-1)
    scores = torch.add(block.bias, rounded, alpha=scale).add_(rest, alpha=scale)
    return torch.softmax(scores, dim=-1).to(rows.dtype)
