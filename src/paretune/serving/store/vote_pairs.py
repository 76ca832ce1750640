"""Votes as preference data: people's choices between two answers, in the canonical form that a run trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset, new_data_file
from paretune.data.rows import Comparison, Prompt, Row
from paretune.serving.store.entries import Vote
from paretune.serving.store.store import Store

PREFERRED = "preferred"
"""Objective of votes that name none: people's preference as a whole."""

STRENGTH = {"first": 1.0, "second": -1.0, "tie": 0.0}


@dataclass(frozen=True)
class VoteData:
    """Preference data of votes.

    Attributes:
        dataset: One row per pair of answers to a prompt, with one comparison per vote on it.
        used: Number of votes in it.
        left_out: Reason -> number of votes that were left out.
    """

    dataset: ScoredDataset
    used: int
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        rows = self.dataset.rows
        counts = ", ".join(
            f"{name} {sum(len(row.labels.get(name, ())) for row in rows)}" for name in self.dataset.objectives
        )
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in self.left_out.items())
        return f"{self.used} votes on {len(rows)} pairs of answers ({counts}){left_out}"


def vote_data(votes: Sequence[Vote], objective: str = PREFERRED) -> VoteData:
    """Return votes as rows of two responses each; a vote that names no objective labels ``objective``.

    Votes on the same two answers to the same prompt share a row, in either order. Votes between equal answers, or with an
    empty one, are left out. The ``source`` of a row is its first vote, such as ``vote 17``. Scores of the answers are not
    copied, because a run scores all its rows alike.

    Raises:
        DataError: No vote can be used.
        PreferenceError: ``objective`` is not a valid name.
    """
    groups: dict[tuple[Prompt, frozenset[str]], list[Vote]] = {}
    left_out: Counter[str] = Counter()
    for vote in votes:
        texts = frozenset(answer.text for answer in (vote.first, vote.second))
        if not all(text.strip() for text in texts):
            left_out["an empty answer"] += 1
        elif len(texts) == 1:
            left_out["two equal answers"] += 1
        else:
            groups.setdefault((vote.prompt, texts), []).append(vote)
    if not groups:
        counts = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise DataError(
            f"no votes to learn from ({counts or 'the store has none'}); vote in the studio first"
        )
    named = dict.fromkeys(vote.objective or objective for group in groups.values() for vote in group)
    # The preference as a whole comes first, whatever the order of the votes.
    objectives = sorted(named, key=lambda name: name != objective)
    dataset = ScoredDataset(tuple(objectives), tuple(_row(group, objective) for group in groups.values()))
    return VoteData(dataset, sum(map(len, groups.values())), dict(left_out))


def _row(votes: Sequence[Vote], objective: str) -> Row:
    """Return the row of votes on the same two answers."""
    responses = (votes[0].first.text, votes[0].second.text)
    labels: dict[str, list[Comparison]] = {}
    truncated = [False, False]
    for vote in votes:
        positions = responses.index(vote.first.text), responses.index(vote.second.text)
        labels.setdefault(vote.objective or objective, []).append((*positions, STRENGTH[vote.winner]))
        for position, answer in zip(positions, (vote.first, vote.second), strict=True):
            truncated[position] |= answer.truncated
    return Row(
        votes[0].prompt,
        responses,
        labels={name: tuple(comparisons) for name, comparisons in labels.items()},
        truncated=tuple(truncated),
        source=f"vote {votes[0].id}",
    )


def from_votes(
    store: str, target: str | Path, profile: str | None = None, objective: str = PREFERRED
) -> VoteData:
    """Write the votes of a store (URL or SQLite file), of one person or of all, as preference data; return the data.

    Raises:
        StoreError: There is no store, or it cannot be read.
        DataError: There are no votes, or the file's name has an unknown ending (expected .jsonl, .jsonl.gz, .parquet or .csv).
        ParetuneError: The file exists already.
    """
    new_data_file(target, "votes are written")
    opened = Store.open(store, create=False)
    try:
        votes = opened.votes(profile)
        if not votes and profile is not None:
            people = ", ".join(person.name for person in opened.profiles())
            raise DataError(f"profile {profile!r} has no votes; this store has {people or 'nobody'}")
    finally:
        opened.close()
    data = vote_data(votes, objective)
    data.dataset.write(target)
    return data
