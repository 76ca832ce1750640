"""SPO: sequential preference optimization, one objective after the other and without reward models.

Lou et al. 2024 (arXiv 2405.12739). Objectives o_1, .., o_M stand in an order, each with pairs D_n; Delta is the difference between
chosen and rejected:

    1. pi_1: DPO on D_1 from pi_ref; it implies r_1 = beta log(pi_1 / pi_ref)
    2. round n, from pi_{n-1} and towards max E[r_n] + sum_{i<n} lambda_i E[r_i] - beta KL(pi || pi_{n-1}): fine-tune on D_n with
           L = -log sigmoid( beta Delta log(pi / pi_{n-1}) - sum_{i<n} lambda_i Delta r_i )
       it implies r_n = beta log(pi_n / pi_{n-1}) - sum_{i<n} lambda_i r_i

So a round is MODPO with the rounds before as margin models and the last of them as reference (coefficients derived; the paper's
full text was not at hand). A preference w gives lambda_i = w_i / w_n, and an objective without weight has no round; so the front is
a front over lambda, and one-hot preferences are DPO. For equal weights of two objectives the optimum is pi_ref exp((2 r_1 + r_2) /
beta): the reference keeps what the rounds before have learned, so earlier objectives count more than their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor

from paretune.core.errors import ConfigError, suggest
from paretune.core.preference import Preference
from paretune.core.settings import later
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.work import Fits, Stage, Work
from paretune.policies.gating import BetweenAnchors
from paretune.policies.policy import Policy
from paretune.training.loop import Training
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class SPOConfig(DPOConfig):
    """The settings of SPO, beside those of DPO, which hold in every round.

    Attributes:
        order: Objectives in the order of their rounds, all of them; empty is the order of the run. What matters most comes first.
        min_weight: Smallest w_n as a share of the weights up to round n; below it lambda saturates the loss.
        between: What answers at a preference without an adapter: the ``nearest`` one, or a ``soup`` of those around it, which is
            marked as interpolated.
    """

    order: tuple[str, ...] = ()
    min_weight: Annotated[float, Gt(0), Le(1)] = 0.05
    between: BetweenAnchors = later("nearest")


@dataclass(frozen=True)
class Round:
    """A round of a preference.

    Attributes:
        preference: The weights up to this round, as shares.
        objective: The objective of the round.
        lambdas: Objective -> lambda of the rounds before.
    """

    preference: Preference
    objective: str
    lambdas: dict[str, float]


def rounds(preference: Preference, order: Sequence[str]) -> list[Round]:
    """Return the rounds of a preference, in order: one for each objective with weight."""
    weights = {name: preference[name] for name in order if preference[name] > 0}
    found = []
    for n, name in enumerate(weights, 1):
        before = dict(list(weights.items())[:n])
        total = sum(before.values())
        shares = {other: before.get(other, 0.0) / total for other in preference.objectives}
        lambdas = {other: weight / weights[name] for other, weight in before.items() if other != name}
        found.append(Round(Preference.of(shares, preference.objectives), name, lambdas))
    return found


def train(inputs: Inputs, config: SPOConfig) -> Policy:
    """Return the policy with one adapter for each preference, that of its last round.

    Raises:
        ConfigError: A preference whose w_n is below ``min_weight``, or an order that does not name the objectives.
    """
    lab, order = inputs.lab, config.order or inputs.objectives
    check(config, inputs.objectives, inputs.preferences)
    first = dict(zip(inputs.objectives, inputs.corners(config.single), strict=True))
    done: dict[str, Adapter] = {}

    def fit(so_far: Sequence[Round]) -> Adapter:
        *before, last = so_far
        if not before:
            return first[last.objective]
        if (name := f"spo-{last.preference}") not in done:
            models = [fit(so_far[:n]) for n in range(1, len(so_far))]
            table, held_out = (
                next_round(part, [lab.logps(part, model) for model in models], so_far, config.beta)
                for part in inputs.tables(last.objective, config)
            )
            info = {
                "method": "spo",
                "preference": last.preference.as_dict(),
                "objective": last.objective,
                "lambdas": last.lambdas,
            }
            done[name] = lab.fit_pairs(name, table, held_out, config.loss, info, models[-1])
        return done[name]

    adapters = [fit(rounds(preference, order)) for preference in inputs.preferences]
    return Policy.anchors("spo", lab.lm, inputs.objectives, adapters, inputs.preferences, config.between)


def next_round(table: PairTable, before: Sequence[Tensor], so_far: Sequence[Round], beta: float) -> PairTable:
    """Stamp the pairs of round n: their margins, and the log-probabilities of the round before as those of the reference.

    A margin of the data is one of the round's objective, in the units of its reward.

    Args:
        table: N pairs of the round's objective.
        before: Log-probabilities ``[N, 2]`` of chosen and rejected under the models of the n - 1 rounds before, in nats.
        so_far: The n rounds.
        beta: Strength of the KL penalty in each of them.
    """
    rewards: dict[str, Tensor] = {}
    reference = table.reference
    for model, made in zip(before, so_far, strict=False):
        ratios = model - reference
        gap = beta * (ratios[:, 0] - ratios[:, 1])
        rewards[made.objective] = gap - weighted(made.lambdas, rewards, gap)
        reference = model
    margin = weighted(so_far[-1].lambdas, rewards, table.margin) + table.margin
    return replace(table, reference=reference).stamp(margin=margin)


def weighted(lambdas: dict[str, float], rewards: dict[str, Tensor], like: Tensor) -> Tensor:
    """Return ``sum_i lambda_i r_i`` ``[N]``; zeros as ``like`` where there are none."""
    return sum((factor * rewards[name] for name, factor in lambdas.items()), torch.zeros_like(like))


def work(run: Work, name: str, config: SPOConfig, training: Training) -> list[Stage]:
    """Return the stages that train the single-objective models, read pairs by the rounds before, and train the others."""
    stages = run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)
    order, trained, read = config.order or tuple(run.objectives), 0, list[Passes]()
    for preference in run.preferences:
        so_far = rounds(preference, order)
        for n, last in list(enumerate(so_far))[1:]:
            if not run.once("spo", str(last.preference), order, config.single, training):
                continue
            trained += 1
            for before in so_far[:n]:
                model: tuple[Any, ...] = (
                    "spo",
                    str(before.preference),
                    order,
                    config.beta,
                    config.pairs,
                    training,
                )
                if not before.lambdas:
                    model = ("dpo", before.objective, config.beta, config.pairs, training)
                for part, limit in (("train", training.draws), ("validation", None)):
                    texts = run.pair_texts(part, last.objective, config.pairs)
                    read += run.scored(
                        model, part, (last.objective, config.pairs), texts, training.rank, limit
                    )
    if read:
        stages.append(Stage("margins", "log-probabilities of the rounds before, kept", tuple(read)))
    if trained:
        table, held_out = (
            run.pair_texts(part, run.objectives[0], config.pairs) for part in ("train", "validation")
        )
        fits = Fits(training, table, training.rank, trained, held_out)
        stages.append(run.trained(f"train: {name}", "one per round after the first", fits))
    return stages


def check(config: SPOConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Check that the order names each objective once, and that no lambda is too large.

    Raises:
        ConfigError: It does not, or one is.
    """
    order = config.order or tuple(objectives)
    for name in order:
        if name not in objectives:
            raise ConfigError(f"order: unknown objective {name!r}; {suggest(name, objectives)}")
    if sorted(order) != sorted(objectives):
        raise ConfigError(
            f"order: {', '.join(order)}; expected each of {', '.join(objectives)} once, as each has a round"
        )
    for preference in preferences:
        for made in rounds(preference, order):
            share = made.preference[made.objective]
            if share < config.min_weight:
                raise ConfigError(
                    f"SPO at {preference}: {made.objective!r} has the share {share:g} of the weights up to its round, below "
                    f"min_weight {config.min_weight:g}, and the margin is divided by it; put it earlier in order:, or leave the "
                    "preference out"
                )


METHOD = Method(
    SPOConfig,
    train,
    work,
    Card(
        title="SPO",
        paper="arXiv 2405.12739",
        needs="pairs for each objective, and an order of the objectives",
        runs="M + up to M - 1 for each preference that is not one-hot",
        enters="gates: one adapter per preference, the nearest is used",
        family="pairs",
    ),
    traits=lambda config: Traits(
        "preference",
        separable=True,
        corners=config.single,
        beta=config.beta,
        between=config.between,
    ),
    check=check,
)
