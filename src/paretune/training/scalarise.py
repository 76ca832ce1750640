"""From one loss per objective to one loss: the aggregations of multi-objective training, as pure functions.

Losses ``[..., M]`` are minimised, weights ``[..., M]`` or ``[M]`` lie on the simplex, and the value is ``[...]``. The ideal
point ``[M]`` is a lower bound of each loss; 0 for DPO and SFT, whose losses are never negative.
"""

from __future__ import annotations

from collections.abc import Callable
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


SCALARISATIONS: dict[Aggregation, Callable[[Tensor, Tensor, Tensor, float, float], Tensor]] = {
    "linear": lambda losses, weights, ideal, mu, rho: linear(losses, weights),
    "tchebycheff": lambda losses, weights, ideal, mu, rho: tchebycheff(losses, weights, ideal),
    "smooth-tchebycheff": lambda losses, weights, ideal, mu, rho: smooth_tchebycheff(
        losses, weights, ideal, mu
    ),
    "augmented-tchebycheff": lambda losses, weights, ideal, mu, rho: augmented_tchebycheff(
        losses, weights, ideal, rho
    ),
}
"""The aggregations by name: (losses, weights, ideal, mu, rho) -> value. A new one is also named in :data:`Aggregation`."""


def aggregate(
    losses: Tensor, weights: Tensor, kind: Aggregation, ideal: Tensor, mu: float = 0.1, rho: float = 0.05
) -> Tensor:
    """Return the aggregation called ``kind``; parameters of the others are not read."""
    return SCALARISATIONS[kind](losses, weights, ideal, mu, rho)
