"""The votes of a store as differences of scores, from which a preference for each prompt is learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from paretune.choosing.posterior import Ballot
from paretune.core.errors import DataError
from paretune.data.rows import Prompt
from paretune.fronts.surface import Surface
from paretune.serving.store.store import Store
from paretune.serving.store.tastes import ballot_of


@dataclass(frozen=True)
class PromptVotes:
    """Votes on answers of one policy.

    Attributes:
        prompts: The prompt of each vote.
        ballots: The votes, with the scores of their answers.
        own: Number of votes with the answers' own scores; the others have those that the front expects.
        left_out: Reason -> number of votes that were left out.
    """

    prompts: tuple[Prompt, ...]
    ballots: tuple[Ballot, ...]
    own: int
    left_out: Mapping[str, int]


def votes_with_scores(url: str, surface: Surface, profile: str | None = None) -> PromptVotes:
    """Return the votes of a store (URL or SQLite file) on a policy's answers, of one person or of all.

    Raises:
        StoreError: There is no store, or it cannot be read.
        DataError: It has no vote that can be used.
    """
    opened = Store.open(url, create=False)
    try:
        votes = opened.votes(profile)
        people = ", ".join(person.name for person in opened.profiles()) or "nobody"
    finally:
        opened.close()
    kept, left_out, own = [], Counter[str](), 0
    for vote in votes:
        answers = vote.first, vote.second
        if vote.policy != surface.policy:
            left_out[f"on answers of {vote.policy}"] += 1
        elif vote.objective is not None:
            left_out["on one objective"] += 1
        elif set(vote.first.preference.objectives) != set(surface.objectives):
            left_out["over other objectives"] += 1
        elif (cast := ballot_of(vote, surface)) is None:
            left_out["without the answers' own scores, at preferences around which nothing was measured"] += 1
        else:
            kept.append((vote.prompt, cast))
            own += all(set(surface.objectives) <= set(answer.scores or ()) for answer in answers)
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        whose = f"the profile {profile!r} has none; there are {people}" if profile else "the store has none"
        raise DataError(
            f"{url}: no vote on {surface.policy} to learn from ({counts or whose}); vote on its answers in the studio, where they "
            "are scored"
        )
    return PromptVotes(
        tuple(prompt for prompt, _ in kept), tuple(cast for _, cast in kept), own, dict(left_out)
    )
