"""Votes of people who are told apart: who preferred which of two responses to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from paretune.core.errors import DataError, suggest
from paretune.data.columns import take, text_of
from paretune.data.readers import Record, read_records
from paretune.data.rows import Prompt, prompt_from

Winner = Literal["first", "second", "tie"]

USER = "user"
"""The column with the id of the person who voted."""
CURE = (
    "whose taste a vote shows must be known: give every record the id of the person who cast it under "
    f"{USER!r}, or the store of a server, whose profiles are people"
)


@dataclass(frozen=True)
class PersonVote:
    """One person's choice between two responses to a prompt.

    Attributes:
        user: Id of the person.
        prompt: The conversation.
        first, second: The two responses.
        winner: The better one, or ``tie``.
        where: Its origin, for messages.
    """

    user: str
    prompt: Prompt
    first: str
    second: str
    winner: Winner
    where: str = ""

    @property
    def sign(self) -> int:
        """1 for the first, -1 for the second, 0 for a tie."""
        return {"first": 1, "second": -1, "tie": 0}[self.winner]


def read_person_votes(file: str | Path) -> list[PersonVote]:
    """Read the votes of a data file, a record each, in any format of data.

    A record has ``user``, ``prompt`` (text or messages), and either ``chosen`` and ``rejected``, or ``first``, ``second`` and
    ``winner`` (``first``, ``second`` or ``tie``).

    Raises:
        DataError: A record has no user id, or is no vote; the message names its line.
    """
    votes = [_vote(record, where) for where, record in read_records(file)]
    if not votes:
        raise DataError(f"{file}: no vote in the file; expected one in each record")
    return votes


def _vote(record: Record, where: str) -> PersonVote:
    user = _user(record, where)
    prompt = prompt_from(take(record, "prompt", where), "prompt", where)
    if "chosen" in record:
        first, second, winner = text_of(record, "chosen", where), text_of(record, "rejected", where), "first"
    else:
        first, second, winner = (text_of(record, column, where) for column in ("first", "second", "winner"))
    if winner not in get_args(Winner):
        raise DataError(f"{where}: winner {winner!r:.60}; {suggest(winner, get_args(Winner))}")
    for name, text in (("first", first), ("second", second)):
        if not text.strip():
            raise DataError(f"{where}: the {name} response is empty; leave the vote out")
    return PersonVote(user, prompt, first, second, winner, where)  # type: ignore[arg-type]


def _user(record: Record, where: str) -> str:
    given: Any = record.get(USER)
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or not given.strip():
        raise DataError(f"{where}: a vote without a user id; {CURE}")
    return str(given)


def by_user(votes: Sequence[PersonVote]) -> dict[str, list[PersonVote]]:
    """Return user -> their votes, in the order of the votes; users in alphabetical order."""
    found: dict[str, list[PersonVote]] = {name: [] for name in sorted({vote.user for vote in votes})}
    for vote in votes:
        found[vote.user].append(vote)
    return found
