"""Policies ranked by a judge that compares their answers (PairS): one item is a policy at a preference.

P that one is better than another is the mean over held-out prompts of what the judge says of their two answers, in both orders. A
sort asks about some pairs of policies alone; of neighbours in the ranking the difference is shown with its interval over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from paretune.core.errors import ConfigError, DataError, ScoreError, suggest
from paretune.core.thought import without_thought
from paretune.data.readers import read_records
from paretune.data.rows import Prompt, prompt_from
from paretune.evaluation.judge import mean_interval
from paretune.fronts.front import Interval
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.ranking import Ranking, rank_lists


@dataclass(frozen=True)
class Contestant:
    """A policy at a preference, with one answer to each prompt.

    Attributes:
        name: Name of the policy.
        preference: Objective -> weight.
        answers: Key of a prompt -> the answer, and whether it was cut.
    """

    name: str
    preference: Mapping[str, float]
    answers: Mapping[str, tuple[str, bool]]


@dataclass(frozen=True)
class Neighbours:
    """Two policies next to each other in the ranking.

    Attributes:
        first, second: Their numbers.
        chance: P that the first is better, with its interval over prompts.
        prompts: Prompts on which the judge compared them.
        shown: Whether the interval leaves one half out.
    """

    first: int
    second: int
    chance: Interval
    prompts: int
    shown: bool


@dataclass(frozen=True)
class PolicyRanking:
    """Policies, the best first.

    Attributes:
        contestants: What was ranked, in the order given.
        ranking: Their ranking.
        neighbours: Each with the next one, where the sort compared them.
        prompts: Prompts on which they were compared.
        unsaid: Comparisons of two answers that could not be read.
    """

    contestants: Sequence[Contestant]
    ranking: Ranking
    neighbours: tuple[Neighbours, ...]
    prompts: int
    unsaid: int

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the contestants, the best first."""
        return self.ranking.order or ()


def rank_policies(
    contestants: Sequence[Contestant],
    prompts: Mapping[str, Prompt],
    scorer: FunctionScorer,
    triples: int = 3,
    most: int = 0,
    seed: int = 0,
) -> PolicyRanking:
    """Return policies ranked by a scorer that compares answers.

    Equal answers are a tie and are not asked about.

    Args:
        contestants: N policies.
        prompts: Key -> prompt; compared is on those that all policies answered.
        scorer: The scorer, with a sort.
        triples: Triples of policies whose pairs are all asked about, by which it shows whether the judge contradicts itself.
        most: Largest number of prompts, drawn by ``seed``; 0 takes all.
        seed: Seed of draws.

    Raises:
        ConfigError: Fewer than two policies, or a scorer without a sort.
        DataError: No prompt was answered by all.
        ScoreError: The judge could compare two policies on no prompt.
        EndpointError: Its server cannot be used; verdicts so far are kept.
    """
    how = scorer.comparing
    if how is None or how.sort is None:
        raise ConfigError(
            "a ranking needs a judge with a sort, such as '{objective: kind, judge: kind.md, model: NAME, sort: beam}'"
        )
    if len(contestants) < 2:
        raise ConfigError(
            f"{len(contestants)} policies to rank, expected at least 2; name more policies, preferences or runs"
        )
    common = [key for key in prompts if all(key in each.answers for each in contestants)]
    if not common:
        raise DataError(
            "no prompt was answered by all policies; rank policies that were measured on the same prompts"
        )
    if 0 < most < len(common):
        kept = np.random.default_rng(seed).choice(len(common), most, replace=False)
        common = [common[n] for n in sorted(kept.tolist())]
    said: dict[tuple[int, int], np.ndarray] = {}

    def ask(wanted: Sequence[tuple[int, int, int]]) -> list[float]:
        pairs = [(a, b) for _, a, b in wanted]
        values = _compared(contestants, pairs, [(key, prompts[key]) for key in common], scorer)
        said.update(zip(pairs, values, strict=True))
        return [float(np.nanmean(row)) if np.isfinite(row).any() else math.nan for row in values]

    (ranking,) = rank_lists([len(contestants)], ask, how.sort, triples, seed)
    if ranking.order is None:
        why = how.why()
        raise ScoreError(
            f"objective {scorer.objective!r}: no answer of two policies could be compared by {scorer.judge}"
            f"{f': {why}' if why else ''}; look at its rubric, or take another model"
        )
    neighbours = tuple(
        _neighbours(a, b, said) for a, b in pairwise(ranking.order) if (min(a, b), max(a, b)) in said
    )
    unsaid = sum(int(np.isnan(row).sum()) for row in said.values())
    return PolicyRanking(contestants, ranking, neighbours, len(common), unsaid)


def _compared(
    contestants: Sequence[Contestant],
    pairs: Sequence[tuple[int, int]],
    prompts: Sequence[tuple[str, Prompt]],
    scorer: FunctionScorer,
) -> list[np.ndarray]:
    """Return for each pair P that the first is better on each prompt, ``[P]``; NaN where the judge could not say."""
    said = str if scorer.thinking else without_thought
    found = [np.full(len(prompts), 0.5) for _ in pairs]
    asked, texts, cuts, of = [], [], [], []
    for n, (a, b) in enumerate(pairs):
        for p, (key, prompt) in enumerate(prompts):
            (first, cut), (second, other) = contestants[a].answers[key], contestants[b].answers[key]
            if first != second:
                asked.append((n, p))
                of.append(prompt)
                texts.append((said(first), said(second)))
                cuts.append((cut, other))
    if asked and scorer.comparing is not None:
        for (n, p), preference in zip(asked, scorer.comparing.function(of, texts, cuts), strict=True):
            found[n][p] = (1 + preference) / 2
    return found


def _neighbours(a: int, b: int, said: Mapping[tuple[int, int], np.ndarray]) -> Neighbours:
    values = said[a, b] if a < b else 1 - said[b, a]
    known = values[np.isfinite(values)]
    chance = mean_interval(known)
    outside = chance.low > 0.5 or chance.high < 0.5
    # Without spread there are no bounds; every prompt then says the same.
    same = bool(len(known) > 1 and np.ptp(known) == 0 and known[0] != 0.5)
    return Neighbours(a, b, chance, len(known), bool(outside or same))


def read_answers(file: str | Path, run: str = "") -> tuple[list[Contestant], dict[str, Prompt]]:
    """Return the policies of a file of measured answers (``data/answers.jsonl.gz`` of a run), and their prompts by key.

    Where there are several answers to a prompt, the first is taken. With ``run`` the names begin with it.

    Raises:
        DataError: The file is missing, damaged, or holds something else.
    """
    answers: dict[tuple[str, tuple[tuple[str, float], ...]], dict[str, tuple[str, bool]]] = {}
    prompts: dict[str, Prompt] = {}
    for where, record in read_records(file):
        try:
            name = f"{run}/{record['policy']}" if run else str(record["policy"])
            preference = tuple((str(key), float(value)) for key, value in record["preference"].items())
            key, text, cut = str(record["prompt_id"]), str(record["answer"]), bool(record["truncated"])
            prompts.setdefault(key, prompt_from(record["prompt"], "prompt", where))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{where}: {error!r}; expected a measured answer of a run, with policy, preference, prompt, prompt_id, answer and "
                "truncated"
            ) from error
        answers.setdefault((name, preference), {}).setdefault(key, (text, cut))
    return [Contestant(name, dict(weights), found) for (name, weights), found in answers.items()], prompts


def chosen(contestants: Sequence[Contestant], names: Sequence[str]) -> list[Contestant]:
    """Return the contestants of some policies; without names all of them.

    Raises:
        ConfigError: There is no such policy.
    """
    known = list(dict.fromkeys(each.name for each in contestants))
    for name in names:
        if name not in known:
            raise ConfigError(f"--policy {name!r}: {suggest(name, known)}")
    return [each for each in contestants if not names or each.name in names]
