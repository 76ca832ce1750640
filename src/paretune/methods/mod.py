"""MOD: one DPO adapter per objective, mixed token by token at decoding.

Shi et al. 2024 (arXiv 2406.18853): policies that are each optimal for their objective under one divergence from the reference
hold the optimum of every weighted sum of the objectives. For the reverse KL, under which DPO trains,

    pi_w(v | x, y_<t)  proportional to  prod_j pi_j(v | x, y_<t)^{w_j}

All M copies of a row share one forward per token. The members are those of the soup, which is MOD to first order in the
updates; the report gives the distance between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.errors import ConfigError
from paretune.generation.mixing import Mixing
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.training.loop import Training


@dataclass(frozen=True)
class MODConfig(DPOConfig):
    """Settings of MOD, beside those of DPO.

    Attributes:
        candidates: Answers sampled for each one that is returned. Where there are several, one of them is chosen by the product of
            the step normalisers, towards the optimum over whole answers (ours; it needs temperature 1 and top-p 1).
    """

    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, got {self.candidates}")


def train(inputs: Inputs, config: MODConfig) -> Policy:
    """Return the policy that mixes one DPO adapter per objective at decoding."""
    mixing = Mixing(candidates=config.candidates)
    return Policy.mod("mod", inputs.lab.lm, inputs.objectives, inputs.corners(config), mixing)


def work(run: Work, name: str, config: MODConfig, training: Training) -> list[Stage]:
    """Return the stages that train the adapters, which are those of the soup."""
    return run.corners(config.beta, config.pairs, training)


def traits(config: MODConfig) -> Traits:
    """Return what the rest of the library must know of MOD."""
    dpo = DPOConfig(config.beta, config.pairs)
    return Traits(mixed=True, candidates=config.candidates, corners=dpo, beta=config.beta)


METHOD = Method(
    MODConfig,
    train,
    work,
    Card(
        title="MOD",
        paper="arXiv 2406.18853",
        needs="pairs for each objective",
        runs="M, those of the soup",
        enters="next-token distribution: those of one adapter per objective are mixed",
    ),
    traits,
)
