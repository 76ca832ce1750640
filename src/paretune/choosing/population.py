"""The tastes of several people: what they have in common, and into which groups they fall.

This is PAL's idea (arXiv 2406.08469) for a few votes per person: a few prototypes learned from everybody describe everybody. Here
people are points on the simplex of tastes and prototypes are centres of clusters. The number of clusters follows from how far
apart the tastes are and how well they are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.choosing.posterior import Posterior
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.fronts.surface import as_preference

MOST_CLUSTERS = 6
_STARTS = 20
_ROUNDS = 100


@dataclass(frozen=True)
class Cluster:
    """A group of people with similar tastes: its centre, and their names in alphabetical order."""

    centre: Preference
    members: tuple[str, ...]


@dataclass(frozen=True)
class Population:
    """Tastes of several people.

    Attributes:
        mean: The mean of the people's expected tastes; None where nobody has voted.
        deviation: Objective -> deviation of a person's weight from the mean: between people, and left open by their votes.
        between: Objective -> the part of the deviation that is between people.
        clusters: The groups, the largest first; one where there is no reason for more.
        people: Name -> expected tastes.
        left_out: The names without a vote.
    """

    mean: Preference | None
    deviation: dict[str, float]
    between: dict[str, float]
    clusters: tuple[Cluster, ...]
    people: dict[str, Preference]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "mean": None if self.mean is None else self.mean.as_dict(),
            "deviation": self.deviation,
            "between": self.between,
            "clusters": [{"centre": c.centre.as_dict(), "members": list(c.members)} for c in self.clusters],
            "people": {name: preference.as_dict() for name, preference in self.people.items()},
            "left_out": list(self.left_out),
        }


def population(posteriors: Mapping[str, Posterior]) -> Population:
    """Return the mean, the spread and the groups of people's tastes from their posteriors.

    The order of the people does not matter.

    Raises:
        ParetuneError: The tastes are over different objectives.
    """
    voted = {name: posteriors[name] for name in sorted(posteriors) if posteriors[name].ballots}
    left_out = tuple(name for name in sorted(posteriors) if name not in voted)
    if not voted:
        return Population(None, {}, {}, (), {}, left_out)
    objectives = next(iter(voted.values())).objectives
    for name, posterior in voted.items():
        if posterior.objectives != objectives:
            raise ParetuneError(
                f"{name} has tastes over {', '.join(posterior.objectives)}, others over {', '.join(objectives)}; "
                "summarise people who voted on the same objectives"
            )
    tastes = np.stack([posterior.mass @ posterior.weights for posterior in voted.values()])
    open_ = np.mean([np.diag(posterior.covariance) for posterior in voted.values()], axis=0)
    between = tastes.var(axis=0)
    # Uncertainty about a person is no difference between people. M - 1 coordinates are free.
    resolution = float(open_.sum()) / max(1, len(objectives) - 1)
    groups = cluster(tastes, resolution)
    names = list(voted)
    clusters = [
        Cluster(
            as_preference(tastes[groups == group].mean(axis=0), objectives),
            tuple(names[n] for n in np.flatnonzero(groups == group)),
        )
        for group in range(groups.max() + 1)
    ]
    return Population(
        mean=as_preference(tastes.mean(axis=0), objectives),
        deviation=dict(zip(objectives, np.sqrt(between + open_).tolist(), strict=True)),
        between=dict(zip(objectives, np.sqrt(between).tolist(), strict=True)),
        clusters=tuple(sorted(clusters, key=lambda c: (-len(c.members), c.members))),
        people={name: posterior.mean for name, posterior in voted.items()},
        left_out=left_out,
    )


def cluster(points: np.ndarray, resolution: float) -> np.ndarray:
    """Return the cluster ``int [N]`` of points ``[N, M]`` on the simplex: k-means, with k by the Bayesian information criterion.

    Each k up to `MOST_CLUSTERS` is rated as N draws from k round normal distributions of one variance, which is at least
    ``resolution``: points that differ by less than their uncertainty stay in one cluster (Pelleg and Moore 2000, "X-means", for
    the criterion). The k with the smallest criterion wins; ties go to the smaller k.

    Args:
        points: The tastes ``[N, M]`` of N people.
        resolution: The variance of a point in each free coordinate, at least 0.
    """
    N, M = points.shape
    free = max(1, M - 1)
    best, taken = math.inf, np.zeros(N, dtype=np.int64)
    for k in range(1, min(N, MOST_CLUSTERS) + 1):
        groups, distance = _k_means(points, k)
        counts = np.bincount(groups, minlength=k)
        if (counts == 0).any():
            break
        variance = max(distance / (N * free), resolution, 1e-6)
        log_likelihood = (
            float((counts * np.log(counts / N)).sum())
            - N * free / 2 * math.log(2 * math.pi * variance)
            - distance / (2 * variance)
        )
        criterion = -2 * log_likelihood + (k * free + k) * math.log(N)
        if criterion < best - 1e-9:
            best, taken = criterion, groups
    return taken


def _k_means(points: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Return groups ``[N]`` and the sum of squared distances from their means: the best of several starts (k-means++, Lloyd)."""
    random = np.random.default_rng(k)
    best: tuple[np.ndarray, float] = (np.zeros(len(points), dtype=np.int64), math.inf)
    for _ in range(_STARTS):
        centres = points[[int(random.integers(len(points)))]]
        while len(centres) < k:
            far = ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
            if far.sum() <= 0:
                break
            centres = np.concatenate([centres, points[[int(random.choice(len(points), p=far / far.sum()))]]])
        groups = np.full(len(points), -1)
        for _ in range(_ROUNDS):
            apart = ((points[:, None] - centres) ** 2).sum(axis=2)
            nearest = apart.argmin(axis=1)
            if (nearest == groups).all():
                break
            groups = nearest
            centres = np.stack(
                [
                    points[groups == g].mean(axis=0) if (groups == g).any() else centres[g]
                    for g in range(len(centres))
                ]
            )
        distance = float(((points - centres[groups]) ** 2).sum())
        if distance < best[1] - 1e-12:
            best = (groups, distance)
    return best
