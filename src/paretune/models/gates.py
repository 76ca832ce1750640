"""Gate maps: from preferences to the vector ``g`` of the gated low-rank layer ``y = W0 x + U (g * (V x))``.

R is the rank of all blocks together: block j has ``ranks[j]`` columns and is switched on at ``scales[j]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from paretune.core.errors import ModelError
from paretune.models.devices import double

Gates: TypeAlias = "Tensor | Mapping[str, Tensor]"
"""One gate for all adapted matrices, or one for each module path."""


def soup_gates(preferences: Tensor, ranks: Sequence[int], scales: Sequence[float]) -> Tensor:
    """Return the gates ``[B, R]`` (fp32) that weigh block j by ``scales[j] * preferences[:, j]``.

    On stacked adapters this is the exact sum of their weight changes, ``sum_j w_j s_j U_j V_j`` (rewarded
    soups, arXiv 2306.04488). Gradients flow to ``preferences [B, M]``.

    Raises:
        ModelError: The number of preference columns, ranks and scales differ.
    """
    if preferences.dim() != 2 or not preferences.shape[1] == len(ranks) == len(scales):
        raise ModelError(
            f"preferences of shape {list(preferences.shape)} for {len(ranks)} ranks and {len(scales)} "
            "scales; "
            "give preferences [B, M] with one column, one rank and one scale for each stacked adapter"
        )
    weights = double(preferences)
    weights = weights * torch.tensor(list(scales), dtype=torch.float64, device=weights.device)
    gates = weights.repeat_interleave(torch.tensor(list(ranks), device=weights.device), dim=1)
    return gates.float().to(preferences.device)


def block_gates(blocks: Sequence[tuple[int, float]]) -> Tensor:
    """Return the constant gate ``[R]`` (fp32) with every block, given as (rank, scale), at its scale."""
    return torch.cat([torch.full((rank,), scale, dtype=torch.float32) for rank, scale in blocks])


def anchor_gates(choice: Tensor, ranks: Sequence[int], scales: Sequence[float]) -> Tensor:
    """Return the gates ``[B, R]`` (fp32) that switch on block ``choice[b]`` alone, at its scale, for row b.

    Raises:
        ModelError: ``choice`` is not an integer ``[B]``, or names a block that does not exist.
    """
    if choice.dim() != 1 or choice.is_floating_point():
        raise ModelError(f"choice is {choice.dtype} {list(choice.shape)}; give one integer for each row, [B]")
    if choice.numel() and not 0 <= int(choice.min()) <= int(choice.max()) < len(ranks):
        raise ModelError(
            f"choice between {int(choice.min())} and {int(choice.max())}; there are {len(ranks)} anchors, 0 "
            f"to {len(ranks) - 1}"
        )
    return soup_gates(torch.nn.functional.one_hot(choice.long(), len(ranks)), ranks, scales)


def nearest_anchor(preferences: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each preference ``[B, M]`` its nearest anchor in ``[K, M]``, int64 ``[B]``, and the distance
    ``[B]``.

    The distance is L1, 0 (the anchor itself) to 2 (disjoint objectives), fp64, rounded to 1e-6 so that a tie
    is a tie in spite of rounding; of tied anchors the first is taken.

    Raises:
        ModelError: There is no anchor, or the numbers of objectives differ.
    """
    if (
        preferences.dim() != 2
        or anchors.dim() != 2
        or not len(anchors)
        or preferences.shape[1] != anchors.shape[1]
    ):
        raise ModelError(
            f"preferences {list(preferences.shape)} and anchors {list(anchors.shape)}; "
            "give [B, M] and at least one anchor [K, M] over the same objectives"
        )
    distances = (double(preferences)[:, None] - double(anchors)[None]).abs().sum(-1).round(decimals=6)
    distance, choice = distances.min(dim=1)
    first = (distances == distance[:, None]).int().argmax(dim=1)
    return first.to(choice.dtype), distance


def gate_of(gates: Gates, path: str) -> Tensor:
    """Return the gate for the module at ``path``; a mapping without it is a ModelError."""
    if isinstance(gates, Tensor):
        return gates
    if path not in gates:
        raise ModelError(
            f"no gate for {path!r}; gates were given for {len(gates)} modules, give one for every adapted "
            "module"
        )
    return gates[path]
