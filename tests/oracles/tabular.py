"""The tabular world: one distribution over a few answers, where the KL-regularised optimum is known in closed form."""

from __future__ import annotations

from torch import Tensor


def tilted(reference: Tensor, reward: Tensor, beta: float | Tensor) -> Tensor:
    """Return the optimum of ``E[reward] - beta KL(. || reference)`` as log-probabilities ``[..., V]``."""
    return (reference + reward / beta).log_softmax(-1)


def total_variation(first: Tensor, second: Tensor) -> float:
    """Return the largest total variation between rows of two tables of log-probabilities ``[..., V]``."""
    return float((first.exp() - second.exp()).abs().sum(-1).max() / 2)
