"""MODPO: multi-objective direct preference optimization (Zhou et al. 2024, arXiv 2310.03708).

For a preference w and one objective k with pairs D_k, every other objective j enters as a margin reward r_j:

    1. for each j: train a margin model pi_j by DPO on D_j; r_j = beta (log pi_j - log pi_ref)      (or take any scorer)
    2. for each w: fine-tune a fresh adapter from pi_ref on D_k with                                    (Eq. 11)
           L = -log sigmoid( (beta Delta - sum_{j != k} w_j (r_j(chosen) - r_j(rejected))) / w_k )
    3. w one-hot is plain DPO on D_k

Margins and reference log-probabilities do not depend on w: they are computed once and stamped on the pairs, so a step is
DPO's one forward and one backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, pairs
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.losses import Link
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class MODPOConfig:
    """Settings of MODPO.

    Attributes:
        beta: strength of the KL penalty; the paper uses 0.1 and 0.5.
        margin: ``implicit``: rewards of DPO margin models (the paper's default); ``scores``: the scores in the data.
        margin_scale: with ``scores``, what one unit of score is worth in reward, by objective (1 where not named).
        standardise: divide each objective's margins by their standard deviation over the training pairs.
        objective: the objective k whose pairs are trained on; ``auto`` takes the one of the largest weight.
        min_weight: smallest w_k that is trained; below it 1 / w_k saturates the loss.
        scale_loss: multiply the loss by w_k: same minimiser, gradients bounded by beta at every w.
        link: ``sigmoid``, or the ``hinge`` of the reference implementation.
        pairs: which pairs of a prompt's responses are used.
    """

    beta: float = 0.1
    margin: Literal["implicit", "scores"] = "implicit"
    margin_scale: Mapping[str, float] | None = None
    standardise: bool = False
    objective: str = "auto"
    min_weight: float = 0.05
    scale_loss: bool = False
    link: Link = "sigmoid"
    pairs: Choose = "extremes"


def modpo(
    lab: Lab,
    train: ScoredDataset,
    validation: ScoredDataset,
    preferences: Sequence[Preference],
    config: MODPOConfig,
) -> Policy:
    """Return the policy with one MODPO adapter for each preference.

    Raises:
        ConfigError: a preference whose w_k is below ``min_weight``, or an unknown objective k.
        TrainingError: scores as margins, and a pair without one.
    """
    plan = [(preference, chosen_objective(preference, config)) for preference in preferences]

    @cache
    def tables(objective: str) -> tuple[PairTable, PairTable]:
        train_pairs, held_out = (pairs(part, objective, config.pairs) for part in (train, validation))
        return lab.train_table(train_pairs), lab.pair_table(held_out)

    @cache
    def margin_model(objective: str) -> Adapter:
        info = {"method": "dpo", "objective": objective}
        return lab.fit(f"dpo-{objective}", *tables(objective), config.beta, info=info)

    adapters = []
    for preference, k in plan:
        others = {j: w for j, w in preference.as_dict().items() if j != k and w > 0}
        if not others and config.link == "sigmoid":
            adapters.append(margin_model(k))  # w_k = 1 is plain DPO, and that is trained already
            continue
        spread: dict[str, float] = {}
        stamped = []
        for table in tables(k):
            margin = torch.zeros(len(table))
            for j, weight in others.items():
                gap = (
                    score_margin(table, train.objectives, j, config)
                    if config.margin == "scores"
                    else lab.implicit_gap(table, margin_model(j), config.beta)
                )
                if config.standardise:
                    gap = gap / spread.setdefault(j, float(gap.std()) or 1.0)
                margin = margin + weight * gap
            stamped.append(stamp(table, margin, preference[k], config.scale_loss))
        adapters.append(
            lab.fit(
                f"modpo-{preference}",
                stamped[0],
                stamped[1],
                config.beta,
                config.link,
                info={
                    "method": "modpo",
                    "preference": preference.as_dict(),
                    "objective": k,
                    "margin": config.margin,
                },
            )
        )
    return Policy.anchors("modpo", lab.lm, train.objectives, adapters, preferences)


def chosen_objective(preference: Preference, config: MODPOConfig) -> str:
    """Return k, the objective whose pairs are trained on: the one of the largest weight unless the config fixes it.

    Raises:
        ConfigError: w_k below ``min_weight``; the message names the cure.
    """
    if config.objective == "auto":
        return max(preference.objectives, key=lambda objective: preference[objective])
    weight = preference[config.objective]
    if weight < config.min_weight:
        best = max(preference.objectives, key=lambda objective: preference[objective])
        raise ConfigError(
            f"MODPO at {preference} on pairs of {config.objective!r}: its weight {weight:g} is below min_weight "
            f"{config.min_weight:g}, and the loss divides by it. Use objective: {best} (or auto) for this preference; "
            f"at weight 0 the DPO model of the other objective is the answer"
        )
    return config.objective


def score_margin(table: PairTable, objectives: Sequence[str], objective: str, config: MODPOConfig) -> Tensor:
    """Return the difference of the data's scores ``[N]``, chosen minus rejected, in units of reward.

    Raises:
        TrainingError: a pair without scores on ``objective``.
    """
    position = list(objectives).index(objective)
    gaps = torch.tensor([pair.gaps[position] for pair in table.pairs])
    missing = gaps.isnan().nonzero()[:, 0].tolist()
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(table)} pairs have no score for {objective!r}, first at {table.where(missing[:1])}; "
            "score the data, or use margin: implicit"
        )
    return gaps * (config.margin_scale or {}).get(objective, 1.0)


def stamp(table: PairTable, margin: Tensor, weight: float, scale_loss: bool) -> PairTable:
    """Stamp Eq. 11 on a table: the weighted margin ``[N]``, 1 / w_k, and w_k as the loss weight where asked."""
    return table.stamp(margin=margin, scale=1.0 / weight, weight=weight if scale_loss else 1.0)
