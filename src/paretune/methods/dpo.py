"""DPO, one adapter per objective, and the exact soup of them (DPO soups).

Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7; Rame et al. 2023, Rewarded Soups (arXiv 2306.04488): train one policy per objective
from the same start and serve theta_0 + sum_j w_j (theta_j - theta_0). The update of a soup here is the sum of the low-rank updates,
sum_j w_j s_j B_j A_j; averaging A and B apart, as released scripts do, is something else.
"""

from __future__ import annotations

from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.planning.work import Stage, Work
from paretune.policies.policy import Policy
from paretune.training.loop import Training


def train(inputs: Inputs, config: DPOConfig) -> Policy:
    """Return the policy that adds the updates of one DPO adapter per objective, weighted by the preference."""
    return Policy.soup("dpo-soup", inputs.lab.lm, inputs.objectives, inputs.corners(config))


def work(run: Work, name: str, config: DPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the adapters."""
    return run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)


METHOD = Method(
    DPOConfig,
    train,
    work,
    Card(
        title="DPO soups",
        paper="arXiv 2306.04488 (soups), arXiv 2305.18290 (DPO)",
        needs="pairs for each objective",
        runs="M",
        enters="gates: the sum of one update per objective, weighted by the preference",
        family="pairs",
    ),
    traits=lambda config: Traits(corners=config, beta=config.beta),
    grows=True,
    lends_corners=True,
)
