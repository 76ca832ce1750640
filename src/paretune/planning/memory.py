"""The memory of a transformer's work, by what holds it: weights, adapters, optimiser, activations, attention, logits."""

from __future__ import annotations

from collections.abc import Mapping

from paretune.models.head import HEAD_CHUNK, NEAR, chunk_for
from paretune.models.packed_attention import products
from paretune.planning.cost import MASTER, Decoding, Model, cache_bytes
from paretune.planning.work import Step

OPTIMISER = 5
"""Copies of a trained adapter that are held: itself, its gradient, Adam's two moments, and its best parameters so far."""

WORKING = 6
"""Tensors of the feed-forward width that a block holds while it runs."""

ROW_BIAS = 3
"""Bias of a row of ``sdpa``, where each token has one for all tokens of its group, over that for what it sees.

For a pair of responses as long as their prompt it is 9 to 3.5.
"""
HALF_HIDDEN = 3 / 2
"""Scores that ``products`` forms over those that tokens see: half of a prompt's block is hidden from the other half."""

Parts = Mapping[str, float]
"""What holds memory -> bytes."""


def frozen_bytes(model: Model) -> float:
    """Return the bytes of the base model with its prepacked copies; quantised matrices have none.

    On a CPU float32 matrices and the head have one for decoding. Those in bfloat16 have one for each direction, or where the CPU is
    slow at it one in float32, which is as large as two (:mod:`paretune.models.frozen_linear`).
    """
    shape = model.shape
    head = shape.vocabulary * shape.hidden
    plain = shape.parameters - shape.matrices
    copied = head + (0 if model.quantised else shape.matrices)
    copies = 2 if model.dtype == "bfloat16" else 1
    return model.matrix_bytes + model.size * (plain + copies * model.host * copied)


def adapter_bytes(model: Model, columns: float) -> float:
    """Return the bytes of the factors of an adapter."""
    return MASTER * model.column * columns


def kept_bytes(model: Model) -> float:
    """Return the bytes that autograd keeps for a token of one block.

    Frozen layers keep no input. Kept are what norms, rotated queries and keys, values, attention and the gated
    activation need for their own gradients, and the inputs of adapted layers.
    """
    shape = model.shape
    plain = 4 * shape.hidden + 5 * shape.keys + 3 * shape.intermediate + model.rank * len(model.targets)
    if model.wide:
        plain += shape.hidden + shape.intermediate
    attention = 2 * shape.hidden + 5 * shape.keys
    widened = (MASTER - model.size) * attention if model.host and model.attention != "products" else 0
    return model.size * (plain + 2 * shape.hidden) + widened  # the last: the inputs of the norms


def attention_bytes(model: Model, step: Step) -> float:
    """Return the bytes that attention holds for a step beside its inputs and outputs, which :func:`kept_bytes` counts.

    A bias is a number for each position that a token sees, and all blocks share it. Each block keeps what its backend needs for
    the backward pass (:mod:`paretune.models.packed_attention`): ``varlen`` the gathered keys and values, ``sdpa`` copies for every
    head, ``blocks`` on an accelerator the scores in float32, ``products`` the probabilities where a block has few keys, and the
    others a float32 sum for each token and head. The bias of ``products`` is that of one block, for each query of a key.
    """
    shape, size = model.shape, MASTER if model.host else model.size
    bias, sums = size * step.seen, MASTER * shape.heads * step.tokens
    kept = {
        "blocks": 0.0 if model.host else MASTER * shape.heads * step.seen,
        "varlen": 2 * size * shape.keys * step.keys + sums,
        "products": model.size * shape.heads * min(HALF_HIDDEN * step.seen, products.KEPT_KEYS * step.tokens),
        "flex": sums,
        "sdpa": 3 * size * shape.queries * step.tokens + sums,
    }[model.attention]
    shared = shape.queries / shape.keys
    block = MASTER * shared * min(step.seen, products.BLOCK[False] * step.tokens)
    biases = {"blocks": bias, "sdpa": ROW_BIAS * bias, "products": block}.get(model.attention, 0.0)
    return biases + kept * (1 if model.checkpointing else shape.layers)


def matrix_at_work(model: Model) -> float:
    """Return the bytes of the largest matrix that is dequantised while a product needs it; 0 where none is quantised."""
    return max(inside * out for inside, out in model.shape.linears.values()) * model.size * model.quantised


def positions(model: Model) -> int:
    """Return the number of positions whose logits are held at a time, see :mod:`paretune.models.head`."""
    free = model.memory - frozen_bytes(model)
    return (
        chunk_for(model.memory, max(free, 0.0), model.shape.vocabulary, model.size)
        if model.memory
        else HEAD_CHUNK
    )


def training_parts(model: Model, step: Step) -> Parts:
    """Return what a step holds above the frozen model.

    Args:
        model: Model that is trained.
        step: The largest forward with gradients.
    """
    shape, tokens = model.shape, step.tokens
    blocks = kept_bytes(model) * (1 if model.checkpointing else shape.layers)
    inputs = shape.layers * shape.hidden * model.size if model.checkpointing else 0
    working = WORKING * shape.intermediate * model.size
    states = 2 * step.targets * shape.hidden * model.size
    adapter = adapter_bytes(model, model.rank)
    return {
        "adapter": adapter,
        "optimiser": (OPTIMISER - 1) * adapter,
        "activations": tokens * (blocks + inputs + working) + matrix_at_work(model),
        "attention": attention_bytes(model, step),
        "logits": states + _trained_logit_bytes(model, min(positions(model), step.targets)),
        **_kept(model),
    }


def _kept(model: Model) -> Parts:
    """Return what stays of the texts that training read, until the run ends."""
    return {"kept states": model.kept} if model.kept else {}


def training_bytes(model: Model, step: Step) -> float:
    """Return the sum of :func:`training_parts`."""
    return sum(training_parts(model, step).values())


def logit_bytes(model: Model, rows: float) -> float:
    """Return the bytes of the logits of some positions: as computed, and float32 with its exponential."""
    return rows * model.shape.vocabulary * (model.size + 2 * MASTER)


def _trained_logit_bytes(model: Model, rows: float) -> float:
    """Return :func:`logit_bytes` of training: on a CPU few positions are float32 at a time."""
    if not model.host:
        return logit_bytes(model, rows)
    return model.shape.vocabulary * (rows * model.size + min(rows, NEAR) * 2 * MASTER)


def decoding_parts(model: Model, work: Decoding) -> Parts:
    """Return what a batch of sampling holds above the frozen model: a prompt's activations and logits are not held together."""
    shape = model.shape
    rows = min(work.batch, work.rows)
    cache = rows * (work.prompt + work.longest) * cache_bytes(model)
    block = rows * work.prompt * (WORKING * shape.intermediate + 8 * shape.hidden) * model.size
    logits = logit_bytes(model, rows)
    return {
        "adapter": adapter_bytes(model, work.columns),
        "keys and values": cache,
        "activations": (block if block >= logits else 0.0) + matrix_at_work(model),
        "logits": logits if logits > block else 0.0,
        **_kept(model),
    }
