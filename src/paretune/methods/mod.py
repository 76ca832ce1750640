"""MOD: one DPO adapter per objective, mixed token by token at decoding.

Shi et al. 2024 (arXiv 2406.18853): policies that are each optimal for their objective under one divergence from the reference
hold the optimum of every weighted sum of the objectives. For the reverse KL, under which DPO trains,

    pi_w(v | x, y_<t)  proportional to  prod_j pi_j(v | x, y_<t)^{w_j}

All M copies of a row share one forward per token. The members are those of the soup, which is MOD to first order in the
updates; the report gives the distance between the two.

Under another divergence f the members are trained by f-DPO (Wang et al. 2023, arXiv 2309.16240): the pair loss on
``beta f'(pi_j / pi_ref)`` in place of ``beta log(pi_j / pi_ref)``. They are mixed by the inverse of f', where the reference model
enters too (:func:`paretune.generation.mixing.combine_general`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from paretune.core.settings import later
from paretune.generation.mixing import MOST_CANDIDATES, Divergence, Mixing
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.losses import Penalty


@dataclass(frozen=True)
class MODConfig(DPOConfig):
    """The settings of MOD, beside those of DPO.

    Attributes:
        candidates: Answers sampled for each one that is returned. Where there are several, one of them is chosen by the product of
            the step normalisers, towards the optimum over whole answers (ours; it needs temperature 1, top-p 1 and the reverse KL).
        divergence: That from the base model, under which the adapters are trained and mixed: ``reverse-kl`` (DPO), ``forward-kl``,
            ``jensen-shannon`` or ``alpha``.
        alpha: That of the alpha divergence, between 0 and 1.
    """

    candidates: Annotated[int, Ge(1), Le(MOST_CANDIDATES)] = 1
    divergence: Divergence = later("reverse-kl")
    alpha: Annotated[float, Gt(0), Lt(1)] = later(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.mixing  # refuses what cannot be mixed

    @property
    def mixing(self) -> Mixing:
        """The rule by which the adapters are mixed."""
        return Mixing(self.divergence, self.alpha, self.candidates)

    @property
    def dpo(self) -> DPOConfig | None:
        """Settings of the soup's adapters, where these are the members."""
        return self.single if self.divergence == "reverse-kl" else None


def train(inputs: Inputs, config: MODConfig) -> Policy:
    """Return the policy that mixes one DPO adapter per objective at decoding."""
    adapters = inputs.corners(config, Penalty(config.divergence, config.alpha))
    return Policy.mod("mod", inputs.lab.lm, inputs.objectives, adapters, config.mixing)


def work(run: Work, name: str, config: MODConfig, training: Training) -> list[Stage]:
    """Return the stages that train the adapters, which are those of the soup under the reverse KL."""
    return run.corners(config.beta, config.pairs, training, config.divergence, config.nll, config.anchor)


def traits(config: MODConfig) -> Traits:
    """Return what the rest of the library must know of MOD."""
    return Traits(
        mixed=True,
        reference=config.dpo is None,
        candidates=config.candidates,
        corners=config.dpo,
        beta=config.beta if config.dpo else None,
    )


METHOD = Method(
    MODConfig,
    train,
    work,
    Card(
        title="MOD",
        paper="arXiv 2406.18853",
        needs="pairs for each objective",
        runs="M, those of the soup; under another divergence M of its own",
        enters="next-token distribution: those of one adapter per objective are mixed",
        family="pairs",
    ),
    traits,
    grows=True,
)
