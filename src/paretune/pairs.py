"""Pairs of responses to one prompt: chosen and rejected for one objective, labels of all, and where they
conflict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from paretune.dataset import ScoredDataset
from paretune.errors import DataError, suggest
from paretune.rows import Prompt, Row

Choose = Literal["extremes", "all", "adjacent"]


@dataclass(frozen=True)
class Pair:
    """Two different responses to one prompt, and what every objective of the data set says of them.

    ``gaps[m]`` is score(chosen) - score(rejected) on objective m, NaN when a score is missing. ``labels[m]``
    is above 0 when objective m prefers the chosen response, below 0 when it prefers the rejected one, 0 for a
    tie, NaN when it says nothing: the human comparison (mean strength in [-1, 1]) where there is one, else
    the sign of the score gap. ``row``, ``chosen_index`` and ``rejected_index`` say where in the data set;
    ``objective`` is "" in labelled pairs.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    objective: str
    row: int
    chosen_index: int
    rejected_index: int
    chosen_truncated: bool
    rejected_truncated: bool
    gaps: tuple[float, ...]
    labels: tuple[float, ...]


def pairs(
    dataset: ScoredDataset, objective: str, choose: Choose = "extremes", min_gap: float = 0.0
) -> list[Pair]:
    """Return the (chosen, rejected) pairs of one objective, in the order of the rows.

    A row with human comparisons on the objective is paired by these (gap: strength p in (0, 1]), any other by
    its scores (gap: their difference, in the scale of the scores). Ties, equal texts and gaps below
    ``min_gap`` are dropped, and a truncated response is never the chosen one. ``choose`` takes from each row
    the pair of the largest gap (among equals the one with most other comparisons won and lost, then the
    first), all pairs, or those with no response in between.

    Raises:
        DataError: an objective the data does not have, or a negative ``min_gap``.
    """
    if objective not in dataset.objectives:
        raise DataError(f"unknown objective {objective!r}; {suggest(objective, dataset.objectives)}")
    if choose not in get_args(Choose):
        raise DataError(f"unknown choice of pairs {choose!r}; {suggest(choose, get_args(Choose))}")
    if not min_gap >= 0:
        raise DataError(f"min_gap {min_gap} is not a number of at least 0")
    found = []
    for position, row in enumerate(dataset.rows):
        gaps = _gaps(row, objective)
        ordered = [
            (a, b)
            for a in range(len(row.responses))
            for b in range(len(row.responses))
            if gaps[a, b] > 0 and gaps[a, b] >= min_gap and row.responses[a] != row.responses[b]
        ]
        if choose == "adjacent":
            better = gaps > 0
            ordered = [(a, b) for a, b in ordered if not np.any(better[a, :] & better[:, b])]
        ordered = [(a, b) for a, b in ordered if not row.truncated[a]]
        if choose == "extremes" and ordered:
            wins = np.sum(gaps > 0, axis=1) - np.sum(gaps < 0, axis=1)
            ordered = [
                max(ordered, key=lambda pair: (gaps[pair], wins[pair[0]] - wins[pair[1]], -pair[0], -pair[1]))
            ]
        if ordered:
            scores, labels = dataset.matrix(row), _labels(row, dataset.objectives)
            found += [_pair(row, position, a, b, objective, scores, labels) for a, b in ordered]
    return found


def labelled_pairs(dataset: ScoredDataset) -> list[Pair]:
    """Return every pair that at least one objective labels, the first response as ``chosen``, equal texts
    dropped.

    Ties stay (label 0) and so do truncated responses: the labels may point either way, so this is for losses
    that take each objective's label (DPO with loss weighting), not for one that trusts ``chosen``.
    """
    found = []
    for position, row in enumerate(dataset.rows):
        scores, labels = dataset.matrix(row), _labels(row, dataset.objectives)
        found += [
            _pair(row, position, a, b, "", scores, labels)
            for a, b in combinations(range(len(row.responses)), 2)
            if row.responses[a] != row.responses[b] and not np.all(np.isnan(labels[:, a, b]))
        ]
    return found


def conflict_matrix(dataset: ScoredDataset) -> np.ndarray:
    """Return [M, M]: the share of pairs on which objectives i and j disagree, of those both strictly label;
    else NaN.
    """
    count = len(dataset.objectives)
    both, against = np.zeros((count, count)), np.zeros((count, count))
    for row in dataset.rows:
        upper = [
            (a, b)
            for a, b in combinations(range(len(row.responses)), 2)
            if row.responses[a] != row.responses[b]
        ]
        if upper:
            first, second = zip(*upper, strict=True)
            signs = np.sign(
                np.nan_to_num(_labels(row, dataset.objectives)[:, first, second])
            )  # [M, pairs], 0: no say
            both += np.abs(signs) @ np.abs(signs).T
            against += (np.abs(signs) @ np.abs(signs).T - signs @ signs.T) / 2
    return np.divide(against, both, out=np.full_like(both, np.nan), where=both > 0)


def _pair(
    row: Row, position: int, a: int, b: int, objective: str, scores: np.ndarray, labels: np.ndarray
) -> Pair:
    return Pair(
        prompt=row.prompt,
        chosen=row.responses[a],
        rejected=row.responses[b],
        objective=objective,
        row=position,
        chosen_index=a,
        rejected_index=b,
        chosen_truncated=row.truncated[a],
        rejected_truncated=row.truncated[b],
        gaps=tuple((scores[a] - scores[b]).tolist()),
        labels=tuple(labels[:, a, b].tolist()),
    )


def _compared(row: Row, objective: str) -> np.ndarray:
    """Return [K, K]: mean strength with which people prefer response a to b, NaN where they did not compare
    them.
    """
    count = len(row.responses)
    total, times = np.zeros((count, count)), np.zeros((count, count))
    for a, b, p in row.labels.get(objective, ()):
        total[a, b] += p
        total[b, a] -= p
        times[a, b] += 1
        times[b, a] += 1
    return np.divide(total, times, out=np.full_like(total, np.nan), where=times > 0)


def _score_gaps(row: Row, objective: str) -> np.ndarray:
    """Return [K, K]: score of a less score of b, NaN where one is missing."""
    scores = np.array(row.scores.get(objective, (math.nan,) * len(row.responses)))
    return scores[:, None] - scores[None, :]


def _gaps(row: Row, objective: str) -> np.ndarray:
    return _compared(row, objective) if objective in row.labels else _score_gaps(row, objective)


def _labels(row: Row, objectives: tuple[str, ...]) -> np.ndarray:
    """Return [M, K, K]: what each objective says of a against b (see `Pair`)."""
    labels = np.full((len(objectives), len(row.responses), len(row.responses)), np.nan)
    for m, objective in enumerate(objectives):
        compared = _compared(row, objective)
        labels[m] = np.where(np.isnan(compared), np.sign(_score_gaps(row, objective)), compared)
    return labels
