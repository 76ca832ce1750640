"""The pairs of an objective among the responses that are short enough: no row is lost because its widest pair is too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair, pairs, widest_pair
from paretune.data.rows import Row
from paretune.training.token_tables import Limit, fitted_pair


def chosen_pairs(limit: Limit, dataset: ScoredDataset, objective: str, choose: Choose) -> Sequence[Pair]:
    """Return :func:`paretune.data.pairs.pairs`; where long texts are dropped, the choice is among the other responses."""
    choice = choose != "all" and any(len(row.responses) > 2 for row in dataset.rows)
    if not choice or limit.too_long != "drop":
        return pairs(dataset, objective, choose)
    if choose == "adjacent":
        return NeighbourPairs(dataset, objective, limit)
    return ShortPairs(pairs(dataset, objective, choose), dataset, objective, limit)


def what_gave_way(chosen: Sequence[Pair]) -> tuple[str, str] | None:
    """Return what of ``chosen`` was too long and what was taken instead, as far as it has been read; None for nothing."""
    if not isinstance(chosen, ShortPairs | NeighbourPairs) or not chosen.replaced:
        return None
    rows = len(chosen.replaced)
    if isinstance(chosen, ShortPairs):
        return f"the widest pairs of {rows} rows", "and their next ones are taken"
    return f"some responses of {rows} rows", "and the others are paired without them"


class ShortPairs(Sequence[Pair]):
    """Pairs, one a row, in which one that is too long gives way to the widest of its row that is not, if there is one.

    A pair is looked at when it is read, so that only pairs that are used cost time.

    Attributes:
        replaced: Rows in which another pair was taken so far.
    """

    def __init__(self, chosen: Sequence[Pair], dataset: ScoredDataset, objective: str, limit: Limit) -> None:
        self._chosen, self._dataset, self._objective, self._limit = chosen, dataset, objective, limit
        self.replaced: set[int] = set()

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Pair]:
        return map(self._fitting, self._chosen)

    @overload
    def __getitem__(self, number: int) -> Pair: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Pair]: ...

    def __getitem__(self, number: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(number, slice):
            return [self._fitting(pair) for pair in self._chosen[number]]
        return self._fitting(self._chosen[number])

    def _fitting(self, pair: Pair) -> Pair:
        if fitted_pair(self._limit, pair):
            return pair
        short = short_responses(self._limit, self._dataset.rows[pair.row])
        other = widest_pair(self._dataset, self._objective, pair.row, short)
        if other is None:
            return pair
        self.replaced.add(pair.row)
        return other


class NeighbourPairs(Sequence[Pair]):
    """Pairs with no response in between, where responses that are too long are as if they were not there.

    Who is a neighbour depends on the lengths of a row's other responses, so all rows of more than two are looked at at once. A
    row of two has no other choice: its pair stays, and is counted as too long where pairs are tokenised.

    Attributes:
        replaced: Rows of more than two responses of which some are too long.
    """

    def __init__(self, dataset: ScoredDataset, objective: str, limit: Limit) -> None:
        self.replaced: set[int] = set()

        def short(number: int, row: Row) -> Sequence[int]:
            if len(row.responses) < 3:
                return range(len(row.responses))
            found = short_responses(limit, row)
            if len(found) < len(row.responses):
                self.replaced.add(number)
            return found

        self._pairs = pairs(dataset, objective, "adjacent", among=short)

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    @overload
    def __getitem__(self, number: int) -> Pair: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Pair]: ...

    def __getitem__(self, number: int | slice) -> Pair | Sequence[Pair]:
        return self._pairs[number]


def short_responses(limit: Limit, row: Row) -> list[int]:
    """Return the responses of a row that are short enough with its prompt."""
    room = limit.most - len(limit.lm.encode_prompt(row.prompt))
    texts = enumerate(zip(row.responses, row.truncated, strict=True))
    return [k for k, (text, cut) in texts if len(limit.lm.encode_response(text, cut)) <= room]
