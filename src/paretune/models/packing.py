"""Packed batches: a prompt shared by its responses, no padding, the head at response positions only.

A *group* is one prompt and its responses, laid out ``[prompt | response 0 | response 1 | ...]``. Groups stand one behind
the other in a single row of tokens. Every response attends to its prompt and to itself, never to a sibling or another
group, and its positions go on from the prompt's end, so each log-probability equals that of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from paretune.core.errors import ModelError, TrainingError
from paretune.models.frozen_linear import FrozenLinear, freeze

ATTENTION = "paretune"
"""Name under which the packed attention is registered with transformers; without a layout it is plain SDPA."""

HEAD_CHUNK = 256
"""Positions projected to the vocabulary at a time: bounds the logits to HEAD_CHUNK x V."""

TokenGroup = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of one prompt and of each of its responses."""

PROMPT_BLOCK = 64
"""Prompt tokens that are attended together: keys behind a block are left out, where a causal kernel computes and hides most."""

Layout = tuple[tuple[tuple[Tensor, ...], tuple[Tensor, ...]], ...]
"""See :class:`PackedBatch`."""


@dataclass(frozen=True)
class PackedBatch:
    """Groups of token ids as one row of T tokens, with S response tokens of R responses to be scored.

    Attributes:
        input_ids: int64 ``[1, T]``.
        position_ids: int64 ``[1, T]``, counted within each prompt + response.
        layout: Attention biases of each group: those (0 or -inf) of its prompt's blocks of n tokens, ``[n, end of the block]``,
            and of its responses of r tokens, ``[r, prompt + r]``.
        predictors: int64 ``[S]``, the token whose hidden state predicts each target (a response's first token is
            predicted by the last token of its prompt).
        targets: int64 ``[S]``.
        responses: int64 ``[S]``, the response in 0..R-1 to which each target belongs, in the order of the groups.
        groups: int64 ``[T]``, the group to which each token belongs (the row index for gates).
        lengths: int64 ``[R]``, tokens in each response.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: Layout
    predictors: Tensor
    targets: Tensor
    responses: Tensor
    groups: Tensor
    lengths: Tensor


def pack(
    groups: Sequence[TokenGroup], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PackedBatch:
    """Pack groups of token ids; ``dtype`` is that of the model, which the attention bias must match (on the CPU it is fp32).

    Raises:
        TrainingError: A prompt or a response without tokens.
    """
    bias_dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
    ids: list[int] = []
    positions: list[int] = []
    layout: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    group_of: list[int] = []
    lengths: list[int] = []
    for number, (prompt, responses) in enumerate(groups):
        if not len(prompt) or not all(len(response) for response in responses):
            raise TrainingError(
                f"group {number} has a prompt or a response without tokens; every text needs at least one (EOS counts)"
            )
        start = len(ids)
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        for response in responses:
            first = len(ids)
            predictors.append(start + len(prompt) - 1)
            predictors.extend(range(first, first + len(response) - 1))
            targets.extend(response)
            owners.extend([len(lengths)] * len(response))
            lengths.append(len(response))
            ids.extend(response)
            positions.extend(range(len(prompt), len(prompt) + len(response)))
        group_of.extend([number] * (len(ids) - start))
        blocks = range(0, len(prompt), PROMPT_BLOCK)
        texts = [(first, min(PROMPT_BLOCK, len(prompt) - first)) for first in blocks]
        texts += [(len(prompt), len(response)) for response in responses]
        biases = [_bias(seen, length, bias_dtype).to(device) for seen, length in texts]
        layout.append((tuple(biases[: len(blocks)]), tuple(biases[len(blocks) :])))

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedBatch(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        layout=tuple(layout),
        predictors=tensor(predictors),
        targets=tensor(targets),
        responses=tensor(owners),
        groups=tensor(group_of),
        lengths=tensor(lengths),
    )


def _bias(seen: int, length: int, dtype: torch.dtype) -> Tensor:
    """Return the attention bias ``[length, seen + length]`` of a text: it sees all before it, and itself up to each token."""
    hidden = torch.ones(length, seen + length, dtype=torch.bool).triu(seen + 1)
    return torch.zeros(length, seen + length, dtype=dtype).masked_fill(hidden, float("-inf"))


def packed_logps(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the log-probability of each response ``[R]`` fp32, summed over its tokens, in one forward of ``model``.

    Differentiable with respect to everything below the (frozen) head. The model must be prepared by :func:`prepare`.
    """
    return token_sums(packed_token_logps(model, batch), batch)


def token_sums(token_values: Tensor, batch: PackedBatch) -> Tensor:
    """Sum values of response tokens ``[S]`` over each response ``[R]``."""
    sums = torch.zeros(len(batch.lengths), dtype=token_values.dtype, device=token_values.device)
    return sums.index_add(0, batch.responses, token_values)


def packed_token_logps(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the log-probability of each response token ``[S]`` fp32."""
    hidden = model.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        # A four-dimensional mask is handed through untouched: transformers then builds no T x T mask of its own.
        attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device),
        use_cache=False,
        packed_layout=batch.layout,
    ).last_hidden_state[0]
    head = model.get_output_embeddings()
    assert isinstance(head, FrozenLinear)
    return _TargetLogps.apply(hidden[batch.predictors], head, batch.targets)


class _TargetLogps(torch.autograd.Function):
    """Log-softmax at the targets, in chunks; the gradient is formed in the forward pass, so no logits are kept.

    The head is frozen, so d logp_t / d h_t = W[target] - softmax(h_t W^T) W is known at once and is as small as h.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenLinear, targets: Tensor) -> Tensor:  # type: ignore[override]
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        wanted = hidden.requires_grad
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(targets), HEAD_CHUNK):
            part = slice(start, start + HEAD_CHUNK)
            all_logps = head.product(hidden[part]).float().log_softmax(-1)
            logps[part] = all_logps.gather(-1, targets[part, None])[:, 0]
            if gradient is not None:
                probabilities = all_logps.exp_()
                pushed = head.transposed_product(probabilities.to(hidden.dtype))
                gradient[part] = head.weight[targets[part]] - pushed
        ctx.save_for_backward(gradient) if wanted else None
        return logps

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outputs[0][:, None].to(gradient.dtype) * gradient), None, None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention within each group of a packed batch; plain SDPA where no layout is given (generation, padded batches).

    Prompts and responses are attended one by one: no work is done where a mask would hide it. They are cut by ``split``,
    whose backward is one concatenation; that of a slice is a full tensor of zeros for each.
    """
    if packed_layout is None and query.shape[2] == 1:
        return _decoding_attention(query, key, value, attention_mask, kwargs.get("scaling")), None
    kind = query.dtype
    if query.device.type == "cpu":
        # The backward pass of bfloat16 attention on the CPU takes longer than that of float32. Without gradients, and where
        # nothing is packed, too: all that reads a text is to round alike.
        query, key, value = query.float(), key.float(), value.float()
    if packed_layout is None:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out.to(kind), None
    window = kwargs.get("sliding_window")
    if window is not None and any(
        bias.shape[1] > window for texts in packed_layout for part in texts for bias in part
    ):
        raise ModelError(
            f"a text is longer than the model's sliding window of {window} tokens; set a smaller train.max_tokens and "
            "sampling.max_new_tokens, or leave out long texts"
        )
    attend = partial(
        F.scaled_dot_product_attention,
        scale=kwargs.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    sizes = [bias.shape[0] for blocks, biases in packed_layout for bias in (*blocks, *biases)]
    texts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    pieces = []
    for blocks, biases in packed_layout:
        parts = [next(texts) for _ in blocks]
        prompt_k, prompt_v = (torch.cat([part[slot] for part in parts], dim=2) for slot in (1, 2))
        for (q, _, _), bias in zip(parts, blocks, strict=True):
            end = bias.shape[1]
            pieces.append(attend(q, prompt_k[:, :, :end], prompt_v[:, :, :end], attn_mask=bias))
        for bias in biases:
            q, k, v = next(texts)
            k, v = torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)
            pieces.append(attend(q, k, v, attn_mask=bias))
    return torch.cat(pieces, dim=2).transpose(1, 2).to(kind), None


def _decoding_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Return the attention ``[B, 1, H, d]`` of one query position ``[B, H, 1, d]`` over keys ``[B, G, T, d]``.

    The H / G heads that share keys are queries of one head: a single query in bfloat16 takes the CPU several times as long
    (``benchmarks/pieces.py``).
    """
    B, H, _, d = query.shape
    grouped, kind = query.reshape(B, key.shape[1], -1, d), query.dtype
    if key.shape[1] == H and kind == torch.bfloat16 and query.device.type == "cpu":
        grouped, key, value = grouped.float(), key.float(), value.float()
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return out.to(kind).reshape(B, 1, H, d)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def prepare(model: PreTrainedModel, prepack: bool = True) -> None:
    """Freeze the linear layers of ``model`` and switch it to the packed attention.

    One small batch proves that it still computes the same. ``prepack`` see :class:`paretune.models.frozen_linear.FrozenLinear`.

    Raises:
        ModelError: The architecture does something between the decoder and the logits (soft caps, logit scales) or in
            its attention that a packed batch would miss.
    """
    try:
        freeze(model, prepack)
        model.set_attn_implementation(ATTENTION)
        packed, plain = _probed(model)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{type(model).__name__} cannot run packed batches ({reason}); this architecture is not supported, give a decoder "
            "such as Llama, Qwen, Mistral or Phi-3"
        ) from error
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.5
    worst = float((packed - plain).abs().max())
    if not worst <= tolerance:
        raise ModelError(
            f"{type(model).__name__} computes other log-probabilities in a packed batch (off by {worst:.3g} nats, "
            f"allowed {tolerance}); this architecture is not supported"
        )


@torch.no_grad()
def _probed(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of three small texts, read packed and one by one."""
    size = min(model.get_output_embeddings().weight.shape[0], 64)
    prompt, first, second = (
        [i % size for i in range(1, 6)],
        [i % size for i in range(7, 11)],
        [i % size for i in range(20, 23)],
    )
    device = model.device
    packed = packed_logps(model, pack([(prompt, [first, second]), (second, [prompt])], device, model.dtype))
    plain = []
    for context, response in [(prompt, first), (prompt, second), (second, prompt)]:
        ids = torch.tensor([context + response], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1]
        plain.append(logits.float().log_softmax(-1).gather(-1, ids[0, len(context) :, None]).sum())
    return packed, torch.stack(plain)
