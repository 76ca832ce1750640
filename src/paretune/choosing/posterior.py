"""A person's tastes, inferred from votes on pairs of answers.

In the model a person with tastes w on the simplex prefers the first of two answers with probability
``sigmoid(w.(z_first - z_second) / noise)`` (Bradley and Terry 1952), where z are scores in units of `Surface.scale`. A tie counts
half for each answer, ``sqrt(p (1 - p))``: it supports equal utilities and leaves the likelihood of other votes as it is.
Before the first vote w is uniform on the simplex and log noise uniform between `NOISE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from paretune.core.errors import ParetuneError, suggest
from paretune.core.preference import Preference
from paretune.fronts.surface import Surface, as_preference

Winner = Literal["first", "second", "tie"]
WINNERS = ("first", "second", "tie")

NOISE = (0.01, 1.0)
"""The least and the most noise of a person in ranges of the front: from noticing a hundredth to hardly noticing the whole."""
SMALL = 0.05
"""The posterior is done when no weight has a larger deviation than this."""
LARGEST_SCORE = 1e9
"""Scores beyond this, in either direction, are no measurement; their differences would not be numbers."""
PARTICLES = 2000
_SWEEPS = 6
_STRETCH = 2.0


@dataclass(frozen=True)
class Ballot:
    """A vote as the posterior reads it: the scores of the two answers, and which one won.

    Raises:
        ParetuneError: The winner is none of first, second and tie, a score is not a number of at most `LARGEST_SCORE`, or the
            objectives differ.
    """

    first: Mapping[str, float]
    second: Mapping[str, float]
    winner: Winner

    def __post_init__(self) -> None:
        if self.winner not in WINNERS:
            raise ParetuneError(f"winner {self.winner!r}; {suggest(str(self.winner), WINNERS)}")
        if set(self.first) != set(self.second) or not self.first:
            raise ParetuneError(
                f"a vote between scores on {', '.join(self.first) or '(none)'} and on {', '.join(self.second) or '(none)'}; "
                "expected the same objectives, at least one"
            )
        for name in self.first:
            for value in (self.first[name], self.second[name]):
                if not math.isfinite(value):
                    raise ParetuneError(
                        f"a vote with the score {value!r} on {name!r}; expected a finite number"
                    )
                if abs(value) > LARGEST_SCORE:
                    raise ParetuneError(
                        f"a vote with the score {value!r} on {name!r}; expected a number from {-LARGEST_SCORE:g} to "
                        f"{LARGEST_SCORE:g}"
                    )


def ballot(
    surface: Surface,
    first: Preference,
    second: Preference,
    winner: Winner,
    first_scores: Mapping[str, float | None] | None = None,
    second_scores: Mapping[str, float | None] | None = None,
) -> Ballot:
    """Return a vote with the answers' own scores where both are known on every objective, else with the front's expected scores.

    Raises:
        ParetuneError: Neither are known, or `Ballot` refuses them.
    """
    answers = [_complete(scores, surface.objectives) for scores in (first_scores, second_scores)]
    if answers[0] is not None and answers[1] is not None:
        return Ballot(answers[0], answers[1], winner)
    expected = []
    for preference in (first, second):
        known = _complete(surface.expected(preference).mean, surface.objectives)
        if known is None:
            raise ParetuneError(
                f"front of {surface.policy!r}: nothing was measured around {preference}, and the answer's own scores are not "
                "known; score the answers, or vote at preferences within the measured ones"
            )
        expected.append(known)
    return Ballot(expected[0], expected[1], winner)


def _complete(
    scores: Mapping[str, float | None] | None, objectives: Sequence[str]
) -> dict[str, float] | None:
    values = {name: (scores or {}).get(name) for name in objectives}
    known = {
        name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)
    }
    return known if len(known) == len(objectives) else None


@dataclass(frozen=True, eq=False)
class Posterior:
    """The distribution of a person's tastes given their votes: S weighted particles of (w, noise).

    It is a function of scale, seed and the list of votes, so it can be rebuilt from a store at any time, bit for bit. Objectives
    are in alphabetical order.

    Attributes:
        scale: Objective -> unit of its scores, see `Surface.scale`.
        seed: The seed of the particles.
        ballots: The votes so far.
        weights: The tastes w ``[S, M]``.
        noise: The noise of each particle ``[S]``.
        mass: The probability of each particle ``[S]``; the sum is 1.
    """

    scale: Mapping[str, float]
    seed: int
    ballots: tuple[Ballot, ...]
    weights: np.ndarray
    noise: np.ndarray
    mass: np.ndarray

    @classmethod
    def start(cls, scale: Mapping[str, float], seed: int = 0, particles: int = PARTICLES) -> Posterior:
        """Return the posterior before any vote; see :meth:`of` for that of a front.

        Raises:
            ParetuneError: A unit is not a number above 0, or there are fewer than 10 particles.
        """
        names = sorted(Preference.uniform(tuple(scale)).objectives)
        for name in names:
            if not (math.isfinite(scale[name]) and scale[name] > 0):
                raise ParetuneError(
                    f"unit {scale[name]!r} of the scores on {name!r}; expected a number above 0"
                )
        if particles < 10:
            raise ParetuneError(f"{particles} particles; expected at least 10, better 1000")
        random = np.random.default_rng([abs(int(seed)), 0])
        weights = random.dirichlet(np.ones(len(names)), size=particles)
        noise = np.exp(random.uniform(math.log(NOISE[0]), math.log(NOISE[1]), size=particles))
        mass = np.full(particles, 1 / particles)
        return cls({name: float(scale[name]) for name in names}, seed, (), weights, noise, mass)

    @classmethod
    def of(
        cls, surface: Surface, ballots: Sequence[Ballot] = (), seed: int = 0, particles: int = PARTICLES
    ) -> Posterior:
        """Return the posterior after ``ballots`` on answers of a policy."""
        scale = dict(zip(surface.objectives, surface.scale.tolist(), strict=True))
        posterior = cls.start(scale, seed, particles)
        for vote in ballots:
            posterior = posterior.update(vote)
        return posterior

    @property
    def objectives(self) -> tuple[str, ...]:
        """M names, in alphabetical order."""
        return tuple(self.scale)

    def update(self, vote: Ballot) -> Posterior:
        """Return the posterior after one more vote.

        The particles are weighted by the likelihood of the vote. When the effective number falls below half, they are resampled
        and moved by an affine-invariant sampler that keeps the posterior (Chopin 2002, "A sequential particle filter method for
        static models"; Goodman and Weare 2010).

        Raises:
            ParetuneError: The vote is over other objectives.
        """
        if set(vote.first) != set(self.objectives):
            raise ParetuneError(
                f"a vote over {', '.join(vote.first)} for tastes over {', '.join(self.objectives)}; expected the same objectives"
            )
        ballots = (*self.ballots, vote)
        difference, direction = self._read([vote])
        change = _log_likelihood(self.weights, self.noise, difference, direction)
        logs = np.log(np.maximum(self.mass, 1e-300)) + change
        mass = np.exp(logs - logs.max())
        mass = mass / mass.sum()
        weights, noise = self.weights, self.noise
        if 1 / (mass**2).sum() < len(mass) / 2:
            random = np.random.default_rng([abs(int(self.seed)), len(ballots)])
            # Systematic draws: each particle occurs as often as its share says, up to rounding.
            places = (random.random() + np.arange(len(mass))) / len(mass)
            drawn = np.minimum(np.searchsorted(np.cumsum(mass), places), len(mass) - 1)
            random.shuffle(drawn)
            all_votes = self._read(ballots)
            weights, noise = _moved(self.weights[drawn], self.noise[drawn], all_votes, random)
            mass = np.full(len(mass), 1 / len(mass))
        return replace(self, ballots=ballots, weights=weights, noise=noise, mass=mass)

    def _read(self, ballots: Sequence[Ballot]) -> tuple[np.ndarray, np.ndarray]:
        """Return score differences ``[V, M]`` in units, and 1, -1 or 0 for who won ``[V]``."""
        differences = [[(b.first[n] - b.second[n]) / unit for n, unit in self.scale.items()] for b in ballots]
        directions = [{"first": 1.0, "second": -1.0, "tie": 0.0}[b.winner] for b in ballots]
        return np.array(differences), np.array(directions)

    @cached_property
    def mean(self) -> Preference:
        """The expected tastes."""
        return as_preference(self.mass @ self.weights, self.objectives)

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance ``[M, M]`` of the tastes, objectives in alphabetical order."""
        centred = self.weights - self.mass @ self.weights
        return np.asarray((self.mass[:, None] * centred).T @ centred)

    @property
    def deviation(self) -> dict[str, float]:
        """The standard deviation of each objective's weight."""
        return dict(zip(self.objectives, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Return, for each objective, the bounds between which its weight lies with the chance ``level``, equal tails outside."""
        found = {}
        for name, column in zip(self.objectives, self.weights.T, strict=True):
            order = np.argsort(column, kind="stable")
            below = np.cumsum(self.mass[order])
            places = np.searchsorted(below, np.array([(1 - level) / 2, (1 + level) / 2]) * below[-1])
            low, high = column[order][np.minimum(places, len(column) - 1)].tolist()
            found[name] = (low, high)
        return found

    @property
    def spread(self) -> float:
        """The largest standard deviation of a weight; 0.29 (two objectives) before any vote, 0 when all is known."""
        return max(self.deviation.values())

    @property
    def done(self) -> bool:
        """Whether the spread is small enough to stop asking."""
        return self.spread <= SMALL

    def to_dict(self) -> dict[str, Any]:
        """Return the summary that a person is shown, as JSON values."""
        return {
            "mean": self.mean.as_dict(),
            "deviation": self.deviation,
            "spread": self.spread,
            "votes": len(self.ballots),
            "done": self.done,
            "noise": float(np.exp(self.mass @ np.log(self.noise))),
        }


def _moved(
    weights: np.ndarray, noise: np.ndarray, votes: tuple[np.ndarray, np.ndarray], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return particles after `_SWEEPS` stretch moves of each, half of them along lines through the other half."""
    M = weights.shape[1]
    points = np.concatenate([weights, np.log(noise)[:, None]], axis=1)
    density = _log_likelihood(weights, noise, *votes)
    low, high = math.log(NOISE[0]), math.log(NOISE[1])
    half = len(points) // 2
    halves = (np.arange(half), np.arange(half, len(points)))
    for sweep in range(2 * _SWEEPS):
        mine, others = halves[sweep % 2], halves[1 - sweep % 2]
        partner = points[random.choice(others, size=len(mine))]
        factor = ((_STRETCH - 1) * random.random(len(mine)) + 1) ** 2 / _STRETCH
        proposed = partner + factor[:, None] * (points[mine] - partner)
        allowed = (proposed[:, :M] >= 0).all(axis=1) & (proposed[:, M] >= low) & (proposed[:, M] <= high)
        tastes = np.clip(proposed[:, :M], 0, None)
        there = np.full(len(mine), -np.inf)
        there[allowed] = _log_likelihood(tastes[allowed], np.exp(proposed[allowed, M]), *votes)
        # M - 1 free weights and the noise: M dimensions.
        ratio = (M - 1) * np.log(factor) + there - density[mine]
        taken = np.log(random.random(len(mine))) < ratio
        points[mine[taken]] = proposed[taken]
        density[mine[taken]] = there[taken]
    tastes = np.clip(points[:, :M], 0, None)
    return tastes / tastes.sum(axis=1, keepdims=True), np.exp(points[:, M])


def _log_likelihood(
    weights: np.ndarray, noise: np.ndarray, differences: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return the log-likelihood ``[S]`` of votes on differences ``[V, M]``; direction 1 first, -1 second, 0 a tie."""
    lead = weights @ differences.T / noise[:, None]
    tie = directions == 0
    # log(1 + e^x) = x + log(1 + e^-x), so one logarithm does for both halves of a tie.
    return -(np.logaddexp(0, -np.where(tie, 1.0, directions) * lead) + np.where(tie, lead / 2, 0.0)).sum(
        axis=1
    )
