"""DPO with loss weighting (DPO-LW): one adapter per preference, trained on the weighted votes of the objectives.

The baseline of MODPO (arXiv 2310.03708) and SIPO (arXiv 2502.14354): for a pair with labels s_j in {+1, 0, -1},
L = -sum_j w_j log sigmoid(beta Delta s_j) / sum_j w_j over the objectives that label the pair. It averages votes where
MODPO averages rewards, so on a conflicting pair its optimum is beta Delta = logit of the weight that prefers chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from paretune.core.preference import Preference
from paretune.data.pairs import labelled_pairs
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Fits, Stage, Work, drawn
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class DPOLWConfig:
    """Settings of DPO-LW.

    Attributes:
        beta: Strength of the KL penalty.
    """

    beta: float = 0.1


def train(inputs: Inputs, config: DPOLWConfig) -> Policy:
    """Return the policy with one DPO-LW adapter for each preference."""
    lab = inputs.lab
    table = lab.train_table(labelled_pairs(inputs.train))
    held_out = lab.pair_table(labelled_pairs(inputs.validation))
    adapters = [
        lab.fit(
            f"dpo-lw-{preference}",
            vote(table, preference),
            vote(held_out, preference),
            config.beta,
            info={"method": "dpo-lw", "preference": preference.as_dict()},
        )
        for preference in inputs.preferences
    ]
    return Policy.anchors("dpo-lw", lab.lm, inputs.objectives, adapters, inputs.preferences)


def vote(table: PairTable, preference: Preference) -> PairTable:
    """Stamp each pair with the share of weight that prefers chosen, and the share that prefers rejected.

    Both are divided by the weight of all objectives that label the pair. A tie counts in the divisor only; a pair that
    no objective of positive weight labels has weight 0.
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


def work(run: Work, name: str, config: DPOLWConfig, training: Training) -> list[Stage]:
    """Return the stage that reads the labelled pairs by the base model and trains the adapters."""
    table, held_out = run.labelled("train"), run.labelled("validation")
    reference = (
        *run.scored("base", "train", "labelled", table, 0, drawn(training)),
        *run.scored("base", "validation", "labelled", held_out, 0),
    )
    fits = Fits(training, table, training.rank, len(run.preferences), held_out)
    return [run.trained(f"train: {name}", "one per preference", fits, reference)]


METHOD = Method(
    DPOLWConfig,
    train,
    work,
    Card(
        title="DPO loss weighting",
        paper="baseline in arXiv 2310.03708 and arXiv 2502.14354",
        needs="pairs labelled by one or more objectives",
        runs="N",
        enters="weights: one adapter per preference, the nearest is used",
    ),
    traits=lambda config: Traits("preference", separable=True, beta=config.beta),
)
