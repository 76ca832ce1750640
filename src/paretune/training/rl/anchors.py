"""What on-policy methods share: the reward on the scale of the data's responses, and the adapter of one preference.

MORLHF and rewarded soups find each other's adapters: that of a one-hot preference is one and the same stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.core.scalarise import SCALARISATIONS
from paretune.data.dataset import ScoredDataset
from paretune.generation.endpoint import Endpoint
from paretune.models.adapter import Adapter
from paretune.scoring.prompt_means import within_prompts
from paretune.scoring.scorer import Scorer, score_dataset
from paretune.scoring.standardise import Standardisation
from paretune.training.conditioning import LORA_PER_OBJECTIVE, Conditioning
from paretune.training.lab import Lab
from paretune.training.rl.goal import Reward, RLSettings

OF_GDPO = ("decoupled", "gd2po", "dvao")
"""Aggregations that look at the spread of each reward within its group, as GDPO does."""
ONE_PREFERENCE = replace(LORA_PER_OBJECTIVE, per="batch")
"""That of MORLHF's anchors, as far as a linear reward at one preference has any; it is part of the identity of their adapters."""


def measured_reward(
    lab: Lab,
    train: ScoredDataset,
    scorers: Sequence[Scorer],
    sampling: Sampling,
    settings: RLSettings,
    conditioning: Conditioning,
    server: Endpoint | None = None,
) -> tuple[Reward, np.ndarray]:
    """Return the reward without a preference, and the raw scores ``[N, M]`` of the data's responses that fix its scale.

    Args:
        lab: The run, which keeps the scores.
        train: Prompts to sample responses to, with responses.
        scorers: M reward functions, one per objective, in the order of the data's objectives.
        sampling: Length of responses, and rows decoded together.
        settings: How the policy learns; an object of a subclass is read as far as it is these settings.
        conditioning: Rule by which preferences are drawn and M rewards combined; its ``clip`` is that of the settings.
        server: Server that samples the responses; None samples them here.

    Raises:
        ScoreError: The data's responses cannot be scored, or all score alike.
    """
    objectives = list(train.objectives)
    # The scale is that of the reward functions, not of scores that the data may have brought along.
    scored = score_dataset(train, scorers, lab.score_cache).select(objectives)
    scale = Standardisation.of(scored, within_prompts(scorers))
    raw = np.concatenate([scored.matrix(row) for row in scored.rows])
    ideal, worst = conditioning.ideal, conditioning.worst
    reads = SCALARISATIONS[conditioning.aggregation].reads
    reward = Reward(
        prompts=tuple({row.key: row.prompt for row in train.rows}.values()),
        scorers=tuple(scorers),
        scale=scale,
        sampling=sampling,
        settings=RLSettings(**{field.name: getattr(settings, field.name) for field in fields(RLSettings)}),
        conditioning=replace(conditioning, clip=settings.clip),
        ideal=_bound(scale.apply(raw).max(axis=0), ideal),
        worst=_bound(scale.apply(raw).min(axis=0), worst) if "worst" in reads else (),
        server=server,
    )
    return reward, raw


def _bound(found: np.ndarray, stated: float | None) -> tuple[float, ...]:
    """Return a bound for each objective: what was found in the data, unless one is stated for all."""
    return tuple(found.tolist() if stated is None else [stated] * len(found))


def family(settings: RLSettings) -> str:
    """Return the method whose adapters these are; it begins the names of their stages."""
    return "gdpo" if settings.aggregation in OF_GDPO else "morlhf"


def fit_reward(lab: Lab, name: str, reward: Reward, method: str = "") -> Adapter:
    """Return the adapter that was trained on its own responses, as stage ``name``; of ``method``, where it has its own name."""
    info: dict[str, Any] = {"method": method or family(reward.settings)}
    return lab.fit_on_policy(name, reward, info)


def fit_anchor(lab: Lab, reward: Reward, preference: Preference) -> Adapter:
    """Return the adapter of one preference, trained on its own responses."""
    name = f"{family(reward.settings)}-{preference}"
    return fit_reward(lab, name, replace(reward, preference=preference.over(reward.objectives)))
