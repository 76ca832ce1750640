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

Combine = Literal["sum", "decoupled", "gd2po", "dvao", "guarded"]

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

    ``sum``: ``sum_i w_i r_i``, linear scalarisation: the optimum under a KL penalty beta is ``pi_ref exp(w.r / beta)``; with
    ``guarded`` its weights are adapted before (:mod:`paretune.training.rl.weighing`).
    ``decoupled``: each reward is standardised within its group first (GDPO, arXiv 2601.05242). What a unit of reward is worth
    then follows the policy's own spread, so its fixed point is not that of linear scalarisation. ``gd2po`` begins so.
    ``dvao``: the standardised ones at weights ``w_i s_i / sum_j w_j s_j`` with s_i the deviation within the group (arXiv
    2605.25604), which is ``sum_i w_i r_i / sum_j w_j s_j`` up to a constant of the group.
    """
    if how == "dvao":
        spread = (weights * rewards.std(1)).sum(-1, keepdim=True)
        return (rewards * weights[:, None]).sum(-1) / (spread + EPSILON)
    scaled = rewards if how in ("sum", "guarded") else group_standardised(rewards, dim=1)
    return (scaled * weights[:, None]).sum(-1)


def agreed(standardised: Tensor, weights: Tensor, consensus: float) -> Tensor:
    """Return which responses ``[G, K]`` the objectives agree on: ``|sum_i w_i A_i| >= consensus sum_i w_i |A_i|``.

    With ``consensus`` 1 no two objectives with weight may differ in sign, GD2PO's hard filter; below, its filter by the ratio of
    signal and noise, of which 0.2 is the released code's threshold (arXiv 2606.16771).

    Args:
        standardised: ``[G, K, M]``, each reward standardised within its group.
        weights: ``[G, M]``.
        consensus: From 0, where all are kept, to 1.
    """
    weighted = standardised * weights[:, None]
    return weighted.sum(-1).abs() >= consensus * weighted.abs().sum(-1) * (1 - 1e-6)


def grpo_advantages(rewards: Tensor, weights: Tensor, how: Combine = "sum", consensus: float = 1.0) -> Tensor:
    """Return GRPO's advantages ``[G, K]`` of rewards ``[G, K, M]`` at weights ``[G, M]``.

    ``sum`` and ``guarded`` are standardised within each group, ``decoupled`` over the whole batch (as GDPO does, its groups being
    so already). ``dvao`` is bounded by its weights, and centred alone. ``gd2po`` is ``decoupled`` on the responses that are
    :func:`agreed` on, standardised over these; each group counts by the share of its responses that is kept, and others are 0.
    """
    one = combined(rewards, weights, how)
    if how == "dvao":
        return one - one.mean(-1, keepdim=True)
    if how == "gd2po":
        kept = agreed(group_standardised(rewards, dim=1), weights, consensus)
        scaled = one * kept.float().mean(1, keepdim=True)
        if int(kept.sum()) < 2:
            return torch.zeros_like(one)
        return torch.zeros_like(one).masked_scatter(kept, group_standardised(scaled[kept], 0))
    return (
        group_standardised(one.flatten(), 0).view_as(one) if how == "decoupled" else group_standardised(one)
    )


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


def best_and_worst(rewards: Tensor) -> Tensor:
    """Return 1 at the best and -1 at the worst of each group's rewards ``[G, K]``, 0 elsewhere and where all of a group are alike.

    Of equal ones the first is taken. Online DPO prefers the one to the other (arXiv 2402.04792, with K = 2).
    """
    choice = torch.zeros_like(rewards)
    choice.scatter_(1, rewards.argmin(1, keepdim=True), -1.0)
    choice.scatter_(1, rewards.argmax(1, keepdim=True), 1.0)
    return choice * (rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True))


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
