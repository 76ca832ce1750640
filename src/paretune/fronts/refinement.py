"""The preference to train next: where a measured front has its largest gap."""

from __future__ import annotations

import numpy as np

from paretune.fronts.triangulation import triangulate

FINEST = 1 / 256
"""Two neighbouring preferences are not divided further where every weight differs by less than this."""


def next_preferences(
    preferences: np.ndarray, points: np.ndarray, tried: np.ndarray, count: int = 1
) -> np.ndarray:
    """Return up to ``count`` preferences ``[K, M]`` that halve the longest pieces of a measured front.

    A piece lies between two preferences that are neighbours (a cell of their Delaunay triangulation has both). Its length is the
    distance of their points, each objective in units of its range over the front. Where several are proposed at once, each counts
    as halfway between its neighbours' points until it is measured.

    Args:
        preferences: Measured preferences ``[N, M]``, among them the corners.
        points: Mean scores ``[N, M]`` there, higher is better.
        tried: Preferences ``[T, M]`` not to propose, such as those whose training failed.
        count: The number of preferences.
    """
    spread = np.ptp(points, axis=0)
    places, scaled = preferences, points / np.where(spread > 0, spread, 1.0)
    taken = {tuple(row) for row in (*preferences.tolist(), *tried.tolist())}
    chosen: list[np.ndarray] = []
    for _ in range(count):
        cells = triangulate(places)
        first, second = np.triu_indices(cells.shape[1], 1)
        edges = np.unique(np.sort(cells[:, [first, second]].swapaxes(1, 2).reshape(-1, 2), axis=1), axis=0)
        edges = edges[edges.max(axis=1) < len(places)]
        lengths = np.linalg.norm(scaled[edges[:, 0]] - scaled[edges[:, 1]], axis=1)
        for a, b in edges[np.argsort(-lengths, kind="stable")].tolist():
            middle = (places[a] + places[b]) / 2
            if tuple(middle.tolist()) not in taken and np.abs(places[a] - places[b]).max() > FINEST:
                break
        else:
            break
        taken.add(tuple(middle.tolist()))
        chosen.append(middle)
        places = np.concatenate([places, middle[None]])
        scaled = np.concatenate([scaled, (scaled[[a]] + scaled[[b]]) / 2])
    return np.array(chosen).reshape(-1, preferences.shape[1])
