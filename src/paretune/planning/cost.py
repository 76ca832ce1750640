"""The arithmetic of a transformer's work: FLOP, bytes and seconds of packed passes and of decoding.

A product of ``[n, a]`` with ``[a, b]`` is ``2 n a b`` FLOP. The base model is frozen: a token of training costs each of its
matrices two products (forward, and the gradient of the input), an adapter three, and the head, at response positions, two.
Time is the sum of what products, attention, all other operations and their starts take at the device's rates; nothing is
assumed to overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.planning.devices import Rates
from paretune.planning.shapes import Shape

BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of one number."""
BITS = {"nf4": 4.127, "fp4": 4.127, "int8": 8.01}
"""Bits that a number of a quantised matrix takes with its scales: NF4's for 64 numbers are quantised to 8 bits themselves, with
further ones for 256 of them; int8's are one for a row."""
MASTER = 4
"""Bytes of a number of an adapter, of its gradient and of its moments, which are float32 whatever the model is."""


@dataclass(frozen=True)
class Model:
    """A shape with its number format and its adapter.

    Attributes:
        shape: Shape of the base model.
        dtype: Number format, ``float32`` or ``bfloat16``.
        targets: (in, out) of the adapted matrices of one block.
        rank: Number of columns of one trained adapter.
        checkpointing: Whether activations are computed again in backward.
        host: Whether it runs on a CPU, with prepacked copies of its frozen matrices
            (:mod:`paretune.models.frozen_linear`), and attention in float32 unless that is by products.
        quantization: How the matrices of the blocks are held: ``none`` in the number format, else one of :data:`BITS`.
        memory: Bytes of the accelerator that it runs on, which decide how many logits it forms at a time; 0 on a CPU.
        attention: Backend of the attention over packed batches.
        kept: Bytes of states that are kept below the lowest adapted block.
    """

    shape: Shape
    dtype: str
    targets: tuple[tuple[int, int], ...]
    rank: int
    checkpointing: bool = False
    host: bool = False
    quantization: str = "none"
    memory: float = 0.0
    attention: str = "blocks"
    kept: float = 0.0

    @property
    def quantised(self) -> bool:
        """Whether the matrices of the blocks are held in fewer bits than the number format has."""
        return self.quantization != "none"

    @property
    def matrix_bytes(self) -> float:
        """Bytes of the matrices of all blocks as they are held."""
        return self.shape.matrices * (BITS[self.quantization] / 8 if self.quantised else self.size)

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return BYTES[self.dtype]

    @property
    def column(self) -> int:
        """Parameters of one column of an adapter, over all adapted matrices."""
        return self.shape.layers * sum(inside + out for inside, out in self.targets)

    @property
    def wide(self) -> bool:
        """Whether a feed-forward matrix is adapted: then its input is kept for backward."""
        shape = self.shape
        return any(shape.intermediate in size and shape.hidden in size for size in self.targets)


@dataclass(frozen=True)
class Passes:
    """Packed forwards of a stage, all together.

    Attributes:
        tokens: Number of tokens read.
        targets: Number of positions projected to the vocabulary.
        seen: Number of positions that tokens attend to, summed over tokens.
        forwards: Number of forwards.
        texts: Number of prompts and responses attended one by one.
        columns: Number of columns of the adapters in force; 0 is the base model.
        backward: Whether each is followed by its backward pass.
        backwards: How often it is, on average: once for each objective where their gradients are kept apart.
    """

    tokens: float
    targets: float
    seen: float
    forwards: float
    texts: float
    columns: float = 0
    backward: bool = False
    backwards: float = 1.0


@dataclass(frozen=True)
class Decoding:
    """Sampled responses of a stage, all together.

    Attributes:
        rows: Number of responses, counted once for each copy that a mixed policy runs.
        prompt, new: Mean number of tokens of the prompt (with padding) and of the response.
        longest: Number of tokens of the longest response of a batch.
        batch: Number of rows decoded together.
        columns: Number of columns of the adapters in force.
        shared: Number of rows that share the reading of a prompt: those to one prompt under the same gates.
    """

    rows: float
    prompt: float
    new: float
    longest: float
    batch: float
    columns: float = 0
    shared: float = 1

    @property
    def prompts(self) -> float:
        """Prompts that are read."""
        return self.rows / self.shared

    @property
    def batches(self) -> float:
        """Batches one after the other."""
        return max(1.0, self.rows / self.batch)


@dataclass(frozen=True)
class Cost:
    """Tokens read and written, FLOP and seconds."""

    tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs."""
    return sum(costs, Cost())


def packed(work: Passes, model: Model, rates: Rates) -> Cost:
    """Return the cost of packed passes."""
    shape, back = model.shape, work.backward * work.backwards
    again = back if model.checkpointing else 0
    matrices = 2 * shape.matrices * work.tokens * (1 + back + again)
    adapters = 2 * model.column * work.columns * work.tokens * (1 + 2 * back + again)
    head = 2 * shape.hidden * shape.vocabulary * work.targets * (1 + back)
    # Backward computes the scores again, and takes five products where forward has two.
    attention = attention_flops(shape, work.seen) * (1 + 2.5 * back + again)
    seconds = (matrices + adapters + head) / rates.matmul + attention / rates.attention
    once = traffic(model, work.tokens, work.backward, again)
    more = max(0.0, back - 1)
    further = more * (traffic(model, work.tokens, True) - traffic(model, work.tokens, False))
    seconds += (once + further) / rates.traffic
    seconds += dequantising(model) * work.forwards * (1 + back + again) / rates.traffic
    seconds += LOGIT_PASSES * work.targets * shape.vocabulary * MASTER / rates.traffic
    seconds += rates.launch * operations(model, work, work.backward)
    seconds += rates.launch * more * (operations(model, work, True) - operations(model, work, False))
    return Cost(work.tokens, matrices + adapters + head + attention, seconds)


def dequantising(model: Model) -> float:
    """Return the bytes that one pass over all blocks reads and writes to dequantise their matrices, and to read them again."""
    return model.matrix_bytes + 2 * model.shape.matrices * model.size if model.quantised else 0.0


def attention_flops(shape: Shape, seen: float) -> float:
    """Return the FLOP of the two products of attention, forward, for ``seen`` positions summed over tokens."""
    return 4 * shape.queries * shape.layers * seen


LOGIT_PASSES = 8
"""Times that a position's float32 logits are read or written in the head's log-softmax and its gradient."""

# Numbers that the operations between products read and write for a token of one block, as multiples of the widths of
# residual stream, keys and feed-forward layer, counted in transformers' Llama with these layers attached: forward, and
# forward with backward. Norms compute in float32 whatever the model is (the second row).
_FORWARD = ((12.0, 16.4, 4.9), 22.7)
_TRAINING = ((65.0, 62.0, 14.0), 71.0)
_WIDE = (14.0, 0.0, 19.0)
"""Further ones of training where feed-forward matrices are adapted."""


def traffic(model: Model, tokens: float, backward: bool, again: float = 0) -> float:
    """Return the bytes that operations other than products read and write for ``tokens`` in all blocks."""
    shape = model.shape
    widths = (shape.hidden, shape.keys, shape.intermediate)

    def of(counts: tuple[tuple[float, float, float], float]) -> float:
        plain, norms = counts
        return model.size * _dot(plain, widths) + MASTER * norms * shape.hidden

    one = of(_TRAINING) if backward else of(_FORWARD)
    one += again * of(_FORWARD)
    if backward and model.wide:
        one += model.size * _dot(_WIDE, widths)
    return tokens * shape.layers * one


def operations(model: Model, work: Passes, backward: bool) -> float:
    """Return how many operations are started, counted like the traffic; forward's again with checkpointing."""
    layers, adapted = model.shape.layers, len(model.targets) if work.columns else 0
    forward = layers * ((35 + 3 * adapted) * work.forwards + 2.3 * work.texts)
    if not backward:
        return forward
    both = layers * ((94 + 14 * adapted) * work.forwards + 4.7 * work.texts)
    return both + forward * model.checkpointing


DRAW_PASSES = 60
"""Times that drawing a token reads or writes its row's float32 logits: softmax, the most likely ones, their sum."""


def decoded(work: Decoding, model: Model, rates: Rates) -> Cost:
    """Return the cost of sampling: prompts are read once, then each step reads all parameters once for its batch."""
    shape = model.shape
    reading = Passes(
        tokens=work.prompts * work.prompt,
        targets=work.prompts,
        seen=work.prompts * work.prompt**2,  # the mask hides half of it, and half is computed all the same
        forwards=work.batches,
        texts=work.batches,
        columns=work.columns,
    )
    prefill = packed(reading, model, rates)
    tokens, steps = work.rows * (work.new - 1), work.batches * (work.longest - 1)
    seen = tokens * (work.prompt + work.new / 2)
    per_token = 2 * shape.matrices + 2 * model.column * work.columns + 2 * shape.hidden * shape.vocabulary
    flops, attending = tokens * per_token, attention_flops(shape, seen)
    seconds = flops / rates.matmul + attending / rates.decoding
    seconds += steps * weight_bytes(model, work.columns) / rates.stream
    seconds += seen * cache_bytes(model) / rates.stream
    seconds += traffic(model, tokens, False) / rates.traffic
    seconds += DRAW_PASSES * (tokens + work.rows) * shape.vocabulary * MASTER / rates.traffic
    adapted = len(model.targets) if work.columns else 0
    seconds += steps * rates.launch * shape.layers * (40 + 8 * adapted)
    return prefill + Cost(tokens, flops + attending, seconds)


def weight_bytes(model: Model, columns: float) -> float:
    """Return the bytes that one decoding step reads: all matrices, the head, the adapters (and their cast copies)."""
    shape = model.shape
    cast = 0 if model.dtype == "float32" else 2 * model.size
    matrices = dequantising(model) if model.quantised else model.matrix_bytes
    frozen = matrices + shape.hidden * shape.vocabulary * model.size
    return frozen + model.column * columns * (MASTER + cast)


def cache_bytes(model: Model) -> float:
    """Return the bytes of keys and values of one position."""
    return 2 * model.shape.keys * model.shape.layers * model.size


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))
