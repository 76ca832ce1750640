"""Delaunay triangulation of measured preferences, by which a front is read between them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull

FLAT = 1e-9
"""Barycentric coordinates above minus this count as inside: the difference is rounding."""
OUTSIDE = 5e-6
"""A point is outside the hull when its share of an unmeasured corner is larger than this; weights are given to 1e-6."""
_ARTIFICIAL = 4.0
_APEX = 100.0
_JITTER = 1e-7
_VOLUME = 1e-15
_BLOCK = 4_000_000


def triangulate(points: np.ndarray) -> np.ndarray:
    """Return cells ``int [C, M]`` of a Delaunay triangulation of the simplex with the vertices ``points [N, M]``.

    Numbers from N to N + M - 1 stand for the M corners of the simplex, which complete it where a corner is not among the
    points. They lie so high that they do not change the triangulation of the points' hull. Points on a common sphere, as in a
    lattice with M >= 4, are separated by a fixed jitter that depends on their order.

    The points are lifted to a paraboloid, and the cells are the faces of its lower hull (Brown 1979, "Voronoi diagrams from convex
    hulls").

    Args:
        points: N different points of the simplex, rows that sum to 1.
    """
    N, M = points.shape
    lifted = (points**2).sum(axis=1) + _JITTER * np.random.default_rng(0).random(N)
    # A corner that is measured is not needed a second time.
    missing = ~np.isclose(points.max(axis=0, initial=0.0), 1.0, rtol=0, atol=FLAT)
    numbers = np.concatenate([np.arange(N), N + np.flatnonzero(missing)])
    places = np.concatenate([points, np.eye(M)])[numbers]
    heights = np.concatenate([lifted, (1.0 + _ARTIFICIAL + np.arange(M) / 1e3)[missing]])
    if M == 1:
        return numbers[[[int(heights.argmin())]]]
    # With an apex above the middle of the simplex, the faces of the lower hull are those without it, but for upright ones at the
    # border, which have no volume.
    places = np.vstack([places, np.full(M, 1 / M)])
    hull = ConvexHull(np.column_stack([places[:, :-1], np.append(heights, _APEX)]))
    cells = hull.simplices[(hull.simplices < len(numbers)).all(axis=1)]
    cells = cells[np.abs(np.linalg.det(places[cells])) > _VOLUME]
    cells = np.sort(numbers[cells], axis=1)
    return np.asarray(cells[np.lexsort(cells.T[::-1])])


def barycentric(points: np.ndarray, cells: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return shares ``[Q, N]`` of the points in each query, rows summing to 1; NaN outside the hull of the points.

    Args:
        points: The triangulated points ``[N, M]``.
        cells: The result of :func:`triangulate`.
        queries: Points ``[Q, M]``, rows summing to 1.
    """
    N, M = points.shape
    vertices = np.concatenate([points, np.eye(M)])
    inverses = np.linalg.inv(vertices[cells])
    shares_at = np.full((len(queries), N), np.nan)
    rows = max(1, _BLOCK // inverses[..., 0].size)
    for start in range(0, len(queries), rows):
        shares = np.einsum("qm,cmk->qck", queries[start : start + rows], inverses)
        best = shares.min(axis=2).argmax(axis=1)
        inside = np.clip(shares[np.arange(len(best)), best], 0.0, None)
        full = np.zeros((len(best), N + M))
        np.put_along_axis(full, cells[best], inside, axis=1)
        known = (full[:, N:].sum(axis=1) <= OUTSIDE) & (inside.sum(axis=1) <= 1 + M * FLAT)
        total = full[:, :N].sum(axis=1, keepdims=True)
        shares_at[start : start + rows] = np.where(
            known[:, None], full[:, :N] / np.where(total > 0, total, 1), np.nan
        )
    return shares_at
