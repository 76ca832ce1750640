"""What scorers are worth on data: right on labelled pairs, agreement with each other, and what choosing by them gains.

A scorer that is trained against is an estimate. Where another scorer, of other data or of another kind, does not gain from what
the first chooses, a policy that learns from the first will not either: the gap between the two gains is overoptimisation, seen
beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.evaluation.judge import mean_interval
from paretune.fronts.front import Interval
from paretune.scoring.agreement import agreement, wilson
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import Scorer, score_texts


@dataclass(frozen=True)
class PairAccuracy:
    """How a scorer ranks pairs of responses beside what people, or whoever labelled the data, say.

    Attributes:
        scorer: Its name.
        objective: The objective of the labels.
        accuracy: Share of the pairs with a label that is no tie which it ranks as labelled; equal scores count a half.
        low, high: The 95 % interval (Wilson, with the number of prompts as sample size).
        pairs, prompts: Their numbers.
        unscored: Pairs left out, as a response has no score.
        longer: The share that preferring the longer response, in words, ranks as labelled.
        where_longer, where_shorter: Accuracy where the preferred response is the longer, the shorter; None without such pairs.
    """

    scorer: str
    objective: str
    accuracy: float
    low: float
    high: float
    pairs: int
    prompts: int
    unscored: int
    longer: float
    where_longer: float | None
    where_shorter: float | None


@dataclass(frozen=True)
class ScorersAgree:
    """How often two scorers prefer the same of two responses to one prompt.

    Attributes:
        first, second: Their names.
        share: Share of the pairs that both decide.
        low, high: The 95 % interval (Wilson, with the number of prompts as sample size).
        pairs, prompts: Their numbers.
        undecided: Pairs left out, as one of them has equal scores or none.
    """

    first: str
    second: str
    share: float
    low: float
    high: float
    pairs: int
    prompts: int
    undecided: int


@dataclass(frozen=True)
class BestOf:
    """What the best of n responses by one scorer gains in the scores of another, over one response at random.

    Attributes:
        chosen_by, judged_by: Names of the scorers.
        n: Number of responses to choose from.
        gain: Expected gain in standard deviations of the judging scorer's scores, with its interval over prompts.
        prompts: Number of prompts that have n responses with both scores.
    """

    chosen_by: str
    judged_by: str
    n: int
    gain: Interval
    prompts: int


@dataclass(frozen=True)
class ScorerCheck:
    """All that was found: accuracies, agreements of each two scorers, and gains for n = 2, 4, 8, ..."""

    accuracies: Sequence[PairAccuracy]
    agreements: Sequence[ScorersAgree]
    best_of: Sequence[BestOf]


def check_scorers(
    dataset: ScoredDataset,
    scorers: Sequence[Scorer],
    objective: str | None = None,
    cache: ScoreCache | None = None,
) -> ScorerCheck:
    """Score every response and compare the scores with the data's labels and with each other.

    Args:
        dataset: Responses, with comparisons or scores of objectives where accuracy is asked for.
        scorers: One or more. Two of one name get a number.
        objective: The objective whose labels are compared with; by default the scorer's own, or the data's only one.
        cache: Scores on disk, read and added to.

    Raises:
        DataError: The data have neither labels that a scorer can be compared with nor two responses to a prompt that two scorers
            could rank.
        ScoreError: A scorer failed.
    """
    if objective is not None and objective not in dataset.objectives:
        dataset.select([objective])  # says which there are
    names = _named([scorer.objective for scorer in scorers])
    scored = {name: _scores(dataset, scorer, cache) for name, scorer in zip(names, scorers, strict=True)}
    accuracies = []
    for name, scorer in zip(names, scorers, strict=True):
        labelled = objective or _labels_of(scorer.objective, dataset.objectives)
        found = None if labelled is None else pair_accuracy(dataset, name, labelled, scored[name])
        accuracies += [] if found is None else [found]
    prompts = [row.key for row in dataset.rows]
    agreements = [scorers_agree((a, scored[a]), (b, scored[b]), prompts) for a, b in combinations(names, 2)]
    check = ScorerCheck(
        accuracies, [each for each in agreements if each is not None], best_of_n(scored, prompts)
    )
    if not (check.accuracies or check.agreements or check.best_of):
        raise DataError(
            "nothing to check: no pair of responses has a label, and no prompt has two responses with different scores; give data "
            "with several responses to a prompt, or with chosen and rejected ones"
        )
    return check


def _named(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name} ({names[: k + 1].count(name)})"
        for k, name in enumerate(names)
    ]


def _labels_of(scorer: str, objectives: Sequence[str]) -> str | None:
    """Return the objective whose labels a scorer is compared with; None where it is not clear which."""
    if scorer in objectives:
        return scorer
    return objectives[0] if len(objectives) == 1 else None


def _scores(dataset: ScoredDataset, scorer: Scorer, cache: ScoreCache | None) -> list[np.ndarray]:
    """Return the scores ``[K]`` of each row's responses; NaN where there is none."""
    rows = list(dataset.rows)
    flat = score_texts(
        scorer,
        [row.prompt for row in rows for _ in row.responses],
        [text for row in rows for text in row.responses],
        [cut for row in rows for cut in row.truncated],
        cache,
        [
            f"{row.source or f'row {n}'}, response {k}"
            for n, row in enumerate(rows)
            for k in range(len(row.responses))
        ],
        leave_out=True,
    )
    ends = np.cumsum([len(row.responses) for row in rows])
    return np.split(flat, ends[:-1])


def pair_accuracy(
    dataset: ScoredDataset, scorer: str, objective: str, scores: Sequence[np.ndarray]
) -> PairAccuracy | None:
    """Return how a scorer ranks the pairs that an objective's labels decide; None without such pairs.

    Args:
        dataset: N rows.
        scorer: The scorer's name.
        objective: The objective of the labels.
        scores: Its scores ``[K]`` of the responses of each of the N rows.
    """
    gaps, words, prompts, unscored = [], [], set(), 0
    for pair in labelled_pairs(dataset.select([objective])):
        label = pair.labels[0]
        if not label:
            continue
        own = scores[pair.row]
        gap = math.copysign(1.0, label) * (own[pair.chosen_index] - own[pair.rejected_index])
        if math.isnan(gap):
            unscored += 1
            continue
        gaps.append(gap)
        words.append(math.copysign(1.0, label) * (len(pair.chosen.split()) - len(pair.rejected.split())))
        prompts.add(dataset.rows[pair.row].key)
    if not gaps:
        return None
    found, longer = np.array(gaps), np.array(words)
    share = agreement(found)
    low, high = wilson(share, len(prompts))
    part = {
        sign: agreement(found[sign * longer > 0]) if (sign * longer > 0).any() else None for sign in (1, -1)
    }
    return PairAccuracy(
        scorer,
        objective,
        share,
        low,
        high,
        len(gaps),
        len(prompts),
        unscored,
        agreement(longer),
        part[1],
        part[-1],
    )


def scorers_agree(
    first: tuple[str, Sequence[np.ndarray]], second: tuple[str, Sequence[np.ndarray]], prompts: Sequence[str]
) -> ScorersAgree | None:
    """Return how often two scorers agree; None where no pair is decided by both.

    Args:
        first, second: The name of a scorer, and its scores ``[K]`` of the responses of each of N rows.
        prompts: Keys of the N rows' prompts.
    """
    same = both = undecided = 0
    decided_prompts = set()
    for a, b, prompt in zip(first[1], second[1], prompts, strict=True):
        rows, columns = np.triu_indices(len(a), 1)
        signs = np.nan_to_num(np.sign(a[rows] - a[columns]) * np.sign(b[rows] - b[columns]))
        decided = int(np.count_nonzero(signs))
        same, both, undecided = (
            same + int((signs > 0).sum()),
            both + decided,
            undecided + len(signs) - decided,
        )
        if decided:
            decided_prompts.add(prompt)
    if not both:
        return None
    low, high = wilson(same / both, len(decided_prompts))
    return ScorersAgree(first[0], second[0], same / both, low, high, both, len(decided_prompts), undecided)


def best_of_n(scored: Mapping[str, Sequence[np.ndarray]], prompts: Sequence[str]) -> list[BestOf]:
    """Return the gains of choosing by each scorer in the scores of each, for n = 2, 4, 8, ... as far as two prompts have them.

    Args:
        scored: Name of a scorer -> its scores ``[K]`` of the responses of each of N rows.
        prompts: Keys of the N rows' prompts; rows of one prompt are averaged.
    """
    found = []
    for chooser, judge in product(scored, repeat=2):
        rows = [
            (prompt, a[kept], b[kept])
            for prompt, a, b in zip(prompts, scored[chooser], scored[judge], strict=True)
            if (kept := np.isfinite(a) & np.isfinite(b)).sum() > 1
        ]
        unit = float(np.concatenate([b for _, _, b in rows]).std()) if rows else 0.0
        n = 2
        while unit > 0:
            gains: dict[str, list[float]] = {}
            for prompt, a, b in rows:
                if len(a) >= n:
                    gains.setdefault(prompt, []).append((expected_best(a, b, n) - b.mean()) / unit)
            if len(gains) < 2:
                break
            gain = mean_interval(np.array([np.mean(each) for each in gains.values()]))
            found.append(BestOf(chooser, judge, n, gain, len(gains)))
            n *= 2
    return found


def expected_best(chooser: np.ndarray, judge: np.ndarray, n: int) -> float:
    """Return the expected score of the best of n of K responses, drawn without replacement and chosen by another score.

    Exact, not sampled: the response of rank c from below is the best of n with chance ``C(c - 1, n - 1) / C(K, n)``; equal ones
    share.

    Args:
        chooser: Scores ``[K]`` that choose.
        judge: Scores ``[K]`` whose expectation is returned.
        n: From 1 to K.

    >>> expected_best(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 9.0]), 2)
    6.0
    """
    all_draws = math.comb(len(chooser), n)
    total, below = 0.0, 0
    for value in np.unique(chooser):
        equal = chooser == value
        upto = below + int(equal.sum())
        chance = (math.comb(upto, n) - math.comb(below, n)) / all_draws
        total += chance * float(judge[equal].mean())
        below = upto
    return total
