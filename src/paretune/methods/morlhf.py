"""MORLHF: reinforcement learning on the weighted sum of several rewards, from the policy's own samples.

    for t = 1..T:
        draw prompts x, and for each a preference w (or the one w of this run)
        sample K responses y to each from pi_theta(. | x, w)
        R(y) = sum_i w_i (r_i(x, y) - mean_i) / std_i - beta log(pi_theta(y) / pi_ref(y))
        step on the policy gradient with R(y) less the mean R of the other responses to x            (RLOO)

The optimum is pi_ref(y|x) exp(w.r / beta) / Z, which MODPO (arXiv 2310.03708) claims to reach without sampling. Rewards are
put on one scale by constants measured once on the data's responses.

``form: anchors`` is a run for each preference. ``form: conditioned`` is one run for all, with w drawn for each prompt: in the
gates (Panacea's RLHF form, arXiv 2402.02030; also Tchebycheff) or, ours, in the prompt as Rewards-in-Context writes it.

GDPO (arXiv 2601.05242) normalises each reward within its group before the sum. That has another optimum, so it is a method of
its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.models.singular_gates import Init
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import Scorer, score_dataset
from paretune.scoring.standardise import Standardisation
from paretune.training.conditioning import Conditioning, Draw
from paretune.training.lab import Lab
from paretune.training.rl.advantages import Combine
from paretune.training.rl.goal import Reward, RLSettings
from paretune.training.scalarise import Aggregation


@dataclass(frozen=True)
class MORLHFConfig(RLSettings):
    """Settings of MORLHF, beside those of :class:`paretune.training.rl.goal.RLSettings`.

    ``train.batch_pairs`` counts prompts: a step samples ``batch_pairs * accumulate * responses`` responses, decoded together.

    Attributes:
        form: ``anchors``: a run for each preference; ``conditioned``: one run, with preferences drawn.
        condition: of a conditioned run: the preference enters the ``gates``, or the ``prompt`` as tags such as
            ``<warm: 7/10>``; the reference reads the prompt without them.
        rank, groups, init, rate_factor, gate_rate_factor: of gates, see :class:`paretune.training.conditioned.Conditioning`. The
            defaults are a LoRA an objective, trained together.
        draw, alpha, divisions, corner_share: where preferences come from, see there.
        per: a preference for each ``row`` (a prompt with its K responses) or for each ``batch`` (a step).
        scalarisation: from M rewards to one, see :mod:`paretune.training.scalarise`; needs ``estimator: rloo`` unless linear. A
            Tchebycheff form estimates each objective's value on the responses that share a preference: ``per: batch``
            estimates it on all of them.
        ideal: reward in deviations that no objective exceeds, for the Tchebycheff forms; by default each objective's best
            among the data's responses.
        mu, rho: of the smooth and of the augmented Tchebycheff form.
    """

    form: Literal["anchors", "conditioned"] = "anchors"
    condition: Literal["gates", "prompt"] = "gates"
    rank: int = 0
    groups: int = 16
    init: Init = "lora"
    rate_factor: float = 1.0
    gate_rate_factor: float = 1.0
    draw: Draw = "corners"
    per: Literal["batch", "row"] = "row"
    alpha: float = 1.0
    divisions: int = 10
    corner_share: float = 0.25
    scalarisation: Aggregation = "linear"
    ideal: float | None = None
    mu: float = 0.1
    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.aggregation == "decoupled") != isinstance(self, GDPOConfig):
            raise ConfigError(
                f"aggregation: {self.aggregation} under this name: sum is the method morlhf, decoupled has another optimum and "
                "is the method gdpo"
            )
        if self.estimator == "grpo" and self.scalarisation != "linear":
            raise ConfigError(f"scalarisation: {self.scalarisation} needs estimator: rloo")
        self.conditioning()

    def conditioning(self) -> Conditioning:
        """Return how preferences are drawn and enter the gates."""
        shared = {field.name for field in fields(Conditioning)} & {field.name for field in fields(self)}
        shared -= {"aggregation"}
        values: dict[str, Any] = {name: getattr(self, name) for name in shared}
        if self.form == "anchors":
            values["per"] = "batch"
        return Conditioning(**values, aggregation=self.scalarisation)


@dataclass(frozen=True)
class GDPOConfig(MORLHFConfig):
    """Settings of GDPO: those of MORLHF, with each reward normalised within its group."""

    aggregation: Combine = "decoupled"


def morlhf(
    lab: Lab,
    train: ScoredDataset,
    preferences: Sequence[Preference],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    config: MORLHFConfig,
) -> Policy:
    """Return the policy with one adapter a preference, or the one of a conditioned run.

    Args:
        lab: model, run folder and settings of training.
        train: prompts to sample responses to; the responses it holds fix the scale of the rewards.
        preferences: of the anchors; a conditioned run does not read them.
        scorers: the reward functions, one an objective.
        sampling: its length and batch size are used.
        config: settings.

    Raises:
        ConfigError: an objective without scorer.
        ScoreError: the data's responses cannot be scored, or all score alike.
        BatchError: a reward function failed in training; what was trained so far is saved.
    """
    objectives, name = train.objectives, "gdpo" if isinstance(config, GDPOConfig) else "morlhf"
    by_name = {scorer.objective: scorer for scorer in scorers}
    if missing := [objective for objective in objectives if objective not in by_name]:
        raise ConfigError(f"{name}: no scorer for the objective {missing[0]!r}; add one under score:")
    rewards = tuple(by_name[objective] for objective in objectives)
    # The scale is of the functions that reward, not of scores the data may have brought along.
    scored = score_dataset(train, rewards, ScoreCache(lab.folder / "cache" / "scores.sqlite")).select(
        list(objectives)
    )
    scale = Standardisation.of(scored)
    raw = np.concatenate([scored.matrix(row) for row in scored.rows])
    best = scale.apply(raw).max(axis=0).tolist()
    goal = Reward(
        prompts=tuple({row.key: row.prompt for row in train.rows}.values()),
        scorers=rewards,
        scale=scale,
        sampling=sampling,
        settings=RLSettings(**{field.name: getattr(config, field.name) for field in fields(RLSettings)}),
        conditioning=config.conditioning(),
        ideal=tuple(best if config.ideal is None else [config.ideal] * len(best)),
    )
    info = {"method": name}
    if config.form == "anchors":
        adapters = [
            lab.fit_on_policy(
                f"{name}-{preference}", replace(goal, preference=preference.over(objectives)), info
            )
            for preference in preferences
        ]
        return Policy.anchors(name, lab.lm, objectives, adapters, preferences)
    if config.condition == "prompt":
        prompting = Prompting.of(objectives, raw, form="levels")
        adapter = lab.fit_on_policy(f"{name}-prompt", replace(goal, prompting=prompting), info)
        return Policy.prompted(name, lab.lm, objectives, adapter)
    adapter = lab.fit_on_policy(f"{name}-gates", goal, info)
    return Policy.conditioned(name, lab.lm, objectives, adapter)
