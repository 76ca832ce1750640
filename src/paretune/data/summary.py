"""What is in a data set: counts, scores, lengths, duplicates, conflicts of objectives and Pareto layers."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import BLOCK_ROWS, conflict_counts, conflict_shares
from paretune.data.rows import Row
from paretune.fronts.indicators import layers

MOST_LAYERED = 5000  # responses ranked against each other; sorting into layers is quadratic in the worst case
MOST_AT_ONCE = 32  # responses to a prompt up to which prompts with equally many are ranked together


@dataclass(frozen=True)
class Scores:
    """Scores and comparisons on one objective: numbers in the scale of the scores, higher is better, NaN when
    none. ``missing`` counts responses with neither.
    """

    objective: str
    count: int
    missing: int
    mean: float
    std: float
    low: float
    quartiles: tuple[float, float, float]
    high: float
    comparisons: int
    ties: int


@dataclass(frozen=True)
class Lengths:
    """Lengths in words (separated by white space)."""

    mean: float
    p50: float
    p95: float
    longest: int


@dataclass(frozen=True)
class Inspection:
    """The counts that `inspect` returns.

    ``prompts`` are different ones (case and white space folded), ``repeated_prompts`` rows whose prompt came
    before, ``identical_responses`` responses equal to an earlier one of their row. ``conflicts`` [M, M] is
    the share of pairs on which two objectives disagree. ``layers_by_prompt[i]`` counts the responses on
    Pareto layer i (0 is the front) among those to their prompt, ``layers_overall[i]`` among all, both over
    the ``layered`` responses that have every score; beyond 5000 an even sample of them is ranked overall.
    ``bare_rows`` have no response. ``notes`` say what reading left out.
    """

    rows: int
    prompts: int
    responses: int
    objectives: tuple[Scores, ...]
    repeated_prompts: int
    identical_responses: int
    truncated_share: float
    prompt_words: Lengths
    response_words: Lengths
    conflicts: tuple[tuple[float, ...], ...]
    layered: int
    layers_by_prompt: tuple[int, ...]
    layers_overall: tuple[int, ...]
    bare_rows: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict; NaN becomes None."""
        result: dict[str, Any] = _without_nan(asdict(self))
        return result


def inspect(dataset: ScoredDataset) -> Inspection:
    """Return the counts of ``dataset``, which is not changed.

    The rows are read once and not kept; 12 bytes per row stay in memory, and 4 + 8 M per response.
    """
    objectives, rows = dataset.objectives, iter(dataset.rows)
    tally = _Tally(objectives)
    while block := list(islice(rows, BLOCK_ROWS)):
        tally.add(block, [dataset.matrix(row) for row in block])
    responses = len(tally.response_words)
    scores = np.asarray(tally.scores).reshape(responses, len(objectives))
    complete = np.flatnonzero(~np.isnan(scores).any(axis=1)) if objectives else np.empty(0, dtype=int)
    sample = np.unique(np.linspace(0, len(complete) - 1, min(len(complete), MOST_LAYERED)).astype(int))
    return Inspection(
        rows=len(tally.keys),
        prompts=len(prompts := np.unique(np.asarray(tally.keys))),
        responses=responses,
        objectives=tuple(
            _scores(name, scores[:, m], tally.unjudged[name], tally.comparisons[name], tally.ties[name])
            for m, name in enumerate(objectives)
        ),
        repeated_prompts=len(tally.keys) - len(prompts),
        identical_responses=tally.identical,
        truncated_share=tally.truncated / responses if responses else math.nan,
        prompt_words=_lengths(tally.prompt_words),
        response_words=_lengths(tally.response_words),
        conflicts=tuple(map(tuple, conflict_shares(tally.both, tally.against).tolist())),
        layered=len(complete),
        layers_by_prompt=_listed(tally.layers),
        bare_rows=tally.bare,
        notes=dataset.notes,
        layers_overall=_listed(Counter(layers(scores[complete[sample]]).tolist() if len(sample) else ())),
    )


class _Tally:
    """Running counts over rows, and the numbers whose quantiles are needed."""

    def __init__(self, objectives: tuple[str, ...]) -> None:
        self.objectives = objectives
        self.keys = array("Q")
        self.prompt_words, self.response_words = array("i"), array("i")
        self.scores = array("d")  # [responses, M], row by row
        self.comparisons, self.ties = Counter[str](), Counter[str]()
        self.identical = self.truncated = self.bare = 0
        self.unjudged = Counter[str]()
        self.both, self.against = np.zeros((2, len(objectives), len(objectives)))
        self.layers = Counter[int]()  # of responses among those to their prompt

    def add(self, rows: Sequence[Row], matrices: Sequence[np.ndarray]) -> None:
        """Count rows with their scores ``[K, M]``."""
        for row, matrix in zip(rows, matrices, strict=True):
            self.keys.append(int(row.key, 16))
            self.prompt_words.append(len(" ".join(m.content for m in row.prompt).split()))
            self.response_words.extend(len(response.split()) for response in row.responses)
            self.scores.frombytes(matrix.tobytes())
            self.bare += not row.responses
            self.identical += len(row.responses) - len(set(row.responses))
            self.truncated += sum(row.truncated)
            for name, values in row.labels.items():
                self.comparisons[name] += len(values)
                self.ties[name] += sum(p == 0 for _, _, p in values)
            for m, name in enumerate(self.objectives):
                compared = {k for a, b, _ in row.labels.get(name, ()) for k in (a, b)}
                scored = np.isnan(matrix[:, m]).tolist()
                self.unjudged[name] += sum(missing and k not in compared for k, missing in enumerate(scored))
        counts = conflict_counts(rows, self.objectives)
        self.both, self.against = self.both + counts[0], self.against + counts[1]
        by_size: dict[int, list[np.ndarray]] = {}
        for matrix in matrices:
            points = matrix[~np.isnan(matrix).any(axis=1)]
            if points.size:
                by_size.setdefault(len(points), []).append(points)
        for size, groups in by_size.items():
            if size > MOST_AT_ONCE:
                ranks = np.concatenate([layers(points) for points in groups])
            else:
                ranks = _layers_of_each(np.array(groups))
            self.layers.update(dict(enumerate(np.bincount(ranks.ravel()).tolist())))


def _layers_of_each(points: np.ndarray) -> np.ndarray:
    """Return the layers ``[G, n]`` of each of G sets of points ``[G, n, M]``."""
    first, second = points[:, :, None], points[:, None, :]
    below = np.all(second >= first, axis=-1) & np.any(second > first, axis=-1)  # [G, n, n]: j dominates i
    ranks, left = np.zeros(points.shape[:2], dtype=int), np.ones(points.shape[:2], dtype=bool)
    while True:
        left &= np.any(below & left[:, None, :], axis=-1)  # what nothing left dominates has its layer
        if not left.any():
            return ranks
        ranks += left


def _scores(objective: str, values: np.ndarray, missing: int, comparisons: int, ties: int) -> Scores:
    known = values[~np.isnan(values)]
    points = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if known.size else [math.nan] * 5
    return Scores(
        objective=objective,
        count=int(known.size),
        missing=missing,
        mean=float(known.mean()) if known.size else math.nan,
        std=float(known.std()) if known.size else math.nan,
        low=points[0],
        quartiles=(points[1], points[2], points[3]),
        high=points[4],
        comparisons=comparisons,
        ties=ties,
    )


def _lengths(words: array[int]) -> Lengths:
    if not words:
        return Lengths(math.nan, math.nan, math.nan, 0)
    middle, long = np.quantile(words, [0.5, 0.95]).tolist()
    return Lengths(float(np.mean(words)), middle, long, max(words))


def _listed(counts: Counter[int]) -> tuple[int, ...]:
    return tuple(counts[layer] for layer in range(max(counts) + 1)) if counts else ()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
