"""DPO, one adapter an objective, and the exact soup of them (DPO soups).

Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7; Rame et al. 2023, Rewarded Soups (arXiv 2306.04488): train one policy an
objective from the same start and serve theta_0 + sum_j w_j (theta_j - theta_0). The update of a soup here is the sum of
the low-rank updates, sum_j w_j s_j B_j A_j; averaging A and B apart, as released scripts do, is something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose
from paretune.policies.policy import Policy
from paretune.training.lab import Lab


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO.

    Attributes:
        beta: strength of the KL penalty; 0.1 as in the MODPO recipes.
        pairs: which pairs of a prompt's responses are used.
    """

    beta: float = 0.1
    pairs: Choose = "extremes"


def soup(lab: Lab, train: ScoredDataset, validation: ScoredDataset, config: DPOConfig) -> Policy:
    """Return the policy that adds the updates of one DPO adapter an objective, weighted by the preference."""
    adapters = [
        lab.dpo(objective, train, validation, config.beta, config.pairs) for objective in train.objectives
    ]
    return Policy.soup("dpo-soup", lab.lm, train.objectives, adapters)
