"""From one loss an objective to one loss: the aggregations of multi-objective training, as pure functions.

Losses ``[..., M]`` are minimised, weights ``[..., M]`` or ``[M]`` lie on the simplex, and the value is ``[...]``. The ideal
point ``[M]`` is a lower bound of each loss; 0 for DPO and SFT, whose losses are never negative.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["linear", "tchebycheff", "smooth-tchebycheff", "augmented-tchebycheff"]


def linear(losses: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum_i w_i L_i``: linear scalarisation; an objective of weight 0 takes no part, were its loss infinite."""
    return torch.where(weights > 0, weights * losses, torch.zeros_like(losses)).sum(-1)


def tchebycheff(losses: Tensor, weights: Tensor, ideal: Tensor) -> Tensor:
    """Return ``max_i w_i (L_i - z_i)``; the gradient is that of the first objective that attains it.

    Its minimisers cover every Pareto point, convex front or not, but may be only weakly optimal where a weight is 0.
    """
    terms = weights * (losses - ideal)
    return terms.gather(-1, terms.argmax(-1, keepdim=True))[..., 0]


def smooth_tchebycheff(losses: Tensor, weights: Tensor, ideal: Tensor, mu: float = 0.1) -> Tensor:
    """Return ``mu log sum_i exp(w_i (L_i - z_i) / mu)``, between the maximum and the maximum + mu log M."""
    return mu * (weights * (losses - ideal) / mu).logsumexp(-1)


def augmented_tchebycheff(losses: Tensor, weights: Tensor, ideal: Tensor, rho: float = 0.05) -> Tensor:
    """Return ``max_i w_i (L_i - z_i) + rho sum_i w_i (L_i - z_i)``: the sum keeps points that are only weakly optimal out."""
    return tchebycheff(losses, weights, ideal) + rho * linear(losses - ideal, weights)


def aggregate(
    losses: Tensor, weights: Tensor, kind: Aggregation, ideal: Tensor, mu: float = 0.1, rho: float = 0.05
) -> Tensor:
    """Return the aggregation called ``kind``; the others' parameters are not read."""
    if kind == "linear":
        return linear(losses, weights)
    if kind == "tchebycheff":
        return tchebycheff(losses, weights, ideal)
    if kind == "smooth-tchebycheff":
        return smooth_tchebycheff(losses, weights, ideal, mu)
    return augmented_tchebycheff(losses, weights, ideal, rho)
