"""The pairs of an objective among the responses that are short enough: no row is lost because its widest pair is too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Choose, Pair, pairs, widest_pair
from paretune.training.token_tables import Limit, fitted_pair


def chosen_pairs(limit: Limit, dataset: ScoredDataset, objective: str, choose: Choose) -> Sequence[Pair]:
    """Return :func:`paretune.data.pairs.pairs`; where long texts are dropped, ``extremes`` chooses among the others."""
    chosen = pairs(dataset, objective, choose)
    choice = choose == "extremes" and any(len(row.responses) > 2 for row in dataset.rows)
    if not choice or limit.too_long != "drop":
        return chosen
    return ShortPairs(chosen, dataset, objective, limit)


def rows_replaced(chosen: Sequence[Pair]) -> int:
    """Return in how many rows another pair was taken, as far as ``chosen`` has been read."""
    return len(chosen.replaced) if isinstance(chosen, ShortPairs) else 0


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
        limit = self._limit
        if fitted_pair(limit, pair):
            return pair
        row = self._dataset.rows[pair.row]
        room = limit.most - len(limit.lm.encode_prompt(row.prompt))
        texts = enumerate(zip(row.responses, row.truncated, strict=True))
        short = [k for k, (text, cut) in texts if len(limit.lm.encode_response(text, cut)) <= room]
        other = widest_pair(self._dataset, self._objective, pair.row, short)
        if other is None:
            return pair
        self.replaced.add(pair.row)
        return other
