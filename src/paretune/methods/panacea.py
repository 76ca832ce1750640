"""Panacea: one adapter for every preference, steered by its singular values.

Zhong et al. 2024 (arXiv 2402.02030). Every adapted matrix is W(w) = W0 + U diag(sigma_1..sigma_k, s w_1..s w_m) V.

    for t = 1..T:
        draw a preference w from the simplex and embed it in the singular values                     (Algorithm 1)
        for each objective i: L_i = its own loss on its own data under pi_w  (here DPO, SFT, or MODPO's)
        step on sum_i w_i L_i                                  (linear scalarisation, or the Tchebycheff forms)

Where the paper's choice is not known to us (k, the start, the ideal point, rates), the default is documented at its
setting. Preferences by row, several directions an objective and the smooth Tchebycheff form are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch

from paretune.core.errors import ConfigError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair, labelled_pairs, pairs
from paretune.fronts.indicators import STEERABLE
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.training.conditioned import ObjectiveData
from paretune.training.conditioning import Conditioning
from paretune.training.lab import Lab
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class PanaceaConfig(Conditioning):
    """Settings of Panacea, beside those of :class:`paretune.training.conditioned.Conditioning`.

    Attributes:
        beta: strength of DPO's KL penalty.
        data: ``separate``: every objective owns its pairs; ``labelled``: every pair counts for all objectives that label
            it. The policy gradient has data of its own: all responses with their scores.
        pairs: which pairs of a prompt's responses are used where they are separate.
    """

    beta: float = 0.1
    data: Literal["separate", "labelled"] = "separate"
    pairs: Choose = "extremes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss in ("sft", "modpo") and self.data == "labelled":
            raise ConfigError(
                f"loss: {self.loss} trains on each objective's own pairs, so it needs data: separate"
            )


def panacea(lab: Lab, train: ScoredDataset, validation: ScoredDataset, config: PanaceaConfig) -> Policy:
    """Return the policy of one adapter that serves every preference."""
    data = objective_data(lab, train, config, lab.train_table)
    held_out = objective_data(lab, validation, config, lab.pair_table)
    if config.loss == "modpo":
        rewards = [
            lab.fit(f"dpo-{name}", table, kept, config.beta, info={"method": "dpo", "objective": name})
            for name, table, kept in zip(data.objectives, data.pair_tables, held_out.pair_tables, strict=True)
        ]
        data, held_out = (with_margins(lab, part, rewards, config.beta) for part in (data, held_out))
    info = {"method": "panacea"}
    adapter = lab.fit_conditioned("panacea", data, held_out, config.beta, config, info)
    ratios = [ratio for ratio in adapter.info["steerability"].values() if ratio is not None]
    if ratios and median(ratios) < STEERABLE:
        lab.say(
            f"panacea: not steerable: the singular values that follow the preference are {median(ratios):.2g} of those that "
            "do not (median over modules); train longer, or raise gate_rate_factor"
        )
    return Policy.conditioned("panacea", lab.lm, train.objectives, adapter)


def objective_data(
    lab: Lab, dataset: ScoredDataset, config: PanaceaConfig, table: Callable[[Sequence[Pair]], PairTable]
) -> ObjectiveData:
    """Return the tables of pairs of every objective, or the one table that speaks for all; ``table`` makes them."""
    if config.loss == "policy-gradient":
        return ObjectiveData(dataset.objectives, (lab.response_table(dataset),), labelled=True)
    if config.data == "labelled":
        return ObjectiveData(dataset.objectives, (table(labelled_pairs(dataset)),), labelled=True)
    tables = [table(pairs(dataset, name, config.pairs)) for name in dataset.objectives]
    return ObjectiveData(dataset.objectives, tuple(tables))


def with_margins(lab: Lab, data: ObjectiveData, rewards: Sequence[Adapter], beta: float) -> ObjectiveData:
    """Return ``data`` with every pair's margin under each objective's implicit reward (one DPO adapter an objective)."""
    margins = [
        torch.stack([lab.implicit_gap(table, adapter, beta) for adapter in rewards], dim=1)
        for table in data.pair_tables
    ]
    return replace(data, margins=tuple(margins))
