"""Pure losses of ranked lists of responses: one value per list and objective; the caller takes the mean.

A ranking is a relation ``better [B, M, K, K]``: whether an objective ranks response i above response j. It need not be total: ties
and responses that nobody compared are in neither direction, and lists of a batch are padded with responses in no relation.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Form = Literal["knowpat", "plackett-luce"]


def alignment_loss(scores: Tensor, better: Tensor, mask: Tensor, adaptive: bool = True) -> Tensor:
    """Return KnowPAT's alignment loss ``[B, M]`` of mean log-probabilities (arXiv 2311.06503).

    With J(i) the responses ranked below i, over the responses of which some are::

        sum_i v_i ( softplus(-S_i) + mean_{j in J(i)} softplus(S_j) ) / (n - 1)      v_i = (S_i - min S) / (max S - min S)

    For a total order J(i) is what stands behind i. The weights v carry no gradient. Of two responses the lower-scored one has
    weight 0, so a pair that the policy ranks wrongly adds nothing.

    Args:
        scores: S ``[B, K]``, nats per token.
        better: ``[B, M, K, K]``.
        mask: bool ``[B, K]``, False behind the end of a list of n responses.
        adaptive: Weigh by v; else all by 1.
    """
    below = better.to(scores.dtype)
    count = below.sum(3)
    lost = (below * F.softplus(scores)[:, None, None]).sum(3) / count.clamp(min=1)
    terms = (F.softplus(-scores)[:, None] + lost) * (count > 0)
    if adaptive:
        fixed = scores.detach()
        least = fixed.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
        spread = fixed.masked_fill(~mask, -torch.inf).amax(1, keepdim=True) - least
        share = (fixed - least) / torch.where(spread > 0, spread, torch.ones_like(spread))
        terms = terms * share[:, None]
    return terms.sum(2) / (mask.sum(1) - 1).clamp(min=1)[:, None]


def plackett_luce_loss(scores: Tensor, better: Tensor) -> Tensor:
    """Return the negative log-likelihood ``[B, M]`` of rankings under the Plackett-Luce model.

    Over the responses i of which some J(i) are ranked below: ``-sum_i log( e^S_i / (e^S_i + sum_{j in J(i)} e^S_j) )``. For a total
    order that is the probability of drawing the list from the top; for two responses and S = beta log(pi / pi_ref) it is DPO.
    Tied responses are compared with what is below them, not with each other.

    Args:
        scores: S ``[B, K]``.
        better: ``[B, M, K, K]``.
    """
    rest = scores[:, None, None].masked_fill(~better, -torch.inf)
    own = scores[:, None, :, None].expand(*better.shape[:3], 1)
    terms = torch.cat([own, rest], dim=3).logsumexp(3) - own[..., 0]
    return terms.sum(2)


def best_of(better: Tensor) -> Tensor:
    """Return each objective's best response of a list, one-hot ``[B, M, K]`` float; of several the first.

    It is the one that is ranked above most others among those with none above them. Where comparisons go round in a circle it is
    the one that wins most of its comparisons, less those that it loses.
    """
    wins, losses = better.sum(3), better.sum(2)
    top = (losses == 0) & (wins > 0)
    merit = torch.where(top.any(2, keepdim=True), wins.masked_fill(~top, -1), wins - losses)
    return F.one_hot(merit.argmax(2), better.shape[2]).float()
