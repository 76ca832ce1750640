"""The block of a Llama for one token of each row: on a CPU what lies between its products takes longer than these.

A token passes hundreds of modules and thousands of operations, each of which takes microseconds whatever it computes. Here a block
is one function: layers that share an input share the thin product of their adapters, queries and keys rotate together, and sums
are formed in place. Whatever else passes a block (prompts, packed batches, gradients) takes the model's own way.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import SiLUActivation

from paretune.models.frozen_linear import FrozenLinear, FrozenNorm
from paretune.models.gated_linear import outputs_of
from paretune.models.packed_attention.interface import backend_of, decoding_attention

logger = logging.getLogger(__name__)

PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
"""Children of a Llama's block, and of its parts."""
CACHES = "past_key_values", "cache"
"""Names of the cache among the arguments of a block."""
TOLERANCE = {torch.float32: 1e-4}
ROUNDED = 3e-2
"""Largest error as a share of what a block adds; the second for number formats that round more."""


class DecodingBlock(nn.Module):
    """Mixed into the class of a block: takes one token of each row by few operations."""

    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any

    def forward(self, hidden_states: Tensor, *more: Any, **given: Any) -> Tensor:
        """Return the block's output ``[B, t, d]``."""
        cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
        if (
            more
            or cache is None
            or hidden_states.shape[1] != 1
            or hidden_states.device.type != "cpu"
            or torch.is_grad_enabled()
        ):
            plain: Tensor = super().forward(hidden_states, *more, **given)
            return plain
        return self._decoded(hidden_states, given.get("attention_mask"), given["position_embeddings"], cache)

    def _decoded(
        self, residual: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor], cache: DynamicCache
    ) -> Tensor:
        attention, mlp, rows = self.self_attn, self.mlp, len(residual)
        residual = residual[:, 0]
        x = self.input_layernorm(residual)
        query, key, value = outputs_of(x, attention.q_proj, attention.k_proj, attention.v_proj)
        width = attention.head_dim
        heads = query.shape[-1] // width
        states = _rotated(torch.cat([query, key], dim=-1).view(rows, -1, 1, width), *rotation)
        keys, values = cache.update(states[:, heads:], value.view(rows, -1, 1, width), attention.layer_idx)
        found = decoding_attention(states[:, :heads], keys, values, mask, attention.scaling)
        (attended,) = outputs_of(found.view(rows, -1), attention.o_proj)
        attended.add_(residual)
        gate, up = outputs_of(self.post_attention_layernorm(attended), mlp.gate_proj, mlp.up_proj)
        (out,) = outputs_of(F.silu(gate, inplace=True).mul_(up), mlp.down_proj)
        return out.add_(attended)[:, None]


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return queries and keys ``[B, H, 1, d]`` rotated by ``cos, sin [B, 1, d]``."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([second.neg(), first], dim=-1)
    return (states * cos.unsqueeze(1)).add_(turned.mul_(sin.unsqueeze(1)))


def decode_by_few_operations(model: PreTrainedModel) -> int:
    """Let the blocks of a prepared Llama take one token of a row so; return how many do.

    The first block is compared with what the model itself computes. Where blocks are of another kind, or another result comes out,
    all stay as they are.
    """
    blocks = [*getattr(model.get_decoder(), "layers", [])]
    if model.device.type != "cpu" or not blocks or not all(map(_is_llama_block, blocks)):
        return 0
    plain: list[type[Any]] = [type(block) for block in blocks]
    quick = {kind: _decoding(kind) for kind in plain}
    for block, kind in zip(blocks, plain, strict=True):
        block.__class__ = quick[kind]
    error = _error(model, plain[0])
    if error <= TOLERANCE.get(model.dtype, ROUNDED):
        return len(blocks)
    for block, kind in zip(blocks, plain, strict=True):
        block.__class__ = kind
    logger.info(
        "blocks decode by the model's own operations: fewer are off by %.2g of what a block adds", error
    )
    return 0


def _decoding(kind: type[Any]) -> type[Any]:
    """Return the class of blocks with :class:`DecodingBlock` mixed in, which has the same name."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (DecodingBlock, kind), names)


def _is_llama_block(block: nn.Module) -> bool:
    parts: dict[str, Any] = {name: block.get_submodule(name) for name in PARTS if _has(block, name)}
    if set(parts) != set(PARTS):
        return False
    children = {name: dict(part.named_children()) for name, part in parts.items()}
    if any(set(children[name]) != expected for name, expected in PARTS.items()):
        return False
    linear = [part for name in ("self_attn", "mlp") for part in children[name].values()]
    linear.remove(activation := children["mlp"]["act_fn"])
    norms = children[""]["input_layernorm"], children[""]["post_attention_layernorm"]
    return (
        isinstance(activation, (nn.SiLU, SiLUActivation))
        and all(type(layer) is FrozenLinear for layer in linear)
        and all(type(norm) is FrozenNorm for norm in norms)
        and all(hasattr(parts["self_attn"], name) for name in ("head_dim", "scaling", "layer_idx"))
    )


def _has(block: nn.Module, name: str) -> bool:
    return not name or isinstance(getattr(block, name, None), nn.Module)


@torch.no_grad()
def _error(model: PreTrainedModel, plain: type[nn.Module]) -> float:
    """Return how far the first block's output for one more token of two rows is from its own way, in what the block adds."""
    decoder = model.get_decoder()
    block: Any = decoder.layers[0]
    assert backend_of(model) is not None
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 2, 3, 5], [7, 4, 6, 2]]) % model.get_input_embeddings().weight.shape[0]
    states = model.get_input_embeddings()(ids)
    states = states + 0.1 * states.std() * torch.randn(states.shape, generator=generator).to(states.dtype)
    places = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 2]])
    cos, sin = decoder.rotary_emb(states, position_ids=places)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    mask[1, ..., 0] = False
    mask[1, :, 0, 0] = True  # a padded position sees itself
    found = []
    for forward in (plain.forward, type(block).forward):
        cache = DynamicCache()
        forward(
            block,
            states[:, :3],
            attention_mask=mask[:, :, :3, :3],
            position_embeddings=(cos[:, :3], sin[:, :3]),
            past_key_values=cache,
        )
        out = forward(
            block,
            states[:, 3:],
            attention_mask=mask[:, :, 3:],
            position_embeddings=(cos[:, 3:], sin[:, 3:]),
            past_key_values=cache,
        )
        found.append((out[0] if isinstance(out, tuple) else out).float())
    own, other = found
    return float((own - other).norm() / (own - states[:, 3:].float()).norm().clamp(min=1e-12))
