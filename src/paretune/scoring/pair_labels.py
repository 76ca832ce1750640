"""Labels of pairs of responses by a scorer that compares them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from paretune.core.errors import ScoreError
from paretune.core.thought import without_thought
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import gather
from paretune.data.rows import Comparison, Row
from paretune.scoring.function_scorer import FunctionScorer

PAIRS_PER_CALL = 256


def compared_pairs(row: Row, most: int) -> list[tuple[int, int]]:
    """Return the pairs of a row's responses that are compared, at most ``most``: neighbours first, so that all are connected.

    Equal texts are not compared.
    """
    every = sorted(combinations(range(len(row.responses)), 2), key=lambda pair: (pair[1] - pair[0], pair))
    return [(a, b) for a, b in every if row.responses[a] != row.responses[b]][:most]


def label_dataset(dataset: ScoredDataset, scorer: FunctionScorer) -> tuple[ScoredDataset, int]:
    """Return the data with the scorer's comparisons of each prompt's responses as labels, and the pairs that got no verdict.

    A label is the preference for the first response, from 1 to -1; 0 is a tie. A pair without a verdict has no label.

    Raises:
        ScoreError: The scorer compares no pairs, or no pair got a verdict.
        EndpointError: Its server cannot be used; verdicts so far are kept.
    """
    how = scorer.comparing
    if how is None or not how.pairs:
        raise ScoreError(
            f"objective {scorer.objective!r}: its scorer compares no pairs; give a judge with pairs: 1 or more"
        )
    places = [
        (number, a, b) for number, row in enumerate(dataset.rows) for a, b in compared_pairs(row, how.pairs)
    ]
    labels: dict[int, list[Comparison]] = {}
    missing = 0
    for start in range(0, len(places), PAIRS_PER_CALL):
        part = places[start : start + PAIRS_PER_CALL]
        for (number, a, b), preference in zip(part, _compared(dataset, scorer, part), strict=True):
            if math.isnan(preference):
                missing += 1
            else:
                labels.setdefault(number, []).append((a, b, preference))
    if places and not labels:
        raise ScoreError(
            f"objective {scorer.objective!r}: none of {len(places)} pairs got a verdict from {scorer.judge}"
            f"{f': {why}' if (why := how.why()) else ''}; look at its rubric, or take another model"
        )
    rows = gather(
        replace(row, labels={**row.labels, scorer.objective: tuple(labels.get(number, ()))})
        for number, row in enumerate(dataset.rows)
    )
    names = dataset.objectives
    return ScoredDataset(
        names if scorer.objective in names else (*names, scorer.objective), rows, dataset.notes
    ), missing


def _compared(
    dataset: ScoredDataset, scorer: FunctionScorer, places: Sequence[tuple[int, int, int]]
) -> Sequence[float]:
    if scorer.comparing is None:  # label_dataset has checked it
        return []
    rows = [(dataset.rows[number], a, b) for number, a, b in places]
    said = str if scorer.thinking else without_thought
    return scorer.comparing.function(
        [row.prompt for row, _, _ in rows],
        [(said(row.responses[a]), said(row.responses[b])) for row, a, b in rows],
        [(row.truncated[a], row.truncated[b]) for row, a, b in rows],
    )
