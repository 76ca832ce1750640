"""Attention over texts of uneven length in one call of FlashAttention, ``torch.nn.attention.varlen``: no mask, no padding.

Each text is a sequence of queries. Its keys are those of its prompt and its own, gathered behind each other. The kernel aligns
the two at their ends (bottom-right causal), so a response sees its whole prompt and itself up to each token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.models.packed_attention.layout import PackedLayout


@dataclass(frozen=True, eq=False)
class Sequences:
    """The texts of a packed batch as sequences of queries and of keys.

    Attributes:
        keys: int64 ``[K]``, the token behind each key.
        query_ends, key_ends: int32 ``[N + 1]``, where the queries and the keys of each of the N texts begin, and the last end.
        most_queries, most_keys: Length of the longest.
    """

    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int


def attend(
    layout: PackedLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """See :class:`paretune.models.packed_attention.backends.Backend`; 16-bit numbers alone, and no sinks."""
    assert sinks is None
    texts = layout.once(("varlen", query.device), lambda: sequences(layout, query.device))
    # Indexing, whose backward sums the copies of a key in a fixed order; that of index_select does not on CUDA.
    k, v = (states[0].transpose(0, 1)[texts.keys] for states in (key, value))
    out = kernel()(
        query[0].transpose(0, 1).to(v.dtype),
        k.to(v.dtype),
        v,
        texts.query_ends,
        texts.key_ends,
        texts.most_queries,
        texts.most_keys,
        scale=scale,
        window_size=(-1 if window is None or window >= texts.most_keys else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[None]


def sequences(layout: PackedLayout, device: torch.device) -> Sequences:
    """Return the sequences of a layout."""
    keys, queries_of, keys_of = [], [], []
    for start, seen, first, length in layout.texts():
        keys += [torch.arange(start, start + seen), torch.arange(first, first + length)]
        queries_of.append(length)
        keys_of.append(seen + length)

    def ends(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)

    return Sequences(
        torch.cat(keys).to(device), ends(queries_of), ends(keys_of), max(queries_of), max(keys_of)
    )


def kernel() -> Callable[..., Tensor]:
    """Return the kernel of torch."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def missing() -> str:
    """Return why this torch has no such kernel; "" where it has."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no varlen_attn"
    lacking = {"window_size", "enable_gqa", "scale"} - set(inspect.signature(varlen_attn).parameters)
    if lacking:
        return f"varlen_attn of torch {torch.__version__} knows no {', '.join(sorted(lacking))}"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} was built without FlashAttention"
    return ""
