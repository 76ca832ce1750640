"""People's tastes inferred from their votes: what routes show, and the next pair to ask about."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np

from paretune.choosing.bounds import Bounds
from paretune.choosing.elicit import Pair, best_preference, expected_regret, finished, next_pair
from paretune.choosing.posterior import Ballot, Posterior, ballot
from paretune.core.errors import ParetuneError
from paretune.fronts.surface import Surface
from paretune.serving.store.store import Store

MOST_KEPT = 256


class Tastes:
    """Posteriors of people on policies, rebuilt from the store's votes.

    The latest posteriors are cached, so that a vote costs one update. The store is read each time, as another server may
    write to it too; a cached posterior is used if its votes are the first ones in the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str], Posterior] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, profile: str, surface: Surface) -> Posterior:
        """Return a person's posterior on a policy; votes on one objective, or outside the measured front, are not used."""
        ballots = self._ballots(profile, surface)
        key = (profile, surface.policy)
        with self._lock:
            known = self._kept.get(key)
        if known is None or known.ballots != tuple(ballots[: len(known.ballots)]):
            known = Posterior.of(surface, (), zlib.crc32(profile.encode()))
        for vote in ballots[len(known.ballots) :]:
            known = known.update(vote)
        with self._lock:
            self._kept[key] = known
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return known

    def all(self, surface: Surface) -> dict[str, Posterior]:
        """Return the posteriors of all people who have voted on a policy, by profile."""
        posteriors = {person.name: self.of(person.name, surface) for person in self._store.profiles()}
        return {name: posterior for name, posterior in posteriors.items() if posterior.ballots}

    def _ballots(self, profile: str, surface: Surface) -> list[Ballot]:
        ballots = []
        for vote in self._store.votes(profile, surface.policy):
            first, second = vote.first, vote.second
            if vote.objective is not None or set(first.preference.objectives) != set(surface.objectives):
                continue
            try:
                cast = ballot(
                    surface, first.preference, second.preference, vote.winner, first.scores, second.scores
                )
            except ParetuneError:
                continue
            ballots.append(cast)
        return ballots


def learned(posterior: Posterior, surface: Surface) -> dict[str, Any]:
    """Return what a person is shown of their tastes, the preference that serves them best, and whether to stop asking."""
    return {
        **posterior.to_dict(),
        "done": finished(posterior, surface),
        "best": best_preference(posterior, surface).as_dict(),
        "regret": expected_regret(posterior, surface),
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
