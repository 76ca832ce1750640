"""A front by scalarisations: which of its preferences is the best for a person's weights, by each form of the one table.

Scores are turned into losses from 0 (the best of the front on that objective) to 1 (the worst), so that ``ideal`` is 0, ``worst``
is 1 and all forms compare objectives on one scale: the range over the front. Training reads the same table
(:mod:`paretune.core.scalarise`), so that it can be seen whether the form matters here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.core.errors import ParetuneError, suggest
from paretune.core.preference import Preference, simplex_grid
from paretune.core.scalarise import SCALARISATIONS, USUAL, Aggregation, Shape, Terms, aggregate
from paretune.fronts.surface import EQUAL, Expected, Surface, as_preference

DIVISIONS = {1: 1, 2: 100, 3: 30, 4: 12, 5: 8}
"""Steps of the grid on which preferences between the measured ones are tried, by the number of objectives; 4 beyond."""


def losses_of(points: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return scores ``points [..., M]`` as losses: 0 for the best and 1 for the worst of ``of [N, M]`` on each objective.

    An objective on which all of them are equal has the loss 0.

    >>> losses_of(np.array([1.0, 5.0]), np.array([[0.0, 5.0], [4.0, 5.0]])).tolist()
    [0.75, 0.0]
    """
    best, span = of.max(axis=0), np.ptp(of, axis=0)
    return np.asarray(np.where(span > 0, (best - points) / np.where(span > 0, span, 1.0), 0.0))


def scalarised(
    points: np.ndarray, weights: np.ndarray, kind: Aggregation, of: np.ndarray, shape: Shape = USUAL
) -> np.ndarray:
    """Return the value ``[Q, N]`` of points ``[N, M]`` for weights ``[Q, M]``, lower is better, on the scale of ``of [K, M]``.

    Args:
        points: Scores, higher is better.
        weights: What a person gives each objective; at least 0, sum 1.
        kind: The scalarisation.
        of: The front by whose range the objectives are scaled.
        shape: Parameters of the scalarisation.
    """
    losses = losses_of(points, of)[None].repeat(len(weights), axis=0)
    M = points.shape[1]
    spread = np.broadcast_to(weights[:, None], losses.shape)
    return np.asarray(aggregate(kind, Terms(losses, spread, np.zeros(M), np.ones(M), np, shape)))


@dataclass(frozen=True)
class ByForm:
    """What a scalarisation says of a front for a person's weights.

    Attributes:
        kind: The scalarisation.
        preference: The preference whose expected scores are the best.
        expected: The scores to expect there, with intervals that hold after the choice.
        value: Its value, lower is better.
        regret: By how much the value is worse where the policy is asked for the weights themselves; None where nothing is known
            there.
    """

    kind: Aggregation
    preference: Preference
    expected: Expected
    value: float
    regret: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "by": self.kind,
            "preference": self.preference.as_dict(),
            "expected": self.expected.to_dict(),
            "value": self.value,
            "regret": self.regret,
        }


def best_by(
    surface: Surface, weights: Preference, kinds: Sequence[str] = (), shape: Shape = USUAL
) -> list[ByForm]:
    """Return the best preference of a front for a person's weights, by each scalarisation; without ``kinds`` by all.

    Tried are the measured preferences and, where the policy answers between them, a grid (:data:`DIVISIONS`). Ties go to the
    preference nearest to the weights. Scores are those of :attr:`paretune.fronts.surface.Surface.for_choosing`.

    Raises:
        ParetuneError: There is no such scalarisation.
        PreferenceError: The front does not have an objective.
    """
    for kind in kinds:
        if kind not in SCALARISATIONS:
            raise ParetuneError(f"unknown scalarisation {kind!r}: {suggest(kind, SCALARISATIONS)}")
    surface, asked = surface.for_choosing, weights.over(surface.objectives).array()
    tried = surface.preferences
    if not surface.anchored:
        M = len(surface.objectives)
        tried = np.concatenate([tried, simplex_grid(M, DIVISIONS.get(M, 4)), asked[None]])
    scores = surface.outcomes(tried)
    known = np.isfinite(scores).all(axis=1)
    tried, scores = tried[known], scores[known]
    here = surface.outcomes(asked[None])
    found = []
    for kind, _ in SCALARISATIONS.items():
        if kinds and kind not in kinds:
            continue
        values = scalarised(scores, asked[None], kind, surface.means, shape)[0]
        tied = np.flatnonzero(values <= values.min() + EQUAL)
        best = tied[np.abs(tried[tied] - asked).sum(axis=1).round(6).argmin()]
        own = (
            scalarised(here, asked[None], kind, surface.means, shape)[0, 0]
            if np.isfinite(here).all()
            else None
        )
        preference = as_preference(tried[best], surface.objectives)
        regret = None if own is None else max(0.0, float(own - values[best]))
        found.append(ByForm(kind, preference, surface.expected(preference), float(values[best]), regret))
    return found
