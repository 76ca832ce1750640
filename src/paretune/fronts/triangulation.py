"""Delaunay triangulation of measured preferences, by which a front is read between them."""

from __future__ import annotations

import numpy as np

FLAT = 1e-9
"""Barycentric coordinates above minus this count as inside: the difference is rounding."""
OUTSIDE = 5e-6
"""A point is outside the hull when its share of an unmeasured corner is larger than this; weights are given to 1e-6."""
_ARTIFICIAL = 4.0
_JITTER = 1e-7
_BLOCK = 4_000_000


def triangulate(points: np.ndarray) -> np.ndarray:
    """Return cells ``int [C, M]`` of a Delaunay triangulation of the simplex with the vertices ``points [N, M]``.

    Numbers from N to N + M - 1 stand for the M corners of the simplex, which complete it where a corner is not among the
    points. They lie so high that they do not change the triangulation of the points' hull. Points on a common sphere, as in a
    lattice with M >= 4, are separated by a fixed jitter that depends on their order.

    The points are lifted to a paraboloid and the cells are the faces of its lower hull (Brown 1979, "Voronoi diagrams from convex
    hulls"), found by the simplex method and then by stepping over every facet.

    Args:
        points: N different points of the simplex, rows that sum to 1.
    """
    N, M = points.shape
    lifted = (points**2).sum(axis=1) + _JITTER * np.random.default_rng(0).random(N)
    missing = ~np.isclose(points.max(axis=0, initial=0.0), 1.0, rtol=0, atol=FLAT)
    vertices = np.concatenate([points, np.eye(M)])
    # A corner that is measured is not needed a second time: out of reach.
    heights = np.concatenate([lifted, np.where(missing, 1.0 + _ARTIFICIAL + np.arange(M) / 1e3, np.inf)])
    usable = np.flatnonzero(np.isfinite(heights))
    vertices, heights = vertices[usable], heights[usable]
    start = _first_cell(vertices, heights)
    found, waiting = {tuple(sorted(start))}, [start]
    while waiting:
        cell = waiting.pop()
        inverse = np.linalg.inv(vertices[cell])
        slack = heights - vertices @ (inverse @ heights[cell])
        # Column k: how fast each vertex comes down when the cell tilts about the facet opposite its vertex k.
        approach = -(vertices @ inverse)
        approach[cell] = 0.0
        for k in range(M):
            near = np.flatnonzero(approach[:, k] > FLAT)
            if not len(near):
                continue
            entering = int(near[(slack[near] / approach[near, k]).argmin()])
            neighbour = [*cell[:k], entering, *cell[k + 1 :]]
            if tuple(sorted(neighbour)) not in found:
                found.add(tuple(sorted(neighbour)))
                waiting.append(neighbour)
    return usable[np.array(sorted(found))]


def _first_cell(vertices: np.ndarray, heights: np.ndarray) -> list[int]:
    """Return the cell that holds a point in general position: minimise the height above it from the corners on."""
    M = vertices.shape[1]
    inside = 1.0 + 0.1 * np.sqrt(np.arange(2, M + 2))
    inside /= inside.sum()
    cell = [int(vertices[:, m].argmax()) for m in range(M)]
    while True:
        inverse = np.linalg.inv(vertices[cell])
        slack = heights - vertices @ (inverse @ heights[cell])
        entering = int(slack.argmin())
        if slack[entering] >= -1e-12 or entering in cell:
            return cell
        shares, direction = inside @ inverse, vertices[entering] @ inverse
        ratios = np.full(M, np.inf)
        np.divide(shares, direction, out=ratios, where=direction > 1e-12)
        cell[int(ratios.argmin())] = entering


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
