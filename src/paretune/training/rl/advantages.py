"""From rewards of sampled responses to advantages, as pure functions on tensors.

Suffixes: G prompts (groups), K responses to each, M objectives. Rewards are higher is better, and on one scale: standardised
by constants of the data, not of the group, unless stated otherwise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from paretune.core.scalarise import USUAL, Aggregation, Shape
from paretune.training.scalarise import aggregate

Combine = Literal["sum", "decoupled"]

EPSILON = 1e-4
"""Added to a deviation before dividing by it, as GRPO's reference implementation does (TRL)."""


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return the rewards ``[..., K]`` less the mean of the other K - 1 of their group (RLOO, arXiv 2402.14740).

    The baseline of a response does not depend on it, so the policy gradient stays unbiased. K >= 2.
    """
    K = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * (K / (K - 1))


def group_standardised(rewards: Tensor, dim: int = -1) -> Tensor:
    """Return (reward - mean) / (deviation + 1e-4) along ``dim`` (GRPO, arXiv 2402.03300); a tie is 0. At least two values."""
    centred = rewards - rewards.mean(dim, keepdim=True)
    return centred / (rewards.std(dim, keepdim=True) + EPSILON)


def combined(rewards: Tensor, weights: Tensor, how: Combine = "sum") -> Tensor:
    """Return one reward ``[G, K]`` for each response from M of them ``[G, K, M]`` at weights ``[G, M]``.

    ``sum``: ``sum_i w_i r_i``, linear scalarisation: the optimum under a KL penalty beta is ``pi_ref exp(w.r / beta)``.
    ``decoupled``: each reward is standardised within its group first (GDPO, arXiv 2601.05242). What a unit of reward is worth
    then follows the policy's own spread, so its fixed point is not that of linear scalarisation.
    """
    scaled = rewards if how == "sum" else group_standardised(rewards, dim=1)
    return (scaled * weights[:, None]).sum(-1)


def grpo_advantages(rewards: Tensor, weights: Tensor, how: Combine = "sum") -> Tensor:
    """Return GRPO's advantages ``[G, K]`` of rewards ``[G, K, M]`` at weights ``[G, M]``.

    ``sum`` is standardised within each group, ``decoupled`` over the whole batch (as GDPO does, its groups being so already).
    """
    one = combined(rewards, weights, how)
    return group_standardised(one) if how == "sum" else group_standardised(one.flatten(), 0).view_as(one)


def rloo_advantages(rewards: Tensor, log_ratios: Tensor, strength: Tensor | float) -> Tensor:
    """Return the advantages ``[G, K]`` of ``R - strength * log_ratio``, leave-one-out.

    The penalty stands in the reward, not in the loss: then the gradient is that of ``E[R] - strength KL(pi || pi_ref)`` for
    whole responses without bias, and at its optimum ``R - strength * log_ratio`` is the same for every response, so each
    sampled gradient is zero and not only their mean.

    Args:
        rewards: R ``[G, K]``, combined.
        log_ratios: log pi - log pi_ref of whole responses ``[G, K]``, in nats, without gradient.
        strength: The KL strength beta, ``[G, 1]`` or one number, in units of reward per nat.
    """
    return leave_one_out(rewards - strength * log_ratios)


def effective_weights(
    means: Tensor,
    weights: Tensor,
    kind: Aggregation,
    ideal: Tensor,
    shape: Shape = USUAL,
    worst: Tensor | None = None,
) -> Tensor:
    """Return what one unit of each objective adds to the aggregated one, ``[..., M]``: the weights of a policy gradient.

    The scalarisations of :mod:`paretune.core.scalarise` take losses; here loss i is ``-means_i``. Linear gives ``weights``,
    Tchebycheff w_i at the objective that is furthest below the ideal (weighted), 0 elsewhere; ``min`` and ``quantile`` give 1 at
    one objective, and the product most to those that are near their worst.

    Args:
        means: Estimates of each objective's value, penalty included, ``[..., M]``.
        weights: Preferences ``[..., M]``.
        kind: The scalarisation.
        ideal: A value of each objective that is not exceeded, ``[M]``.
        shape: Parameters of the scalarisation.
        worst: A value of each objective above which it gains, ``[M]``, for the product.
    """
    with torch.enable_grad():
        losses = (-means.detach()).requires_grad_()
        value = aggregate(
            losses, weights.detach(), kind, -ideal, shape, None if worst is None else -worst
        ).sum()
        (slopes,) = torch.autograd.grad(value, losses)
    return slopes


def covariances(rewards: Tensor, advantages: Tensor) -> Tensor:
    """Return the covariance ``[G, M]`` of each reward ``[G, K, M]`` with the advantage ``[G, K]`` within each group.

    To first order a step raises the mean of an objective by the rate times its covariance with the advantage (arXiv
    2602.06869): a negative one falls.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred * (advantages - advantages.mean(1, keepdim=True))[..., None]).mean(1)
