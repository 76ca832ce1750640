"""A key-value cache that grows in place, and that rows join and leave without the others being copied.

Rows end at the same position and are padded on the left, so a position more is one column more for all of them.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from paretune.core.errors import ModelError

RowStates = list[tuple[Tensor, Tensor]]
"""Keys and values ``[heads, T, d]`` of one row in each layer."""

ROOM = 64
"""Positions set aside beyond those in use."""


class GrowingLayer(DynamicLayer):
    """Keys and values ``[B, heads, T, d]`` as views of storage that has room for more positions, and for more rows.

    What the storage holds outside of the views is finite: attention multiplies what a mask hides by 0.
    """

    keys: Tensor
    values: Tensor
    _storage: tuple[Tensor, Tensor] | None = None
    _start: int = 0
    """Where the first position in use lies in the storage."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append positions ``[B, heads, t, d]`` and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            empty = key_states[:, :, :0], value_states[:, :, :0]
            self.keys, self.values = empty
        rows, _, added, _ = key_states.shape
        held = self.keys.shape[-2]
        if self._storage is None or self._start + held + added > self._storage[0].shape[-2]:
            self._move(rows, 0, held + added + ROOM)
        self._view(rows, self._start, held + added)
        self.keys[..., held:, :], self.values[..., held:, :] = key_states, value_states
        return self.keys, self.values

    def join(self, other: GrowingLayer) -> None:
        """Append the rows of ``other``; the shorter of the two is padded on the left."""
        rows, joining = len(self.keys), len(other.keys)
        held, brought = self.keys.shape[-2], other.keys.shape[-2]
        width = max(held, brought)
        assert self._storage is not None
        if len(self._storage[0]) < rows + joining or self._start < width - held:
            self._move(max(rows + joining, 2 * rows), width - held, width + ROOM)
        start = self._start - (width - held)
        for storage, new in zip(self._storage, (other.keys, other.values), strict=True):
            storage[:rows, :, start : self._start] = 0
            storage[rows : rows + joining, :, start : start + width - brought] = 0
            storage[rows : rows + joining, :, start + width - brought : start + width] = new
        self._view(rows + joining, start, width)

    def leave(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Copy the rows ``sources`` over the rows ``targets``, then keep the first ``rows``."""
        if len(sources):
            self.keys[targets], self.values[targets] = self.keys[sources], self.values[sources]
        self._view(rows, self._start, self.keys.shape[-2])

    def trim(self, positions: int) -> None:
        """Drop the first positions."""
        self._view(len(self.keys), self._start + positions, self.keys.shape[-2] - positions)

    @classmethod
    def gathered(cls, parts: Sequence[GrowingLayer], sources: Sequence[tuple[int, int]]) -> GrowingLayer:
        """Return a layer of rows of ``parts``, which it empties, see :func:`rows_gathered`."""
        layer, first = cls(), parts[0]
        layer.lazy_initialization(first.keys, first.values)
        layer.keys, layer.values = first.keys[:0], first.values[:0]
        width = max(part.keys.shape[-2] for part in parts)
        layer._move(len(sources), 0, width + ROOM)
        layer._view(len(sources), 0, width)
        for number, part in enumerate(parts):
            rows = torch.tensor([row for row, source in enumerate(sources) if source[0] == number])
            taken = torch.tensor([row for source, row in sources if source == number])
            held = part.keys.shape[-2]
            layer.keys[rows, :, width - held :] = part.keys[taken]
            layer.values[rows, :, width - held :] = part.values[taken]
            part.keys, part.values, part._storage = part.keys[:0], part.values[:0], None
        return layer

    @classmethod
    def beginning(cls, read: GrowingLayer, rows: Tensor, pads: Tensor) -> GrowingLayer:
        """Return a layer of rows that begin like rows of another, see :func:`rows_beginning`."""
        layer, places = cls(), torch.arange(read.keys.shape[-2], device=read.keys.device)
        # In the columns of its padding a row has the first position again: finite, and hidden.
        shifted = (places - pads[:, None]).clamp(min=0)[:, None].expand(-1, read.keys.shape[1], -1)
        heads = torch.arange(read.keys.shape[1], device=read.keys.device)[None, :, None]
        layer.lazy_initialization(read.keys, read.values)
        layer.keys, layer.values = (x[rows[:, None, None], heads, shifted] for x in (read.keys, read.values))
        return layer

    def _move(self, rows: int, before: int, positions: int) -> None:
        """Move what is held to new storage for ``rows`` and ``positions``, behind ``before`` free ones."""
        held = self.keys.shape[-2]
        self._storage = tuple(  # type: ignore[assignment]
            old.new_zeros(rows, old.shape[1], positions, old.shape[3]) for old in (self.keys, self.values)
        )
        for storage, old in zip(self._storage, (self.keys, self.values), strict=True):  # type: ignore[arg-type]
            storage[: len(old), :, before : before + held] = old
        self._start = before

    def _view(self, rows: int, start: int, positions: int) -> None:
        assert self._storage is not None
        self.keys, self.values = (x[:rows, :, start : start + positions] for x in self._storage)
        self._start = start


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model of ``config``.

    A layer with a sliding window keeps all positions too: its mask hides those that are too far back.

    Raises:
        ModelError: A layer that keeps something else than keys and values.
    """
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ModelError(
                f"a model with layers of the kind {type(layer).__name__} cannot be decoded in batches; expected attention "
                "over keys and values"
            )
    cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def keys_follow_length(config: PreTrainedConfig) -> bool:
    """Return whether keys depend on how far the text reaches that is read at once, so that no part of it can be read before.

    It is so where positions are rotated by other factors in longer texts (``rope_type`` longrope and dynamic).
    """
    stated: dict[str, Any] = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [stated, *(each for each in stated.values() if isinstance(each, dict))]
    return any(each.get("rope_type") in ("longrope", "dynamic") for each in kinds)


def given_cache(model: PreTrainedModel, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Return a cache as the argument of a model's forward pass, whose name is another from transformers 5.24 on."""
    return {_name_of_cache(type(model).forward): cache}


@functools.cache
def _name_of_cache(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def position_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of the keys and values of one position of one row; 0 where the configuration does not state their sizes."""
    text = config.get_text_config()
    queries = int(getattr(text, "num_attention_heads", None) or 1)
    heads = int(getattr(text, "num_key_value_heads", None) or queries)
    width = int(getattr(text, "head_dim", None) or int(getattr(text, "hidden_size", None) or 0) // queries)
    return 2 * int(getattr(text, "num_hidden_layers", None) or 0) * heads * width * dtype.itemsize


def rows_join(cache: DynamicCache, other: DynamicCache) -> None:
    """Append the rows of ``other`` to ``cache``; the shorter of the two is padded on the left."""
    for layer, joining in zip(cache.layers, other.layers, strict=True):
        layer.join(joining)


def rows_beginning(read: DynamicCache, rows: Sequence[int], pads: Sequence[int]) -> DynamicCache:
    """Return a cache of as many positions as ``read`` has, whose rows are padded by ``pads`` and begin like its ``rows``."""
    begun = copy.copy(read)
    device = read.layers[0].keys.device
    index, left = torch.tensor(rows, device=device), torch.tensor(pads, device=device)
    begun.layers = [GrowingLayer.beginning(layer, index, left) for layer in read.layers]
    return begun


def rows_gathered(parts: Sequence[DynamicCache], sources: Sequence[tuple[int, int]]) -> DynamicCache:
    """Return a cache whose rows are ``sources`` (number of the part, row in it); it takes the memory of ``parts`` layer by layer.

    Parts that are shorter than the longest are padded on the left. A single part with its rows in order is returned as it is.
    """
    gathered = parts[0]
    if len(parts) > 1 or list(sources) != [(0, row) for row in range(len(gathered.layers[0].keys))]:
        gathered.layers = [
            GrowingLayer.gathered(layers, sources)
            for layers in zip(*(part.layers for part in parts), strict=True)
        ]
    return gathered


def row_states(cache: DynamicCache, row: int, pad: int) -> RowStates:
    """Return a copy of the keys and values of a row that is padded by ``pad`` positions."""
    return [(layer.keys[row, :, pad:].clone(), layer.values[row, :, pad:].clone()) for layer in cache.layers]


def rows_known(
    config: PreTrainedConfig, known: Sequence[RowStates], pads: Sequence[int], positions: int
) -> DynamicCache:
    """Return a cache of ``positions``, in which rows are padded by ``pads`` and hold the first of what is known of them."""
    cache = growing_cache(config)
    for number in range(len(cache.layers)):
        keys, values = (x.new_zeros(len(known), x.shape[0], positions, x.shape[2]) for x in known[0][number])
        for row, (states, pad) in enumerate(zip(known, pads, strict=True)):
            for place, part in zip((keys, values), states[number], strict=True):
                place[row, :, pad:] = part[:, : max(0, positions - pad)]
        cache.update(keys, values, number)
    return cache


def rows_leave(cache: DynamicCache, kept: Sequence[int], trimmed: int) -> list[int]:
    """Keep the rows ``kept`` (ascending) without the first ``trimmed`` positions; return which row stands where afterwards.

    Rows from the end fill the gaps, so only those are copied.
    """
    rows = len(kept)
    gaps = sorted(set(range(rows)) - set(kept))
    fillers = [row for row in kept if row >= rows]
    order = list(range(rows))
    for gap, filler in zip(gaps, fillers, strict=True):
        order[gap] = filler
    for layer in cache.layers:
        layer.trim(trimmed)
        layer.leave(torch.tensor(fillers, dtype=torch.long), torch.tensor(gaps, dtype=torch.long), rows)
    return order
