"""How one adapter is conditioned on the preference: its settings, and the preferences that training draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paretune.core.bounds import Count, Natural, NotNegative, Positive, Share, check_bounds
from paretune.core.errors import ConfigError
from paretune.core.preference import sample_simplex, simplex_grid
from paretune.core.scalarise import SCALARISATIONS, Aggregation, Shape
from paretune.core.settings import later
from paretune.models.singular_gates import Init
from paretune.training.gradients import Correction, GradientRule, Rule

Draw = Literal["uniform", "dirichlet", "grid", "corners"]
ObjectiveLoss = Literal["dpo", "sft", "policy-gradient", "modpo"]


@dataclass(frozen=True)
class Conditioning:
    """How one adapter is conditioned on the preference.

    Attributes:
        rank: Number k of singular values shared by all preferences.
        groups: Number q of directions for each objective.
        own_scales: One learnable s per objective instead of one per matrix.
        hidden: Number of learned features of the preference that bend the gates, see :mod:`paretune.models.singular_gates`; 0 is
            the paper's form.
        init: Start of U, V, sigma and s, see :func:`paretune.models.singular_gates.initial`.
        orthogonality: Weight of the penalty that keeps U and V orthogonal; 0 is the paper's form.
        rate_factor: Learning rate of U and V, as a multiple of ``train.learning_rate`` (which suits a LoRA's).
        gate_rate_factor: Learning rate of sigma and s, as a multiple of ``train.learning_rate``; they have no weight decay.
            An Adam step moves a number by about its rate, and sigma and s have to come from 0 to the order of 1.
        draw: Distribution of preferences: ``uniform`` on the simplex, ``dirichlet`` of ``alpha``, a ``grid`` of
            ``divisions``, or ``corners``: one-hot with probability ``corner_share``, else uniform.
        per: What shares a preference: each ``batch`` (the paper's), or each ``row`` of it, which needs the linear aggregation.
        alpha: Parameter of the Dirichlet distribution, for ``draw: dirichlet``.
        divisions: Divisions of the grid, for ``draw: grid``.
        corner_share: Probability of a one-hot preference, for ``draw: corners``.
        aggregation: Way from M losses to one, see :mod:`paretune.core.scalarise`.
        ideal: Lower bound of every loss, for the Tchebycheff forms; None is 0, which holds for DPO and SFT.
        mu: Temperature of the smooth Tchebycheff form.
        rho: Weight of the sum in the augmented Tchebycheff form.
        quantile: Share of the weight for which ``aggregation: quantile`` answers: 0 is the worst objective, as ``min`` is.
        worst: Upper bound of every loss, for ``aggregation: product``, which counts what each has below it.
        loss: Loss of each objective: ``dpo`` on its pairs, ``sft`` on their chosen responses (mean nats per token),
            ``policy-gradient`` on all scored responses (see :func:`paretune.training.losses.policy_gradient_loss`), whose losses
            have no lower bound known in advance: a Tchebycheff form needs ``ideal``; or ``modpo``: DPO with the other
            objectives as cached margins (arXiv 2310.03708, Eq. 11), ours, linear only. Every objective's loss then has
            the same optimum, and the aggregate's weight w_i cancels the 1 / w_i in it: gradients are bounded by beta.
        clip: Width of the trust region of the policy gradient.
        nll: Weight of imitating the preferred response of each pair, per mean nat of a token, beside DPO's loss; 0 leaves it out.
        anchor: Weight of mDPO's anchor term of each pair, see :func:`paretune.training.losses.anchor_loss`; 0 leaves it out.
        contrast: Weight of the contrast of preferences (mDPO's conditional term), see
            :func:`paretune.training.losses.contrast_loss`: the response that objective i prefers under the drawn preference,
            against the same response under that preference without i, in the same forward. It needs pairs for each objective.
        strengths: Smallest and largest strength t of steering that is trained, 1 within. Each draw of a preference then has a t of
            its own, log-uniform between them: all gates are t times what they are, and DPO's beta is divided by t (the temperature
            of COS-DPO, arXiv 2410.08316, as an input); validation is at 1. Where logits are linear in the update this changes
            nothing, as beta / t and t cancel. Needs ``loss: dpo``.
        gradients: Way from the gradients of the objectives to one step, see :func:`paretune.training.gradients.coefficients`. Any
            other than ``linear`` takes a backward pass for each objective with weight, draws one preference for all forwards of a
            step, so it needs ``per: batch``, and replaces the aggregation, which stays linear.
        correction: c of ``raco`` and ``cagrad``: their largest correction, as a share of the length of the weighted gradient.
    """

    rank: Natural = 8
    groups: Count = 1
    own_scales: bool = False
    hidden: Natural = 0
    init: Init = "zero-singular"
    orthogonality: NotNegative = 0.0
    rate_factor: Positive = 5.0
    gate_rate_factor: Positive = 100.0
    draw: Draw = "uniform"
    per: Literal["batch", "row"] = "batch"
    alpha: Positive = 1.0
    divisions: Count = 10
    corner_share: Share = 0.25
    aggregation: Aggregation = "linear"
    ideal: float | None = None
    mu: Positive = 0.1
    rho: NotNegative = 0.05
    quantile: Share = later(0.25)
    worst: float | None = later(None)
    loss: ObjectiveLoss = "dpo"
    clip: Positive = 0.2
    nll: NotNegative = later(0.0)
    anchor: NotNegative = later(0.0)
    contrast: NotNegative = later(0.0)
    strengths: tuple[Positive, Positive] = later((1.0, 1.0))
    gradients: Rule = later("linear")
    correction: Correction = later(0.4)

    def __post_init__(self) -> None:
        check_bounds(self)
        self._check_terms()
        self._check_gradients()
        low, high = self.strengths
        if not 0 < low <= 1 <= high < math.inf:
            raise ConfigError(
                f"strengths: got {low:g} and {high:g}; expected two numbers above 0 with 1 between them, at which the policy is "
                "validated and measured, such as [0.5, 2]"
            )
        if self.dial and self.loss != "dpo":
            raise ConfigError(
                f"strengths with loss: {self.loss}: only the beta of loss: dpo can be drawn with the strength; leave strengths out"
            )
        reads = SCALARISATIONS[self.aggregation].reads
        if self.loss == "policy-gradient" and "ideal" in reads and self.ideal is None:
            raise ConfigError(
                f"aggregation {self.aggregation} with the policy gradient needs ideal, a lower bound of its losses (for "
                "advantages within 3 deviations, -3 (1 + clip))"
            )
        if self.loss == "modpo" and self.aggregation != "linear":
            raise ConfigError(
                f"loss: modpo holds all objectives in each loss already, so aggregation {self.aggregation} has no meaning "
                "for it; use linear"
            )

    @property
    def shape(self) -> Shape:
        """The parameters of the aggregation."""
        return Shape(self.mu, self.rho, self.quantile)

    def check_worst(self) -> None:
        """Check that the product has the bound of losses that it reads.

        Raises:
            ConfigError: It has none.
        """
        if "worst" in SCALARISATIONS[self.aggregation].reads and self.worst is None:
            raise ConfigError(
                f"aggregation {self.aggregation} needs worst, an upper bound of every loss, below which a gain counts (0.7 is "
                "about the loss of DPO before the first step)"
            )

    def _check_terms(self) -> None:
        if self.nll and self.loss not in ("dpo", "modpo"):
            reason = {
                "sft": "the loss is imitation already, and a weight of all of it changes nothing",
                "policy-gradient": "scored responses are chosen by nobody, so there is none to imitate",
            }
            raise ConfigError(f"nll with loss: {self.loss}: {reason[self.loss]}; use loss: dpo or modpo")
        if self.anchor and self.loss not in ("dpo", "modpo"):
            raise ConfigError(
                f"anchor with loss: {self.loss}: the anchor term compares the chosen response of a pair with the reference; use "
                "loss: dpo or modpo"
            )
        if self.contrast and self.loss == "policy-gradient":
            raise ConfigError(
                "contrast with loss: policy-gradient: scored responses are chosen by nobody, so there is none to contrast; use "
                "another loss"
            )

    @property
    def dial(self) -> bool:
        """Whether several strengths are trained."""
        return self.strengths != (1.0, 1.0)

    @property
    def rule(self) -> GradientRule:
        """How the gradients of the objectives become one."""
        return GradientRule(self.gradients, self.correction)

    def _check_gradients(self) -> None:
        self.rule.check()
        if not self.rule.apart:
            return
        against = {
            f"aggregation: {self.aggregation}": self.aggregation != "linear",
            f"orthogonality: {self.orthogonality:g}": self.orthogonality > 0,
            "loss: modpo": self.loss == "modpo",
        }
        reasons = {
            "aggregation": "has one number for all losses, and gradients are of each by itself; use aggregation: linear",
            "orthogonality": "adds a loss that is no objective's; set it to 0",
            "loss": "holds all objectives in each loss, so they have no gradients of their own; use another loss",
        }
        for given, wrong in against.items():
            if wrong:
                raise ConfigError(
                    f"gradients: {self.gradients} with {given}: the latter {reasons[given.split(':')[0]]}"
                )

    def check_means(self) -> None:
        """Check that a form that is not linear has the mean loss of each objective at one preference.

        Raises:
            ConfigError: A preference per row with an aggregation that is not linear, or with gradients that are kept apart.
        """
        if self.per == "row" and self.rule.apart:
            raise ConfigError(
                f"gradients: {self.gradients} with per: row: a step has one gradient for each objective, so its rows share a "
                "preference; use per: batch"
            )
        if self.per == "row" and self.aggregation != "linear":
            raise ConfigError(
                f"aggregation {self.aggregation} with per: row: it compares the mean loss of each objective, and a preference of "
                "one row has no mean (the mean over rows of such a form is another objective); use per: batch"
            )

    def columns(self, objectives: int) -> int:
        """Return the columns of the adapter that a policy serves, see :meth:`SingularGates.fold`."""
        return (self.rank + self.groups * objectives) * (1 + self.hidden)


LORA_PER_OBJECTIVE = Conditioning(
    rank=0, groups=16, init="lora", rate_factor=1.0, gate_rate_factor=1.0, draw="corners", per="row"
)
"""One LoRA per objective, all trained together at preferences that are drawn for each prompt."""


def without(weights: Tensor, objectives: Sequence[int]) -> Tensor:
    """Return preferences ``[n, M]`` without one objective each: its weight goes to the others in their proportions.

    A one-hot preference of the objective becomes the equal weights of all others.

    Args:
        weights: ``[n, M]``, M at least 2.
        objectives: The n objectives.
    """
    out = torch.zeros_like(weights)
    out[range(len(weights)), list(objectives)] = 1.0
    others = weights * (1 - out)
    total = others.sum(1, keepdim=True)
    return torch.where(total > 0, others / total.clamp(min=1e-12), (1 - out) / (weights.shape[1] - 1))


def draw_preferences(settings: Conditioning, count: int, objectives: int, seed: Sequence[int]) -> np.ndarray:
    """Return ``count`` preferences ``[count, M]``, decided by ``seed`` alone (several integers), so a resumed run redraws them."""
    random = np.random.default_rng(list(seed))
    number = int(random.integers(2**62))
    if settings.draw == "grid":
        lattice = simplex_grid(objectives, settings.divisions)
        return lattice[random.integers(len(lattice), size=count)]
    alpha = settings.alpha if settings.draw == "dirichlet" else 1.0
    weights = sample_simplex(count, objectives, alpha, number)
    if settings.draw == "corners":
        cornered = random.random(count) < settings.corner_share
        weights[cornered] = np.eye(objectives)[random.integers(objectives, size=int(cornered.sum()))]
    return weights


def draw_strengths(settings: Conditioning, count: int, seed: Sequence[int]) -> np.ndarray:
    """Return ``count`` strengths ``[count]``, log-uniform between the two of the settings, decided by ``seed`` alone."""
    low, high = np.log(settings.strengths)
    return np.exp(np.random.default_rng([*seed, 1]).uniform(low, high, size=count))


def mean_backward_passes(settings: Conditioning, objectives: int) -> float:
    """Return the mean number of backward passes through a forward: one, or one for each objective that a draw gives weight."""
    if not settings.rule.apart:
        return 1.0
    return float((draw_preferences(settings, 2000, objectives, [0]) > 0).sum(1).mean())
