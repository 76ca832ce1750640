"""Simulated voters: how fast, and how well, votes find a preference where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from paretune.choosing.elicit import Pair, best_preference, next_pair, random_pair
from paretune.choosing.posterior import Ballot, Posterior, Winner
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.fronts.surface import Surface

ROUNDING = 1e-9
"""Nobody sees a smaller difference of utility."""
Asking = Literal["information", "random"]
_ASK: dict[str, Callable[[Posterior, Surface], Pair | None]] = {
    "information": next_pair,
    "random": random_pair,
}


@dataclass(frozen=True)
class Voter:
    """A person made up: utility is tastes times scores in ranges of the front.

    With ``noise`` 0 the voter is rational and always prefers what is better for him; else he does with probability
    ``sigmoid(difference / noise)``. Differences below ``indifference`` are a tie to him.

    Raises:
        ParetuneError: a noise or an indifference below 0, or no number.
    """

    tastes: Preference
    noise: float = 0.0
    indifference: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "indifference"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ParetuneError(f"{name} {value!r} of a voter; expected a number of at least 0")

    def vote(self, difference: float, random: np.random.Generator) -> Winner:
        """Return the vote for a difference of utility, first minus second."""
        drawn = random.random()
        if abs(difference) <= max(self.indifference, ROUNDING):
            return "tie"
        if self.noise > 0:
            return "first" if drawn < 0.5 * (1 + math.tanh(difference / self.noise / 2)) else "second"
        return "first" if difference > 0 else "second"


@dataclass(frozen=True)
class Session:
    """The votes of one voter.

    Attributes:
        regrets: after 0, 1, 2, ... votes: the utility lost at the preference that would be served, in ranges of the
            voter's utility over the front.
        posterior: after the last vote.
        asked: the pairs.
    """

    regrets: tuple[float, ...]
    posterior: Posterior
    asked: tuple[Pair, ...]


def simulate(
    surface: Surface,
    voter: Voter,
    votes: int = 10,
    asking: Asking = "information",
    seed: int = 0,
    scatter: float = 0.0,
) -> Session:
    """Let a voter answer ``votes`` pairs of a front and return what became of it.

    Args:
        surface: the front; all answers score what it expects.
        voter: the voter, with tastes over the front's objectives.
        votes: at most; fewer where there is nothing to ask.
        asking: pairs by expected information, or at random.
        seed: of particles, pairs and votes.
        scatter: deviation of an answer's own scores about the expected ones, in ranges; the votes are then on these.
    """
    random = np.random.default_rng([abs(int(seed)), 3])
    posterior, asked = Posterior.of(surface, seed=seed), []
    regrets = [regret(surface, voter, best_preference(posterior, surface))]
    for _ in range(votes):
        pair = _ASK[asking](posterior, surface)
        if pair is None:
            break
        seen = [_answer(surface, preference, scatter, random) for preference in (pair.first, pair.second)]
        difference = _utility(surface, voter, seen[0]) - _utility(surface, voter, seen[1])
        posterior = posterior.update(Ballot(seen[0], seen[1], voter.vote(difference, random)))
        asked.append(pair)
        regrets.append(regret(surface, voter, best_preference(posterior, surface)))
    return Session(tuple(regrets), posterior, tuple(asked))


def regret(surface: Surface, voter: Voter, preference: Preference) -> float:
    """Return the utility a voter loses at a preference, 0 (none is better) to 1 (none is worse); 0 where all are the same."""
    tastes = voter.tastes.over(surface.objectives).array()
    utility = (surface.means / surface.scale) @ tastes
    best, worst = float(utility.max()), float(utility.min())
    here = float(
        surface.outcomes(preference.over(surface.objectives).array()[None])[0] / surface.scale @ tastes
    )
    return max(0.0, (best - here) / (best - worst)) if best - worst > 1e-12 else 0.0


def _answer(
    surface: Surface, preference: Preference, scatter: float, random: np.random.Generator
) -> dict[str, float]:
    scores = surface.outcomes(preference.array()[None])[0]
    scores = scores + scatter * surface.scale * random.normal(size=len(scores))
    return dict(zip(surface.objectives, scores.tolist(), strict=True))


def _utility(surface: Surface, voter: Voter, scores: Mapping[str, float]) -> float:
    tastes = voter.tastes.over(surface.objectives)
    scale = dict(zip(surface.objectives, surface.scale.tolist(), strict=True))
    return sum(tastes[name] * value / scale[name] for name, value in scores.items())
