"""The next pair of preferences to ask a person about, when to stop, and the preference to serve then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from paretune.choosing.posterior import Posterior
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference, simplex_grid
from paretune.fronts.surface import Surface, as_preference

SAME = 0.02
"""Outcomes nearer than this, in ranges, count as the same; nobody is asked about them."""
CHEAP = 0.01
"""Asking also stops when the preference that would be served is expected to lose less than this share of the front's range."""
_RATED = (256, 6)
"""The numbers of particles and of noise levels by which a pair is rated."""
_SCREENED = (48, 2)
_SHORTLIST = 400
_DIVISIONS = {1: 1, 2: 20, 3: 6, 4: 4, 5: 3}


@dataclass(frozen=True)
class Pair:
    """Two preferences whose answers are worth comparing, and the information about w that the vote is expected to give, in nats."""

    first: Preference
    second: Preference
    information: float


def next_pair(posterior: Posterior, surface: Surface) -> Pair | None:
    """Return the pair of preferences whose vote is the most informative; None where all outcomes of the front are the same.

    The information is the mutual information of the vote and w, with the noise averaged out, at the expected scores (Houlsby
    et al. 2011, "Bayesian active learning for classification and preference learning"). Candidates are all pairs with different
    outcomes from a grid of preferences within the measured ones; for an anchored policy from the measured ones. The order of
    the two is random, as people favour a side.

    Raises:
        ParetuneError: The posterior is over other objectives than the front's.
    """
    candidates, outcomes = _candidates(posterior, surface)
    pairs = _different(outcomes)
    if not len(pairs):
        return None
    if len(pairs) > _SHORTLIST:
        rough = _information(posterior, outcomes[pairs[:, 0]] - outcomes[pairs[:, 1]], *_SCREENED)
        pairs = pairs[np.sort(np.argsort(-rough, kind="stable")[:_SHORTLIST])]
    information = _information(posterior, outcomes[pairs[:, 0]] - outcomes[pairs[:, 1]], *_RATED)
    best = int(np.round(information, 12).argmax())
    pair = pairs[best]
    if np.random.default_rng([abs(int(posterior.seed)), len(posterior.ballots), 1]).random() < 0.5:
        pair = pair[::-1]
    first, second = (as_preference(candidates[n], surface.objectives) for n in pair)
    return Pair(first, second, float(information[best]))


def random_pair(posterior: Posterior, surface: Surface) -> Pair | None:
    """Return a random pair among the candidates of :func:`next_pair`, its baseline; a function of seed and number of votes."""
    candidates, outcomes = _candidates(posterior, surface)
    pairs = _different(outcomes)
    if not len(pairs):
        return None
    random = np.random.default_rng([abs(int(posterior.seed)), len(posterior.ballots), 2])
    pair = random.permutation(pairs[random.integers(len(pairs))])
    information = _information(posterior, (outcomes[pair[0]] - outcomes[pair[1]])[None], *_RATED)
    first, second = (as_preference(candidates[n], surface.objectives) for n in pair)
    return Pair(first, second, float(information[0]))


def expected_deviation(posterior: Posterior, surface: Surface, pair: Pair) -> dict[str, float]:
    """Return the deviation of each weight that is expected after a vote on ``pair``, never above the present one.

    The root of the mean variance over the two outcomes of the vote, at the expected scores, each as likely as the posterior
    makes it.
    """
    columns = np.argsort(_columns(posterior, surface))
    ends = np.stack([one.over(surface.objectives).array() for one in (pair.first, pair.second)])
    scaled = (surface.outcomes(ends) / _units(posterior, surface))[:, columns]
    first = expit(posterior.weights @ (scaled[0] - scaled[1]) / posterior.noise)
    variance = np.zeros(len(columns))
    for chance in (first, 1 - first):
        mass = posterior.mass * chance
        share = mass.sum()
        if share > 0:
            mean = mass @ posterior.weights / share
            variance += mass @ (posterior.weights - mean) ** 2
    return dict(zip(posterior.objectives, np.sqrt(variance).tolist(), strict=True))


def best_preference(posterior: Posterior, surface: Surface) -> Preference:
    """Return the preference to serve: the one of largest expected utility, ties broken by nearness to the mean tastes.

    It need not be the tastes themselves: a policy may answer against its weights in places, and the middle of a front that
    bends inwards is best for nobody. Utility is linear in scores, so measured preferences suffice.
    """
    columns = _columns(posterior, surface)
    tastes = (posterior.mass @ posterior.weights)[columns]
    utility = (surface.means / _units(posterior, surface)) @ tastes
    apart = np.abs(surface.preferences - tastes).sum(axis=1)
    near = np.round(utility, 9)
    order = np.lexsort([*surface.preferences[:, surface.order].T[::-1], np.round(apart, 9), -near])
    return surface.preference(int(order[0]))


def expected_regret(posterior: Posterior, surface: Surface) -> float:
    """Return the cost of stopping now: the expected loss at :func:`best_preference`, in ranges of utility on the front."""
    chosen = best_preference(posterior, surface).array()
    served = int(np.abs(surface.preferences - chosen).sum(axis=1).argmin())
    tastes = posterior.weights[:, _columns(posterior, surface)]
    utility = tastes @ (surface.means / _units(posterior, surface)).T
    best, worst = utility.max(axis=1), utility.min(axis=1)
    loss = (best - utility[:, served]) / np.where(best > worst, best - worst, 1.0)
    return float(posterior.mass @ loss)


def finished(posterior: Posterior, surface: Surface) -> bool:
    """Return whether to stop asking: the spread is small, or more votes would hardly change the utility.

    Before the first vote it is true only if there is nothing to ask.
    """
    if not posterior.ballots:
        return not len(_different(_candidates(posterior, surface)[1]))
    return posterior.done or expected_regret(posterior, surface) <= CHEAP


def _columns(posterior: Posterior, surface: Surface) -> np.ndarray:
    if set(posterior.objectives) != set(surface.objectives):
        raise ParetuneError(
            f"tastes over {', '.join(posterior.objectives)} and a front over {', '.join(surface.objectives)}; "
            "expected the same objectives"
        )
    return np.array([posterior.objectives.index(name) for name in surface.objectives])


def _units(posterior: Posterior, surface: Surface) -> np.ndarray:
    """Return the units ``[M]`` that the votes were read in, in the front's order."""
    return np.array([posterior.scale[name] for name in surface.objectives])


def _candidates(posterior: Posterior, surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Return preferences ``[Q, M]`` in the front's order, and their outcomes in units in the posterior's order."""
    columns = _columns(posterior, surface)
    M = len(columns)
    weights = surface.preferences
    if not surface.anchored:
        grid = simplex_grid(M, _DIVISIONS.get(M, 2))
        weights = np.unique(np.round(np.concatenate([weights, grid]), 6), axis=0)
        weights = weights[np.isfinite(surface.shares(weights)).all(axis=1)]
    # In an order that does not depend on the order of the objectives.
    weights = weights[np.lexsort(weights[:, surface.order].T[::-1])]
    scaled = surface.outcomes(weights) / _units(posterior, surface)
    return weights, scaled[:, np.argsort(columns)]


def _different(outcomes: np.ndarray) -> np.ndarray:
    """Return index pairs ``[L, 2]`` of different outcomes."""
    first, second = np.triu_indices(len(outcomes), 1)
    far = np.linalg.norm(outcomes[first] - outcomes[second], axis=1) >= SAME
    return np.stack([first[far], second[far]], axis=1)


def _information(posterior: Posterior, differences: np.ndarray, particles: int, levels: int) -> np.ndarray:
    """Return the mutual information ``[L]`` of w and the vote on score differences ``[L, M]``, in nats.

    It is averaged over evenly spaced quantiles of the particles. Noise counts as independent of w, at quantiles of its posterior.
    """
    tastes = posterior.weights[_quantiles(posterior.mass, particles)]
    by_noise = np.argsort(posterior.noise, kind="stable")
    noises = posterior.noise[by_noise[_quantiles(posterior.mass[by_noise], levels)]]
    utility = tastes @ differences.T
    chance = np.zeros_like(utility)
    for noise in noises:
        chance += expit(utility / noise) / levels
    return np.asarray(_entropy(chance.mean(axis=0)) - _entropy(chance).mean(axis=0))


def _quantiles(mass: np.ndarray, count: int) -> np.ndarray:
    """Return the positions ``[count]`` in ``mass [S]`` below which evenly spaced shares of it lie."""
    cumulative = np.cumsum(mass)
    shares = (np.arange(count) + 0.5) / count * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, shares), len(mass) - 1)


def _entropy(chance: np.ndarray) -> np.ndarray:
    inside = np.clip(chance, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside))
