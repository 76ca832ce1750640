"""Token ids of many prompts and responses in an Arrow file, and their packing to token budgets as a stream."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from paretune.core.errors import DataError
from paretune.core.files import atomic_path, cache_folder, fingerprint
from paretune.core.progress import progress
from paretune.data.dataset import ScoredDataset
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup

if TYPE_CHECKING:
    from rich.console import Group

BLOCK_GROUPS = 1024
"""Groups in one block of a file, the unit of reading."""
WINDOW = 8192
"""Groups among which those that are packed together are looked for."""


class TokenFile(Sequence[TokenGroup]):
    """Groups of token ids in an Arrow file, read a block at a time.

    Raises:
        DataError: the file is damaged, or is something else; the message names it.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow

        self.path = Path(path)
        try:
            self._reader = pyarrow.ipc.open_file(pyarrow.OSFile(str(path)))
            blocks = self._reader.num_record_batches
            last = self._reader.get_batch(blocks - 1).num_rows if blocks else 0
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        if self._reader.schema != _schema():
            raise self._damaged(f"columns {', '.join(self._reader.schema.names)}")
        self._count = (blocks - 1) * BLOCK_GROUPS + last if blocks else 0
        self._last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TokenGroup]:
        for number in range(self._reader.num_record_batches):
            batch = self._block(number)
            yield from zip(batch["prompt"].to_pylist(), batch["responses"].to_pylist(), strict=True)

    @overload
    def __getitem__(self, number: int) -> TokenGroup: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[TokenGroup]: ...

    def __getitem__(self, number: int | slice) -> TokenGroup | Sequence[TokenGroup]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        block, place = divmod(number % len(self), BLOCK_GROUPS)
        batch = self._block(block)
        return batch["prompt"][place].as_py(), batch["responses"][place].as_py()

    def lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return int32 ``[N]``, ``[N]`` and ``[R]``: responses of each group, tokens of its prompt, tokens of each response."""
        found = [np.empty((0,), dtype=np.int32)] * 3
        parts = [[empty] for empty in found]
        for number in range(self._reader.num_record_batches):
            batch = self._block(number)
            responses = batch["responses"]
            for kept, column in zip(parts, (responses, batch["prompt"], responses.flatten()), strict=True):
                kept.append(column.value_lengths().to_numpy())
        counts, prompts, each = map(np.concatenate, parts)
        return counts, prompts, each

    def _block(self, number: int) -> Any:
        if self._last[0] != number:
            try:
                self._last = (number, self._reader.get_batch(number))
            except (OSError, ValueError) as error:
                raise self._damaged(error) from error
        return self._last[1]

    def _damaged(self, reason: object) -> DataError:
        text = str(reason).splitlines()[0]
        return DataError(
            f"{self.path}: not a readable file of token ids ({text}); delete it to have it made again"
        )


def write_tokens(path: str | Path, groups: Iterable[TokenGroup]) -> TokenFile:
    """Write groups as they come, atomically, and return them as a file.

    Raises:
        ParetuneError: the place cannot be written; nothing is left of it then.
    """
    import pyarrow

    stream = iter(groups)
    with (
        atomic_path(path) as temporary,
        pyarrow.OSFile(str(temporary), "wb") as file,
        pyarrow.ipc.new_file(file, _schema()) as writer,
    ):
        while block := list(islice(stream, BLOCK_GROUPS)):
            arrays = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*block, strict=True), _schema(), strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=_schema()))
    return TokenFile(path)


def tokenised(lm: LanguageModel, dataset: ScoredDataset, path: str | Path | None = None) -> TokenFile:
    """Return the token ids of all rows: a prompt and its responses each, in order.

    Args:
        lm: whose template and tokenizer are used.
        dataset: rows; one without responses is a prompt alone.
        path: where the file stands; by default in the cache folder, where the same data are found again.

    Raises:
        DataError: the chat template refuses a prompt, or a kept file is damaged.
    """
    key = fingerprint(dataset.fingerprint, lm.fingerprint, lm.tags)
    place = Path(path) if path else cache_folder() / "tokens" / f"{key}.arrow"
    if path is None and place.is_file():
        return TokenFile(place)

    def groups() -> Iterator[TokenGroup]:
        with progress("tokenising", len(dataset.rows)) as advance:
            for row in dataset.rows:
                responses = zip(row.responses, row.truncated, strict=True)
                yield lm.encode_prompt(row.prompt), [lm.encode_response(*response) for response in responses]
                advance(1)

    return write_tokens(place, groups())


def packed_groups(
    groups: Iterable[TokenGroup], budget: int, window: int = WINDOW
) -> Iterator[list[tuple[int, TokenGroup]]]:
    """Yield parts of at most ``budget`` tokens, each of groups of like size with their numbers in ``groups``.

    Among each ``window`` groups that come one after the other the largest are packed first. A group beyond the budget is a
    part of its own, as no response may lose its prompt. :func:`paretune.models.packing.pack` makes a batch of a part.
    """
    stream, first = iter(groups), 0
    while waiting := list(islice(stream, window)):
        sizes = [len(prompt) + sum(map(len, responses)) for prompt, responses in waiting]
        for part in _parts(sizes, budget):
            yield [(first + number, waiting[number]) for number in part]
        first += len(waiting)


def _parts(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield numbers of groups of at most ``budget`` tokens together, the largest first."""
    order = sorted(range(len(sizes)), key=lambda number: sizes[number])
    while order:
        part = [order.pop()]
        tokens = sizes[part[0]]
        while order and tokens + sizes[order[-1]] <= budget:
            tokens += sizes[order[-1]]
            part.append(order.pop())
        yield part


@dataclass(frozen=True)
class TokenCounts:
    """How long data are for a model.

    Attributes:
        rows, responses: how many.
        tokens: of all prompts, each counted once, and responses.
        prompt, response: mean, median, 95 % and longest, in tokens; NaN where there is none.
        over: rows of which prompt and longest response exceed ``max_tokens``.
        budget, parts: forwards of at most ``budget`` tokens that read everything once.
    """

    rows: int
    responses: int
    tokens: int
    prompt: tuple[float, float, float, float]
    response: tuple[float, float, float, float]
    max_tokens: int
    over: int
    budget: int
    parts: int


def count_tokens(file: TokenFile, max_tokens: int = 1024, budget: int = 1024) -> TokenCounts:
    """Count tokens, and the parts of :func:`packed_groups`."""
    counts, prompts, responses = file.lengths()
    ends = np.concatenate([[0], np.cumsum(responses)])  # tokens of responses before each
    last = np.cumsum(counts)
    sizes = prompts + ends[last] - ends[last - counts]
    longest = np.zeros(len(counts), dtype=np.int32)
    np.maximum.at(longest, np.repeat(np.arange(len(counts)), counts), responses)
    windows = (sizes[start : start + WINDOW].tolist() for start in range(0, len(sizes), WINDOW))
    return TokenCounts(
        rows=len(counts),
        responses=len(responses),
        tokens=int(sizes.sum()),
        prompt=_spread(prompts),
        response=_spread(responses),
        max_tokens=max_tokens,
        over=int(np.sum(prompts + longest > max_tokens)),
        budget=budget,
        parts=sum(1 for window in windows for _ in _parts(window, budget)),
    )


def _spread(lengths: np.ndarray) -> tuple[float, float, float, float]:
    if not len(lengths):
        return (math.nan,) * 4
    middle, long = np.quantile(lengths, [0.5, 0.95]).tolist()
    return float(lengths.mean()), middle, long, float(lengths.max())


def render(counts: TokenCounts) -> Group:
    """Return the counts as rich tables, for the terminal."""
    from rich.console import Group  # only for those who print
    from rich.table import Table

    sums = Table(title="Tokens", title_justify="left")
    sums.add_column("")
    sums.add_column("count", justify="right")
    for label, value in (
        ("rows", counts.rows),
        ("responses", counts.responses),
        ("tokens, each prompt once", counts.tokens),
        (f"rows longer than {counts.max_tokens}", counts.over),
        (f"forwards of at most {counts.budget}", counts.parts),
    ):
        sums.add_row(label, f"{value:,}")
    lengths = Table(title="Length in tokens", title_justify="left")
    for column in ("", "mean", "median", "95 %", "longest"):
        lengths.add_column(column, justify="right" if column else "left")
    for label, values in (("prompt", counts.prompt), ("response", counts.response)):
        lengths.add_row(label, *("-" if math.isnan(value) else f"{value:,.0f}" for value in values))
    return Group(sums, lengths)


def _schema() -> Any:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema({"prompt": ids, "responses": pa.list_(ids)})
