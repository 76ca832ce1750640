"""DPO with loss weighting (DPO-LW): one adapter per preference, trained on the weighted sum of the objectives' DPO losses.

The baseline of MODPO (arXiv 2310.03708) and SIPO (arXiv 2502.14354). With D_j the pairs that objective j labels by
s_j in {+1, 0, -1}:

    L = sum_j w_j L(D_j)        L(D_j) = mean over D_j of -log sigmoid(beta Delta s_j)

A pair that several objectives label is read once and carries all their terms. The sum averages votes where MODPO averages
rewards, so on a conflicting pair the optimum is beta Delta = logit of the weight that prefers chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from paretune.core.bounds import Positive, check_bounds
from paretune.core.errors import TrainingError
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.data.pairs import labelled_pairs
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class DPOLWConfig:
    """The settings of DPO-LW.

    Attributes:
        beta: Strength of the KL penalty.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    beta: Positive = 0.1
    between: BetweenAnchors = later("nearest")

    def __post_init__(self) -> None:
        check_bounds(self)


def train(inputs: Inputs, config: DPOLWConfig) -> Policy:
    """Return the policy with one DPO-LW adapter for each preference.

    Raises:
        TrainingError: An objective has weight and no labelled pair.
    """
    lab = inputs.lab
    table = lab.train_table(labelled_pairs(inputs.train))
    held_out = lab.pair_table(labelled_pairs(inputs.validation))
    labelled = ~np.isnan(np.array([pair.labels for pair in table.pairs])).all(0)
    for objective, known in zip(inputs.objectives, labelled.tolist(), strict=True):
        if not known and any(preference[objective] > 0 for preference in inputs.preferences):
            raise TrainingError(
                f"DPO-LW: the training data hold no pair that {objective!r} labels, and a preference gives it weight; "
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
        for preference in inputs.preferences
    ]
    return Policy.anchors("dpo-lw", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def vote(table: PairTable, preference: Preference) -> PairTable:
    """Stamp each pair with the weight of "chosen is better" and that of "rejected is better".

    Objective j weighs ``w_j N / n_j`` on each of the n_j of N pairs that it labels, so the mean over all pairs is
    sum_j w_j L(D_j) with L(D_j) the mean over j's own pairs. A tie counts among its objective's pairs and adds nothing. A weight of
    the data is a factor of both; a margin of the data is that of the preferred response, and 0 where objectives disagree on it.
    """
    labels = np.array([pair.labels for pair in table.pairs])
    labelled = ~np.isnan(labels)
    weights = preference.array() * (len(labels) / np.maximum(labelled.sum(0), 1))
    signs = np.sign(np.nan_to_num(labels))
    one_way = torch.from_numpy(np.where((signs < 0).any(1), np.where((signs > 0).any(1), 0, -1), 1))
    return table.stamp(
        weight=torch.from_numpy((weights * (signs > 0)).sum(1)) * table.weight,
        reversed_weight=torch.from_numpy((weights * (signs < 0)).sum(1)) * table.weight,
        margin=table.margin * one_way + 0.0,  # -0.0 is other bytes than 0.0, and so another key of the stage
    )


def work(run: Work, name: str, config: DPOLWConfig, training: Training) -> list[Stage]:
    """Return the stage that reads the labelled pairs by the base model and trains the adapters."""
    table, held_out = run.labelled("train"), run.labelled("validation")
    reference = (
        *run.scored("base", "train", "labelled", table, 0, training.draws),
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
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits=lambda config: Traits("preference", separable=True, beta=config.beta, between=config.between),
)
