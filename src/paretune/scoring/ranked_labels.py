"""Responses ranked by a scorer that compares pairs (PairS): as labels of pairs, or as levels, which are scores within a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from paretune.core.errors import DataError, ScoreError
from paretune.core.thought import without_thought
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import gather
from paretune.data.rows import Comparison, Row
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.ranking import Ranking, rank_lists

ROWS_PER_CALL = 64
"""Rows that are ranked together."""
BY_CHANCE = 0.25
"""Share of triples on which a judge contradicts itself that draws its verdicts by chance: 2 of 8 ways to answer are cycles."""

Written = Literal["labels", "levels"]


@dataclass(frozen=True)
class RankReport:
    """What a ranking of many lists was made of.

    Attributes:
        lists: Prompts whose responses were ranked.
        short: Prompts with fewer than two different responses.
        unsaid: Prompts without a ranking, as the judge could not say which of two responses is better.
        pairs: Pairs that the sorts asked about, each in both orders.
        triples: Triples all of whose pairs were asked about.
        intransitive: Of these, the triples on which the judge contradicts itself.
        against: Pairs on which the judge preferred the response that is ranked lower.
    """

    lists: int = 0
    short: int = 0
    unsaid: int = 0
    pairs: int = 0
    triples: int = 0
    intransitive: int = 0
    against: int = 0

    def __str__(self) -> str:
        parts = [f"{self.lists} prompts ranked by {self.pairs} pairs, each in both orders"]
        if self.triples:
            share = self.intransitive / self.triples
            parts.append(
                f"the judge contradicts itself on {self.intransitive} of {self.triples} triples ({share:.0%}; by chance "
                f"{BY_CHANCE:.0%})"
            )
        if self.against:
            parts.append(f"{self.against} verdicts are against the ranking")
        if self.short:
            parts.append(f"{self.short} prompts have fewer than two different responses")
        if self.unsaid:
            parts.append(f"{self.unsaid} prompts have no ranking, as a verdict could not be read")
        return "; ".join(parts)

    def plus(self, rankings: Sequence[Ranking]) -> RankReport:
        """Return the report with more rankings."""
        done = [each for each in rankings if each.order is not None]
        return RankReport(
            self.lists + len(done),
            self.short,
            self.unsaid + len(rankings) - len(done),
            self.pairs + sum(each.sorted_by for each in rankings),
            self.triples + sum(each.triples for each in rankings),
            self.intransitive + sum(each.intransitive for each in rankings),
            self.against + sum(each.against for each in done),
        )


def rank_dataset(
    dataset: ScoredDataset,
    scorer: FunctionScorer,
    written: Written = "labels",
    triples: int = 1,
    seed: int = 0,
) -> tuple[ScoredDataset, RankReport]:
    """Return the data with each prompt's responses ranked by the scorer, and what the ranking was made of.

    Equal texts are one item. As ``labels`` every pair of different texts gets its strength (:meth:`Ranking.strengths`); as
    ``levels`` a response gets the share of the others that it is ranked above, from 0 to 1, which compares within its prompt alone.

    Args:
        dataset: The data.
        scorer: The scorer, with a sort.
        written: What the ranking becomes.
        triples: Triples of each prompt whose pairs are all asked about, by which it shows whether the judge contradicts itself.
        seed: Seed of their draw.

    Raises:
        DataError: No prompt has two different responses.
        ScoreError: The scorer ranks nothing, or no prompt got a ranking.
        EndpointError: Its server cannot be used; verdicts so far are kept.
    """
    how = scorer.comparing
    if how is None or how.sort is None:
        raise ScoreError(
            f"objective {scorer.objective!r}: its scorer ranks nothing; give a judge with sort: greedy or sort: beam"
        )
    texts = {number: list(dict.fromkeys(row.responses)) for number, row in enumerate(dataset.rows)}
    lists = [number for number, some in texts.items() if len(some) > 1]
    if not lists:
        raise DataError(
            f"objective {scorer.objective!r}: none of {len(texts)} prompts has two different responses, so there is nothing to "
            "rank; give several responses to a prompt (paretune data sample --responses 4)"
        )
    report = RankReport(short=len(texts) - len(lists))
    found: dict[int, Ranking] = {}
    numbers = iter(lists)
    while part := list(islice(numbers, ROWS_PER_CALL)):

        def ask(wanted: Sequence[tuple[int, int, int]], part: list[int] = part) -> list[float]:
            asked = [(part[n], texts[part[n]][a], texts[part[n]][b]) for n, a, b in wanted]
            return _compared(dataset, scorer, asked)

        rankings = rank_lists([len(texts[n]) for n in part], ask, how.sort, triples, seed)
        report = report.plus(rankings)
        found.update(zip(part, rankings, strict=True))
    if not report.lists:
        why = how.why()
        raise ScoreError(
            f"objective {scorer.objective!r}: none of {len(lists)} prompts got a ranking from {scorer.judge}"
            f"{f': {why}' if why else ''}; look at its rubric, or take another model"
        )
    rows = gather(
        _written(row, texts[number], found.get(number), scorer.objective, written)
        for number, row in enumerate(dataset.rows)
    )
    names = dataset.objectives
    every = names if scorer.objective in names else (*names, scorer.objective)
    return ScoredDataset(every, rows, dataset.notes), report


def _written(
    row: Row, texts: Sequence[str], ranking: Ranking | None, objective: str, written: Written
) -> Row:
    """Return a row with its ranking in place of earlier labels or levels of the objective; without a ranking it has none."""
    labels = {name: given for name, given in row.labels.items() if name != objective}
    scores = {name: given for name, given in row.scores.items() if name != objective}
    if ranking is None or ranking.order is None:
        return replace(row, labels=labels, scores=scores)
    if written == "levels":
        of_text = dict(zip(texts, ranking.levels(), strict=True))
        return replace(
            row, labels=labels, scores={**scores, objective: tuple(of_text[text] for text in row.responses)}
        )
    first = [row.responses.index(text) for text in texts]
    comparisons: list[Comparison] = [
        (first[a], first[b], strength) for (a, b), strength in sorted(ranking.strengths().items())
    ]
    return replace(row, labels={**labels, objective: tuple(comparisons)}, scores=scores)


def _compared(
    dataset: ScoredDataset, scorer: FunctionScorer, asked: Sequence[tuple[int, str, str]]
) -> list[float]:
    """Return P that the first of two texts is the better response to the prompt of a row: ``(1 + preference) / 2``."""
    if scorer.comparing is None:  # rank_dataset has checked it
        return []
    rows = [(dataset.rows[number], first, second) for number, first, second in asked]
    said = str if scorer.thinking else without_thought
    preferences = scorer.comparing.function(
        [row.prompt for row, _, _ in rows],
        [(said(first), said(second)) for _, first, second in rows],
        [
            (row.truncated[row.responses.index(first)], row.truncated[row.responses.index(second)])
            for row, first, second in rows
        ],
    )
    return [(1 + preference) / 2 for preference in preferences]
