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
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.data.pairs import pairs
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.policy import Policy
from paretune.scoring.standardise import Standardisation
from paretune.training.loop import Training
from paretune.training.losses import Link
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class MODPOConfig(DPOConfig):
    """Settings of MODPO, beside those of DPO; the paper has beta 0.1 and 0.5.

    Attributes:
        margin: ``implicit``: rewards of DPO margin models (the paper's default); ``scores``: the scores in the data.
        margin_scale: With ``scores``, what one unit of score is worth in reward, by objective (1 where an objective is not named);
            by default every objective's standard deviation over the training data is worth 1.
        standardise: Divide each objective's margins by their standard deviation over the training pairs.
        objective: The objective k whose pairs are trained on; ``auto`` takes the one of the largest weight.
        min_weight: Smallest w_k that is trained; below it 1 / w_k saturates the loss.
        scale_loss: Multiply the loss by w_k: same minimiser, gradients bounded by beta at every w.
        link: ``sigmoid``, or the ``hinge`` of the reference implementation.
    """

    margin: Literal["implicit", "scores"] = "implicit"
    margin_scale: Mapping[str, float] | None = None
    standardise: bool = False
    objective: str = "auto"
    min_weight: float = 0.05
    scale_loss: bool = False
    link: Link = "sigmoid"


def train(inputs: Inputs, config: MODPOConfig) -> Policy:
    """Return the policy with one MODPO adapter for each preference.

    Raises:
        ConfigError: a preference whose w_k is below ``min_weight``, or an unknown objective k.
        TrainingError: scores as margins, and a pair without one.
    """
    lab, config = inputs.lab, with_scale(inputs, config)
    targets = [(preference, chosen_objective(preference, config)) for preference in inputs.preferences]

    @cache
    def tables(objective: str) -> tuple[PairTable, PairTable]:
        parts = (pairs(part, objective, config.pairs) for part in (inputs.train, inputs.validation))
        train_pairs, held_out = parts
        return lab.train_table(train_pairs), lab.pair_table(held_out)

    @cache
    def margin_model(objective: str) -> Adapter:
        info = {"method": "dpo", "objective": objective}
        return lab.fit(f"dpo-{objective}", *tables(objective), config.beta, info=info)

    def gap(table: PairTable, objective: str) -> Tensor:
        if config.margin == "scores":
            return score_margin(table, inputs.objectives, objective, config)
        return lab.implicit_gap(table, margin_model(objective), config.beta)

    def fit(preference: Preference, k: str) -> Adapter:
        others = {j: w for j, w in preference.as_dict().items() if j != k and w > 0}
        if not others and config.link == "sigmoid":
            return margin_model(k)  # w_k = 1 is plain DPO, and that is trained already
        train_table, held_out = tables(k)
        spread = {j: float(gap(train_table, j).std()) or 1.0 if config.standardise else 1.0 for j in others}

        def stamped(table: PairTable) -> PairTable:
            margin = sum(
                (w * (gap(table, j) / spread[j]) for j, w in others.items()), torch.zeros(len(table))
            )
            return stamp(table, margin, preference[k], config.scale_loss)

        info = {
            "method": "modpo",
            "preference": preference.as_dict(),
            "objective": k,
            "margin": config.margin,
        }
        parts = stamped(train_table), stamped(held_out)
        return lab.fit(f"modpo-{preference}", *parts, config.beta, config.link, info=info)

    adapters = [fit(preference, k) for preference, k in targets]
    return Policy.anchors("modpo", lab.lm, inputs.objectives, adapters, inputs.preferences)


def with_scale(inputs: Inputs, config: MODPOConfig) -> MODPOConfig:
    """Return the settings with the default scale of scores as margins: raw scores have units, and in deviations all are alike."""
    if config.margin != "scores" or config.margin_scale is not None:
        return config
    scale = Standardisation.of(inputs.train)
    return replace(config, margin_scale=dict(zip(scale.objectives, (1 / scale.std).tolist(), strict=True)))


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


def work(run: Work, name: str, config: MODPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the margin models, read the margins, and train an adapter for each inner preference."""
    stages = run.corners(config.beta, config.pairs, training)
    runs, margins = 0, list[Passes]()
    for preference in run.preferences:
        k = chosen_objective(preference, config)
        others = [j for j, weight in preference.as_dict().items() if j != k and weight > 0]
        runs += bool(others) or config.link != "sigmoid"
        for j in others if config.margin == "implicit" else []:
            model = ("dpo", j, config.beta, config.pairs, training)
            for part, limit in (("train", training.draws), ("validation", None)):
                texts = run.pair_texts(part, k, config.pairs)
                margins += run.scored(model, part, (k, config.pairs), texts, training.rank, limit)
    if margins:
        what = "log-probabilities of the single-objective models, kept"
        stages.append(Stage("margins", what, tuple(margins)))
    if runs:
        table, held_out = (
            run.pair_texts(part, run.objectives[0], config.pairs) for part in ("train", "validation")
        )
        fits = Fits(training, table, training.rank, runs, held_out)
        stages.append(run.trained(f"train: {name}", "one per inner preference", fits))
    return stages


def traits(config: MODPOConfig) -> Traits:
    """Return what the rest of the library must know of MODPO."""
    corners = DPOConfig(config.beta, config.pairs) if config.link == "sigmoid" else None
    return Traits("preference", separable=True, corners=corners, beta=config.beta)


METHOD = Method(
    MODPOConfig,
    train,
    work,
    Card(
        title="MODPO",
        paper="arXiv 2310.03708",
        needs="pairs for each objective, or pairs for one and scores for the others",
        runs="M + one for each preference that is not one-hot",
        enters="weights: one adapter per preference, the nearest is used",
    ),
    traits,
)
