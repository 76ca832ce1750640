"""Which tokens of a packed batch see which: the sizes of its texts, and what a backend makes of them once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """The texts of a packed batch in the order of its tokens: a prompt, its responses, the next prompt, and so on.

    A token of a prompt sees that prompt up to itself. A token of a response sees the whole prompt and the response up to
    itself. With a sliding window of W it sees the last W of these, itself included.

    Attributes:
        groups: Number of tokens of each prompt, with those of its responses; all at least 1.
        errors: Where it is a list, each layer appends the error of its backend (:mod:`paretune.models.packed_attention.check`).
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    errors: list[float] | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def tokens(self) -> int:
        """T, the number of tokens of the batch."""
        return sum(prompt + sum(responses) for prompt, responses in self.groups)

    def texts(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield each text: where its prompt begins, the tokens of the prompt that it sees, where it begins, its tokens."""
        start = 0
        for prompt, responses in self.groups:
            yield start, 0, start, prompt
            first = start + prompt
            for response in responses:
                yield start, prompt, first, response
                first += response
            start = first

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returns; it is made at the first call with ``key``, so once for all layers of a model."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


def hidden(seen: int, length: int, window: int | None = None) -> Tensor:
    """Return bool ``[length, seen + length]``: True where a token of a text does not see a key.

    The text sees ``seen`` keys before it and itself up to each token, of these the last ``window``.
    """
    everything = torch.ones(length, seen + length, dtype=torch.bool)
    later = everything.triu(seen + 1)
    return later if window is None else later | everything.tril(seen - window)


def bias(mask: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores where ``mask`` says that a key is hidden: 0 or -inf."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(mask, float("-inf")).to(device)


def with_sink(key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys, values ``[.., t + 1, d]`` and bias ``[.., H, n, t + 1]`` with one more key whose score is ``sinks [H]``.

    The key and its value are zeros: it takes its share of the softmax and adds nothing. ``mask`` is ``[n, t]`` or
    ``[rows, 1, n, t]``.
    """
    H = len(sinks)
    wide = mask.expand(*mask.shape[:-3], H, *mask.shape[-2:])
    column = sinks.detach().to(mask.dtype)[:, None, None].expand(*wide.shape[:-1], 1)
    key, value = (
        torch.cat([states, states.new_zeros(*states.shape[:2], 1, states.shape[3])], dim=2)
        for states in (key, value)
    )
    return key, value, torch.cat([wide, column], dim=-1)


def expanded(states: Tensor, heads: int) -> Tensor:
    """Return keys or values ``[B, G, t, d]`` with each of the G heads as often as the ``heads`` queries need: ``[B, H, t, d]``."""
    B, G, t, d = states.shape
    return states if heads == G else states[:, :, None].expand(B, G, heads // G, t, d).reshape(B, heads, t, d)
