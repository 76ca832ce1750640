"""Which rows each forward of a run reads: up to ``train.batch_pairs``, and no more than ``train.batch_tokens`` tokens of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from paretune.models.packing import TokenGroup
from paretune.training.loop import Training, TrainingRun

Cost = Callable[[int], int]
"""The tokens that a forward reads for the row at a position of an order."""


class Table(Protocol):
    """Rows of token ids that are trained on."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of rows."""


def group_tokens(groups: Iterable[TokenGroup]) -> int:
    """Return the tokens of some groups in a packed batch."""
    return sum(len(prompt) + sum(map(len, responses)) for prompt, responses in groups)


def held_out(settings: Training, table: Table) -> list[range]:
    """Return the rows of each forward over a held-out table."""
    cost = _cost(table, range(len(table)))
    return spans(len(table), settings.batch_pairs, settings.batch_tokens, cost)


def _cost(table: Table, order: Sequence[int]) -> Cost:
    return lambda position: group_tokens(table.groups([order[position]]))


def spans(count: int, pairs: int, tokens: int, cost: Cost) -> list[range]:
    """Divide the positions below ``count`` into runs of at most ``pairs`` positions and ``tokens`` tokens.

    A position that has more tokens alone is a run of its own.

    Args:
        count: Number of positions.
        pairs: Most positions of a run.
        tokens: Most tokens of a run; 0 for any number.
        cost: Tokens of a position; not asked for without a limit of tokens.
    """
    return list(_spans(count, pairs, tokens, cost))


def _spans(count: int, pairs: int, tokens: int, cost: Cost) -> Iterable[range]:
    if not tokens:
        yield from (range(start, min(count, start + pairs)) for start in range(0, count, pairs))
        return
    start, held = 0, 0
    for position in range(count):
        own = cost(position)
        if position > start and (position - start == pairs or held + own > tokens):
            yield range(start, position)
            start, held = position, 0
        held += own
    if start < count:
        yield range(start, count)


@dataclass(frozen=True)
class Batches:
    """The rows of every forward of a run, a function of the data and the settings alone.

    Attributes:
        settings: Settings of training.
        orders: Row numbers of each table, in the order in which they are drawn.
        runs: Positions in the orders of each forward; None where every forward has ``train.batch_pairs``.
        alone: Forwards of one pair that has more tokens than ``train.batch_tokens``.
    """

    settings: Training
    orders: tuple[Sequence[int], ...]
    runs: tuple[range, ...] | None = None
    alone: int = 0

    @classmethod
    def of(cls, run: TrainingRun, orders: Sequence[Sequence[int]], cost: Cost) -> Batches:
        """Return the batches of a run over tables in ``orders``, and say what bounds them.

        ``cost`` is that of the rows at one position of all orders.
        """
        settings, most = run.settings, run.settings.batch_tokens
        if not most:
            return cls(settings, tuple(orders))
        forwards = settings.steps * settings.accumulate
        runs = tuple(islice(_spans(settings.draws, settings.batch_pairs, most, cost), forwards))
        alone = sum(len(part) == 1 and cost(part.start) > most for part in runs)
        batches = cls(settings, tuple(orders), runs, alone)
        run.notify(f"{run.name}: {batches.bounds}")
        return batches

    @classmethod
    def of_table(cls, run: TrainingRun, table: Table) -> Batches:
        """Return the batches of a run over one table."""
        order = run.settings.order(len(table))
        return cls.of(run, [order], _cost(table, order))

    def rows(self, step: int, micro: int) -> list[list[int]]:
        """Return the rows of each table in forward ``micro`` of optimiser step ``step`` (both from 0)."""
        number = step * self.settings.accumulate + micro
        pairs = self.settings.batch_pairs
        run = range(number * pairs, (number + 1) * pairs) if self.runs is None else self.runs[number]
        return [list(order[run.start : run.stop]) for order in self.orders]

    def metrics(self, rows: Sequence[Sequence[int]]) -> dict[str, float]:
        """Return the number of pairs of a forward as a metric, where it is not the same for all."""
        return {} if self.runs is None else {"pairs": float(sum(map(len, rows)))}

    @property
    def bounds(self) -> str:
        """What bounds the forwards, in words; for a run with ``train.batch_tokens``."""
        settings, runs = self.settings, self.runs or ()
        by_pairs = sum(len(run) == settings.batch_pairs for run in runs)
        mean = sum(map(len, runs)) * len(self.orders) / max(1, len(runs))
        alone = f"; {self.alone} have one pair that has more tokens by itself" if self.alone else ""
        by_tokens = f"{len(runs) - by_pairs} of {len(runs)} forwards are bounded by train.batch_tokens={settings.batch_tokens}"
        return f"{by_tokens}, {by_pairs} by train.batch_pairs={settings.batch_pairs}; {mean:.3g} pairs in each on average{alone}"
