"""The time that was said of a run beforehand, beside the time that it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

IN_ALL = "in all"
"""The sum of all parts that are compared."""
REST = "all else"
"""The part of what has no stage of its own: log-probabilities that are kept, loading between stages."""


@dataclass(frozen=True)
class Said:
    """A part of a run.

    Attributes:
        name: Its stage, or the name in the plan where it was not reached.
        said: Seconds that were said of what this process had to do for it.
        taken: Seconds that this process took; None where the two cannot be compared: it was found finished, is not done, or an
            earlier process may have done some of it.
    """

    name: str
    said: float
    taken: float | None

    @property
    def ratio(self) -> float | None:
        """The time taken as a multiple of what was said; None where they are not compared, or nothing was said."""
        return None if self.taken is None or self.said <= 0 else self.taken / self.said


def in_all(parts: Iterable[Said]) -> Said:
    """Return the sum of the parts that are compared; nothing is taken where none is.

    >>> in_all([Said("score", 2.0, 1.0), Said("train", 4.0, 2.0), Said("report", 9.0, None)])
    Said(name='in all', said=6.0, taken=3.0)
    """
    compared = [(part.said, part.taken) for part in parts if part.taken is not None]
    return Said(
        IN_ALL,
        sum(said for said, _ in compared),
        sum(taken for _, taken in compared) if compared else None,
    )
