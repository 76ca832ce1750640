"""Panacea: one adapter for every preference, steered by its singular values.

Zhong et al. 2024 (arXiv 2402.02030). Every adapted matrix is W(w) = W0 + U diag(sigma_1..sigma_k, s w_1..s w_m) V.

    for t = 1..T:
        draw a preference w from the simplex and embed it in the singular values                     (Algorithm 1)
        for each objective i: L_i = its own loss on its own data under pi_w  (here DPO, SFT, or MODPO's)
        step on sum_i w_i L_i                                  (linear scalarisation, or the Tchebycheff forms)
        or along what ``gradients`` makes of the gradients of all L_i                                (RACO and others, ours)

Where the paper's choice is not known to us (k, the start, the ideal point, rates), the default is documented at its
setting. Preferences by row, several directions per objective and the smooth Tchebycheff form are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch

from paretune.core.bounds import Positive
from paretune.core.errors import ConfigError
from paretune.core.preference import Preference, simplex_grid
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair, labelled_pairs
from paretune.fronts.indicators import STEERABLE
from paretune.methods.base import Card, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.cost import Passes
from paretune.planning.lengths import Texts
from paretune.planning.work import Fits, Stage, Work, reading
from paretune.policies.policy import Policy
from paretune.training.conditioned import VALIDATED, ObjectiveData
from paretune.training.conditioning import Conditioning, draw_preferences, mean_backward_passes
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.token_tables import PairTable

DRAWS = 2000
"""Preferences that are drawn to see how many objectives a batch trains."""


@dataclass(frozen=True)
class PanaceaConfig(Conditioning):
    """The settings of Panacea, beside those of :class:`paretune.training.conditioned.Conditioning`.

    Attributes:
        beta: Strength of DPO's KL penalty.
        data: Owner of the pairs. ``separate``: every objective has its own; ``labelled``: every pair counts for all that label
            it. The policy gradient has data of its own: all responses with their scores.
        pairs: Choice of the pairs of a prompt's responses, where they are separate.
    """

    beta: Positive = 0.1
    data: Literal["separate", "labelled"] = "separate"
    pairs: Choose = "extremes"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_means()
        self.check_worst()
        if self.loss in ("sft", "modpo") and self.data == "labelled":
            raise ConfigError(
                f"loss: {self.loss} trains on each objective's own pairs, so it needs data: separate"
            )

        if self.contrast and self.data == "labelled":
            raise ConfigError(
                "contrast with data: labelled: a pair of all objectives has no one objective whose preference is the right one; "
                "use data: separate"
            )

    @property
    def separate(self) -> bool:
        """Whether every objective has a table of pairs of its own."""
        return self.loss != "policy-gradient" and self.data == "separate"


def train(inputs: Inputs, config: PanaceaConfig) -> Policy:
    """Return the policy of one adapter that serves every preference."""
    lab = inputs.lab
    data = objective_data(lab, inputs.train, config, lab.train_table)
    held_out = objective_data(lab, inputs.validation, config, lab.pair_table)
    if config.loss == "modpo":
        rewards = [
            lab.fit(f"dpo-{name}", table, kept, config.beta, info={"method": "dpo", "objective": name})
            for name, table, kept in zip(data.objectives, data.pair_tables, held_out.pair_tables, strict=True)
        ]
        data, held_out = (with_margins(lab, part, rewards, config.beta) for part in (data, held_out))
    adapter = lab.fit_conditioned("panacea", data, held_out, config.beta, config, {"method": "panacea"})
    ratios = [ratio for ratio in adapter.info["steerability"].values() if ratio is not None]
    if ratios and median(ratios) < STEERABLE:
        lab.say(
            f"panacea: not steerable: the singular values that follow the preference are {median(ratios):.2g} of those that "
            "do not (median over modules); train longer, or raise gate_rate_factor"
        )
    return Policy.conditioned("panacea", lab.lm, inputs.objectives, adapter)


def objective_data(
    lab: Lab, dataset: ScoredDataset, config: PanaceaConfig, table: Callable[[Sequence[Pair], str], PairTable]
) -> ObjectiveData:
    """Return the table of pairs of every objective, or the one table for all objectives; ``table`` makes a table of pairs."""
    if config.loss == "policy-gradient":
        return ObjectiveData(dataset.objectives, (lab.response_table(dataset),), labelled=True)
    if config.data == "labelled":
        return ObjectiveData(dataset.objectives, (table(labelled_pairs(dataset), ""),), labelled=True)
    tables = [table(lab.pairs(dataset, name, config.pairs), name) for name in dataset.objectives]
    return ObjectiveData(dataset.objectives, tuple(tables))


def with_margins(lab: Lab, data: ObjectiveData, rewards: Sequence[Adapter], beta: float) -> ObjectiveData:
    """Return ``data`` with every pair's margin under each objective's implicit reward (one DPO adapter per objective)."""
    margins = [
        torch.stack([lab.implicit_gap(table, adapter, beta) for adapter in rewards], dim=1)
        for table in data.pair_tables
    ]
    return replace(data, margins=tuple(margins))


def work(run: Work, name: str, config: PanaceaConfig, training: Training) -> list[Stage]:
    """Return the stages that train the reward models (for MODPO's loss), read the data by them and the base model, and train."""
    stages = run.corners(config.beta, config.pairs, training) if config.loss == "modpo" else []
    table, held_out = (texts_of(run, part, config, run.objectives[0]) for part in ("train", "validation"))
    read = [*scoring(run, "train", config, training), *scoring(run, "validation", config, training)]
    if config.loss == "sft":
        table, held_out = replace(table, responses=1.0), replace(held_out, responses=1.0)
    M, groups, spread = len(run.objectives), float(training.batch_pairs), 0.0
    if config.separate:
        groups, spread = forward_groups(config, training, M)
    tables = M if config.separate else 1
    if config.contrast:
        table = with_contrast(table, contrast_groups(config, training, M) / max(groups, 1e-9))
        held_out = with_contrast(held_out, float((simplex_grid(M, VALIDATED) > 0).mean()))
    backwards = mean_backward_passes(config, M)
    fits = Fits(training, table, config.columns(M), 1, held_out, tables, groups, spread, backwards)
    what = f"for all preferences, {groups:.2g} groups per forward"
    return [*stages, run.trained(f"train: {name}", what, fits, read)]


def texts_of(run: Work, part: str, config: PanaceaConfig, objective: str) -> Texts:
    """Return what an objective trains on: all responses, pairs of its own, or all labelled pairs."""
    if config.loss == "policy-gradient":
        return run.demonstrations(part)
    return run.pair_texts(part, objective, config.pairs) if config.separate else run.labelled(part)


def scoring(run: Work, part: str, config: PanaceaConfig, training: Training) -> list[Passes]:
    """Return the forwards of the base model, and of the reward models of MODPO's loss, over the data of all objectives."""
    most = training.draws if part == "train" else None
    if config.loss == "policy-gradient":
        return [reading(texts_of(run, part, config, run.objectives[0]), 0)]
    read: list[Passes] = []
    for objective in run.objectives if config.separate else run.objectives[:1]:
        texts = texts_of(run, part, config, objective)
        table = (objective, config.pairs) if config.separate else "labelled"
        read += run.scored("base", part, table, texts, 0, most)
        for j in run.objectives if config.loss == "modpo" else []:
            model = ("dpo", j, config.beta, config.pairs, training)
            read += run.scored(model, part, table, texts, training.rank, most)
    return read


def forward_groups(config: PanaceaConfig, training: Training, objectives: int) -> tuple[float, float]:
    """Return the mean number of groups in a forward, one for each row and objective that it trains, and its standard deviation.

    Under the linear form an objective of weight 0 is not run.
    """
    rows = training.batch_pairs
    if config.aggregation != "linear":
        return float(rows * objectives), 0.0
    counts = (draw_preferences(config, DRAWS, objectives, [training.seed]) > 0).sum(1)
    alike = rows if config.per == "batch" else rows**0.5
    return float(rows * counts.mean()), float(alike * counts.std())


def contrast_groups(config: PanaceaConfig, training: Training, objectives: int) -> float:
    """Return the mean number of chosen responses in a forward that are read again: one for each row and objective with weight."""
    counts = (draw_preferences(config, DRAWS, objectives, [training.seed]) > 0).sum(1)
    return float(training.batch_pairs * counts.mean())


def with_contrast(texts: Texts, share: float) -> Texts:
    """Return groups that read, for a ``share`` of them, the prompt and one response again; attention counts a little too high."""
    more = replace(texts, prompt=texts.prompt * (1 + share), responses=texts.responses + share)
    return replace(more, spread=texts.spread * more.tokens / max(texts.tokens, 1.0))


def check(config: PanaceaConfig, objectives: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Raise a ConfigError where preferences are to be contrasted and there is one."""
    if config.contrast and len(objectives) < 2:
        raise ConfigError(
            f"contrast: the run has the objective {objectives[0]!r} alone, so no preference is wrong; leave contrast out, or "
            "add an objective"
        )


METHOD = Method(
    PanaceaConfig,
    train,
    work,
    Card(
        title="Panacea",
        paper="arXiv 2402.02030",
        needs="pairs for each objective, or pairs labelled by all",
        runs="1",
        enters="gates: the singular values of one update, of which one per objective follows the preference",
        family="pairs",
    ),
    traits=lambda config: Traits("all", conditioning=config, beta=config.beta),
    check=check,
)
