"""The attention that transformers calls: a backend's where a batch is packed, that of decoding and of padded batches elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from paretune.core.errors import ModelError
from paretune.models.packed_attention.backends import BACKENDS, Backend
from paretune.models.packed_attention.check import backend_error
from paretune.models.packed_attention.layout import PackedLayout, expanded, with_sink

UNKNOWN = {"softcap": "a soft cap on the scores", "position_bias": "a bias of positions"}
"""Arguments that architectures give to their attention, and that no backend here knows."""


def implementation(name: str) -> str:
    """Return the name under which transformers knows a backend."""
    return f"paretune_{name}"


def backend_of(model: PreTrainedModel) -> Backend | None:
    """Return the backend of a prepared model; None where the model is not prepared."""
    known = {implementation(name): backend for name, backend in BACKENDS.items()}
    return known.get(model.config.get_text_config()._attn_implementation)


def attention(
    name: str,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention ``[B, T, H, d]`` of the backend ``name`` within the texts of a packed batch.

    Without a layout it is plain SDPA under the mask.
    """
    for argument, what in UNKNOWN.items():
        if kwargs.get(argument) is not None:
            raise ModelError(f"{type(module).__name__} has {what}, which packed batches do not know")
    sinks, scale = kwargs.pop("s_aux", None), kwargs.get("scaling")
    if packed_layout is None and query.shape[2] == 1 and sinks is None:
        return decoding_attention(query, key, value, attention_mask, scale), None
    kind = query.dtype
    packed = BACKENDS[name] if packed_layout is not None else None
    if query.device.type == "cpu" and not (packed and packed.narrow):
        # The CPU's fused kernels take longer in bfloat16 than in float32, with their backward pass.
        query, key, value = query.float(), key.float(), value.float()
    if packed_layout is not None and packed is not None:
        window = kwargs.get("sliding_window")
        if packed_layout.errors is not None:
            states = (query, key, value)
            packed_layout.errors.append(backend_error(packed, packed_layout, states, scale, window, sinks))
        out = packed.attend(packed_layout, query, key, value, scale, window, sinks)
        return out.to(kind), None
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(query.dtype)
    if sinks is not None:
        return _with_sinks(query, key, value, attention_mask, scale, sinks).to(kind), None
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out.to(kind), None


def decoding_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Return the attention ``[B, 1, H, d]`` of one query position ``[B, H, 1, d]`` over keys ``[B, G, T, d]``.

    The H / G heads that share keys are queries of one head: a single query in bfloat16 takes the CPU several times as long
    (``benchmarks/models/pieces.py``).
    """
    B, H, _, d = query.shape
    grouped, kind = query.reshape(B, key.shape[1], -1, d), query.dtype
    if key.shape[1] == H and kind == torch.bfloat16 and query.device.type == "cpu":
        grouped, key, value = grouped.float(), key.float(), value.float()
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return out.to(kind).reshape(B, 1, H, d)


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, sinks: Tensor
) -> Tensor:
    """Return the attention ``[B, t, H, d]`` under a mask, causal without one, where each head has a sink."""
    heads, (queries, keys) = query.shape[1], (query.shape[2], key.shape[2])
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[
            None, None
        ]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(
            ~mask, float("-inf")
        )
    k, v, mask = with_sink(expanded(key, heads), expanded(value, heads), mask, sinks)
    return F.scaled_dot_product_attention(query, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


for _name in BACKENDS:
    AttentionInterface.register(implementation(_name), partial(attention, _name))
    AttentionMaskInterface.register(implementation(_name), sdpa_mask)
