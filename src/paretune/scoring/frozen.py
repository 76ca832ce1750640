"""A frozen transformer with its tokenizer, and the forward passes over batches of texts of similar length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.meter import count_read

if TYPE_CHECKING:
    import torch

Encoding = Mapping[str, Sequence[int]]
"""A tokenizer's output for one text: input_ids, perhaps token_type_ids."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A loaded model with its tokenizer; ``max_length`` is its limit in tokens, 0 where the model states none."""

    model: Any
    tokenizer: Any
    max_length: int


def by_length(
    frozen: Frozen,
    encodings: Sequence[Encoding],
    batch_size: int,
    pad: Callable[[Sequence[Encoding]], int],
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    advance: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Run ``forward`` ``[b, d]`` over batches of similar length, longest first: memory runs out at once or never."""
    import torch

    model = frozen.model
    left = frozen.tokenizer.padding_side == "left"
    names = set(inspect.signature(model.forward).parameters)
    order = sorted(range(len(encodings)), key=lambda i: (-len(encodings[i]["input_ids"]), i))
    rows: list[np.ndarray | None] = [None] * len(encodings)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [encodings[i] for i in chosen]
        count_read(sum(len(encoding["input_ids"]) for encoding in batch))
        inputs = _padded(batch, pad(batch), left)
        if left and "position_ids" in names:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        inputs = {k: v.to(model.device) for k, v in inputs.items() if k in names}
        with torch.inference_mode():
            out = forward(inputs).cpu().numpy()
        for i, row in zip(chosen, out, strict=True):
            rows[i] = row
        advance(len(chosen))
    return np.stack([r for r in rows if r is not None]) if rows else np.zeros((0, 1), np.float32)


def _padded(batch: Sequence[Encoding], pad_id: int, left: bool) -> dict[str, torch.Tensor]:
    """Stack encodings into ``[b, T]`` tensors; ids are padded with ``pad_id``, the mask and token types with 0."""
    import torch

    width = max(1, *(len(e["input_ids"]) for e in batch))
    stacked: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for encoding in batch:
        ids = list(encoding["input_ids"])
        columns = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if "token_type_ids" in encoding:
            columns["token_type_ids"] = list(encoding["token_type_ids"])
        for name, values in columns.items():
            fill = [pad_id if name == "input_ids" else 0] * (width - len(values))
            stacked.setdefault(name, []).append(fill + values if left else values + fill)
    return {name: torch.tensor(values) for name, values in stacked.items()}
