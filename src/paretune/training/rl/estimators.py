"""From one forward over sampled responses to a loss: RLOO, GRPO and online DPO, and the losses of the objectives apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.models.packing import PackedBatch, token_sums
from paretune.training.apart import Apart
from paretune.training.losses import grpo_loss, importance, pair_loss, rloo_loss
from paretune.training.rl.advantages import best_and_worst, combined, grpo_advantages, rloo_advantages
from paretune.training.rl.goal import Reward
from paretune.training.rl.rollouts import Sampled


@dataclass(frozen=True, eq=False)
class Forward:
    """What one forward over G prompts with K responses each found.

    Attributes:
        logps: ``[S]``, log-probabilities of the response tokens under the policy, with their graph.
        old: The same before the first step on these responses.
        reference: The same under the base model.
        packed: Where the tokens are.
        drawn: The same where they were drawn, if a server drew them.
    """

    logps: Tensor
    old: Tensor
    reference: Tensor
    packed: PackedBatch
    drawn: Tensor | None = None

    def sums(self, values: Tensor) -> Tensor:
        """Return sums ``[R]`` of token values over each response."""
        return token_sums(values, self.packed)


@dataclass(frozen=True, eq=False)
class Estimator:
    """An estimator of the gradient, as the goal of a run sets it.

    Attributes:
        goal: The goal.
    """

    goal: Reward

    def advantages(self, sampled: Sampled, part: slice, forward: Forward) -> Tensor:
        """Return what each response counts ``[g, K]``; for ``dpo`` 1 for the best, -1 for the worst and 0 for the others."""
        settings = self.goal.settings
        if settings.estimator == "grpo":
            how, consensus = settings.aggregation, self.goal.consensus
            return grpo_advantages(sampled.rewards, sampled.counted, how, consensus)[part]
        one = sampled.combined[part]
        if settings.estimator == "dpo":
            return best_and_worst(one)
        log_ratios = forward.sums(forward.old - forward.reference)
        return rloo_advantages(one, log_ratios.view_as(one), sampled.strength[part])

    def loss(self, forward: Forward, advantages: Tensor) -> Tensor:
        """Return the mean loss over responses (over prompts for ``dpo``)."""
        settings, flat = self.goal.settings, advantages.flatten()
        if settings.estimator == "dpo":
            ratios = forward.sums(forward.logps - forward.reference).view_as(advantages)
            told = advantages.abs().sum(1) > 0
            return (pair_loss((advantages * ratios).sum(1), settings.beta) * told).mean()
        if settings.estimator == "rloo":
            sums = forward.sums(forward.old)
            losses = rloo_loss(forward.sums(forward.logps), sums, flat, settings.clip)
            if forward.drawn is not None:
                losses = self.weights(sums, forward.sums(forward.drawn)) * losses
            return losses.mean()
        losses = grpo_loss(
            forward.logps,
            forward.old,
            forward.reference,
            flat[forward.packed.responses],
            settings.beta,
            settings.clip,
        )
        if forward.drawn is not None:
            losses = self.weights(forward.old, forward.drawn) * losses
        return (forward.sums(losses) / forward.packed.lengths).mean()

    def apart(self, sampled: Sampled, part: slice, forward: Forward) -> Apart:
        """Return RLOO's loss of each objective alone, penalty included: their weighted sum is the loss at the preference."""
        goal, names = self.goal, self.goal.objectives
        log_ratios = forward.sums(forward.old - forward.reference).view(sampled.rewards[part].shape[:2])
        losses = []
        for one_hot in torch.eye(len(names), device=log_ratios.device):
            alone = combined(
                sampled.rewards[part],
                one_hot.expand(len(log_ratios), len(names)),
                goal.settings.aggregation,
            )
            losses.append(self.loss(forward, rloo_advantages(alone, log_ratios, goal.settings.beta)))
        weights = tuple(sampled.weights[0].tolist())
        return Apart(torch.stack(losses), weights, names, goal.conditioning.rule)

    def weights(self, old: Tensor, drawn: Tensor) -> Tensor:
        """Return the importance weights of what a server drew, of whole responses or of tokens, as the estimator's ratios are."""
        return importance(old, drawn, math.inf if self.goal.server is None else self.goal.server.ratio_cap)

    def importances(self, forward: Forward) -> dict[str, float]:
        """Return the metrics of what a server drew: the mean importance weight and the share of cut ones.

        A pair of ``dpo`` counts as it is, whoever drew it.
        """
        if forward.drawn is None or self.goal.settings.estimator == "dpo":
            return {}
        old, drawn = forward.old, forward.drawn
        if self.goal.settings.estimator == "rloo":
            old, drawn = forward.sums(old), forward.sums(drawn)
        weights = self.weights(old, drawn)
        cut = importance(old, drawn, math.inf) > weights
        return {"importance": float(weights.mean()), "capped": float(cut.float().mean())}
