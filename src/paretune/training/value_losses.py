"""The targets and the loss of value heads: TD(lambda) on finished texts, as pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(values: Tensor, rewards: Tensor, lengths: Tensor, lam: float) -> Tensor:
    """Return the TD(lambda) targets ``[S, M]`` of the states behind each token of R texts, whose reward comes with the last one.

    There is no discount and no reward on the way. Behind the last token the reward is known, ``G_T = r``. Before it

        G_t = (1 - lambda) V(s_{t+1}) + lambda G_{t+1},    V(s_T) = r

    (Sutton and Barto 2018, section 12.1; the generalised advantages of arXiv 1506.02438 plus V, as in the code of VAS). lambda 1
    is the reward itself at every state; 0 is the value of the state behind.

    Args:
        values: ``V(s_t) [S, M]`` of the S tokens of all texts, one text behind the other; no gradient flows through them.
        rewards: ``r [R, M]``.
        lengths: Tokens of each text ``[R]``, at least 1; their sum is S.
        lam: lambda, 0 to 1.
    """
    R, longest = len(lengths), int(lengths.max())
    device = values.device
    places = torch.arange(longest, device=device)
    inside = places < lengths[:, None]  # [R, T]
    table = values.new_zeros(R, longest, values.shape[1])
    table[inside] = values.detach()
    # Right-aligned in time: every text ends at the first step of the backward pass.
    last = (lengths - 1)[:, None] - places
    behind = table.gather(1, last.clamp(min=0)[..., None].expand_as(table))
    targets = torch.empty_like(behind)
    running = following = rewards.to(values)
    for step in range(longest):
        if step:
            running = (1 - lam) * following + lam * running
        targets[:, step] = running
        following = behind[:, step] if step else rewards.to(values)
    ordered = targets.gather(1, last.clamp(min=0)[..., None].expand_as(targets))
    return ordered[inside]


def value_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared error, summed over M objectives, of each state ``[S]``."""
    return 0.5 * (values - targets.detach()).square().sum(-1)


def explained(values: Tensor, outcomes: Tensor) -> Tensor:
    """Return the share of the variance of outcomes ``[S, M]`` that values explain, for each objective ``[M]``.

    1 is all, 0 no more than their mean does, and less than 0 is worse than that; NaN where all outcomes are the same.
    """
    error = (values - outcomes).square().mean(0)
    variance = outcomes.var(0, unbiased=False)
    return torch.where(variance > 0, 1 - error / variance, torch.nan)
