"""DPO with loss weighting (DPO-LW): one adapter a preference, trained on the weighted votes of the objectives.

The baseline of MODPO (arXiv 2310.03708) and SIPO (arXiv 2502.14354): for a pair with labels s_j in {+1, 0, -1},
L = -sum_j w_j log sigmoid(beta Delta s_j) / sum_j w_j over the objectives that label the pair. It averages votes where
MODPO averages rewards, so on a conflicting pair its optimum is beta Delta = logit of the weight that prefers chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class DPOLWConfig:
    """Settings of DPO-LW.

    Attributes:
        beta: strength of the KL penalty.
    """

    beta: float = 0.1


def dpo_lw(
    lab: Lab,
    train: ScoredDataset,
    validation: ScoredDataset,
    preferences: Sequence[Preference],
    config: DPOLWConfig,
) -> Policy:
    """Return the policy with one DPO-LW adapter for each preference."""
    table = lab.train_table(labelled_pairs(train))
    held_out = lab.pair_table(labelled_pairs(validation))
    adapters = [
        lab.fit(
            f"dpo-lw-{preference}",
            vote(table, preference),
            vote(held_out, preference),
            config.beta,
            info={"method": "dpo-lw", "preference": preference.as_dict()},
        )
        for preference in preferences
    ]
    return Policy.anchors("dpo-lw", lab.lm, train.objectives, adapters, preferences)


def vote(table: PairTable, preference: Preference) -> PairTable:
    """Stamp each pair with the share of weight that prefers chosen, and the share that prefers rejected.

    Both are divided by the weight of all objectives that label the pair. A tie counts in the divisor only; a pair that
    no objective of positive weight labels weighs 0.
    """
    labels = np.array([pair.labels for pair in table.pairs])
    weights = np.where(np.isnan(labels), 0.0, preference.array())
    total = weights.sum(1)
    share = np.divide(weights, total[:, None], out=np.zeros_like(weights), where=total[:, None] > 0)
    signs = np.sign(np.nan_to_num(labels))
    return table.stamp(
        weight=torch.from_numpy((share * (signs > 0)).sum(1)),
        reversed_weight=torch.from_numpy((share * (signs < 0)).sum(1)),
    )
