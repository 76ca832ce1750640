"""PairS (arXiv 2403.16950): n items ranked by a pairwise judge, by a merge sort that follows the judge's probabilities.

    sort(items)         split in halves, sort each, merge
    merge, greedy       of the two first items that are left, the one that is likelier better goes next
    merge, beam         both go next, each on a path of its own, where |P - 1/2| <= gap; the path with the highest mean of
                        log P over its comparisons wins

Nothing here asks anyone. :func:`ranked` says what to ask next, given all that is known; so the same sort serves a judge, who is
asked for many lists at once, and a person, who is asked for one pair at a time and may stop between. What is known is kept for each
unordered pair, so nothing is asked twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Literal

import numpy as np

from paretune.core.bounds import Count, NotNegative, check_bounds
from paretune.core.errors import ConfigError

FLOOR = 1e-9
"""Added to P before its logarithm, as in the released code."""
ROUNDING = 1e-12
"""Probabilities closer than this are the same."""

Pair = tuple[int, int]
Known = Mapping[Pair, float]
"""``(a, b)`` with a < b -> P that item a is better than item b; NaN where the judge could not say."""


@dataclass(frozen=True)
class Sort:
    """How lists are ranked.

    Attributes:
        mode: ``greedy`` follows the likelier item; ``beam`` keeps both branches where the judge is not sure.
        gap: Distance of P from 1/2 up to which ``beam`` keeps both.
        width: Largest number of paths that ``beam`` keeps; of paths that have placed the same items only the best is kept, which
            loses nothing.
    """

    mode: Literal["greedy", "beam"] = "greedy"
    gap: NotNegative = 0.1
    width: Count = 100

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.gap > 0.5:
            raise ConfigError(
                f"gap: {self.gap}: expected 0 to 0.5, the distance of a probability from one half"
            )


@dataclass(frozen=True)
class Progress:
    """Where a sort stands.

    Attributes:
        order: The items, best first; None where it is not done.
        wanted: The pairs to ask about next, each ``(a, b)`` with a < b; empty where the sort is done or cannot go on.
    """

    order: tuple[int, ...] | None
    wanted: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """A ranked list.

    Attributes:
        order: The items, best first; None where the judge could not say which of two was better.
        known: What the judge said.
        sorted_by: Number of pairs that the sort asked about.
        triples: Number of triples all of whose pairs were asked about.
        intransitive: Of these, the triples that no ranking agrees with, see :func:`is_transitive`.
    """

    order: tuple[int, ...] | None
    known: Known
    sorted_by: int
    triples: int = 0
    intransitive: int = 0
    places: Mapping[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", {item: place for place, item in enumerate(self.order or ())})

    @property
    def against(self) -> int:
        """Number of pairs on which the judge preferred the item that is ranked lower."""
        return sum(
            (p - 0.5) * (self.places[b] - self.places[a]) < -ROUNDING
            for (a, b), p in self.known.items()
            if self.order is not None and not math.isnan(p)
        )

    def levels(self) -> list[float]:
        """Return for each item the share of the others that it is ranked above: 1 for the best, 0 for the last."""
        if self.order is None:
            return []
        return [1 - self.places[item] / (len(self.order) - 1) for item in range(len(self.order))]

    def strengths(self) -> dict[Pair, float]:
        """Return ``2 P - 1`` of every pair ``(a, b)``, a < b: what the judge said, or what the ranking implies.

        A pair that was not asked about is as sure as the surest neighbours between the two, as strong stochastic transitivity
        says: P(a > c) is at least the larger of P(a > b) and P(b > c).
        """
        if self.order is None:
            return {}
        steps = [
            max(0.0, 2 * better(self.known, a, b, 1.0) - 1)
            for a, b in zip(self.order, self.order[1:], strict=False)
        ]
        found = {}
        for low, high in combinations(range(len(self.order)), 2):
            a, b = self.order[low], self.order[high]
            said = better(self.known, a, b, math.nan)
            strength = max(steps[low:high]) if math.isnan(said) else 2 * said - 1
            found[(a, b) if a < b else (b, a)] = strength if a < b else -strength
        return found


def better(known: Known, a: int, b: int, otherwise: float) -> float:
    """Return the known P that a is better than b, in either order of asking; ``otherwise`` where nothing is known."""
    if a < b:
        return known.get((a, b), otherwise)
    return 1 - known[b, a] if (b, a) in known else otherwise


def most_comparisons(count: int, sort: Sort = Sort()) -> int:
    """Return the largest number of pairs that a sort asks about: all of them for ``beam``.

    >>> [most_comparisons(n) for n in (1, 2, 3, 4, 8, 16)]
    [0, 1, 3, 5, 17, 49]
    """
    if sort.mode == "beam":
        return count * (count - 1) // 2
    if count < 2:
        return 0
    left = count // 2
    return most_comparisons(left) + most_comparisons(count - left) + count - 1


def ranked(count: int, known: Known, sort: Sort = Sort()) -> Progress:
    """Return the ranking of ``count`` items, or the pairs to ask about next: both halves of a list want theirs at once.

    A tie keeps the order in which the items are given.
    """
    wanted: dict[Pair, None] = {}
    unsaid = False

    def look(a: int, b: int) -> float | None:
        nonlocal unsaid
        p = better(known, a, b, math.inf)
        if math.isinf(p):
            wanted[(a, b) if a < b else (b, a)] = None
            return None
        unsaid |= math.isnan(p)
        return None if math.isnan(p) else p

    def ordered(items: Sequence[int]) -> list[int] | None:
        if len(items) < 2:
            return list(items)
        half = len(items) // 2
        left, right = ordered(items[:half]), ordered(items[half:])
        if left is None or right is None:
            return None
        return _greedy(left, right, look) if sort.mode == "greedy" else _beam(left, right, look, sort)

    order = ordered(range(count))
    if order is not None:
        return Progress(tuple(order))
    return Progress(None, () if unsaid else tuple(wanted))


Look = Callable[[int, int], "float | None"]
"""P that the first is better; None where it is not known yet."""


def _greedy(left: Sequence[int], right: Sequence[int], look: Look) -> list[int] | None:
    order: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        p = look(left[i], right[j])
        if p is None:
            return None
        if p >= 0.5 - ROUNDING:
            order.append(left[i])
            i += 1
        else:
            order.append(right[j])
            j += 1
    return [*order, *left[i:], *right[j:]]


@dataclass(frozen=True)
class _Path:
    order: tuple[int, ...] = ()
    total: float = 0.0
    compared: int = 0

    @property
    def score(self) -> float:
        """Mean of log P over the comparisons."""
        return self.total / max(1, self.compared)

    def onto(self, item: int, p: float) -> _Path:
        return _Path((*self.order, item), self.total + math.log(p + FLOOR), self.compared + 1)


def _beam(left: Sequence[int], right: Sequence[int], look: Look, sort: Sort) -> list[int] | None:
    paths = {0: _Path()}  # number of items from the left -> the best path that has placed them
    for step in range(len(left) + len(right)):
        grown: dict[int, _Path] = {}
        missing = False
        for i, path in paths.items():
            for taken, longer in _branches(path, left[i:], right[step - i :], look, sort.gap):
                if longer is None:
                    missing = True
                elif i + taken not in grown or longer.score > grown[i + taken].score + ROUNDING:
                    grown[i + taken] = longer
        if missing:  # the other paths of this step have said what they want too
            return None
        best = sorted(grown.items(), key=lambda entry: -entry[1].score)[: sort.width]
        paths = dict(best)
    return list(paths[len(left)].order)


def _branches(
    path: _Path, left: Sequence[int], right: Sequence[int], look: Look, gap: float
) -> list[tuple[int, _Path | None]]:
    """Return how a path goes on: the items taken from the left (0 or 1), and the longer path; None where P is not known."""
    if not left or not right:
        item = (left or right)[0]
        return [(int(bool(left)), _Path((*path.order, item), path.total, path.compared))]
    p = look(left[0], right[0])
    if p is None:
        return [(0, None)]
    branches: list[tuple[int, _Path | None]] = []
    if p >= 0.5 - gap - ROUNDING:
        branches.append((1, path.onto(left[0], p)))
    if p <= 0.5 + gap + ROUNDING and (gap > 0 or p < 0.5 - ROUNDING):
        branches.append((0, path.onto(right[0], 1 - p)))
    return branches


# Transitivity


def is_transitive(known: Known, triple: Iterable[int]) -> bool:
    """Return whether a ranking of three items agrees with all that is known: a at least as good as b, b as c, then a as c."""
    return all(
        better(known, a, c, math.nan) >= 0.5 - ROUNDING
        for a, b, c in permutations(triple)
        if better(known, a, b, math.nan) >= 0.5 - ROUNDING and better(known, b, c, math.nan) >= 0.5 - ROUNDING
    )


def drawn_triples(count: int, most: int, seed: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return at most ``most`` different triples of ``count`` items, drawn alike; all of them where there are no more."""
    total = math.comb(count, 3)
    if total <= most:
        return list(combinations(range(count), 3))
    random = np.random.default_rng(list(seed))
    found: dict[tuple[int, int, int], None] = {}
    while len(found) < most:
        a, b, c = sorted(random.choice(count, 3, replace=False).tolist())
        found[a, b, c] = None
    return list(found)


# Many lists at once

Ask = Callable[[Sequence[tuple[int, int, int]]], Sequence[float]]
"""From (list, a, b) to P that a is better than b, from both orders; NaN where the judge could not say."""


def rank_lists(
    sizes: Sequence[int],
    ask: Ask,
    sort: Sort = Sort(),
    triples: int = 0,
    seed: int = 0,
) -> list[Ranking]:
    """Return the ranking of each list; the judge is asked for all lists together, round by round.

    Args:
        sizes: Number of items of each list, at least 2.
        ask: The judge.
        sort: How lists are ranked.
        triples: Triples of each list whose pairs are all asked about, to see whether the judge is transitive. A greedy sort asks
            about no pair that its order contradicts, so that nothing is seen of this without them.
        seed: Seed of the draw of triples.
    """
    known: list[dict[Pair, float]] = [{} for _ in sizes]
    orders: dict[int, tuple[int, ...] | None] = {}
    while len(orders) < len(sizes):
        wanted = []
        for number, size in enumerate(sizes):
            if number in orders:
                continue
            at = ranked(size, known[number], sort)
            if at.wanted:
                wanted += [(number, a, b) for a, b in at.wanted]
            else:
                orders[number] = at.order
        _ask(wanted, ask, known)
    sorted_by = [len(pairs) for pairs in known]
    drawn = [drawn_triples(size, triples, (seed, number)) for number, size in enumerate(sizes)]
    pairs = {
        (number, a, b): None
        for number, some in enumerate(drawn)
        for triple in some
        for a, b in combinations(triple, 2)
        if (a, b) not in known[number] and orders[number] is not None
    }
    _ask(list(pairs), ask, known)
    found = []
    for number, some in enumerate(drawn):
        whole = [t for t in some if all(_said(known[number], pair) for pair in combinations(t, 2))]
        cyclic = sum(not is_transitive(known[number], triple) for triple in whole)
        found.append(Ranking(orders[number], known[number], sorted_by[number], len(whole), cyclic))
    return found


def _ask(wanted: Sequence[tuple[int, int, int]], ask: Ask, known: Sequence[dict[Pair, float]]) -> None:
    if wanted:
        for (number, a, b), p in zip(wanted, ask(wanted), strict=True):
            known[number][a, b] = float(p)


def _said(known: Known, pair: Pair) -> bool:
    return not math.isnan(known.get(pair, math.nan))
