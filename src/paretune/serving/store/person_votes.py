"""The votes of a store as those of people, from which prototypes are learned; and what is learned of a person as their preset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.data.person_votes import CURE, PersonVote
from paretune.serving.store.access import SHARED
from paretune.serving.store.entries import Vote
from paretune.serving.store.store import Store

PRESET = "pal"
"""Name of the preset that a person gets."""


@dataclass(frozen=True)
class PersonVotes:
    """Votes of people, and reason -> number of votes that were left out."""

    votes: tuple[PersonVote, ...]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        people = len({vote.user for vote in self.votes})
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in self.left_out.items())
        return f"{len(self.votes)} votes of {people} people{left_out}"


def person_votes(votes: Sequence[Vote]) -> PersonVotes:
    """Return votes with the profile as the person.

    Votes on one named objective say nothing about a taste, those of the profile that everybody shares are nobody's in particular,
    and equal or empty answers show nothing: all of these are left out.

    Raises:
        DataError: None is left.
    """
    kept, left_out = [], Counter[str]()
    for vote in votes:
        texts = vote.first.text, vote.second.text
        if vote.profile == SHARED:
            left_out[f"cast under the profile {SHARED!r}, which everybody shares"] += 1
        elif vote.objective is not None:
            left_out["on one objective"] += 1
        elif not all(text.strip() for text in texts):
            left_out["an empty answer"] += 1
        elif texts[0] == texts[1]:
            left_out["two equal answers"] += 1
        else:
            kept.append(PersonVote(vote.profile, vote.prompt, *texts, vote.winner, f"vote {vote.id}"))
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"no votes with a user id ({counts or 'the store has none'}); {CURE}")
    return PersonVotes(tuple(kept), dict(left_out))


def votes_of_store(url: str) -> PersonVotes:
    """Return the votes of a store (URL or SQLite file), see :func:`person_votes`.

    Raises:
        StoreError: There is no store, or it cannot be read.
        DataError: It has no votes with a user id.
    """
    opened = Store.open(url, create=False)
    try:
        return person_votes(opened.votes())
    finally:
        opened.close()


def save_tastes(url: str, policy: str, tastes: Mapping[str, Preference], name: str = PRESET) -> int:
    """Save people's tastes as their presets on a policy, all of those whose profile is there; return their number.

    Raises:
        StoreError: There is no store, or it cannot be written.
    """
    opened = Store.open(url, create=False)
    try:
        people = {profile.name: profile.owner for profile in opened.profiles()}
        there = {person: taste for person, taste in tastes.items() if person in people}
        for person, taste in there.items():
            opened.save_preset(person, name, policy, taste, people[person])
        return len(there)
    finally:
        opened.close()
