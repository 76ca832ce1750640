"""DPO with loss weighting (DPO-LW): one adapter per preference, trained on the weighted sum of the objectives' DPO losses.

The baseline of MODPO (arXiv 2310.03708) and SIPO (arXiv 2502.14354). With D_j the pairs that objective j labels by
s_j in {+1, 0, -1}:

    L = sum_j w_j L(D_j)        L(D_j) = mean over D_j of -log sigmoid(beta Delta s_j) + nll * nats a token of what j prefers
                                                          + anchor * -log sigmoid(beta log(pi / pi_ref)) of what j prefers

A pair that several objectives label is read once and carries all their terms. The sum averages votes where MODPO averages
rewards, so on a conflicting pair the optimum is beta Delta = logit of the weight that prefers chosen.

With ``gradients`` other than linear a step does not go along sum_j w_j g_j, the gradient of L. RACO (arXiv 2602.02495):

    g_j = gradient of L(D_j),  g0 = sum_j w_j g_j
    lambda = argmin over the simplex of <g_lambda, g0> + c |g0| |g_lambda|,   g_lambda = sum_j lambda_j g_j
    lambda_j <- min(lambda_j, w_j)
    step along g0 + c |g0| g_lambda / |g_lambda|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from paretune.core.bounds import NotNegative, Positive, check_bounds
from paretune.core.errors import TrainingError
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.data.pairs import labelled_pairs
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.training.gradients import Correction, GradientRule, Rule, backward_passes
from paretune.training.loop import Training
from paretune.training.preference_pairs import PairLoss
from paretune.training.soft_labels import deviation_within, log_odds
from paretune.training.token_tables import PairTable
from paretune.training.votes import Votes, fit_votes


@dataclass(frozen=True)
class DPOLWConfig:
    """The settings of DPO-LW.

    Attributes:
        beta: Strength of the KL penalty.
        nll: Weight of imitating what an objective prefers, per mean nat of a token, as in ``dpo-soup``; 0 is the baseline.
        anchor: Weight of mDPO's anchor term of what an objective prefers, as in ``dpo-soup``; 0 is the baseline.
        soft: Log-odds of a label whose scores differ by one deviation, as in ``dpo-soup``; 0 is the baseline.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
        gradients: Way from the gradients of the objectives to one step, see :func:`paretune.training.gradients.coefficients`; any
            other than ``linear`` takes a backward pass for each objective with weight, and its log and report have the cosines
            between them.
        correction: c of ``raco`` and ``cagrad``: their largest correction, as a share of the length of the weighted gradient.
    """

    beta: Positive = 0.1
    nll: NotNegative = later(0.0)
    anchor: NotNegative = later(0.0)
    soft: NotNegative = later(0.0)
    between: BetweenAnchors = later("nearest")
    gradients: Rule = later("linear")
    correction: Correction = later(0.4)

    def __post_init__(self) -> None:
        check_bounds(self)
        self.rule.check()

    @property
    def loss(self) -> PairLoss:
        """The loss of a pair."""
        return PairLoss(self.beta, nll=self.nll, anchor=self.anchor)

    @property
    def rule(self) -> GradientRule:
        """How the gradients of the objectives become one."""
        return GradientRule(self.gradients, self.correction)


def train(inputs: Inputs, config: DPOLWConfig) -> Policy:
    """Return the policy with one DPO-LW adapter for each preference.

    Raises:
        TrainingError: An objective has weight and no labelled pair.
    """
    lab = inputs.lab
    table = lab.train_table(labelled_pairs(inputs.train))
    held_out = lab.pair_table(labelled_pairs(inputs.validation))
    labelled = ~np.isnan(np.array([pair.labels for pair in table.pairs])).all(0)
    for objective, known in zip(inputs.objectives, labelled.tolist(), strict=True):
        if not known and any(preference[objective] > 0 for preference in inputs.preferences):
            raise TrainingError(
                f"DPO-LW: the training data hold no pair that {objective!r} labels, and a preference gives it weight; "
                "add scores or labels for it, or leave it out of the objectives"
            )

    deviations = [deviation_within(inputs.train, name) for name in inputs.objectives] if config.soft else []

    def cast(part: PairTable, w: Preference) -> PairTable:
        return vote(part, w, soft_shares(part, deviations, config.soft) if config.soft else None)

    def fit(preference: Preference) -> Adapter:
        name, w = f"dpo-lw-{preference}", preference.over(inputs.objectives)
        tables, info = (
            (cast(table, w), cast(held_out, w)),
            {"method": "dpo-lw", "preference": preference.as_dict()},
        )
        if not config.rule.apart or max(w.weights) == 1:
            return lab.fit_pairs(name, *tables, config.loss, info)
        alone = [cast(table, Preference.one_hot(name, inputs.objectives)) for name in inputs.objectives]
        votes = Votes(tables[0], tuple(alone), w)
        return fit_votes(lab, name, votes, tables[1], config.loss, config.rule, info)

    adapters = [fit(preference) for preference in inputs.preferences]
    return Policy.anchors("dpo-lw", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def soft_shares(table: PairTable, deviations: Sequence[float], soft: float) -> np.ndarray:
    """Return the probability ``[N, M]`` that each objective prefers the chosen response; 0 where it has no label."""
    odds = [log_odds(table, m, deviation, soft).numpy() for m, deviation in enumerate(deviations)]
    return np.nan_to_num(expit(np.stack(odds, axis=1)))


def vote(table: PairTable, preference: Preference, shares: np.ndarray | None = None) -> PairTable:
    """Stamp each pair with the weight of "chosen is better" and that of "rejected is better".

    Objective j weighs ``w_j N / n_j`` on each of the n_j of N pairs that it labels, so the mean over all pairs is
    sum_j w_j L(D_j) with L(D_j) the mean over j's own pairs. A tie counts among its objective's pairs and adds nothing. A weight of
    the data is a factor of both; a margin of the data is that of the preferred response, and 0 where objectives disagree on it.

    ``shares`` are the probabilities ``[N, M]`` that objectives prefer chosen; None takes their labels as certain.
    """
    labels = np.array([pair.labels for pair in table.pairs])
    labelled = ~np.isnan(labels)
    weights = preference.array() * (len(labels) / np.maximum(labelled.sum(0), 1))
    signs = np.sign(np.nan_to_num(labels))
    one_way = torch.from_numpy(np.where((signs < 0).any(1), np.where((signs > 0).any(1), 0, -1), 1))
    chosen, rejected = (signs > 0, signs < 0) if shares is None else (shares, labelled * (1 - shares))
    return table.stamp(
        weight=torch.from_numpy((weights * chosen).sum(1)) * table.weight,
        reversed_weight=torch.from_numpy((weights * rejected).sum(1)) * table.weight,
        margin=table.margin * one_way + 0.0,  # -0.0 is other bytes than 0.0, and so another key of the stage
    )


def work(run: Work, name: str, config: DPOLWConfig, training: Training) -> list[Stage]:
    """Return the stage that reads the labelled pairs by the base model and trains the adapters."""
    table, held_out = run.labelled("train"), run.labelled("validation")
    reference = (
        *run.scored("base", "train", "labelled", table, 0, training.draws),
        *run.scored("base", "validation", "labelled", held_out, 0),
    )
    mean = sum(backward_passes(w, config.rule) for w in run.preferences) / len(run.preferences)
    fits = Fits(training, table, training.rank, len(run.preferences), held_out, backwards=mean)
    return [run.trained(f"train: {name}", "one per preference", fits, reference)]


METHOD = Method(
    DPOLWConfig,
    train,
    work,
    Card(
        title="DPO loss weighting",
        paper="baseline in arXiv 2310.03708 and arXiv 2502.14354",
        needs="pairs labelled by one or more objectives",
        runs="N",
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits=lambda config: Traits("preference", separable=True, beta=config.beta, between=config.between),
)
