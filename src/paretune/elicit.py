"""From votes on pairs of answers to a person's preference.

The model: a person with tastes w on the simplex prefers the first of two answers with probability
``sigmoid(w.(z_first - z_second) / noise)`` (Bradley and Terry 1952), where z are scores in units of `Outlook.scale`. A tie counts
half for each answer, ``sqrt(p (1 - p))``: it speaks for equal utilities and leaves votes that are no ties exactly as they are.
Before the first vote w is uniform on the simplex and log noise uniform between `NOISE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from paretune.errors import ParetuneError, suggest
from paretune.outlook import Outlook, as_preference
from paretune.preference import Preference, simplex_grid

Winner = Literal["first", "second", "tie"]
WINNERS = ("first", "second", "tie")

NOISE = (0.01, 1.0)
"""Least and most noise of a person, in ranges of the front: from seeing a hundredth to hardly seeing the whole."""
SMALL = 0.05
"""A posterior is done when no weight has a larger deviation."""
CHEAP = 0.01
"""Asking also stops when the preference that would be served is expected to cost less than this share of what the front offers."""
SAME = 0.02
"""Outcomes at a smaller distance, in ranges, are the same: nobody is asked about them."""
PARTICLES = 2000
_SWEEPS = 6
_STRETCH = 2.0
_RATED = 256
_NOISES = 6
_DIVISIONS = {1: 1, 2: 20, 3: 6, 4: 4, 5: 3}


@dataclass(frozen=True)
class Ballot:
    """A vote as the posterior reads it: the scores of the two answers, and which one won.

    Raises:
        ParetuneError: a winner that is none of first, second and tie, a score that is not finite, or other objectives.
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


def ballot(
    outlook: Outlook,
    first: Preference,
    second: Preference,
    winner: Winner,
    first_scores: Mapping[str, float | None] | None = None,
    second_scores: Mapping[str, float | None] | None = None,
) -> Ballot:
    """Return a vote with the answers' own scores where both are known on every objective, else with the front's expected ones.

    Raises:
        ParetuneError: neither is known, or what `Ballot` refuses.
    """
    own = [_complete(scores, outlook.objectives) for scores in (first_scores, second_scores)]
    if own[0] is not None and own[1] is not None:
        return Ballot(own[0], own[1], winner)
    expected = []
    for preference in (first, second):
        known = _complete(outlook.expected(preference).mean, outlook.objectives)
        if known is None:
            raise ParetuneError(
                f"front of {outlook.policy!r}: nothing was measured around {preference}, and the answer's own scores are not "
                "known; score the answers, or vote at preferences within the measured ones"
            )
        expected.append(known)
    return Ballot(expected[0], expected[1], winner)


def _complete(
    scores: Mapping[str, float | None] | None, objectives: Sequence[str]
) -> dict[str, float] | None:
    found = {name: (scores or {}).get(name) for name in objectives}
    known = {
        name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)
    }
    return known if len(known) == len(objectives) else None


@dataclass(frozen=True, eq=False)
class Posterior:
    """What votes say about a person's tastes: S weighted particles of (w, noise).

    A function of scale, seed and the list of votes, so it can be rebuilt from a store at any time, bit for bit. Objectives are
    kept in alphabetical order, whatever order they were listed in.

    Attributes:
        scale: objective -> unit of its scores, see `Outlook.scale`.
        seed: of the particles.
        ballots: the votes so far.
        weights: ``[S, M]`` tastes w.
        noise: ``[S]``.
        mass: ``[S]`` probabilities, sum 1.
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
            ParetuneError: a unit that is not a number above 0, or fewer than 10 particles.
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
        cls, outlook: Outlook, ballots: Sequence[Ballot] = (), seed: int = 0, particles: int = PARTICLES
    ) -> Posterior:
        """Return the posterior after ``ballots`` on answers of a policy."""
        scale = dict(zip(outlook.objectives, outlook.scale.tolist(), strict=True))
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

        The particles are weighed by the likelihood of the vote. When half of them hardly count any more they are drawn anew by
        their weights and moved about by an affine-invariant sampler that leaves the posterior as it is (Chopin 2002,
        "A sequential particle filter method for static models"; Goodman and Weare 2010).

        Raises:
            ParetuneError: a vote over other objectives.
        """
        if set(vote.first) != set(self.objectives):
            raise ParetuneError(
                f"a vote over {', '.join(vote.first)} for tastes over {', '.join(self.objectives)}; expected the same objectives"
            )
        ballots = (*self.ballots, vote)
        difference, direction = self._read([vote])
        change = _log_likelihood(self.weights, self.noise, difference, direction)
        mass = self.mass * np.exp(change - change.max())
        mass = mass / mass.sum()
        weights, noise = self.weights, self.noise
        if 1 / (mass**2).sum() < len(mass) / 2:
            random = np.random.default_rng([abs(int(self.seed)), len(ballots)])
            # Systematic draws: each particle stands as often as its share says, up to rounding.
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
        """``[M, M]`` of the tastes, objectives in alphabetical order."""
        centred = self.weights - self.mass @ self.weights
        return np.asarray((self.mass[:, None] * centred).T @ centred)

    @property
    def deviation(self) -> dict[str, float]:
        """Objective -> standard deviation of its weight."""
        return dict(zip(self.objectives, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def spread(self) -> float:
        """The largest standard deviation of a weight; 0.29 (two objectives) before any vote, 0 when all is known."""
        return max(self.deviation.values())

    @property
    def done(self) -> bool:
        """Whether the spread is small enough to stop asking."""
        return self.spread <= SMALL

    def to_dict(self) -> dict[str, Any]:
        """Return what a person is shown, as JSON values."""
        return {
            "mean": self.mean.as_dict(),
            "deviation": self.deviation,
            "spread": self.spread,
            "votes": len(self.ballots),
            "done": self.done,
            "noise": float(np.exp(self.mass @ np.log(self.noise))),
        }


@dataclass(frozen=True)
class Pair:
    """Two preferences whose answers are worth comparing, and what the vote is expected to teach about w, in nats."""

    first: Preference
    second: Preference
    information: float


def next_pair(posterior: Posterior, outlook: Outlook) -> Pair | None:
    """Return the pair of preferences whose vote is expected to teach most; None where all outcomes of the front are the same.

    What it teaches is the mutual information of the vote and w, with the noise averaged out, at the expected scores (Houlsby
    et al. 2011, "Bayesian active learning for classification and preference learning", for this form). Candidates are all pairs
    of a grid of preferences within the measured ones (of an anchored policy the measured ones) with different outcomes. Which
    comes first is drawn, as people favour a side.

    Raises:
        ParetuneError: a posterior over other objectives than the front's.
    """
    candidates, outcomes = _candidates(posterior, outlook)
    pairs = _different(outcomes)
    if not len(pairs):
        return None
    information = _information(posterior, outcomes[pairs[:, 0]] - outcomes[pairs[:, 1]])
    best = int(np.round(information, 12).argmax())
    pair = pairs[best]
    if np.random.default_rng([abs(int(posterior.seed)), len(posterior.ballots), 1]).random() < 0.5:
        pair = pair[::-1]
    first, second = (as_preference(candidates[n], outlook.objectives) for n in pair)
    return Pair(first, second, float(information[best]))


def random_pair(posterior: Posterior, outlook: Outlook) -> Pair | None:
    """Return one of the pairs of :func:`next_pair` at random, a function of seed and number of votes: what it has to beat."""
    candidates, outcomes = _candidates(posterior, outlook)
    pairs = _different(outcomes)
    if not len(pairs):
        return None
    random = np.random.default_rng([abs(int(posterior.seed)), len(posterior.ballots), 2])
    pair = random.permutation(pairs[random.integers(len(pairs))])
    information = _information(posterior, (outcomes[pair[0]] - outcomes[pair[1]])[None])
    first, second = (as_preference(candidates[n], outlook.objectives) for n in pair)
    return Pair(first, second, float(information[0]))


def best_preference(posterior: Posterior, outlook: Outlook) -> Preference:
    """Return the preference to serve: the one of largest expected utility, of equal ones the nearest to the mean tastes.

    It need not be the tastes themselves: a policy may answer against its weights in places, and a front that bends inwards
    serves nobody with such tastes at its middle. Utility is linear in scores, so measured preferences suffice.
    """
    tastes = _over(posterior, outlook)
    utility = (outlook.means / outlook.scale) @ tastes
    apart = np.abs(outlook.preferences - tastes).sum(axis=1)
    near = np.round(utility, 9)
    order = np.lexsort([*outlook.preferences[:, outlook.order].T[::-1], np.round(apart, 9), -near])
    return outlook.preference(int(order[0]))


def expected_regret(posterior: Posterior, outlook: Outlook) -> float:
    """Return what stopping now costs: the expected loss of utility at :func:`best_preference`, in ranges of utility on the front."""
    chosen = best_preference(posterior, outlook).array()
    place = int(np.abs(outlook.preferences - chosen).sum(axis=1).argmin())
    tastes = posterior.weights[:, _columns(posterior, outlook)]
    utility = tastes @ (outlook.means / outlook.scale).T
    best, worst = utility.max(axis=1), utility.min(axis=1)
    loss = (best - utility[:, place]) / np.where(best > worst, best - worst, 1.0)
    return float(posterior.mass @ loss)


def finished(posterior: Posterior, outlook: Outlook) -> bool:
    """Return whether to stop asking: the spread is small, or what is still open would not change what is served.

    Before the first vote nothing is finished, unless there is nothing to ask.
    """
    if not posterior.ballots:
        return not len(_different(_candidates(posterior, outlook)[1]))
    return posterior.done or expected_regret(posterior, outlook) <= CHEAP


def progress(posterior: Posterior, outlook: Outlook) -> dict[str, Any]:
    """Return what a person is shown after each vote, as JSON values: tastes, spread, the preference it comes to, done or not."""
    return {
        **posterior.to_dict(),
        "done": finished(posterior, outlook),
        "preference": best_preference(posterior, outlook).as_dict(),
        "expected_regret": expected_regret(posterior, outlook),
    }


def _columns(posterior: Posterior, outlook: Outlook) -> np.ndarray:
    if set(posterior.objectives) != set(outlook.objectives):
        raise ParetuneError(
            f"tastes over {', '.join(posterior.objectives)} and a front over {', '.join(outlook.objectives)}; "
            "expected the same objectives"
        )
    return np.array([posterior.objectives.index(name) for name in outlook.objectives])


def _over(posterior: Posterior, outlook: Outlook) -> np.ndarray:
    return np.asarray((posterior.mass @ posterior.weights)[_columns(posterior, outlook)])


def _candidates(posterior: Posterior, outlook: Outlook) -> tuple[np.ndarray, np.ndarray]:
    """Return preferences ``[Q, M]`` in the front's order, and their outcomes in units in the posterior's order."""
    columns = _columns(posterior, outlook)
    M = len(columns)
    weights = outlook.preferences
    if not outlook.anchored:
        grid = simplex_grid(M, _DIVISIONS.get(M, 2))
        weights = np.unique(np.round(np.concatenate([weights, grid]), 6), axis=0)
        weights = weights[np.isfinite(outlook.shares(weights)).all(axis=1)]
    # In an order that listing the objectives otherwise would not change.
    weights = weights[np.lexsort(weights[:, outlook.order].T[::-1])]
    scaled = outlook.outcomes(weights) / np.array([posterior.scale[name] for name in outlook.objectives])
    return weights, scaled[:, np.argsort(columns)]


def _different(outcomes: np.ndarray) -> np.ndarray:
    """Return index pairs ``[L, 2]`` of different outcomes."""
    first, second = np.triu_indices(len(outcomes), 1)
    far = np.linalg.norm(outcomes[first] - outcomes[second], axis=1) >= SAME
    return np.stack([first[far], second[far]], axis=1)


def _information(posterior: Posterior, differences: np.ndarray) -> np.ndarray:
    """Return the mutual information ``[L]`` of w and the vote on score differences ``[L, M]``, in nats.

    Noise is taken as independent of w, at quantiles of its posterior.
    """
    cumulative = np.cumsum(posterior.mass)
    rated = np.searchsorted(cumulative, (np.arange(_RATED) + 0.5) / _RATED * cumulative[-1])
    by_noise = np.argsort(posterior.noise, kind="stable")
    levels = np.searchsorted(np.cumsum(posterior.mass[by_noise]), (np.arange(_NOISES) + 0.5) / _NOISES)
    noises = posterior.noise[by_noise[np.minimum(levels, len(by_noise) - 1)]]
    utility = posterior.weights[np.minimum(rated, len(cumulative) - 1)] @ differences.T
    chance = sum(_sigmoid(utility / noise) for noise in noises) / _NOISES
    return np.asarray(_entropy(chance.mean(axis=0)) - _entropy(chance).mean(axis=0))


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


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray((1 + np.tanh(values / 2)) / 2)


def _entropy(chance: np.ndarray) -> np.ndarray:
    inside = np.clip(chance, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside))
