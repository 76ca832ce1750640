"""MOD: one DPO adapter an objective, mixed token by token at decoding.

Shi et al. 2024 (arXiv 2406.18853): policies that are each optimal for their objective under one divergence from the reference
hold the optimum of every weighted sum of the objectives. For the reverse KL, under which DPO trains,

    pi_w(v | x, y_<t)  proportional to  prod_j pi_j(v | x, y_<t)^{w_j}

All M copies of a row share one forward a token. The members are those of the soup, which is MOD to first order in the
updates; the report gives the distance between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.errors import ConfigError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose
from paretune.generation.mixing import Mixing
from paretune.policies.policy import Policy
from paretune.training.lab import Lab


@dataclass(frozen=True)
class MODConfig:
    """Settings of MOD.

    Attributes:
        beta: strength of DPO's KL penalty.
        pairs: which pairs of a prompt's responses are used.
        candidates: responses drawn for each that is returned; with more than 1 one of them is chosen by the product of the
            step normalisers, towards the optimum over whole responses (ours; it wants temperature 1 and top-p 1).
    """

    beta: float = 0.1
    pairs: Choose = "extremes"
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, got {self.candidates}")


def mod(lab: Lab, train: ScoredDataset, validation: ScoredDataset, config: MODConfig) -> Policy:
    """Return the policy that mixes one DPO adapter an objective at decoding."""
    adapters = [
        lab.dpo(objective, train, validation, config.beta, config.pairs) for objective in train.objectives
    ]
    return Policy.mod("mod", lab.lm, train.objectives, adapters, Mixing(candidates=config.candidates))
