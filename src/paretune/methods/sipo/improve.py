"""Pairs on which objectives conflict, and which responses improve on both sides of one under every objective.

The rules of SIPO (arXiv 2502.14354) as pure functions on rewards. A reward is the implicit one of Rafailov et al. 2023
(arXiv 2305.18290), R_i = beta (log pi_i - log pi_ref), a sum over response tokens: its scale is beta nats, higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

from paretune.core.errors import ConfigError, TrainingError, suggest
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair, labelled_pairs

Keep = Literal["any_gain", "weak_dominance", "keep_both"]
"""A rule by which a rewrite replaces what it rewrites, see :func:`keep_rewrites`."""
Rank = Literal["sum", "zscore", "min_gain"]
"""A rule that ranks several improving responses, see :func:`merits`."""


def decided(labels: np.ndarray) -> np.ndarray:
    """Return bool ``[N]``: every objective strictly prefers one response of the pair, by labels ``[N, K]`` as in `Pair`.

    A tie (0) or a missing label (NaN) of any objective leaves the pair undecided.
    """
    labels = np.asarray(labels, dtype=np.float64)
    return np.all(np.abs(np.nan_to_num(labels)) > 0, axis=-1)


def conflicting(labels: np.ndarray) -> np.ndarray:
    """Return bool ``[N]``: the pair is decided and the objectives do not all prefer the same response (labels ``[N, K]``)."""
    labels = np.asarray(labels, dtype=np.float64)
    return decided(labels) & np.any(labels > 0, axis=-1) & np.any(labels < 0, axis=-1)


def conflicting_pairs(dataset: ScoredDataset) -> tuple[list[Pair], int]:
    """Return the labelled pairs on which the objectives conflict, in the order of the rows, and how many are decided at all.

    Labels are people's comparisons where there are some, else the signs of score gaps (see `Pair`). What a pair calls
    ``chosen`` is the first response; on a conflict neither is better.
    """
    labelled = labelled_pairs(dataset)
    if not labelled:
        return [], 0
    labels = np.array([pair.labels for pair in labelled])
    kept = [pair for pair, conflict in zip(labelled, conflicting(labels).tolist(), strict=True) if conflict]
    return kept, int(decided(labels).sum())


def spread_pairs(pairs: Sequence[Pair], limit: int, seed: int) -> list[Pair]:
    """Return at most ``limit`` of the pairs, chosen by the seed from as many prompts as possible, in their order.

    Responses are sampled for a prompt and serve all its pairs, so a second pair of a prompt teaches less than a first one.
    """
    if limit >= len(pairs):
        return list(pairs)
    shuffled = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    seen: dict[int, int] = {}
    turns = {}
    for number in shuffled:
        turns[number] = seen[pairs[number].row] = seen.get(pairs[number].row, -1) + 1
    return [pairs[number] for number in sorted(sorted(shuffled, key=turns.__getitem__)[:limit])]


def implicit_rewards(logps: np.ndarray, reference: np.ndarray, beta: float) -> np.ndarray:
    """Return R ``[N, K]`` = beta (log pi_i - log pi_ref), from ``logps`` ``[N, K]`` and ``reference`` ``[N]``, in nats."""
    return beta * (np.asarray(logps, dtype=np.float64) - np.asarray(reference, dtype=np.float64)[:, None])


def keep_rewrites(rewritten: np.ndarray, original: np.ndarray, rule: Keep = "any_gain") -> np.ndarray:
    """Return bool ``[N]``: the rewrite is kept, by its rewards ``[N, K]`` and those of the response it rewrites.

    ``any_gain`` (the official code): it gains on some objective, whatever it loses on others. ``weak_dominance``: it gains
    on some and loses on none. ``keep_both``: always; the original is kept too, which the other rules drop.

    Raises:
        ConfigError: an unknown rule.
        TrainingError: other shapes, or a reward that is not finite.
    """
    _check_rule(rule, Keep, "keep")
    new, old = _finite(rewritten, 2, "rewrites"), _finite(original, 2, "responses to rewrite")
    if new.shape != old.shape:
        raise TrainingError(
            f"rewards {list(new.shape)} of rewrites and {list(old.shape)} of originals; expected equal shapes"
        )
    if rule == "keep_both":
        return np.ones(len(new), dtype=bool)
    gains = np.any(new > old, axis=1)
    return gains if rule == "any_gain" else gains & np.all(new >= old, axis=1)


def improves(
    candidates: np.ndarray, first: np.ndarray, second: np.ndarray, margin: float = 0.0
) -> np.ndarray:
    """Return bool ``[N]``: rewards ``[N, K]`` above those of both responses of a pair (``[K]`` each) under every objective.

    Strictly, by more than ``margin`` (>= 0, in units of reward: beta times nats), which keeps the noise of batch shapes out.

    Raises:
        TrainingError: other shapes, a reward that is not finite, or a margin below 0.
    """
    values, bar = _against(candidates, first, second)
    if not margin >= 0:
        raise TrainingError(f"margin {margin!r} of the Pareto filter is not a number of at least 0")
    return np.all(values > bar + margin, axis=1)


def merits(
    candidates: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    rank: Rank = "sum",
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """Return how good candidates are ``[N]``, by rewards ``[N, K]`` and those of the pair's responses, ``[K]`` each.

    ``sum`` (the official code) adds the rewards, so the objective of the larger scale decides. ``zscore`` adds rewards in
    units of ``scale`` ``[K]`` (their standard deviation, see :func:`spread`; the mean is the same for all candidates).
    ``min_gain`` is the least gain over the better of the two responses, in units of ``scale``. All rise in every reward, so
    the best candidate is dominated by none.

    Raises:
        ConfigError: an unknown rank.
        TrainingError: other shapes, a reward that is not finite, or a scale that is not above 0.
    """
    _check_rule(rank, Rank, "rank")
    values, bar = _against(candidates, first, second)
    units = np.ones(len(bar)) if scale is None else _finite(scale, 1, "the scale")
    if units.shape != bar.shape or not np.all(units > 0):
        raise TrainingError(
            f"scale {units.tolist()} for {len(bar)} objectives; expected one number above 0 each"
        )
    if rank == "min_gain":
        return np.min((values - bar) / units, axis=1, initial=np.inf)
    return (values if rank == "sum" else values / units).sum(axis=1)


def select(
    candidates: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    margin: float = 0.0,
    rank: Rank = "sum",
    scale: np.ndarray | None = None,
    order: Sequence[int] | None = None,
) -> int | None:
    """Return the place of the best candidate that improves on both responses of a pair, None when there is none.

    Of equally good ones that of the lowest ``order`` (by default the first), so the choice does not depend on how the
    candidates stand. Other arguments as in :func:`improves` and :func:`merits` (official ``select_sample.py``).
    """
    passing = np.flatnonzero(improves(candidates, first, second, margin)).tolist()
    merit = merits(candidates, first, second, rank, scale)
    places = range(len(merit)) if order is None else order
    return min(passing, key=lambda n: (-merit[n], places[n]), default=None)


def spread(rewards: np.ndarray) -> np.ndarray:
    """Return the standard deviation ``[K]`` of rewards ``[N, K]``, 1 for an objective on which all are equal."""
    deviation = _finite(rewards, 2, "rewards").std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)


def training_pairs(pair: Pair, improved: str) -> tuple[Pair, Pair]:
    """Return the pairs (improved, a) and (improved, b) of a conflicting pair (a, b), the same for every objective.

    ``chosen_index`` is -1: the improved response stands in no row.
    """
    count = len(pair.labels)
    made = Pair(
        prompt=pair.prompt,
        chosen=improved,
        rejected=pair.chosen,
        objective="",
        row=pair.row,
        chosen_index=-1,
        rejected_index=pair.chosen_index,
        chosen_truncated=False,
        rejected_truncated=pair.chosen_truncated,
        gaps=(float("nan"),) * count,
        labels=(1.0,) * count,
    )
    return made, replace(
        made,
        rejected=pair.rejected,
        rejected_index=pair.rejected_index,
        rejected_truncated=pair.rejected_truncated,
    )


@dataclass(frozen=True)
class Retention:
    """The numbers that were left after each stage of one round; as text a row of the table under :meth:`header`.

    Attributes:
        round: Number of the round, from 1.
        pairs: Decided pairs of the data.
        conflicts: Decided pairs on which objectives conflict.
        taken: Conflicting pairs for which improved responses are looked for.
        sampled: Responses sampled, one for each prompt and preference.
        cut: Responses and rewrites left out because a token limit cut them.
        empty: Responses and rewrites without text.
        unread: Reviews without a suggestion, whose responses were not rewritten.
        rewritten: Rewrites that could be compared with what they rewrite.
        kept: Rewrites that replaced what they rewrite.
        repeated: Candidates left out because another preference has the same text.
        survivors: Pairs with an improved response.
    """

    round: int
    pairs: int
    conflicts: int
    taken: int
    sampled: int
    cut: int
    empty: int
    unread: int
    rewritten: int
    kept: int
    repeated: int
    survivors: int

    @staticmethod
    def header() -> str:
        """Return the names of the columns."""
        return " ".join(f"{field.name:>5}" for field in fields(Retention))

    def __str__(self) -> str:
        return " ".join(f"{getattr(self, field.name):>{max(5, len(field.name))}}" for field in fields(self))


def _against(candidates: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates' rewards ``[N, K]`` and, of each objective, the better of the pair's two ``[K]``."""
    values = _finite(candidates, 2, "candidates")
    a, b = _finite(first, 1, "the first response"), _finite(second, 1, "the second response")
    if not values.shape[1] == len(a) == len(b):
        raise TrainingError(
            f"rewards of {values.shape[1]}, {len(a)} and {len(b)} objectives for candidates, first and second response; "
            "expected the same objectives for all"
        )
    return values, np.maximum(a, b)


def _finite(rewards: np.ndarray, axes: int, of: str) -> np.ndarray:
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != axes:
        raise TrainingError(f"rewards of {of} have shape {list(values.shape)}; expected {axes} axes")
    if not np.all(np.isfinite(values)):
        raise TrainingError(
            f"rewards of {of}: {int(np.sum(~np.isfinite(values)))} of {values.size} are not finite; look at the adapters they "
            "come from, a model of finite weights gives finite log-probabilities"
        )
    return values


def _check_rule(rule: str, kind: object, name: str) -> None:
    if rule not in get_args(kind):
        raise ConfigError(f"unknown {name} {rule!r}; {suggest(str(rule), get_args(kind))}")
