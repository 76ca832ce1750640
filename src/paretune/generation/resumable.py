"""The loop that samples many responses: each part is kept in a file, and a stopped loop resumes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from paretune.core.errors import DataError
from paretune.core.files import read_json, write_json
from paretune.core.sampling import Sampling

BATCHES_PER_PART = 4
"""Batches sampled between two writes: a killed run loses at most these."""

_NAME = re.compile(r"[0-9a-f]{16}\.json")
"""Names of the files of parts."""

Drawn: TypeAlias = tuple[Any, ...]
"""A response as a part keeps it: its text, then JSON values such as whether it was cut by the token limit."""

Plan: TypeAlias = Callable[[range], tuple[str, Callable[[], Sequence[Drawn]]]]
"""Function from the numbers of a part's responses to the part's name and to the function that samples them.

The name identifies all that decides the responses: model, prompts, sampling and seeds.
"""


def part_size(sampling: Sampling) -> int:
    """Return how many responses are kept together."""
    return BATCHES_PER_PART * sampling.batch_size


def draw_in_parts(folder: Path, count: int, size: int, plan: Plan, width: int = 2) -> list[Drawn]:
    """Return ``count`` responses; parts that an earlier call left in ``folder`` are read and not sampled again.

    Args:
        folder: Folder of the parts.
        count: Number of responses.
        size: Number of responses per part.
        plan: Name of a part, and the function that samples it.
        width: Number of values per response.

    Raises:
        DataError: A part in the folder cannot be read; the message names the file.
    """
    drawn: list[Drawn] = []
    for numbers in split(count, size):
        name, draw = plan(numbers)
        part = Part.open(folder / f"{name}.json", numbers, width)
        if part.missing:
            for number, response in zip(numbers, draw(), strict=True):
                part.put(number, response)
        drawn += part.drawn
    return drawn


def remove_parts(folder: Path) -> None:
    """Remove the parts in ``folder``, and the folder unless it holds anything else, which is somebody's own."""
    if folder.is_dir():
        for file in [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def split(count: int, size: int) -> Iterator[range]:
    """Yield the numbers 0 to ``count`` - 1 in parts of ``size``; the last part may be smaller."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


@dataclass(eq=False)
class Part:
    """Consecutive responses that are kept in one file.

    Attributes:
        file: File of the part, replaced as a whole.
        numbers: Numbers of the responses among all.
        responses: Responses so far, in the order of ``numbers``; None where one is missing.
        unsaved: Number of responses that are not on disk.
    """

    file: Path
    numbers: range
    responses: list[Drawn | None]
    unsaved: int = 0

    @classmethod
    def open(cls, file: Path, numbers: range, width: int, more: int = 0) -> Part:
        """Read a part, as far as it is on disk; a response has ``width`` values, and up to ``more`` further ones.

        Raises:
            DataError: The file does not hold ``len(numbers)`` responses of ``width`` values; names it and the cure.
        """
        if not file.is_file():
            return cls(file, numbers, [None] * len(numbers))
        values = read_json(file)
        cure = "delete the file to have it sampled again"
        if not isinstance(values, list) or not all(_is_drawn(value, width, more) for value in values):
            raise DataError(
                f"{file}: not a part of the samples; expected a list of responses with {width} values each; {cure}"
            )
        if len(values) != len(numbers):
            raise DataError(f"{file}: {len(values)} responses, expected {len(numbers)}; {cure}")
        return cls(file, numbers, [None if value is None else tuple(value) for value in values])

    @property
    def missing(self) -> list[int]:
        """Numbers of the responses that are still to be sampled."""
        return [
            number for number, response in zip(self.numbers, self.responses, strict=True) if response is None
        ]

    @property
    def drawn(self) -> list[Drawn]:
        """Responses so far."""
        return [response for response in self.responses if response is not None]

    def put(self, number: int, response: Drawn) -> None:
        """Add the response of a number; the part is saved once it is whole."""
        self.responses[number - self.numbers.start] = response
        self.unsaved += 1
        if not self.missing:
            self.save()

    def save(self) -> None:
        """Write the responses so far, unless all of them are on disk."""
        if self.unsaved:
            write_json(self.file, self.responses)
            self.unsaved = 0


def _is_drawn(value: object, width: int, more: int) -> bool:
    if not isinstance(value, list):
        return value is None
    plain = all(_is_plain(each) or (isinstance(each, list) and all(map(_is_plain, each))) for each in value)
    return width <= len(value) <= width + more and isinstance(value[0], str) and plain


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, bool, int, float))
