"""The scalarisations of :mod:`paretune.core.scalarise` on tensors: from one loss per objective to one loss, with its gradient.

Losses ``[..., M]`` are minimised, weights ``[..., M]`` or ``[M]`` lie on the simplex, and the value is ``[...]``. The ideal
point ``[M]`` is a lower bound of each loss; 0 for DPO and SFT, whose losses are never negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.core.scalarise import USUAL, Aggregation, Shape, Terms
from paretune.core.scalarise import aggregate as by_name


def aggregate(
    losses: Tensor,
    weights: Tensor,
    kind: Aggregation,
    ideal: Tensor,
    shape: Shape = USUAL,
    worst: Tensor | None = None,
) -> Tensor:
    """Return the scalarisation called ``kind``; bounds and parameters of the others are not read.

    Args:
        losses: ``[..., M]``.
        weights: ``[..., M]`` or ``[M]``.
        kind: Name of the scalarisation.
        ideal: Lower bound ``[M]`` of each loss.
        shape: Parameters.
        worst: Upper bound ``[M]`` of each loss, for the product.
    """
    value: Tensor = by_name(kind, Terms(losses, weights, ideal, worst, torch, shape))
    return value
