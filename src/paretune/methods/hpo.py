"""HPO: hybrid preference optimization, DPO on pairs with an advantage-weighted likelihood for every other score.

Badrinath et al. 2024 (arXiv 2405.17956). One objective k has pairs D_k; every other objective j is any function R_j that scores a
response, which need be neither differentiable nor paired. With V_j(x) the mean of R_j over the responses to x:

    1. A_j(x, y) = R_j(x, y) - V_j(x), in standard deviations of R_j over the training responses
    2. L = w_k L_DPO(D_k) + gamma sum_{j != k} w_j E[ exp(A_j / alpha) (-log pi(y | x)) ]

The expectation is over all responses of the data, also those without a partner. The second term alone has the optimum
mu exp(A / alpha) with mu the distribution of the responses, so it pulls towards the data where DPO pulls away from its rejected
responses. The paper has one gamma; gamma w_j makes it a front (weighting and V as far as its abstract and introduction tell).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge

from paretune.core.bounds import Positive
from paretune.core.errors import ConfigError, suggest
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.data.dataset import ScoredDataset
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.lengths import Texts
from paretune.planning.work import Fits, Stage, Work, passes
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.scoring.prompt_means import within_prompts
from paretune.scoring.scorer import score_dataset
from paretune.scoring.standardise import Standardisation
from paretune.training.demonstrations import Demonstration
from paretune.training.hybrid import HybridData, WeightedResponses, fit_hybrid
from paretune.training.loop import Training
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class HPOConfig(DPOConfig):
    """The settings of HPO, beside those of DPO on the pairs.

    Attributes:
        objective: The objective k whose pairs are trained on; empty is the first of the run. The others are scores.
        gamma: Strength of the likelihood of scored responses, per mean nat of a token, against DPO's loss.
        alpha: Temperature of the advantages, in standard deviations of a score; below 1 the best responses count for almost all.
        most: Largest weight of a response; a larger ``exp(A / alpha)`` is cut to it, and counted.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    objective: str = ""
    gamma: Positive = 1.0
    alpha: Positive = 1.0
    most: Annotated[float, Ge(1)] = 20.0
    between: BetweenAnchors = later("nearest")


def train(inputs: Inputs, config: HPOConfig) -> Policy:
    """Return the policy with one HPO adapter for each preference; at all weight on k it is DPO.

    Raises:
        ConfigError: An unknown objective k, or an objective without scores in the data and without a scorer.
        TrainingError: No response is short enough, or there are no pairs.
    """
    lab, k = inputs.lab, config.objective or inputs.objectives[0]
    check(config, inputs.objectives, inputs.preferences)
    others = [name for name in inputs.objectives if name != k]
    parts = [scored(inputs, part, others) for part in (inputs.train, inputs.validation)]
    within = within_prompts(inputs.scorers)
    scale = Standardisation.of(parts[0].select(others), within)
    weights = [factors(part, others, scale, config, within) for part in parts]
    lonely = sum(len(row.responses) == 1 for row in parts[0].rows)
    if lonely and (unknown := [name for name in others if name in within]):
        lab.say(
            f"hpo: scores of {', '.join(unknown)} cannot be compared across prompts; {lonely} rows have one response, whose "
            "advantage is taken as 0"
        )
    cut = int((weights[0] >= config.most).sum())
    if cut:
        lab.say(
            f"hpo: {cut} of {weights[0].size} weights of responses would be above most={config.most:g} and were cut to it"
        )

    def fit(preference: Preference) -> Adapter:
        w = preference.over(inputs.objectives)
        if w[k] == 1:
            return inputs.corners(config.single)[inputs.objectives.index(k)]
        pairs = [weighed(table, w[k]) for table in inputs.tables(k, config)] if w[k] else [None, None]
        share = torch.tensor([w[name] for name in others], dtype=torch.float64)
        data, held_out = (
            HybridData(table, WeightedResponses.of(lab, demonstrations(part), config.gamma * (u @ share)))
            for table, part, u in zip(pairs, parts, map(torch.from_numpy, weights), strict=True)
        )
        info = {"method": "hpo", "preference": w.as_dict(), "objective": k, "gamma": config.gamma}
        info |= {"alpha": config.alpha}
        return fit_hybrid(lab, f"hpo-{preference}", data, held_out, config.loss, info)

    adapters = [fit(preference) for preference in inputs.preferences]
    return Policy.anchors("hpo", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def weighed(table: PairTable, weight: float) -> PairTable:
    """Return the pairs with a factor on the loss of each."""
    return table.stamp(weight=table.weight * weight, reversed_weight=table.reversed_weight * weight)


def scored(inputs: Inputs, part: ScoredDataset, others: Sequence[str]) -> ScoredDataset:
    """Return the data with a score of each of the other objectives for every response.

    An objective that some response lacks a score of is scored by its scorer, all of it: one objective has one scale.

    Raises:
        ConfigError: It has no scorer.
    """
    missing = [
        name
        for name in others
        if any(np.isnan(row.scores.get(name, (np.nan,) * len(row.responses))).any() for row in part.rows)
    ]
    if not missing:
        return part
    scorers = inputs.scorers_of(missing, "hpo, whose other objectives are scores")
    return inputs.lab.team.once(lambda: score_dataset(part, scorers, inputs.lab.score_cache))


def factors(
    part: ScoredDataset,
    others: Sequence[str],
    scale: Standardisation,
    config: HPOConfig,
    within: Collection[str] = (),
) -> np.ndarray:
    """Return ``exp(A / alpha)`` ``[N, M - 1]`` of every response on each of the other objectives, at most ``most``.

    V is the mean over the responses to the prompt. Where there is one response it would be its own mean, so V is the mean over all
    training responses, which is 0 in deviations; for the objectives ``within``, whose scores cannot be compared across prompts,
    A is then 0.
    """
    chosen, rows = part.select(others), []
    comparable = np.array([name not in within for name in others])
    for row in chosen.rows:
        deviations = scale.apply(chosen.matrix(row))
        value = deviations.mean(axis=0) if len(deviations) > 1 else np.where(comparable, 0.0, deviations[0])
        rows.append(deviations - value)
    return np.minimum(np.exp(np.minimum(np.concatenate(rows) / config.alpha, 700.0)), config.most)


def demonstrations(part: ScoredDataset) -> list[Demonstration]:
    """Return every response of the data, in order."""
    return [
        Demonstration(row.prompt, text, cut, f"{row.source or f'row {number}'} (response {n})")
        for number, row in enumerate(part.rows)
        for n, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True))
    ]


def work(run: Work, name: str, config: HPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the single-objective models, if k's is served, and an adapter for each other preference."""
    k = config.objective or run.objectives[0]
    weights = [preference[k] for preference in run.preferences]
    stages = (
        run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)
        if 1 in weights
        else []
    )
    pairs, held_out = (run.pair_texts(part, k, config.pairs) for part in ("train", "validation"))
    reference = (
        *run.scored("base", "train", (k, config.pairs), pairs, 0, training.draws),
        *run.scored("base", "validation", (k, config.pairs), held_out, 0),
    )
    if reference and any(weights):
        stages.append(Stage("reference", "log-probabilities of the base model, kept", reference))
    responses, kept = run.demonstrations("train"), run.demonstrations("validation")
    both, alone = sum(0 < w < 1 for w in weights), sum(w == 0 for w in weights)
    if both:
        texts = replace(pairs, response=(pairs.response + responses.response) / 2, responses=1.5)
        fits = Fits(training, texts, training.rank, both, tables=2)
        validated = validation(fits, [held_out, kept])
        stages.append(run.trained(f"train: {name}", "one per inner preference", fits, validated))
    if alone:
        fits = Fits(training, responses, training.rank, alone)
        validated = validation(fits, [kept])
        stages.append(run.trained(f"train: {name}, scores alone", "one per preference", fits, validated))
    return stages


def validation(fits: Fits, parts: Sequence[Texts]) -> list[Passes]:
    """Return the forwards over held-out pairs and responses, which read some of each at once."""
    training = fits.training
    times = fits.runs * ceil(training.steps / (training.validate_every or max(1, training.steps // 4)))
    forwards = times * ceil(max(part.count for part in parts) / training.batch_pairs)
    return [
        passes(replace(part, count=part.count * times), forwards / len(parts), fits.columns) for part in parts
    ]


def check(config: HPOConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Raise a ConfigError where the objective with the pairs is none of the run."""
    if config.objective and config.objective not in objectives:
        raise ConfigError(
            f"objective: unknown {config.objective!r}; {suggest(config.objective, list(objectives))}"
        )


METHOD = Method(
    HPOConfig,
    train,
    work,
    Card(
        title="HPO",
        paper="arXiv 2405.17956",
        needs="pairs for one objective, and a score or scorer of responses for each other one",
        runs="N, of which the one with all weight on the pairs' objective is DPO",
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits=lambda config: Traits(
        "preference",
        separable=True,
        corner=config.single,
        beta=config.beta,
        between=config.between,
    ),
    check=check,
)
