"""What people's tastes cost: a vote is read once, and a summary is computed only where there is something new."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store
from paretune.serving.store.tastes import Tastes
from support.serve_world import OBJECTIVES, fake_service


def test_a_vote_is_read_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = fake_service(tmp_path)
    store, surface = service.require_store(), service.backend.served["soup"].surface
    assert surface is not None
    first, second = (VotedAnswer(name, Preference.one_hot(name, OBJECTIVES)) for name in OBJECTIVES)
    vote = Vote("soup", (Message("user", "red sun"),), first, second, "first")
    read: list[int] = []
    plain = Store.votes

    def counted(self: Store, *arguments: object) -> list[Vote]:
        found = plain(self, *arguments)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    monkeypatch.setattr(Store, "votes", counted)
    tastes = Tastes(store)
    ids = []
    for number in range(5):
        ids.append(store.add_vote("ann", vote))
        assert len(tastes.of("ann", surface).ballots) == number + 1
    assert read == [1] * 5
    assert len(tastes.of("ann", surface).ballots) == 5 and read == [1] * 5, (
        "nothing is new, and nothing is read"
    )

    summary = tastes.population(surface)
    assert tastes.population(surface) is summary and read == [1] * 5
    store.add_vote("ben", vote)
    assert set(tastes.population(surface).people) == {"ann", "ben"} and read == [1] * 6

    store.delete_vote(ids[1])
    assert tastes.of("ann", surface).mean == Tastes(store).of("ann", surface).mean, "as if it never was"
    service.close()
