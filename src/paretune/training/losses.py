"""Pure losses on log-probability tensors: one value per row; the caller takes the mean.

All inputs are fp32 or fp64 ``[B]`` tensors; nothing here knows a model, a tokenizer or a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from paretune.generation.mixing import Divergence, slope

Link = Literal["sigmoid", "hinge"]

EXPONENT = 80.0
"""The largest exponent of a link: e^80 leaves room in fp32 for a product with beta. TRL clamps its alpha divergence there too."""


@dataclass(frozen=True)
class Penalty:
    """The divergence from the reference that a policy is penalised by.

    Attributes:
        divergence: Its name; ``reverse-kl`` is DPO's.
        alpha: That of the alpha divergence, between 0 and 1.
    """

    divergence: Divergence = "reverse-kl"
    alpha: float = 0.5

    def facts(self) -> dict[str, Any]:
        """Return what is stored with an adapter, and is part of its identity; nothing for the reverse KL."""
        if self.divergence == "reverse-kl":
            return {}
        own = {"divergence_alpha": self.alpha} if self.divergence == "alpha" else {}
        return {"divergence": self.divergence, **own}


REVERSE_KL = Penalty()
"""The penalty of DPO."""


def log_ratio_gap(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Return Delta ``[B]`` in nats: how much more than the reference the policy prefers chosen over rejected.

    Both inputs are ``[B, 2]`` sums of log-probabilities over response tokens (EOS included): column 0 is the chosen
    response, column 1 the rejected one. Positive means the policy moved towards chosen.
    """
    ratios = logps - reference_logps
    return ratios[:, 0] - ratios[:, 1]


def divergence_gap(logps: Tensor, reference_logps: Tensor, penalty: Penalty) -> Tensor:
    """Return how much more the policy prefers chosen than the reference does ``[B]``, on the scale of the penalty's slope.

    It is ``f'(ratio of chosen) - f'(ratio of rejected)`` (f-DPO, Wang et al. 2023, arXiv 2309.16240), which is
    :func:`log_ratio_gap` for the reverse KL. The ratios are of whole responses, so ``exp(-d)`` of the forward KL and of the alpha
    divergence overflows where the policy has given up a long response: its exponent ends at :data:`EXPONENT`, beyond which the
    gradient is 0.

    Args:
        logps, reference_logps: ``[B, 2]`` sums over response tokens: chosen, rejected.
        penalty: The divergence.
    """
    if penalty.divergence == "reverse-kl":
        return log_ratio_gap(logps, reference_logps)
    ratios = logps - reference_logps
    if penalty.divergence != "jensen-shannon":
        ratios = ratios.clamp(min=-EXPONENT / (penalty.alpha if penalty.divergence == "alpha" else 1.0))
    values = slope(ratios, penalty.divergence, penalty.alpha)
    return values[:, 0] - values[:, 1]


def pair_loss(
    gap: Tensor,
    beta: float,
    *,
    margin: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    weight: Tensor | float = 1.0,
    reversed_weight: Tensor | float = 0.0,
    link: Link = "sigmoid",
) -> Tensor:
    """Return the pairwise preference loss ``[B]``, which is DPO, DPO loss weighting or MODPO by its columns.

    With ``z = (beta * gap - margin) * scale``::

        loss = weight * l(z) + reversed_weight * l(-z)      l(z) = softplus(-z), or relu(1 - z) for the hinge

    ========  ======================  =========  =======  =======================  ==========================
    method    margin                  scale      weight   reversed_weight          source
    ========  ======================  =========  =======  =======================  ==========================
    DPO       0                       1          1        0                        Rafailov et al. 2023, Eq. 7
    MODPO     sum_j!=k w_j (dr_j)     1 / w_k    1        0                        arXiv 2310.03708, Eq. 11
    DPO-LW    0                       1          sum of w of objectives that prefer chosen / rejected
    ========  ======================  =========  =======  =======================  ==========================

    Args:
        gap: Delta ``[B]``, see :func:`log_ratio_gap`, or :func:`divergence_gap` under another divergence.
        beta: Strength of the KL penalty, > 0, in units of reward per nat.
        margin: Reward of chosen minus rejected under the other objectives, already weighted; subtracted.
        scale: Factor of both terms (MODPO's ``1 / w_k``).
        weight: Weight of "chosen is preferred"; >= 0.
        reversed_weight: Weight of "rejected is preferred"; >= 0.
        link: ``sigmoid`` (Bradley-Terry) or ``hinge``.
    """
    z = (beta * gap - margin) * scale
    if link == "sigmoid":
        return weight * F.softplus(-z) + reversed_weight * F.softplus(z)
    return weight * F.relu(1 - z) + reversed_weight * F.relu(1 + z)


def nll_loss(logps: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean negative log-likelihood per response token ``[B]`` in nats, from sums ``[B]`` and token counts."""
    return -logps / lengths


def anchor_loss(logps: Tensor, reference_logps: Tensor, beta: Tensor | float) -> Tensor:
    """Return mDPO's anchor term ``[B]``: ``-log sigmoid(beta log(pi / pi_ref))`` of the chosen response (arXiv 2406.11839).

    DPO sees the difference of two responses, and can raise it while both become less likely. This term is below log 2 where the
    chosen response is likelier than under the reference.

    Args:
        logps, reference_logps: ``[B]`` sums over the tokens of the chosen response, in nats.
        beta: Strength of the KL penalty, > 0; one for all, or ``[B]``.
    """
    return F.softplus(-beta * (logps - reference_logps))


def contrast_loss(right: Tensor, wrong: Tensor, beta: Tensor | float) -> Tensor:
    """Return mDPO's conditional term ``[B]`` with the preference as the condition: ``-log sigmoid(beta (right - wrong))``.

    mDPO (arXiv 2406.11839) contrasts the chosen response given the image and given a damaged one. Here it is the same response
    under the right preference and under a wrong one; the reference reads no preference, so it falls out.

    Args:
        right, wrong: ``[B]`` sums over the tokens of the chosen response, in nats, under the two preferences.
        beta: Strength of the KL penalty, > 0; one for all, or ``[B]``.
    """
    return F.softplus(-beta * (right - wrong))


def kl_estimate(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Return an estimate ``[B]`` in nats of KL(policy || reference) from samples of the policy, one value per sample.

    It is ``exp(-d) - 1 + d`` with ``d = logps - reference_logps`` per token or sequence (Schulman's k3): unbiased like
    ``d`` itself, and never negative.
    """
    difference = logps - reference_logps
    return torch.expm1(-difference) + difference


def policy_gradient_loss(
    logps: Tensor,
    reference_logps: Tensor,
    lengths: Tensor,
    advantages: Tensor,
    beta: float,
    clip: float = 0.2,
) -> Tensor:
    """Return the clipped policy-gradient loss ``[B, M]`` of responses sampled from the reference, one column per objective.

    With ``d = (logps - reference_logps) / lengths`` (nats per token) and the ratio ``rho = exp(d)``, the geometric mean over
    the response's tokens (GSPO, arXiv 2507.18071)::

        loss = -min(rho A, clip(rho, 1 - clip, 1 + clip) A) + beta (rho - 1 - d)

    The penalty estimates KL(reference || policy) per token: the samples are the reference's.

    Args:
        logps, reference_logps: ``[B]`` sums over response tokens, in nats.
        lengths: ``[B]`` tokens in each response.
        advantages: ``[B, M]``, A of each objective: scores standardised among the responses to one prompt.
        beta: Strength of the penalty, >= 0, in units of advantage per nat of a token.
        clip: Width of the trust region.
    """
    difference = ((logps - reference_logps) / lengths)[:, None]
    ratio = difference.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return beta * (ratio - 1 - difference) - surrogate


def surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate ``min(rho A, clip(rho, 1 - clip, 1 + clip) A)`` with ``rho = exp(log_ratio)``, elementwise.

    It is to be maximised (PPO, arXiv 1707.06347). Where the sampling policy is the present one rho is 1, and the gradient is
    ``A * grad log pi``.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def rloo_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return RLOO's loss ``[B]``: minus the surrogate of whole responses.

    One ratio per response, of sums over its tokens ``[B]`` in nats: actions are whole responses, as in the objective
    ``E[R] - beta KL`` itself, whose penalty is part of the advantage (:func:`paretune.training.rl.advantages.rloo_advantages`).
    """
    return -surrogate(logps - old_logps, advantages, clip)


def grpo_loss(
    logps: Tensor, old_logps: Tensor, reference_logps: Tensor, advantages: Tensor, beta: float, clip: float
) -> Tensor:
    """Return GRPO's loss of each response token ``[S]`` (arXiv 2402.03300): ratio and penalty per token, A of its response.

    ``loss = -surrogate + beta rho k3`` with k3 of :func:`kl_estimate` and the ratio rho, which makes the gradient that of
    KL(policy || reference) at each token (arXiv 2512.02556; without rho it would be that of KL(reference || policy)). What a
    token does to the penalty of later ones is left out, so for longer responses it settles beside ``pi_ref exp(r / beta)``.
    """
    log_ratio = logps - old_logps
    penalty = log_ratio.exp() * kl_estimate(logps, reference_logps)
    return beta * penalty - surrogate(log_ratio, advantages, clip)


def importance(old_logps: Tensor, drawn_logps: Tensor, cap: float) -> Tensor:
    """Return the weights ``min(pi_old / mu, cap)`` of what was drawn from mu, elementwise and without gradient.

    Truncated importance sampling (Ionides 2008): below the cap the weighted gradient is that under ``pi_old`` without bias.

    Args:
        old_logps: Log-probabilities under the policy before the step, in nats: sums over a response, or of a token.
        drawn_logps: The same where they were drawn.
        cap: Largest weight, > 0.
    """
    return (old_logps - drawn_logps).detach().exp().clamp(max=cap)
