"""Labels as probabilities: how sure it is which response of a pair an objective prefers, by the gap between their scores.

A loss on certain labels has no finite optimum: it falls for as long as the policy moves apart two responses of which one is always
preferred, and MODPO's margins only set where it starts. With labels ``p = sigmoid(soft * gap / deviation)``, the cross-entropy
``p l(z) + (1 - p) l(-z)`` is least where ``z = soft * gap / deviation``: DPO's implicit reward is then the score, and MODPO's the
weighted sum of the scores. This is reward-aware preference optimization with the divergence of two Bernoulli distributions
(Nemotron-4 340B, arXiv 2406.11704).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from paretune.data.dataset import ScoredDataset
from paretune.training.token_tables import PairTable


def deviation_within(dataset: ScoredDataset, objective: str) -> float:
    """Return the standard deviation of an objective's scores among the responses to a prompt, in units of score.

    It is over the responses beyond the first to each prompt that are all scored; NaN where there are none, or none differ.
    """
    squares, freedom = 0.0, 0
    for row in dataset.rows:
        scores = row.scores.get(objective, ())
        if len(scores) > 1 and not any(map(math.isnan, scores)):
            mean = math.fsum(scores) / len(scores)
            squares += math.fsum((score - mean) ** 2 for score in scores)
            freedom += len(scores) - 1
    return math.sqrt(squares / freedom) if squares > 0 else math.nan


def log_odds(table: PairTable, position: int, deviation: float, soft: float) -> Tensor:
    """Return the log-odds fp64 ``[N]`` that an objective prefers the chosen response of each pair.

    Where scores are missing people's comparisons decide: a mean s in [-1, 1] is the probability (1 + s) / 2.

    Args:
        table: N pairs.
        position: That of the objective among those of the data.
        deviation: See :func:`deviation_within`.
        soft: Log-odds of a gap of one deviation, > 0.
    """
    gaps = torch.tensor([pair.gaps[position] for pair in table.pairs], dtype=torch.float64)
    strengths = torch.tensor([pair.labels[position] for pair in table.pairs], dtype=torch.float64)
    voted = torch.logit((1 + strengths) / 2)
    return torch.where(gaps.isnan() | math.isnan(deviation), voted, soft * gaps / deviation)


def soften(table: PairTable, odds: Tensor) -> PairTable:
    """Return the table with each label as a probability; a weight of the data is a factor of both sides.

    Args:
        table: N pairs, each with the weight of its data.
        odds: Log-odds ``[N]`` that the chosen response is preferred, infinite where that is certain.
    """
    chosen = torch.sigmoid(odds).float()
    return table.stamp(weight=table.weight * chosen, reversed_weight=table.weight * (1 - chosen))


def label_odds(table: PairTable) -> Tensor:
    """Return the log-odds ``[N]`` that a table's weights give its chosen responses: infinite where certain, 0 without weight."""
    odds = table.weight.double().log() - table.reversed_weight.double().log()
    return odds.nan_to_num(0.0, math.inf, -math.inf)


def imitating(table: PairTable, odds: Tensor) -> PairTable:
    """Return the table with what the terms beside its loss take as preferred: chosen with the log-odds ``[N]`` given."""
    return replace(table, preferred=torch.sigmoid(odds).float())
