"""A key-value cache that grows in place: a decoding step writes one position instead of copying all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions set aside beyond those in use."""


class GrowingLayer(DynamicLayer):
    """Keys and values ``[B, heads, T, d]`` as views of storage that has room for more positions."""

    keys: Tensor
    values: Tensor
    _storage: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append positions ``[B, heads, t, d]`` and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._storage is None or self._storage[0].shape[-2] < end:
            self._storage = tuple(_with_room(new, end + ROOM) for new in (key_states, value_states))  # type: ignore[assignment]
            if start:
                for storage, old in zip(self._storage, (self.keys, self.values), strict=True):
                    storage[..., :start, :] = old
        for storage, new in zip(self._storage, (key_states, value_states), strict=True):
            storage[..., start:end, :] = new
        self.keys, self.values = (storage[..., :end, :] for storage in self._storage)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices`` of the batch."""
        super().batch_select_indices(indices)
        self._storage = None  # the kept rows are a copy of their own, without room


def _with_room(like: Tensor, positions: int) -> Tensor:
    return torch.empty(*like.shape[:-2], positions, like.shape[-1], dtype=like.dtype, device=like.device)


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for a model of ``config``; layers with a sliding window keep transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
