"""Rows that are too many for memory: they stand in a temporary Arrow file and are read a block at a time.

`gather` takes rows as they come and decides by their size. What it returns is a sequence of rows either way, so nothing
above knows the difference. The file has no name (or loses it when it is closed): a killed process leaves nothing behind.
It is read, not mapped: mapped pages count as memory of the process for as long as the system cares to keep them.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, pairwise
from typing import IO, Any, overload

import numpy as np

from paretune.core.errors import DataError, ParetuneError
from paretune.core.files import cache_folder, scratch_file
from paretune.data.rows import Message, Row

MOST_IN_MEMORY = 1 << 25
"""Characters up to which rows stay in memory, objects included."""
BLOCK = 1 << 20
"""Characters in one block, the unit of reading."""
ROW_OBJECTS = 1000
"""Characters that the objects of a row count for beside its texts."""


def gather(rows: Iterable[Row]) -> Sequence[Row]:
    """Return rows as a sequence: a tuple, or from `MOST_IN_MEMORY` on an `ArrowRows`.

    Raises:
        ParetuneError: The temporary file cannot be written.
    """
    if isinstance(rows, ArrowRows):
        return rows
    kept: deque[Row] = deque()
    stream, size = iter(rows), 0
    for row in stream:
        kept.append(row)
        size += _size(row)
        if size > MOST_IN_MEMORY:
            return _stored(chain(_drained(kept), stream))
    return tuple(kept)


def changed(rows: Sequence[Row], change: Callable[[Row], Row], names: Iterable[str]) -> Sequence[Row]:
    """Return every row after ``change``, in order; ``names`` are the objectives that it leaves in them.

    Rows in a file are changed whenever they are read.
    """
    if isinstance(rows, ArrowRows):
        return ArrowRows(rows.file, rows.places, (*rows.changes, change), frozenset(names))
    return gather(map(change, rows))


def taken(rows: Sequence[Row], places: np.ndarray) -> Sequence[Row]:
    """Return the rows at ``places [n]``, in this order."""
    if isinstance(rows, ArrowRows):
        return ArrowRows(rows.file, rows.places[places], rows.changes, rows.names)
    return tuple(rows[number] for number in places.tolist())


class ArrowRows(Sequence[Row]):
    """Rows of an Arrow file in some order; a slice shares the file.

    Attributes:
        file: The open file that holds them.
        places: int64 ``[N]``, where each stands in the file.
        changes: Functions applied to a row after it is read.
        names: The objectives that rows may have.
    """

    def __init__(
        self,
        file: _File,
        places: np.ndarray,
        changes: tuple[Callable[[Row], Row], ...],
        names: frozenset[str],
    ) -> None:
        self.file, self.places, self.changes, self.names = file, places, changes, names

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Row]:
        blocks = np.searchsorted(self.file.starts, self.places, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)]
        for start, end in pairwise(edges):
            if start < end:  # no rows have no block
                places = self.places[start:end] - self.file.starts[blocks[start]]
                yield from map(self._change, self.file.rows(int(blocks[start]), places))

    @overload
    def __getitem__(self, number: int) -> Row: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...

    def __getitem__(self, number: int | slice) -> Row | Sequence[Row]:
        if isinstance(number, slice):
            return ArrowRows(self.file, self.places[number], self.changes, self.names)
        at = self.places[number]
        block = int(np.searchsorted(self.file.starts, at, side="right")) - 1
        (row,) = self.file.rows(block, np.array([at - self.file.starts[block]]))
        return self._change(row)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrowRows | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == yours for mine, yours in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of rows, which hold mappings

    def _change(self, row: Row) -> Row:
        for change in self.changes:
            row = change(row)
        return row


class _File:
    """Rows in blocks of an Arrow file that ends with this object; ``starts`` ``[blocks]`` is the first row of each."""

    def __init__(self, file: IO[bytes], sizes: Sequence[int]) -> None:
        import pyarrow

        weakref.finalize(self, file.close)
        self._reader = pyarrow.ipc.open_file(pyarrow.PythonFile(file, mode="r"))
        self._lock = threading.Lock()  # a place in the file is sought first and read then
        self._last: tuple[int, Any] = (-1, None)
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)[:-1]

    def rows(self, block: int, places: np.ndarray) -> list[Row]:
        with self._lock:
            number, batch = self._last
            if number != block:
                try:
                    batch = self._reader.get_batch(block)
                except OSError as error:
                    raise DataError(f"the temporary file of the rows cannot be read: {error}") from error
                self._last = (block, batch)
        whole = len(places) == batch.num_rows and bool(np.all(np.diff(places) == 1))
        return _decoded(batch if whole else batch.take(places))


def _size(row: Row) -> int:
    return ROW_OBJECTS + sum(len(m.content) for m in row.prompt) + sum(map(len, row.responses))


def _drained(kept: deque[Row]) -> Iterator[Row]:
    """Yield the rows and let go of each."""
    while kept:
        yield kept.popleft()


def _stored(rows: Iterable[Row]) -> ArrowRows:
    import pyarrow  # 60 ms and more, only for those with many rows

    sizes: list[int] = []
    names: set[str] = set()
    file = scratch_file()
    try:
        with pyarrow.ipc.new_file(pyarrow.PythonFile(file, mode="w"), _schema()) as writer:
            for block in _blocks(rows):
                for row in block:
                    names.update(row.scores, row.labels)
                writer.write_batch(_encoded(block))
                sizes.append(len(block))
        file.flush()
    except OSError as error:
        file.close()
        raise ParetuneError(
            f"{cache_folder()}: cannot keep the rows there ({error.strerror or error}); free some space, or set PARETUNE_CACHE "
            "to a folder with room for the data"
        ) from error
    except BaseException:
        file.close()
        raise
    return ArrowRows(_File(file, sizes), np.arange(sum(sizes)), (), frozenset(names))


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += _size(row)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


# Rows as columns. Names and numbers lie flat, K numbers a name and three a comparison: nested ones are slow to read.


@cache
def _schema() -> Any:
    import pyarrow as pa

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    return pa.schema(
        {
            "roles": texts,
            "contents": texts,
            "responses": texts,
            "score_names": texts,
            "scores": numbers,
            "label_names": texts,
            "label_counts": pa.list_(pa.int64()),
            "labels": numbers,
            "truncated": pa.list_(pa.bool_()),
            "source": pa.string(),
            "weight": pa.float64(),
            "margin": pa.float64(),
        }
    )


def _encoded(rows: Sequence[Row]) -> Any:
    import pyarrow

    columns: dict[str, list[Any]] = {
        "roles": [[m.role for m in row.prompt] for row in rows],
        "contents": [[m.content for m in row.prompt] for row in rows],
        "responses": [row.responses for row in rows],
        "score_names": [list(row.scores) for row in rows],
        "scores": [list(chain.from_iterable(row.scores.values())) for row in rows],
        "label_names": [list(row.labels) for row in rows],
        "label_counts": [list(map(len, row.labels.values())) for row in rows],
        "labels": [[n for values in row.labels.values() for c in values for n in c] for row in rows],
        "truncated": [row.truncated for row in rows],
        "source": [row.source for row in rows],
        "weight": [row.weight for row in rows],
        "margin": [row.margin for row in rows],
    }
    arrays = [pyarrow.array(columns[field.name], field.type) for field in _schema()]
    return pyarrow.record_batch(arrays, schema=_schema())


def _decoded(batch: Any) -> list[Row]:
    rows = []
    for (
        roles,
        contents,
        responses,
        names,
        scores,
        judged,
        counts,
        labels,
        truncated,
        source,
        weight,
        margin,
    ) in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        # One NaN object, so that equal rows compare equal.
        known = [value if value == value else math.nan for value in scores]
        K = len(responses)
        compared = zip(map(int, labels[::3]), map(int, labels[1::3]), labels[2::3], strict=True)
        rows.append(
            Row.of_checked(
                prompt=tuple(map(Message, roles, contents)),
                responses=tuple(responses),
                scores={name: tuple(known[n * K : (n + 1) * K]) for n, name in enumerate(names)},
                labels={
                    name: tuple(next(compared) for _ in range(count))
                    for name, count in zip(judged, counts, strict=True)
                },
                truncated=tuple(truncated),
                source=source,
                weight=weight,
                margin=margin,
            )
        )
    return rows
