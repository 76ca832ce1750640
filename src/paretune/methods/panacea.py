"""Panacea: one adapter for every preference, steered by its singular values.

Zhong et al. 2024 (arXiv 2402.02030). Every adapted matrix is W(w) = W0 + U diag(sigma_1..sigma_k, s w_1..s w_m) V.

    for t = 1..T:
        draw a preference w from the simplex and embed it in the singular values                     (Algorithm 1)
        for each objective i: L_i = its own loss on its own data under pi_w  (here DPO, or SFT)
        step on sum_i w_i L_i                                  (linear scalarisation, or the Tchebycheff forms)

Where the paper's choice is not known to us (k, the start, the ideal point, rates), the default is documented at its
setting. Preferences by row, several directions an objective and the smooth Tchebycheff form are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

from paretune.conditioned import Conditioning, ObjectiveData
from paretune.errors import ConfigError
from paretune.figures import STEERABLE
from paretune.lab import Lab
from paretune.pairs import Choose, labelled_pairs, pairs
from paretune.policy import Policy
from paretune.rows import ScoredDataset


@dataclass(frozen=True)
class PanaceaConfig(Conditioning):
    """Settings of Panacea, beside those of :class:`paretune.conditioned.Conditioning`.

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
        if self.loss == "sft" and self.data == "labelled":
            raise ConfigError(
                "loss: sft imitates each objective's chosen responses, so it needs data: separate"
            )


def panacea(lab: Lab, train: ScoredDataset, validation: ScoredDataset, config: PanaceaConfig) -> Policy:
    """Return the policy of one adapter that serves every preference."""
    data, held_out = (objective_data(lab, part, config) for part in (train, validation))
    info = {"method": "panacea"}
    adapter = lab.fit_conditioned("panacea", data, held_out, config.beta, config, info)
    ratios = [ratio for ratio in adapter.info["steerability"].values() if ratio is not None]
    if ratios and median(ratios) < STEERABLE:
        lab.say(
            f"panacea: not steerable: the singular values that follow the preference are {median(ratios):.2g} of those that "
            "do not (median over modules); train longer, or raise gate_rate_factor"
        )
    return Policy.conditioned("panacea", lab.lm, train.objectives, adapter)


def objective_data(lab: Lab, dataset: ScoredDataset, config: PanaceaConfig) -> ObjectiveData:
    """Return the tables of pairs of every objective, or the one table that speaks for all."""
    if config.loss == "policy-gradient":
        return ObjectiveData(dataset.objectives, (lab.response_table(dataset),), labelled=True)
    if config.data == "labelled":
        return ObjectiveData(dataset.objectives, (lab.pair_table(labelled_pairs(dataset)),), labelled=True)
    tables = [lab.pair_table(pairs(dataset, name, config.pairs)) for name in dataset.objectives]
    return ObjectiveData(dataset.objectives, tuple(tables))
