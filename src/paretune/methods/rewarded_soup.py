"""Rewarded soups: one policy per reward, trained by reinforcement learning from one start; the preference weights their updates.

Rame et al. 2023 (arXiv 2306.04488):

    1. for each objective i: train theta_i from theta_0 to maximise E[r_i] - beta KL(pi || pi_ref)          (here by RLOO)
    2. serve theta_0 + sum_i w_i (theta_i - theta_0) at any preference w

The update of a soup here is the sum of the low-rank updates, which is exact at every w. An adapter is that of MORLHF at a one-hot
preference, so the two methods share it. :mod:`paretune.methods.dpo` is the form without sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paretune.core.preference import Preference
from paretune.methods.base import Card, Inputs, Method
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.rl.anchors import ONE_PREFERENCE, fit_anchor, measured_reward
from paretune.training.rl.goal import RLSettings


@dataclass(frozen=True)
class RewardedSoupConfig(RLSettings):
    """Settings of rewarded soups: those of :class:`paretune.training.rl.goal.RLSettings`.

    ``train.batch_pairs`` counts prompts: a step samples ``batch_pairs * accumulate * responses`` responses, decoded together.
    """


def train(inputs: Inputs, config: RewardedSoupConfig) -> Policy:
    """Return the policy that adds the updates of one on-policy adapter per objective, weighted by the preference.

    The training data are prompts to sample responses to; the responses that they hold fix the scale of the rewards.

    Raises:
        ConfigError: an objective without a scorer.
        ScoreError: the data's responses cannot be scored, or all score alike.
        BatchError: a reward function failed in training; what was trained so far is saved.
    """
    lab, objectives = inputs.lab, inputs.objectives
    scorers = inputs.scorers_of(objectives, "rewarded-soup")
    reward, _ = measured_reward(
        lab, inputs.train, scorers, inputs.sampling, config, ONE_PREFERENCE, inputs.endpoint
    )
    adapters = [fit_anchor(lab, reward, corner) for corner in corners(objectives)]
    return Policy.soup("rewarded-soup", lab.lm, objectives, adapters)


def corners(objectives: Sequence[str]) -> list[Preference]:
    """Return the one-hot preferences, in the order of the objectives."""
    return [Preference.one_hot(objective, objectives) for objective in objectives]


def work(run: Work, name: str, config: RewardedSoupConfig, training: Training) -> list[Stage]:
    """Return the stage that samples, reads the answers by the base model, and trains, but for adapters that MORLHF has trained."""
    asked = corners(run.objectives)
    return run.anchors(name, "one per objective", config, ONE_PREFERENCE, training, asked)


METHOD = Method(
    RewardedSoupConfig,
    train,
    work,
    Card(
        title="Rewarded soups",
        paper="arXiv 2306.04488; RLOO arXiv 2402.14740",
        needs="prompts with some responses, and a scorer for each objective",
        runs="M",
        enters="gates: the sum of one update per objective, weighted by the preference",
        family="sampled",
    ),
    fixed={"aggregation": "sum"},
    staged=True,
    grows=True,
)
