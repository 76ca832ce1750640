"""The first non-dominated layers of very many points, without sorting the rest."""

from __future__ import annotations

import numpy as np

from paretune.fronts.indicators import layers, non_dominated

_DEPTH = 8  # layers looked for at first
_SAMPLE = 5000  # points ranked to find judges
_JUDGES = 64  # points tried for throwing others out


def first_layers(
    scores: np.ndarray, least: int, num_layers: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions ``[n]`` and layers ``[n]`` of the first whole non-dominated layers of finite ``scores [N, M]``.

    There are as few layers as hold ``least`` points, or exactly ``num_layers`` where there are so many; sorted by layer, then
    position. Equal rows share a layer.

    Up to two objectives are sorted whole, in O(N log N). From three on, points that a deep point of a sample dominates are removed
    first, as they are deeper still; the rest is peeled layer by layer.
    """
    if scores.shape[1] <= 2:
        ranks = layers(scores)
        sizes = np.cumsum(np.bincount(ranks))
        depth = num_layers or int(np.searchsorted(sizes, min(least, len(scores)))) + 1
        pool = np.flatnonzero(ranks < depth)
        pool = pool[np.argsort(ranks[pool], kind="stable")]
        return pool, ranks[pool]
    depth = num_layers or _DEPTH
    while True:
        rows = _survivors(scores, depth)
        layer_rows = _peel(scores[rows], depth, len(rows) if num_layers else least)
        total = sum(map(len, layer_rows))
        if num_layers or total >= least or total == len(scores):
            layer = np.repeat(np.arange(len(layer_rows)), [len(part) for part in layer_rows])
            return rows[np.concatenate(layer_rows)], layer
        depth *= 2


def _peel(scores: np.ndarray, depth: int, least: int) -> list[np.ndarray]:
    """Return the positions in each of the first layers, until ``depth`` of them or ``least`` points."""
    layer_rows: list[np.ndarray] = []
    left, total = np.arange(len(scores)), 0
    while len(left) and len(layer_rows) < depth and total < least:
        first = non_dominated(scores[left])
        layer_rows.append(left[first])
        total += len(layer_rows[-1])
        left = left[~first]
    return layer_rows


def _survivors(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return positions among which are all points of the first ``depth`` layers, with their layers unchanged.

    A point that is dominated by one of layer ``depth`` of any subset has ``depth`` points above it in a chain. A point that
    dominates one of the first layers is in an earlier layer, so the points that are left keep their layers.
    """
    count, size = len(scores), _SAMPLE
    everything = np.arange(count)
    if count <= 4 * size:
        return everything
    closeness = np.zeros(count)
    rank = np.arange(count, dtype=np.float64)
    for column in scores.T:  # by rank, which no extreme score distorts
        ranks = np.empty(count)
        ranks[np.argsort(column)] = rank
        closeness += ranks
    while size < count:
        sample = scores[np.argpartition(closeness, count - size)[count - size :]]
        layer_rows = _peel(sample, depth, size)
        if len(layer_rows) == depth:
            break
        size *= 4
    else:
        return everything
    judges = sample[layer_rows[-1]]
    thinned = scores[:: max(1, count // 2000)]
    reach = [int(np.all(thinned < judge, axis=1).sum()) for judge in judges]
    alive, columns = everything, list(scores.T)
    for judge in judges[np.argsort(reach, kind="stable")[::-1][:_JUDGES]]:
        # Below in every objective, not only in some: that removes most points, and no equal one.
        stays = columns[0] >= judge[0]
        for column, bound in zip(columns[1:], judge[1:], strict=True):
            stays |= column >= bound
        alive, columns = alive[stays], [column[stays] for column in columns]
    return alive
