"""Bone Soup: one policy per objective, each trained on a mix of all rewards, and a soup that undoes the mixing.

Xie et al. 2025 (arXiv 2502.10762). With r the M rewards and B the symmetric circulant matrix with b on its diagonal and
(1 - b) / (M - 1) elsewhere:

    1. for each objective i: train theta_i from theta_0 to maximise E[h_i] - beta KL(pi || pi_ref), h = B r       (here by RLOO)
    2. serve theta_0 + sum_i c_i (theta_i - theta_0) at preference w, with c = B^-T w, so that sum_i c_i h_i = w . r

A backbone is the anchor of MORLHF at the preference in its row of B, and the two methods share it. With b = 1 this is rewarded
soups. Towards the corners coefficients go beyond 0 and 1, as no backbone was trained there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.rl.anchors import ONE_PREFERENCE, fit_anchor, measured_reward
from paretune.training.rl.goal import RLSettings


@dataclass(frozen=True)
class BoneSoupConfig(RLSettings):
    """Settings of Bone Soup, beside those of :class:`paretune.training.rl.goal.RLSettings`.

    ``train.batch_pairs`` counts prompts: a step samples ``batch_pairs * accumulate * responses`` responses, decoded together.

    Attributes:
        main_weight: b, the weight of its own objective in the reward of each backbone; the others share the rest. The paper chooses
            among 0.6, 0.7 and 0.8 for two objectives; 1 is rewarded soups.
    """

    main_weight: Annotated[float, Gt(0), Le(1)] = 0.7


def train(inputs: Inputs, config: BoneSoupConfig) -> Policy:
    """Return the soup of one on-policy backbone per objective.

    The training data are prompts to sample responses to; the responses that they hold fix the scale of the rewards.

    Raises:
        ConfigError: An objective without a scorer.
        ScoreError: The data's responses cannot be scored, or all score alike.
        BatchError: A reward function failed in training; what was trained so far is saved.
    """
    lab, objectives = inputs.lab, inputs.objectives
    scorers = inputs.scorers_of(objectives, "bone-soup")
    reward, _ = measured_reward(
        lab, inputs.train, scorers, inputs.sampling, config, ONE_PREFERENCE, inputs.endpoint
    )
    mixed = backbones(objectives, config.main_weight)
    adapters = [fit_anchor(lab, reward, preference) for preference in mixed]
    return Policy.anchors("bone-soup", lab.lm, objectives, adapters, mixed, "soup")


def backbones(objectives: Sequence[str], main_weight: float) -> list[Preference]:
    """Return the rows of B: the preferences that the backbones are trained for, in the order of the objectives."""
    rest = (1 - main_weight) / (len(objectives) - 1)
    rows = [{name: main_weight if name == main else rest for name in objectives} for main in objectives]
    return [Preference.of(row, objectives) for row in rows]


def work(run: Work, name: str, config: BoneSoupConfig, training: Training) -> list[Stage]:
    """Return the stage that samples, reads the answers by the base model, and trains, but for adapters that MORLHF has trained."""
    asked = backbones(run.objectives, config.main_weight)
    return run.anchors(name, "one per objective", config, ONE_PREFERENCE, training, asked)


def check(config: BoneSoupConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Check that each backbone has more of its own objective than of the others, or nothing could undo the mixing.

    Raises:
        ConfigError: It has not.
    """
    if config.main_weight <= 1 / len(objectives) + 1e-3:
        raise ConfigError(
            f"main_weight: {config.main_weight:g} is no more than the share of each of {len(objectives)} objectives, so all "
            f"backbones would be trained for the same; choose one above {1 / len(objectives):.2g}, such as 0.7"
        )


METHOD = Method(
    BoneSoupConfig,
    train,
    work,
    Card(
        title="Bone Soup",
        paper="arXiv 2502.10762; RLOO arXiv 2402.14740",
        needs="prompts with some responses, and a scorer for each objective",
        runs="M",
        enters="gates: the sum of one update per objective, weighted so that the mixing of their rewards is undone",
        family="sampled",
    ),
    traits=lambda config: Traits(),
    fixed={"aggregation": "sum"},
    staged=True,
    check=check,
)
