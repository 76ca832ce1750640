"""Reading the prompts of rows that decode together: each text once, in forwards that the device's caches hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from paretune.core.meter import count_read
from paretune.models.kv_cache import growing_cache, keys_follow_length, rows_beginning, rows_gathered
from paretune.models.language_model import LanguageModel
from paretune.models.packing import common_beginning

READ_TOKENS = (16_384, 1024)
"""Most tokens of prompts that are read in one forward, on an accelerator and on the CPU, whose caches hold their states."""

Forward = Callable[
    [DynamicCache, list[list[int]], Sequence[int], Tensor | None], tuple[Tensor, Tensor | None]
]
"""From a cache, further tokens ``[n, t]``, the padding ``[n]`` on the left and gates ``[n, R]`` to the logits ``[n, V]`` and, where
they are wanted, the hidden states ``[n, d]`` of the last token; the cache then holds the tokens too."""


def prefill(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], gates: Tensor | None, forward: Forward
) -> tuple[DynamicCache, Tensor, Tensor | None]:
    """Read prompts, and return a cache that ends with them, and what ``forward`` returns behind their last tokens.

    A prompt is read once for the rows that share it and its gates. Where all prompts begin alike (what a chat template says first),
    that is read once for each vector of gates. The rest is read in parts of similar length.

    Args:
        lm: The model.
        prompts: Token ids of the prompt of each of n rows.
        gates: Gates ``[n, R]``; None is the base model.
        forward: Runs the model.
    """
    vectors = [()] * len(prompts) if gates is None else [tuple(vector) for vector in gates.tolist()]
    first: dict[object, int] = {}
    readers = [
        first.setdefault((tuple(prompt), vector), row)
        for row, (prompt, vector) in enumerate(zip(prompts, vectors, strict=True))
    ]
    read = list(first.values())
    common, begin = (0, []) if keys_follow_length(lm.model.config) else _beginning(prompts, vectors, read)
    begun = None
    if common:
        count_read(common * len(begin))
        begun = growing_cache(lm.model.config)
        forward(begun, [list(prompts[0][:common])] * len(begin), [0] * len(begin), _of(gates, begin))
    beginnings = {vectors[row]: place for place, row in enumerate(begin)}
    caches: list[DynamicCache] = []
    logits, states = [], []
    places: dict[int, tuple[int, int]] = {}
    for rows in _parts(prompts, read, common, READ_TOKENS[lm.device.type == "cpu"]):
        places.update((row, (len(caches), place)) for place, row in enumerate(rows))
        width = max(len(prompts[row]) for row in rows)
        pads = [width - len(prompts[row]) for row in rows]
        if begun is None:
            cache = growing_cache(lm.model.config)
        else:
            cache = rows_beginning(begun, [beginnings[vectors[row]] for row in rows], pads)
        ids = [
            columns(prompts[row], pad, range(common, width), lm.turn_end)
            for row, pad in zip(rows, pads, strict=True)
        ]
        # A row that is shorter than the widest reads what its padding pushes out of the beginning again.
        count_read(sum(width - max(common, pad) for pad in pads))
        behind, last = forward(cache, ids, pads, _of(gates, rows))
        caches.append(cache)
        logits.append(behind)
        states += [] if last is None else [last]
    order = {row: number for number, row in enumerate(places)}
    index = torch.tensor([order[row] for row in readers], device=lm.device)
    cache = rows_gathered(caches, [places[row] for row in readers])
    return cache, torch.cat(logits)[index], torch.cat(states)[index] if states else None


def columns(prompt: Sequence[int], pad: int, span: range, filler: int) -> list[int]:
    """Return the tokens in the columns ``span`` of a prompt that is padded by ``pad`` tokens ``filler`` on the left."""
    return [prompt[number - pad] if number >= pad else filler for number in span]


def _beginning(
    prompts: Sequence[Sequence[int]], vectors: Sequence[object], read: Sequence[int]
) -> tuple[int, list[int]]:
    """Return how many tokens all prompts begin with alike, and a row for each vector of gates; 0 where that saves little."""
    rows = list({vectors[row]: row for row in read}.values())
    common = common_beginning([prompts[row] for row in read])
    return (common, rows) if len(read) >= 2 * len(rows) else (0, [])


def _parts(prompts: Sequence[Sequence[int]], read: Sequence[int], common: int, most: int) -> list[list[int]]:
    """Return the rows ``read`` in parts of at most ``most`` tokens behind the ``common`` ones, padding included."""
    parts: list[list[int]] = []
    for row in sorted(read, key=lambda row: len(prompts[row])):
        if not parts or (len(parts[-1]) + 1) * (len(prompts[row]) - common) > most:
            parts.append([])
        parts[-1].append(row)
    return parts


def _of(gates: Tensor | None, rows: list[int]) -> Tensor | None:
    return None if gates is None else gates[rows]
