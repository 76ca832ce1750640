"""DPO with loss weighting (DPO-LW): one adapter per preference, trained on the weighted sum of the objectives' DPO losses.

The baseline of MODPO (arXiv 2310.03708) and SIPO (arXiv 2502.14354). With D_j the pairs that objective j labels by
s_j in {+1, 0, -1}:

    L = sum_j w_j L(D_j)        L(D_j) = mean over D_j of -log sigmoid(beta Delta s_j)

A pair that several objectives label is read once and carries all their terms. The sum averages votes where MODPO averages
rewards, so on a conflicting pair the optimum is beta Delta = logit of the weight that prefers chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paretune.core.errors import TrainingError
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
    """Return the policy with one DPO-LW adapter for each preference.

    Raises:
        TrainingError: an objective has weight and no labelled pair.
    """
    table = lab.train_table(labelled_pairs(train))
    held_out = lab.pair_table(labelled_pairs(validation))
    labelled = ~np.isnan(np.array([pair.labels for pair in table.pairs])).all(0)
    for objective, known in zip(train.objectives, labelled.tolist(), strict=True):
        if not known and any(preference[objective] > 0 for preference in preferences):
            raise TrainingError(
                f"DPO-LW: the training data hold no pair that {objective!r} labels, and a preference weighs it; "
                "add scores or labels for it, or leave it out of the objectives"
            )
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
    """Stamp each pair with the weight of "chosen is better" and that of "rejected is better".

    Objective j weighs ``w_j N / n_j`` on each of the n_j of N pairs that it labels, so the mean over all pairs is
    sum_j w_j L(D_j) with L(D_j) the mean over j's own pairs. A tie counts among its objective's pairs and adds nothing.
    """
    labels = np.array([pair.labels for pair in table.pairs])
    labelled = ~np.isnan(labels)
    weights = preference.array() * (len(labels) / np.maximum(labelled.sum(0), 1))
    signs = np.sign(np.nan_to_num(labels))
    return table.stamp(
        weight=torch.from_numpy((weights * (signs > 0)).sum(1)),
        reversed_weight=torch.from_numpy((weights * (signs < 0)).sum(1)),
    )
