"""People's tastes inferred from their votes: what routes show, and the next pair to ask about."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.choosing.bounds import Bounds
from paretune.choosing.elicit import CHEAP, Pair, best_preference, expected_regret, finished, next_pair
from paretune.choosing.population import Population, population
from paretune.choosing.posterior import SMALL, Ballot, Posterior, ballot
from paretune.core.errors import ParetuneError
from paretune.fronts.surface import Surface
from paretune.serving.store.entries import Vote
from paretune.serving.store.store import Store

MOST_KEPT = 1024


@dataclass(frozen=True)
class _Known:
    """What is known of a person: the posterior, the number of votes that it has seen, and the id of the last."""

    posterior: Posterior
    votes: int = 0
    last: int = 0


class Tastes:
    """Posteriors of people on policies, which follow from the store's votes.

    The latest are kept, so that a vote costs one update. Only votes with newer ids are read, and all are counted: if the number
    is not as expected, because a vote was deleted, here or by another server, the posterior is computed anew.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._summaries: dict[str, tuple[dict[str, tuple[int, int]], Population]] = {}
        self._lock = threading.Lock()

    def of(self, profile: str, surface: Surface) -> Posterior:
        """Return a person's posterior on a policy; votes on one objective, or outside the measured front, are not used."""
        mark = self._store.count_votes(surface.policy, profile).get(profile, (0, 0))
        return self._at(profile, surface, mark)

    def _at(self, profile: str, surface: Surface, mark: tuple[int, int]) -> Posterior:
        """Return the posterior of a person whose number of votes, and the id of the last, are known."""
        key = (profile, surface.policy)
        with self._lock:
            known = self._kept.get(key)
        if known is None or (known.votes, known.last) != mark:
            known = self._newest(profile, surface, known or _begun(profile, surface), mark)
        with self._lock:
            self._kept[key] = known
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return known.posterior

    def population(self, surface: Surface) -> Population:
        """Return what all people's votes on a policy show; it is computed anew only where there are other votes than last time."""
        marks = self._store.count_votes(surface.policy)
        with self._lock:
            seen, found = self._summaries.get(surface.policy, ({}, None))
        if found is None or seen != marks:
            posteriors = {name: self._at(name, surface, mark) for name, mark in marks.items()}
            found = population({name: one for name, one in posteriors.items() if one.ballots})
            with self._lock:
                self._summaries[surface.policy] = (marks, found)
        return found

    def _newest(self, profile: str, surface: Surface, known: _Known, mark: tuple[int, int]) -> _Known:
        votes = self._store.votes(profile, surface.policy, known.last)
        counted = known.votes + sum(
            vote.id <= mark[1] for vote in votes
        )  # a vote may have been cast since the count
        if counted != mark[0]:
            known = _begun(profile, surface)
            votes = self._store.votes(profile, surface.policy)
        posterior = known.posterior
        for vote in votes:
            cast = ballot_of(vote, surface)
            posterior = posterior if cast is None else posterior.update(cast)
        return _Known(posterior, known.votes + len(votes), votes[-1].id if votes else known.last)


def _begun(profile: str, surface: Surface) -> _Known:
    return _Known(Posterior.of(surface, (), zlib.crc32(profile.encode())))


def ballot_of(vote: Vote, surface: Surface) -> Ballot | None:
    """Return a vote as the posterior reads it; None for a vote that it cannot use."""
    first, second = vote.first, vote.second
    if vote.objective is not None or set(first.preference.objectives) != set(surface.objectives):
        return None
    try:
        return ballot(surface, first.preference, second.preference, vote.winner, first.scores, second.scores)
    except ParetuneError:
        return None


def learned(posterior: Posterior, surface: Surface) -> dict[str, Any]:
    """Return what a person is shown of their tastes, the preference that serves them best, and whether to stop asking."""
    told = {
        **posterior.to_dict(),
        "intervals": {name: list(bounds) for name, bounds in posterior.intervals().items()},
        "done": finished(posterior, surface),
        "best": best_preference(posterior, surface).as_dict(),
        "regret": expected_regret(posterior, surface),
        "enough": {"spread": SMALL, "regret": CHEAP},
    }
    return in_order(told, surface.objectives)


def in_order(told: dict[str, Any], objectives: Sequence[str]) -> dict[str, Any]:
    """Return tables with all tables of objectives in a policy's order: tastes have theirs by name, for all policies alike."""
    names = objectives if set(told) == set(objectives) else told
    return {
        name: in_order(told[name], objectives) if isinstance(told[name], dict) else told[name]
        for name in names
    }


def question(posterior: Posterior, surface: Surface, bounds: Bounds) -> Pair | None:
    """Return the pair of preferences to ask about next, within the bounds; None where no vote would teach anything."""
    pair = next_pair(posterior, surface)
    if pair is None or (bounds.admits(pair.first) and bounds.admits(pair.second)):
        return pair
    inside = np.array([bounds.admits(surface.preference(n)) for n in range(len(surface.preferences))])
    if inside.sum() < 2:
        return None
    weights, means = surface.preferences[inside], surface.means[inside]
    low, high = surface.low[inside], surface.high[inside]
    allowed = Surface(surface.policy, surface.objectives, weights, means, low, high, surface.anchored)
    return next_pair(posterior, allowed)
