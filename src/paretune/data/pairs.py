"""Pairs of responses to one prompt: chosen and rejected for one objective, the labels of all, and their conflicts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal, get_args, overload

import numpy as np

from paretune.core.errors import DataError, suggest
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import ArrowRows, taken
from paretune.data.rows import Prompt, Row

Choose = Literal["extremes", "all", "adjacent"]

BLOCK_ROWS = 1024
"""Rows whose conflicts are counted together."""
MOST_SIGNS = 1 << 20
"""Places of a K x K table of each row that are worked out at a time."""


@dataclass(frozen=True)
class Pair:
    """Two different responses to one prompt, and the label of every objective of the data set.

    ``gaps[m]`` is score(chosen) - score(rejected) on objective m, NaN when a score is missing. ``labels[m]``
    is above 0 when objective m prefers the chosen response, below 0 when it prefers the rejected one, 0 for a
    tie, NaN when it has no label: the human comparison (mean strength in [-1, 1]) where there is one, else
    the sign of the score gap. ``row``, ``chosen_index`` and ``rejected_index`` are its position in the data set;
    ``objective`` is "" in labelled pairs. ``weight`` and ``margin`` are those of the row.
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
    weight: float = 1.0
    margin: float = 0.0


def pairs(
    dataset: ScoredDataset,
    objective: str,
    choose: Choose = "extremes",
    min_gap: float = 0.0,
    among: Callable[[int, Row], Sequence[int]] | None = None,
) -> Sequence[Pair]:
    """Return the (chosen, rejected) pairs of one objective, in the order of the rows.

    The result is a list, or for data in a file a sequence that makes each pair when it is read.

    A row with human comparisons on the objective is paired by these (gap: strength p in (0, 1]), any other by
    its scores (gap: their difference, in the scale of the scores). Ties, equal texts and gaps below
    ``min_gap`` are dropped, and a truncated response is never the chosen one. ``choose`` takes from each row
    the pair of the largest gap (among equals the one with most other comparisons won and lost, then the
    first), all pairs, or those with no response in between. ``among`` takes the number of a row and the row, and
    returns the responses that count; the others are as if they were not there.

    Raises:
        DataError: An objective the data does not have, or a negative ``min_gap``.
    """
    if objective not in dataset.objectives:
        raise DataError(f"unknown objective {objective!r}; {suggest(objective, dataset.objectives)}")
    if choose not in get_args(Choose):
        raise DataError(f"unknown choice of pairs {choose!r}; {suggest(choose, get_args(Choose))}")
    if not min_gap >= 0:
        raise DataError(f"min_gap {min_gap} is not a number of at least 0")
    places = array("q")
    for position, row in enumerate(dataset.rows):
        responses = among(position, row) if among else None
        for a, b in _chosen(row, objective, choose, min_gap, responses):
            places.extend((position, a, b))
    return _made(dataset, objective, places)


def widest_pair(
    dataset: ScoredDataset, objective: str, position: int, responses: Sequence[int]
) -> Pair | None:
    """Return the pair that :func:`pairs` takes as ``extremes`` from some responses of one row; None where there is none."""
    places = _chosen(dataset.rows[position], objective, "extremes", 0.0, responses)
    return next(iter(_made(dataset, objective, array("q", (position, *places[0])))), None) if places else None


def _chosen(
    row: Row, objective: str, choose: Choose, min_gap: float, among: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Return (chosen, rejected) of the pairs of a row, or of some of its responses."""
    gaps = _gaps(row, objective)
    among = range(len(row.responses)) if among is None else among
    ordered = [
        (a, b)
        for a in among
        for b in among
        if gaps[a, b] > 0 and gaps[a, b] >= min_gap and row.responses[a] != row.responses[b]
    ]
    if choose == "adjacent":
        between = np.array(among)
        better = gaps > 0
        ordered = [(a, b) for a, b in ordered if not np.any(better[a, between] & better[between, b])]
    ordered = [(a, b) for a, b in ordered if not row.truncated[a]]
    if choose == "extremes" and ordered:
        wins = np.sum(gaps > 0, axis=1) - np.sum(gaps < 0, axis=1)
        return [
            max(ordered, key=lambda pair: (gaps[pair], wins[pair[0]] - wins[pair[1]], -pair[0], -pair[1]))
        ]
    return ordered


def labelled_pairs(dataset: ScoredDataset) -> Sequence[Pair]:
    """Return every pair that at least one objective labels, the first response as ``chosen``, equal texts
    dropped.

    Ties stay (label 0) and so do truncated responses: the labels may point either way, so this is for losses
    that take each objective's label (DPO with loss weighting), not for one that trusts ``chosen``.
    """
    places = array("q")
    for position, row in enumerate(dataset.rows):
        labels = _labels(row, dataset.objectives)
        for a, b in combinations(range(len(row.responses)), 2):
            if row.responses[a] != row.responses[b] and not np.all(np.isnan(labels[:, a, b])):
                places.extend((position, a, b))
    return _made(dataset, "", places)


def _made(dataset: ScoredDataset, objective: str, places: array[int]) -> Sequence[Pair]:
    sequence = _Pairs(dataset, objective, np.array(places, dtype=np.int64).reshape(-1, 3))
    return sequence if isinstance(dataset.rows, ArrowRows) else list(sequence)


class _Pairs(Sequence[Pair]):
    """Pairs by their ``places [N, 3]``: row, chosen, rejected; each is made when it is read."""

    def __init__(self, dataset: ScoredDataset, objective: str, places: np.ndarray) -> None:
        self._dataset, self._objective, self._places = dataset, objective, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Pair]:
        numbers, counts = np.unique(
            self._places[:, 0], return_counts=True
        )  # they come in the order of the rows
        places = iter(self._places.tolist())
        for row, count in zip(taken(self._dataset.rows, numbers), counts.tolist(), strict=True):
            yield from self._of(row, list(islice(places, count)))

    @overload
    def __getitem__(self, number: int) -> Pair: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Pair]: ...

    def __getitem__(self, number: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        triple = self._places[number].tolist()
        return self._of(self._dataset.rows[triple[0]], [triple])[0]

    def _of(self, row: Row, places: Sequence[Sequence[int]]) -> list[Pair]:
        scores, labels = self._dataset.matrix(row), _labels(row, self._dataset.objectives)
        return [_pair(row, position, a, b, self._objective, scores, labels) for position, a, b in places]


def conflict_shares(both: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Return the share of pairs on which objectives i and j disagree, ``[M, M]``, from sums of :func:`conflict_counts`.

    NaN where no pair has a strict label of both.
    """
    return np.divide(against, both, out=np.full_like(both, np.nan), where=both > 0)


def conflict_counts(rows: Sequence[Row], objectives: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return two counts of pairs of ``rows``, ``[M, M]`` each: both objectives have a strict label; these labels disagree.

    The counts of parts of the data add up.
    """
    both, against = np.zeros((2, len(objectives), len(objectives)))
    by_count: dict[int, list[Row]] = {}
    for row in rows:
        if len(row.responses) > 1:
            by_count.setdefault(len(row.responses), []).append(row)
    for count, group in by_count.items():
        step = max(1, MOST_SIGNS // count**2)
        for start in range(0, len(group), step):
            signs = _signs(group[start : start + step], objectives)
            spoken = np.abs(signs).T @ np.abs(signs)
            both += spoken
            against += (spoken - signs.T @ signs) / 2
    return both, against


def _signs(rows: Sequence[Row], objectives: tuple[str, ...]) -> np.ndarray:
    """Return [pairs, M] over all pairs of different texts of rows with K responses each: 1, -1, or 0 for no label."""
    K = len(rows[0].responses)
    first, second = np.triu_indices(K, 1)
    missing = (math.nan,) * K
    scores = np.array([[row.scores.get(name, missing) for name in objectives] for row in rows])
    scores = scores.reshape(len(rows), len(objectives), K)
    signs = np.nan_to_num(np.sign(scores[:, :, first] - scores[:, :, second]))
    for number, row in enumerate(rows):
        for m, name in enumerate(objectives):
            if name in row.labels:
                strength = _compared(row, name)[first, second]
                signs[number, m] = np.where(np.isnan(strength), signs[number, m], np.sign(strength))
        if len(set(row.responses)) < K:
            same = [row.responses[a] == row.responses[b] for a, b in zip(first, second, strict=True)]
            signs[number, :, same] = 0
    return signs.transpose(0, 2, 1).reshape(len(rows) * len(first), len(objectives))


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
        weight=row.weight,
        margin=row.margin,
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


def preferred(row: Row, objectives: tuple[str, ...]) -> np.ndarray:
    """Return bool [M, K, K]: whether an objective prefers response a to response b, by comparisons, else by scores.

    Equal texts are not told apart, and a truncated response is preferred to none.
    """
    better = np.nan_to_num(_labels(row, objectives)) > 0
    texts = np.array(row.responses, dtype=object)
    distinct: np.ndarray = texts[:, None] != texts[None]
    return better & distinct & ~np.array(row.truncated, dtype=bool)[:, None]


def _labels(row: Row, objectives: tuple[str, ...]) -> np.ndarray:
    """Return [M, K, K]: the label of each objective for a against b (see `Pair`)."""
    missing = (math.nan,) * len(row.responses)
    scores = np.array([row.scores.get(name, missing) for name in objectives], dtype=np.float64)
    scores = scores.reshape(len(objectives), len(row.responses))
    labels: np.ndarray = np.sign(scores[:, :, None] - scores[:, None, :])
    for m, objective in enumerate(objectives):
        if objective in row.labels:
            compared = _compared(row, objective)
            labels[m] = np.where(np.isnan(compared), labels[m], compared)
    return labels
