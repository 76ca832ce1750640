"""MODPO: multi-objective direct preference optimization (Zhou et al. 2024, arXiv 2310.03708).

For a preference w and one objective k with pairs D_k, every other objective j enters as a margin reward r_j:

    1. for each j: train a margin model pi_j by DPO on D_j at beta_j; r_j = beta_j (log pi_j - log pi_ref)      (or any scorer)
    2. for each w: fine-tune a fresh adapter from pi_ref on D_k with                                    (Eq. 11)
           L = -log sigmoid( (beta Delta - sum_{j != k} w_j (r_j(chosen) - r_j(rejected))) / w_k )
    3. w one-hot is plain DPO on D_k; so it is for a fixed k with w_k = 0 where all weight is on one other objective

The paper trains margin models with the strength of the policy, beta_j = beta.
Margins and reference log-probabilities do not depend on w: they are computed once and stamped on the pairs, so a step is
DPO's one forward and one backward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, isnan, nan
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from paretune.core.bounds import NotNegative, Positive
from paretune.core.errors import ConfigError, TrainingError, suggest
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.data.dataset import ScoredDataset
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.work import Fits, Stage, Work, inner
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.scoring.prompt_means import within_prompts
from paretune.scoring.scorer import Scorer, score_dataset, score_texts
from paretune.scoring.standardise import Standardisation
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.losses import Link
from paretune.training.soft_labels import imitating, label_odds
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class MODPOConfig(DPOConfig):
    """The settings of MODPO, beside those of DPO; the paper has beta 0.1 and 0.5.

    Attributes:
        margin: Source of the margins. ``implicit``: rewards of DPO margin models (the paper's default); ``scores``:
            the scores in the
            data. An objective that the data lack a score of is scored by its scorer, all of it: one objective has one scale.
        margin_beta: Strength of the KL penalty of the margin models, and factor of their implicit rewards; None is ``beta``, the
            paper's. One-hot preferences are served by DPO at ``beta`` whatever it is.
        margin_scale: Worth of one unit of score in reward with ``scores``, by objective (1 where an objective is not named);
            by default every objective's standard deviation over the training data is worth 1.
        standardise: Whether each objective's margins are divided by their standard deviation over the training pairs.
        objective: The objective k whose pairs are trained on; ``auto`` takes the one of the largest weight.
        min_weight: Smallest w_k that is trained; below it 1 / w_k saturates the loss.
        scale_loss: Whether the loss is multiplied by w_k: same minimiser, gradients bounded by beta at every w.
        link: Link function: ``sigmoid``, or the ``hinge`` of the reference implementation.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    margin: Literal["implicit", "scores"] = "implicit"
    margin_beta: Positive | None = later(None)
    margin_scale: Mapping[str, NotNegative] | None = None
    standardise: bool = False
    objective: str = "auto"
    min_weight: Annotated[float, Gt(0), Le(1)] = 0.05
    scale_loss: bool = False
    link: Link = "sigmoid"
    between: BetweenAnchors = later("nearest")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, scale in (self.margin_scale or {}).items():
            if not 0 <= scale < inf:
                raise ConfigError(f"margin_scale.{name} must be at least 0 and finite, got {scale}")
        if self.margin_beta is not None and self.margin == "scores":
            raise ConfigError(
                "margin_beta is that of margin models, and margin: scores has none; leave it out"
            )

    @property
    def reward_beta(self) -> float:
        """Strength of the KL penalty of the margin models."""
        return self.beta if self.margin_beta is None else self.margin_beta


def train(inputs: Inputs, config: MODPOConfig) -> Policy:
    """Return the policy with one MODPO adapter for each preference.

    Raises:
        ConfigError: A preference whose w_k is below ``min_weight``, or an unknown objective k.
        TrainingError: Scores as margins, and a pair without one whose objective has no scorer.
    """
    lab = inputs.lab
    targets = [(preference, chosen_objective(preference, config)) for preference in inputs.preferences]
    margins = {j for preference, k in targets for j, w in preference.as_dict().items() if j != k and w > 0}
    scorers = lacking(inputs, margins) if config.margin == "scores" else {}
    config = with_scale(inputs, config, margins, scorers)

    @cache
    def tables(objective: str) -> tuple[PairTable, PairTable]:
        return inputs.tables(objective, config)

    @cache
    def dpo(objective: str, beta: float) -> Adapter:
        info = {"method": "dpo", "objective": objective}
        return lab.fit_pairs(f"dpo-{objective}", *tables(objective), replace(config.loss, beta=beta), info)

    def gap(table: PairTable, objective: str) -> Tensor:
        if config.margin == "scores" and objective in scorers:
            return scorer_gaps(table, scorers[objective], lab) * scale_of(objective, config)
        if config.margin == "scores":
            return score_margin(table, inputs.objectives, objective, config)
        return lab.implicit_gap(table, dpo(objective, config.reward_beta), config.reward_beta)

    def fit(preference: Preference, k: str) -> Adapter:
        others = {j: w for j, w in preference.as_dict().items() if j != k and w > 0}
        if not others and config.link == "sigmoid":
            return dpo(k, config.beta)  # w_k = 1 is plain DPO, and that is trained already
        train_table, held_out = tables(k)
        spread = {j: float(gap(train_table, j).std()) or 1.0 if config.standardise else 1.0 for j in others}

        def stamped(table: PairTable) -> PairTable:
            margin = sum(
                (w * (gap(table, j) / spread[j]) for j, w in others.items()), torch.zeros(len(table))
            )
            if config.soft:
                # The labels are those of k; what is imitated is what all objectives together prefer.
                table = imitating(table, preference[k] * label_odds(table) + margin)
            return stamp(table, margin, preference[k], config.scale_loss)

        info = {
            "method": "modpo",
            "preference": preference.as_dict(),
            "objective": k,
            "margin": config.margin,
        }
        parts = stamped(train_table), stamped(held_out)
        return lab.fit_pairs(f"modpo-{preference}", *parts, replace(config.loss, link=config.link), info)

    adapters = [fit(preference, k) for preference, k in targets]
    return Policy.anchors("modpo", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def lacking(inputs: Inputs, margins: Collection[str]) -> dict[str, Scorer]:
    """Return the scorers of the objectives among ``margins`` that some response of the data lacks a score of, and log their names.

    An objective without a scorer is left out.
    """
    scorers: dict[str, Scorer] = {}
    for scorer in inputs.scorers:
        name = scorer.objective
        missing = unscored((inputs.train, inputs.validation), name) if name in margins else 0
        if missing:
            scorers[name] = scorer
            inputs.lab.say(
                f"modpo: {missing} responses have no score for {name!r} in the data; its scorer's scores are used for all responses"
            )
    return scorers


def unscored(parts: Iterable[ScoredDataset], objective: str) -> int:
    """Return the number of responses without a score on an objective."""
    return sum(
        sum(map(isnan, row.scores.get(objective, (nan,) * len(row.responses))))
        for part in parts
        for row in part.rows
    )


def with_scale(
    inputs: Inputs, config: MODPOConfig, margins: Collection[str], scorers: Mapping[str, Scorer]
) -> MODPOConfig:
    """Return the settings with the default scale of scores as margins: raw scores have units, and in deviations all are alike.

    An objective that is no margin needs no scores.
    """
    if config.margin != "scores" or config.margin_scale is not None:
        return config
    lab = inputs.lab
    data = lab.team.once(lambda: score_dataset(inputs.train, list(scorers.values()), lab.score_cache))
    needed = [name for name in inputs.objectives if name in margins or not unscored([data], name)]
    scale = Standardisation.of(data.select(needed), needed if config.soft else within_prompts(inputs.scorers))
    worth = (config.soft or 1.0) / scale.std
    return replace(config, margin_scale=dict(zip(scale.objectives, worth.tolist(), strict=True)))


def chosen_objective(preference: Preference, config: MODPOConfig) -> str:
    """Return k, the objective whose pairs are trained on: the one of the largest weight unless the config fixes it.

    Where the fixed one has no weight and a single other objective has all of it, that one is k: its own model is the optimum.

    Raises:
        ConfigError: w_k below ``min_weight``; the message names the cure.
    """
    if config.objective == "auto":
        return max(preference.objectives, key=lambda objective: preference[objective])
    weight = preference[config.objective]
    weighed = [objective for objective, share in preference.as_dict().items() if share > 0]
    if weight == 0 and len(weighed) == 1:
        return weighed[0]
    if weight < config.min_weight:
        best = max(preference.objectives, key=lambda objective: preference[objective])
        raise ConfigError(
            f"MODPO at {preference} on pairs of {config.objective!r}: its weight {weight:g} is below min_weight "
            f"{config.min_weight:g}, and the loss divides by it. Use objective: {best} (or auto) for this preference"
        )
    return config.objective


def score_margin(table: PairTable, objectives: Sequence[str], objective: str, config: MODPOConfig) -> Tensor:
    """Return the difference of the data's scores ``[N]``, chosen minus rejected, in units of reward.

    Raises:
        TrainingError: A pair without scores on ``objective``.
    """
    position = list(objectives).index(objective)
    gaps = torch.tensor([pair.gaps[position] for pair in table.pairs])
    missing = gaps.isnan().nonzero()[:, 0].tolist()
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(table)} pairs have no score for {objective!r}, first at {table.where(missing[:1])}; "
            "score the data, add a scorer of it under score:, or use margin: implicit"
        )
    return gaps * scale_of(objective, config)


def scorer_gaps(table: PairTable, scorer: Scorer, lab: Lab) -> Tensor:
    """Return the difference of a scorer's scores ``[N]``, chosen minus rejected, in units of score; the scores are cached."""
    prompts = [pair.prompt for pair in table.pairs] * 2
    texts = [pair.chosen for pair in table.pairs] + [pair.rejected for pair in table.pairs]
    cut = [pair.chosen_truncated for pair in table.pairs] + [pair.rejected_truncated for pair in table.pairs]
    scores = lab.team.once(lambda: score_texts(scorer, prompts, texts, cut, lab.score_cache))
    chosen, rejected = torch.from_numpy(scores).view(2, -1)
    return chosen - rejected


def scale_of(objective: str, config: MODPOConfig) -> float:
    """Return what one unit of score is worth in reward."""
    return (config.margin_scale or {}).get(objective, 1.0)


def stamp(table: PairTable, margin: Tensor, weight: float, scale_loss: bool) -> PairTable:
    """Stamp Eq. 11 on a table: the weighted margin ``[N]``, 1 / w_k, and w_k as the loss weight where asked.

    A margin of the data is one of the objective that is trained on, in the units of its reward; a weight of the data is a factor.
    """
    factor = weight if scale_loss else 1.0
    return table.stamp(
        margin=margin + weight * table.margin,
        scale=1.0 / weight,
        weight=table.weight * factor,
        reversed_weight=table.reversed_weight * factor,
    )


def work(run: Work, name: str, config: MODPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the margin models, read the margins, and train an adapter for each inner preference."""
    stages = run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)
    if config.margin == "implicit" and inner(run.preferences):
        stages += run.corners(
            config.reward_beta, config.pairs, training, nll=config.nll, anchor=config.anchor
        )
    if config.margin == "scores" and (answers := rated_anew(run)):
        stages.append(Stage(f"score: {name}", "margins that the data lack scores of, kept", judged=answers))
    runs, margins = 0, list[Passes]()
    for preference in run.preferences:
        k = chosen_objective(preference, config)
        others = [j for j, weight in preference.as_dict().items() if j != k and weight > 0]
        runs += bool(others) or config.link != "sigmoid"
        for j in others if config.margin == "implicit" else []:
            model = ("dpo", j, config.reward_beta, config.pairs, training)
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


def rated_anew(run: Work) -> float:
    """Return how many responses are rated for margins, where an objective of the data lacks scores, as if by all scorers."""
    parts = [run.splits[part] for part in ("train", "validation")]
    names = [name for name in run.objectives if name in parts[0].objectives and unscored(parts, name)]
    responses = sum(len(row.responses) for part in parts for row in part.rows)
    return responses * len(names) / len(run.objectives)


def traits(config: MODPOConfig) -> Traits:
    """Return what the rest of the library must know of MODPO."""
    corners = config.single if config.link == "sigmoid" else None
    return Traits("preference", separable=True, corners=corners, beta=config.beta, between=config.between)


def check(config: MODPOConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Check the objectives that settings name, and the weight of the one that is trained on.

    Raises:
        ConfigError: An unknown objective, or a preference whose w_k is below ``min_weight``.
    """
    if config.objective != "auto" and config.objective not in objectives:
        raise ConfigError(
            f"objective: unknown {config.objective!r}; {suggest(config.objective, ['auto', *objectives])}"
        )
    for name in config.margin_scale or {}:
        if name not in objectives:
            raise ConfigError(f"margin_scale: unknown objective {name!r}; {suggest(name, objectives)}")
    for preference in preferences:
        chosen_objective(preference, config)


METHOD = Method(
    MODPOConfig,
    train,
    work,
    Card(
        title="MODPO",
        paper="arXiv 2310.03708",
        needs="pairs for each objective, or pairs for one and scores for the others",
        runs="M + one for each preference that is not one-hot",
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits,
    check=check,
)
