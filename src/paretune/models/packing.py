"""Packed batches: a prompt shared by its responses, no padding, the head at response positions only.

A *group* is one prompt and its responses, laid out ``[prompt | response 0 | response 1 | ...]``. Groups stand one behind
the other in a single row of tokens. Every response attends to its prompt and to itself, never to a sibling or another
group, and its positions go on from the prompt's end, so each log-probability equals that of the padded batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from paretune.core.errors import ModelError, TrainingError
from paretune.core.meter import count_read
from paretune.models.architecture import Reading, check_kind, read_plainly, shallow_in_float32, short_windows
from paretune.models.decoding_block import decode_by_few_operations
from paretune.models.frozen_linear import FrozenLinear, freeze
from paretune.models.head import target_logps
from paretune.models.kernels import fuse, kernels_for
from paretune.models.packed_attention.backends import BACKENDS, Backend, capability_of, choose
from paretune.models.packed_attention.interface import backend_of, implementation
from paretune.models.packed_attention.layout import PackedLayout

logger = logging.getLogger(__name__)

BEGINNING = 8
"""Fewest tokens that prompts have in common at their beginning for which these are read on their own."""

TokenGroup = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of one prompt and of each of its responses."""


@dataclass(frozen=True)
class PackedBatch:
    """Groups of token ids as one row of T tokens, with S response tokens of R responses to be scored.

    Attributes:
        input_ids: int64 ``[1, T]``.
        position_ids: int64 ``[1, T]``, counted within each prompt + response.
        layout: Which tokens see which.
        predictors: int64 ``[S]``, the token whose hidden state predicts each target (a response's first token is
            predicted by the last token of its prompt).
        targets: int64 ``[S]``.
        responses: int64 ``[S]``, the response in 0..R-1 to which each target belongs, in the order of the groups.
        groups: int64 ``[T]``, the group to which each token belongs (the row index for gates).
        lengths: int64 ``[R]``, tokens of each response that are targets.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: PackedLayout
    predictors: Tensor
    targets: Tensor
    responses: Tensor
    groups: Tensor
    lengths: Tensor


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    one, other = tuple(first), tuple(second)
    # Halved again and again, since whole tuples are compared at the speed of C.
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens prompts begin with alike, each with one more at least behind them; 0 below :data:`BEGINNING`."""
    texts = [list(prompt[:-1]) for prompt in prompts]
    # What the first and the last in order have in common, all have.
    common = common_length(min(texts), max(texts))
    return common if common >= BEGINNING and len(prompts) > 1 else 0


def share_beginning(groups: Sequence[TokenGroup]) -> tuple[list[TokenGroup], list[list[int]]]:
    """Return groups whose prompts begin alike as one that reads this beginning once, where each has a single response.

    Returns:
        The groups, in which what is left of a prompt stands before its response, and how many tokens of each response that is.
    """
    single = all(len(responses) == 1 for _, responses in groups)
    common = common_beginning([prompt for prompt, _ in groups]) if single else 0
    if not common:
        return list(groups), [[0] * len(responses) for _, responses in groups]
    texts = [[*prompt[common:], *response] for prompt, (response,) in groups]
    return [(groups[0][0][:common], texts)], [[len(prompt) - common for prompt, _ in groups]]


def pack(
    groups: Sequence[TokenGroup],
    device: torch.device | str = "cpu",
    unscored: Sequence[Sequence[int]] | None = None,
) -> PackedBatch:
    """Pack groups of token ids for a model on ``device``.

    Args:
        groups: Prompts with their responses.
        device: Device of the tensors.
        unscored: How many tokens at the beginning of each response are no targets (:func:`share_beginning`); None is none.

    Raises:
        TrainingError: A prompt or a response without tokens.
    """
    ids: list[int] = []
    positions: list[int] = []
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
        for place, response in enumerate(responses):
            first, skipped = len(ids), unscored[number][place] if unscored else 0
            scored = len(response) - skipped
            before = [start + len(prompt) - 1, *range(first, first + len(response) - 1)]
            predictors.extend(before[skipped:])
            targets.extend(response[skipped:])
            owners.extend([len(lengths)] * scored)
            lengths.append(scored)
            ids.extend(response)
            positions.extend(range(len(prompt), len(prompt) + len(response)))
        group_of.extend([number] * (len(ids) - start))

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedBatch(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        layout=PackedLayout(
            tuple(
                (len(prompt), tuple(len(response) for response in responses)) for prompt, responses in groups
            )
        ),
        predictors=tensor(predictors),
        targets=tensor(targets),
        responses=tensor(owners),
        groups=tensor(group_of),
        lengths=tensor(lengths),
    )


def packed_logps(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the log-probability of each response ``[R]`` fp32, summed over its tokens, in one forward of ``model``.

    Differentiable with respect to everything below the (frozen) head. The model must be prepared by :func:`prepare`.
    """
    return token_sums(packed_token_logps(model, batch), batch)


def token_sums(token_values: Tensor, batch: PackedBatch) -> Tensor:
    """Sum values of response tokens ``[S]`` over each response ``[R]``."""
    sums = torch.zeros(len(batch.lengths), dtype=token_values.dtype, device=token_values.device)
    return sums.index_add(0, batch.responses, token_values)


def ends(batch: PackedBatch) -> Tensor:
    """Return the place of the last token of each response ``[R]`` in the row of tokens."""
    last = [first + count - 1 for _, seen, first, count in batch.layout.texts() if seen]
    return torch.tensor(last, dtype=torch.long, device=batch.input_ids.device)


def packed_token_logps(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the log-probability of each response token ``[S]`` fp32."""
    hidden = packed_states(model, batch)
    head = model.get_output_embeddings()
    assert isinstance(head, FrozenLinear)
    return target_logps(hidden[batch.predictors], head, batch.targets)


def packed_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the last hidden state ``[T, d]`` of each token, before the output embeddings."""
    count_read(batch.input_ids.numel())
    return _READERS.get(model, every_state)(model, batch)


Reader = Callable[[PreTrainedModel, PackedBatch], Tensor]
"""Returns the last hidden states of a batch, see :func:`packed_states`."""
_READERS: WeakKeyDictionary[PreTrainedModel, Reader] = WeakKeyDictionary()


@contextmanager
def reading(model: PreTrainedModel, reader: Reader) -> Iterator[None]:
    """Let ``reader`` read the packed batches of ``model`` inside the context."""
    _READERS[model] = reader
    try:
        yield
    finally:
        del _READERS[model]


def every_state(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Return the last hidden state ``[T, d]`` of each token by a pass through all blocks."""
    hidden: Tensor = model.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        # A four-dimensional mask is handed through untouched: transformers then builds no T x T mask of its own.
        attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device),
        use_cache=False,
        packed_layout=batch.layout,
    ).last_hidden_state[0]
    return hidden


TEXTS = (
    (range(1, 6), (range(7, 11), range(20, 23))),
    (range(7, 11), (range(1, 6),)),
)
"""Token ids of the groups that prove a model: each prompt with its responses."""
ROWS = 64
"""Number of tokens in the vocabulary of these."""
FEW_LAYERS, WHOLE, ROUNDED = 1e-4, 1e-3, 0.25
"""Largest difference of a log-probability as a share of the spread: over the first layers in float32, over a whole model in
float32, and of half of the tokens over a whole model in a number format that rounds more."""


def prepare(model: PreTrainedModel, prepack: bool = True, attention: str = "auto") -> None:
    """Freeze the linear layers of ``model`` and switch it to the packed attention.

    A small batch proves that it still computes what the model itself does, with transformers' eager attention: the first layers
    in float32, and the whole model in its own number format.

    Args:
        model: A decoder on its device.
        prepack: See :class:`paretune.models.frozen_linear.FrozenLinear`.
        attention: Backend, see :mod:`paretune.models.packed_attention.backends`; with ``auto`` a backend that fails the proof is
            left for the next, and a warning says so.

    Raises:
        ModelError: The architecture does something that a packed batch would miss, or ``attention`` cannot run here.
    """
    check_kind(model)
    backends = choose(attention, capability_of(model.device, model.dtype, model))
    try:
        with short_windows(model):
            _prove_first_layers(model)
            plain = read_plainly(model, _texts(model))
            freeze(model, prepack)
            fused = fuse(model, kernels_for(model.device), model.device, model.dtype)
            _take_first(model, backends, plain)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{type(model).__name__} cannot run packed batches ({reason}); this architecture is not supported, give a decoder "
            "such as Llama, Qwen3, Mistral, Phi-3 or Gemma 3"
        ) from error
    taken = backend_of(model)
    assert taken is not None
    few = decode_by_few_operations(model)
    logger.info(
        "attention %r: %s; fused kernels: %s; blocks that decode by few operations: %d",
        *(taken.name, taken.what, ", ".join(fused) or "none", few),
    )


def _prove_first_layers(model: PreTrainedModel) -> None:
    """Compare the first layers in float32, in which a difference that the model's own number format hides is seen."""
    backend = BACKENDS["blocks" if model.device.type == "cpu" else "sdpa"]
    with shallow_in_float32(model, _rows(model)):
        plain = read_plainly(model, _texts(model))
        _check(model, float(_packed_errors(model, backend, plain).max()), FEW_LAYERS)


def switch_attention(model: PreTrainedModel, attention: str = "auto") -> None:
    """Switch a prepared model that was moved to another device to an attention of that device.

    Raises:
        ModelError: ``attention`` cannot run there.
    """
    with short_windows(model):
        _take_first(model, choose(attention, capability_of(model.device, model.dtype, model)), None)


def _take_first(model: PreTrainedModel, backends: Sequence[Backend], plain: Reading | None) -> None:
    """Switch the model to the first backend that computes attention, and where ``plain`` is given what the model itself does."""
    exact = model.dtype == torch.float32
    for backend, following in zip(backends, [*backends[1:], None], strict=True):
        try:
            errors = _packed_errors(model, backend, plain)
            _check(model, float(errors.max() if exact else errors.median()), WHOLE if exact else ROUNDED)
            return
        except Exception as error:
            if following is None:
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning(
                "attention %r does not run here (%s); %r is taken", backend.name, reason, following.name
            )


@torch.no_grad()
def _packed_errors(model: PreTrainedModel, backend: Backend, plain: Reading | None) -> Tensor:
    """Switch the model to a backend, and return how far packed log-probabilities ``[S]`` are from ``plain``, in its spread.

    Raises:
        ModelError: The architecture does not ask the backend, or the backend does not compute attention.
    """
    model.set_attn_implementation(implementation(backend.name))
    groups = [(_ids(model, prompt), [_ids(model, each) for each in responses]) for prompt, responses in TEXTS]
    batch = pack(groups, model.device)
    found: list[float] = []
    logps = packed_token_logps(model, replace(batch, layout=replace(batch.layout, errors=found)))
    if not found:
        raise ModelError(
            f"{type(model).__name__} has an attention of its own, which cannot be replaced by that of packed batches; this "
            "architecture is not supported"
        )
    if not max(found) <= 1:
        raise ModelError(
            f"attention {backend.name!r} is off by {max(found):.2g} times what its rounding explains"
        )
    return torch.zeros(1) if plain is None else plain.errors(logps)


def _check(model: PreTrainedModel, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise ModelError(
            f"{type(model).__name__} computes other log-probabilities in a packed batch (off by {error:.2g} of their spread over "
            f"the vocabulary, allowed {allowed}); this architecture is not supported"
        )


def _texts(model: PreTrainedModel) -> list[tuple[list[int], list[int]]]:
    return [(_ids(model, prompt), _ids(model, each)) for prompt, responses in TEXTS for each in responses]


def _ids(model: PreTrainedModel, numbers: Sequence[int]) -> list[int]:
    return [number % _rows(model) for number in numbers]


def _rows(model: PreTrainedModel) -> int:
    return min(model.get_output_embeddings().weight.shape[0], ROWS)
