"""Broken records told together: a reader stops at the first, and the records behind it are looked through for more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from paretune.core.errors import DataError
from paretune.data.rows import Row

LOOKED_AT = 10_000
"""Records behind the first broken one that are looked at: a second of reading."""
NAMED = 8
"""Further broken records that a message names."""

Record = dict[str, Any]
Reader = Callable[[Iterator[tuple[str, Record]]], Iterator[Row]]


def told_together(read: Reader, records: Iterable[tuple[str, Record]]) -> Iterator[Row]:
    """Yield the rows that ``read`` makes of ``(where, record)``.

    Args:
        read: Takes the records one at a time, and raises a DataError at one that is broken.
        records: The records.

    Raises:
        DataError: That of the first broken record; it names the next ones too. Where the first record of all is broken, it may be
            the map or the form that is wrong, and the message stays as it is.
    """
    stream = _Stream(records)
    try:
        yield from read(stream)
    except DataError as error:
        more = _further(read, stream) if stream.taken > 1 else []
        if not more:
            raise
        named = ", ".join(more[:NAMED])
        rest = f" and {len(more) - NAMED} more" if len(more) > NAMED else ""
        raise DataError(f"{error}; broken too: {named}{rest}") from error


def _further(read: Reader, stream: _Stream) -> list[str]:
    """Return where the next broken records stand."""
    end = stream.taken + LOOKED_AT
    places: list[str] = []
    while stream.taken < end and not stream.ended:
        try:
            # The first record decides how some readers read all.
            for _ in read(chain([stream.first], stream)):
                if stream.taken >= end:
                    break
        except DataError:
            if not stream.ended:  # an error at the end is about all records, and these are some of them
                places.append(stream.where)
    return places


class _Stream:
    """Records with the first of them, a count of those taken, where the last of these stands, and whether there are no more."""

    def __init__(self, records: Iterable[tuple[str, Record]]) -> None:
        self._records = iter(records)
        self.first: tuple[str, Record] = ("", {})
        self.taken, self.where, self.ended = 0, "", False

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> tuple[str, Record]:
        try:
            self.where, record = next(self._records)
        except (StopIteration, DataError):  # a file that cannot be read on has no next record either
            self.ended = True
            raise
        if not self.taken:
            self.first = (self.where, record)
        self.taken += 1
        return self.where, record
