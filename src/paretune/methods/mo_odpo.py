"""MO-ODPO: online DPO on the weighted sum of several rewards, with a preference drawn for each prompt.

Gupta et al. 2025 (arXiv 2503.00295).

    for t = 1..T:
        draw prompts x, and for each a preference w ~ Dirichlet(alpha), which is written into the prompt
        sample K = 2 responses y to each from pi_theta(. | x, w)
        y+, y- = the responses of the largest and the smallest sum_i w_i r_i(x, y); none where all are alike
        step on -log sigmoid(beta (log pi_theta(y+ | x, w) / pi_ref(y+ | x) - log pi_theta(y- | x, w) / pi_ref(y- | x)))

The comparison knows who wins and not by how much, so there is no known optimum: beta and the number of steps decide how far the
policy goes. The reference reads the prompt without the preference. Rewards are put on one scale by constants measured once on the
data's responses, as in MORLHF, of which this is ``estimator: dpo`` with other defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from annotated_types import Ge

from paretune.core.bounds import Count, NotNegative, Positive, Share, check_bounds
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting
from paretune.training.conditioning import LORA_PER_OBJECTIVE, Conditioning, Draw
from paretune.training.loop import Training
from paretune.training.rl.anchors import fit_reward, measured_reward
from paretune.training.rl.goal import RLSettings


@dataclass(frozen=True)
class MOODPOConfig:
    """The settings of MO-ODPO.

    ``train.batch_pairs`` counts prompts: a step samples ``batch_pairs * accumulate * responses`` responses, decoded together.

    Attributes:
        beta: Strength of DPO's KL penalty.
        responses: Number K of responses sampled for each prompt; the best is preferred to the worst.
        condition: Entry of the preference: the ``prompt``, as tags such as ``<warm: 7/10>``, or the ``gates``.
        draw: Distribution of preferences: ``dirichlet`` of ``alpha``, ``uniform``, a ``grid`` of ``divisions``, or ``corners``:
            one-hot with probability ``corner_share``, else uniform.
        alpha: Parameter of the Dirichlet distribution; below 1 favours corners. The paper finds that it decides how well the policy
            can be steered.
        divisions: Divisions of the grid.
        corner_share: Probability of a one-hot preference.
        groups: Rank of the LoRA of each objective, with ``condition: gates``.
        epochs: Optimiser steps on the same responses.
        time_limit: Seconds that a reward function may take for the responses of one step; 0 is no limit.
    """

    beta: Positive = 0.1
    responses: Annotated[int, Ge(2)] = 2
    condition: Literal["prompt", "gates"] = "prompt"
    draw: Draw = "dirichlet"
    alpha: Positive = 1.0
    divisions: Count = 10
    corner_share: Share = 0.25
    groups: Count = 16
    epochs: Count = 1
    time_limit: NotNegative = 300.0

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def learning(self) -> RLSettings:
        """How the policy learns from its own responses."""
        known = {field.name for field in fields(RLSettings)} & {field.name for field in fields(self)}
        return RLSettings(estimator="dpo", **{name: getattr(self, name) for name in known})

    @property
    def conditioning(self) -> Conditioning:
        """How preferences are drawn, and the gates that follow them."""
        names = ("draw", "alpha", "divisions", "corner_share", "groups")
        return replace(LORA_PER_OBJECTIVE, **{name: getattr(self, name) for name in names})


def train(inputs: Inputs, config: MOODPOConfig) -> Policy:
    """Return the policy of one adapter for all preferences.

    The training data are prompts to sample responses to; the responses that they hold fix the scale of the rewards.

    Raises:
        ConfigError: An objective without a scorer.
        ScoreError: The data's responses cannot be scored, or all score alike.
        BatchError: A reward function failed in training; what was trained so far is saved.
    """
    lab, objectives = inputs.lab, inputs.objectives
    scorers = inputs.scorers_of(objectives, "mo-odpo")
    reward, raw = measured_reward(
        lab, inputs.train, scorers, inputs.sampling, config.learning, config.conditioning, inputs.endpoint
    )
    if config.condition == "gates":
        adapter = fit_reward(lab, "mo-odpo-gates", reward, "mo-odpo")
        return Policy.conditioned("mo-odpo", lab.lm, objectives, adapter)
    prompting = Prompting.of(objectives, raw, form="levels")
    adapter = fit_reward(lab, "mo-odpo-prompt", replace(reward, prompting=prompting), "mo-odpo")
    return Policy.prompted("mo-odpo", lab.lm, objectives, adapter)


def work(run: Work, name: str, config: MOODPOConfig, training: Training) -> list[Stage]:
    """Return the stage that samples, reads the answers by the base model, and trains."""
    gated = config.condition == "gates"
    columns = config.conditioning.columns(len(run.objectives)) if gated else training.rank
    asked = 0 if gated else run.asked_tokens()
    return [run.on_policy(name, "for all preferences", config.learning, training, columns, asked=asked)]


def traits(config: MOODPOConfig) -> Traits:
    """Return what the rest of the library must know of MO-ODPO."""
    gated = config.condition == "gates"
    return Traits(
        "all",
        conditioning=config.conditioning if gated else None,
        prompted=not gated,
        beta=config.beta,
        refusal=OF_GATES if gated else "",
    )


OF_GATES = (
    "with condition: gates every response has a preference of its own in the gates, which no LoRA server takes; use condition: "
    "prompt, or take the method out of endpoint.stages"
)

METHOD = Method(
    MOODPOConfig,
    train,
    work,
    Card(
        title="MO-ODPO",
        paper="arXiv 2503.00295",
        needs="prompts with some responses, and a scorer for each objective",
        runs="1",
        enters="the prompt, or gates that follow the preference",
        family="sampled",
    ),
    traits,
    staged=True,
)
