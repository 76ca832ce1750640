"""The responses that lie nearest to the ray of a preference (ParetoHqD, Gu et al. 2025, arXiv 2504.16628).

A preference w is a ray in the space of M scores, from the best value of every objective through the compromise
``low + w * (high - low)``. For each preference the k responses nearest to its ray are taken, out of a pool of whole
non-dominated layers: without the pool, far worse responses that happen to lie on the ray would be the nearest.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_types import Ge, Lt

from paretune.core.bounds import Count, check_bounds
from paretune.core.errors import ConfigError, DataError, PreferenceError, suggest
from paretune.core.preference import TOLERANCE
from paretune.data.dataset import ScoredDataset
from paretune.fronts.layers import first_layers

Normalise = Literal["minmax", "none", "zscore"]
Direction = Literal["compromise", "inverse"]

POOL_FACTOR = 5
"""Without ``num_layers`` the pool holds at least so many times k responses: fewer make all preferences choose the same."""
MISSING_SHARE = 0.01
"""Responses without a finite score may be left out up to this share; beyond it something is wrong with the scoring."""
CROWDED = 3
"""Beyond so many objectives rays crowd together and the first layer swells."""


@dataclass(frozen=True)
class Rays:
    """How responses are chosen by rays.

    Attributes:
        k: Responses for each preference; the paper uses 100 in stage 1.
        num_layers: Non-dominated layers in the pool; by default as few as hold 5 k responses.
        normalize: Unit of the distance to a ray: ``minmax`` (each objective's range), ``zscore`` (its standard deviation) or
            ``none`` (its score).
        clip: Quantile at either end, from 0 (clips nothing) to below 0.5, beyond which scores are clipped for range, ideal point
            and distance (not for the layers): one extreme score otherwise moves every ray.
        direction: ``compromise``: the gap to the best shrinks as 1 - w, the paper's ray. ``inverse``: as 1 / w, the balance of the
            weighted Tchebycheff norm, which differs from three objectives on.
    """

    k: Count = 100
    num_layers: Count | None = None
    normalize: Normalise = "minmax"
    clip: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    direction: Direction = "compromise"

    def __post_init__(self) -> None:
        check_bounds(self)
        for key, known in (("normalize", Normalise), ("direction", Direction)):
            if (given := getattr(self, key)) not in get_args(known):
                raise ConfigError(f"{key}: unknown value {given!r}; {suggest(str(given), get_args(known))}")


@dataclass(frozen=True, eq=False)
class Candidates:
    """N responses of a data set that may be imitated.

    Attributes:
        rows: Row of the data of each one, ``[N]``.
        responses: Position of each one in its row, ``[N]``.
        scores: Scores ``[N, M]`` as in the data, NaN where one is missing.
        dropped: Reason -> number of responses that were left out for it.
    """

    rows: np.ndarray
    responses: np.ndarray
    scores: np.ndarray
    dropped: dict[str, int]

    def where(self, dataset: ScoredDataset, number: int) -> str:
        """Return the origin of a candidate in the data, such as ``answers.jsonl:12 (response 0)``."""
        row = int(self.rows[number])
        return f"{dataset.rows[row].source or f'row {row}'} (response {self.responses[number]})"


def candidates(dataset: ScoredDataset, collapsed: Callable[[str], bool] | None = None) -> Candidates:
    """Return all responses but those cut by a token limit, repeated for their prompt, or ``collapsed`` (None checks none).

    A cut response does not show where to stop.
    """
    dropped = {"cut": 0, "repeated": 0, "collapsed": 0}
    rows, responses, prints, scores = array("i"), array("i"), array("Q"), array("d")
    for number, row in enumerate(dataset.rows):
        matrix = dataset.matrix(row)
        for k, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True)):
            if cut:
                dropped["cut"] += 1
            elif collapsed is not None and collapsed(text):
                dropped["collapsed"] += 1
            else:
                rows.append(number)
                responses.append(k)
                prints.append(_print(row.key, text))
                scores.frombytes(matrix[k].tobytes())
    first = np.sort(np.unique(np.asarray(prints), return_index=True)[1])
    dropped["repeated"] = len(prints) - len(first)
    return Candidates(
        np.asarray(rows)[first],
        np.asarray(responses)[first],
        np.asarray(scores).reshape(len(prints), len(dataset.objectives))[first],
        {reason: n for reason, n in dropped.items() if n},
    )


def _print(key: str, text: str) -> int:
    """Return 64 bits that identify a response to a prompt."""
    return int.from_bytes(hashlib.blake2b(f"{key}{text}".encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, eq=False)
class Selection:
    """The responses chosen for P preferences, as positions in the scores ``[N, M]`` they were chosen from.

    Attributes:
        preferences: Weights ``[P, M]``, on the simplex.
        chosen: P arrays of positions, nearest to the ray first; k each, fewer where the pool holds fewer.
        distances: P arrays, the distance of each to its ray in units of the normalised scores.
        pool: ``[n]`` positions of the non-dominated layers the choice was made from, best layer first.
        layer: ``[n]``, the layer of each, 0 for the non-dominated ones.
        means: ``[P, M]``, mean score of the chosen.
        ideal: ``[M]``, best score of each objective, from which all rays start.
        directions: ``[P, M]`` in units of score, 0 where an objective does not vary: a ray is ``ideal + t * direction``.
        k: Requested number of responses.
        notes: What a user should know about this choice.
    """

    preferences: np.ndarray
    chosen: tuple[np.ndarray, ...]
    distances: tuple[np.ndarray, ...]
    pool: np.ndarray
    layer: np.ndarray
    means: np.ndarray
    ideal: np.ndarray
    directions: np.ndarray
    k: int
    notes: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        """Number of layers in the pool."""
        return int(self.layer.max()) + 1

    def overlaps(self) -> np.ndarray:
        """Return ``[P]``: the share of each set that the nearest preferences chose too, NaN for a single preference."""
        shares, near = self._shares()
        return np.array([shares[i, near[i]].mean() if near[i].any() else np.nan for i in range(len(shares))])

    def overlap(self) -> float:
        """Return the mean share that neighbouring sets have in common, each two counted once; NaN for a single preference.

        Near 1 all preferences train on the same responses; a larger pool parts them, at the price of worse responses.
        """
        shares, near = self._shares()
        pairs = np.triu(near | near.T, 1)
        return float(shares[pairs].mean()) if pairs.any() else float("nan")

    def _shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``[P, P]`` shares in common and ``bool [P, P]``: j is (one of) the nearest preferences to i."""
        P = len(self.chosen)
        shares = np.eye(P)
        for i in range(P):
            for j in range(i):
                common = len(np.intersect1d(self.chosen[i], self.chosen[j], assume_unique=True))
                shares[i, j] = shares[j, i] = common / min(len(self.chosen[i]), len(self.chosen[j]))
        apart = np.abs(self.preferences[:, None] - self.preferences[None]).sum(2)
        np.fill_diagonal(apart, np.inf)
        nearest = apart.min(axis=1, keepdims=True, initial=np.inf)
        return shares, np.isfinite(apart) & (apart <= nearest + 1e-9)

    def to_dict(self, objectives: Sequence[str]) -> dict[str, Any]:
        """Return the figures as JSON values: pool, layers, and overlap and mean score for each preference."""

        def named(values: np.ndarray) -> dict[str, float]:
            return dict(zip(objectives, values.tolist(), strict=True))

        return {
            "k": self.k,
            "pool": len(self.pool),
            "layers": self.num_layers,
            "overlap": _number(self.overlap()),
            "ideal": named(self.ideal),
            "notes": list(self.notes),
            "preferences": [
                {
                    "preference": named(weights),
                    "responses": len(chosen),
                    "overlap": _number(overlap),
                    "mean": named(mean),
                    "farthest": float(distances[-1]),
                }
                for weights, chosen, overlap, mean, distances in zip(
                    self.preferences, self.chosen, self.overlaps(), self.means, self.distances, strict=True
                )
            ],
        }


def select(
    scores: np.ndarray,
    preferences: np.ndarray,
    rays: Rays,
    *,
    objectives: Sequence[str] | None = None,
    where: str = "scores",
    origin: Callable[[int], str] = "number {}".format,
) -> Selection:
    """Return the k responses nearest to the ray of each preference, out of the first non-dominated layers.

    arXiv 2504.16628 states the ray and "the nearest"; the distance (perpendicular, Euclidean), the normalisation and the size
    of the pool are our choice. Equal distances go by layer, then by position.

    Args:
        scores: ``[N, M]``, higher is better; a row that is not finite is left out, if they are at most 1 % of all.
        preferences: ``[P, M]``, weights of at least 0; a row with another sum than 1 is divided by it, and a note reports it.
        rays: How many responses, from which pool, by which distance.
        objectives: M names, for messages.
        where: What the scores are, for messages.
        origin: What a position is called in messages.

    Raises:
        PreferenceError: weights that are negative, not finite, or all 0.
        DataError: no response, or more than 1 % of them without a finite score.

    >>> scores = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [0.5, 0.5], [0, 0]])
    >>> [chosen.tolist() for chosen in select(scores, [[1, 0], [0.5, 0.5]], Rays(k=2, num_layers=1)).chosen]
    [[0, 1], [1, 2]]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(
            f"{where}: scores of shape {values.shape}; expected [N, M] with at least one objective"
        )
    names = tuple(objectives or (f"objective {m}" for m in range(values.shape[1])))
    weights, notes = _simplex_rows(preferences, names, where)
    kept = _finite_rows(values, names, where, origin)
    if len(kept) < len(values):
        notes.append(
            f"{len(values) - len(kept)} of {len(values)} responses lack a finite score and were left out"
        )
        values = values[kept]
    ideal, spread, unit = _geometry(values, rays.normalize, rays.clip)
    varies = spread > 0
    pool, layer = first_layers(values, POOL_FACTOR * rays.k, rays.num_layers)
    notes += _remarks(names, varies, rays, len(kept), len(pool), int(layer[-1]) + 1)
    low = ideal - spread
    points = np.clip(values[pool], low, ideal)[:, varies] / unit[varies]
    chosen, distances, directions = [], [], []
    for w in weights:
        ray = _gaps(w, rays.direction) * (spread / unit)
        measured = _rounded(ray_distance(points, (ideal / unit)[varies], _line(ray[varies])), spread / unit)
        order = _nearest(measured, layer, kept[pool], rays.k)
        chosen.append(kept[pool[order]])
        distances.append(measured[order])
        directions.append(ray * unit)
    original = np.asarray(scores, dtype=np.float64)
    means = np.array([original[ids].mean(axis=0) for ids in chosen])
    return Selection(
        weights, tuple(chosen), tuple(distances), kept[pool], layer, means, ideal, np.array(directions), rays.k,
        tuple(notes),
    )  # fmt: skip


def ray_distance(points: np.ndarray, ideal: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the distance ``[n]`` of ``points [n, M]`` to the ray from ``ideal [M]`` along ``direction [M]``.

    Perpendicular and Euclidean; a direction shorter than 1e-12 is no ray, and the distance is that to ``ideal``.

    >>> ray_distance(np.array([[0.8, 0.6], [0.5, 0.5]]), np.array([1.0, 1.0]), np.array([-0.5, -0.5])).round(6).tolist()
    [0.141421, 0.0]
    """
    apart = points - ideal
    length = float(np.linalg.norm(direction))
    if length >= 1e-12:
        unit = direction / length
        apart = apart - np.maximum(apart @ unit, 0.0)[:, None] * unit
    return np.asarray(np.sqrt(np.einsum("nm,nm->n", apart, apart)))


def _simplex_rows(preferences: np.ndarray, names: Sequence[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Return the weights ``[P, M]`` with sum 1, and a note for each row that was divided."""
    weights = np.asarray(preferences, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(names) or len(weights) == 0:
        raise PreferenceError(
            f"{where}: preferences of shape {weights.shape}; expected [P, {len(names)}], one weight for each of "
            f"{', '.join(names)}"
        )
    notes = []
    for number, row in enumerate(weights):
        if not np.isfinite(row).all() or row.min() < 0 or row.sum() <= 0:
            raise PreferenceError(
                f"{where}: preference {number} is {row.tolist()}; expected weights of at least 0 that sum to 1"
            )
        if abs(row.sum() - 1) > TOLERANCE:
            shown = (row / row.sum()).round(6).tolist()
            notes.append(f"preference {number} summed to {row.sum():g} and is taken as {shown}")
    return weights / weights.sum(axis=1, keepdims=True), notes


def _finite_rows(
    values: np.ndarray, names: Sequence[str], where: str, origin: Callable[[int], str]
) -> np.ndarray:
    """Return the positions of rows whose scores are all finite."""
    finite = np.isfinite(values)
    kept = np.flatnonzero(finite.all(axis=1))
    bad = len(values) - len(kept)
    if bad > MISSING_SHARE * len(values):
        row, column = np.argwhere(~finite)[0].tolist()
        raise DataError(
            f"{where}: {bad} of {len(values)} responses lack a finite score, first {origin(row)} on {names[column]!r}; at most "
            f"{MISSING_SHARE:.0%} may be left out. Score the data on every objective, or drop these responses"
        )
    if len(kept) == 0:
        raise DataError(f"{where}: no response to choose from; expected at least one with all its scores")
    return kept


def _geometry(
    values: np.ndarray, normalize: Normalise, clip: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ideal point, range (0: the objective does not vary) and unit of distance, ``[M]`` each, in units of score."""
    if clip:
        low, ideal = np.quantile(values, [clip, 1 - clip], axis=0)
    else:
        low, ideal = values.min(axis=0), values.max(axis=0)
    spread = ideal - low
    spread[spread <= 1e-12 * np.maximum(np.abs(ideal), np.abs(low))] = 0.0
    if normalize == "none":
        unit = np.ones_like(spread)
    elif normalize == "minmax":
        unit = spread
    else:
        unit = np.clip(values, low, ideal).std(axis=0)
    return ideal, spread, np.where(spread > 0, unit, 1.0)


def _gaps(weights: np.ndarray, direction: Direction) -> np.ndarray:
    """Return how far each objective falls short of the best along the ray, ``[M]`` in shares of its range, negative."""
    if direction == "compromise":
        return -(1.0 - weights)
    if np.any(weights == 0):  # the limit: all of the gap is in the objectives that do not count
        return -(weights == 0).astype(np.float64)
    return -weights.min() / weights


def _line(ray: np.ndarray) -> np.ndarray:
    """Return the ray's direction, scaled so that a short one differs from none; 0 for a single objective, which is no plane."""
    longest = np.abs(ray).max(initial=0.0)
    return ray / longest if len(ray) > 1 and longest > 0 else np.zeros_like(ray)


def _rounded(distances: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Round distances to 12 digits of the diagonal, so that equal ones tie whatever the order of sums."""
    diagonal = float(np.linalg.norm(ranges)) or 1.0
    return np.asarray(np.round(distances / diagonal, 12) * diagonal)


def _nearest(distances: np.ndarray, layer: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Return the k first places by (distance, layer, id)."""
    places = np.arange(len(distances))
    if k < len(distances):
        places = places[distances <= np.partition(distances, k - 1)[k - 1]]
    return places[np.lexsort((ids[places], layer[places], distances[places]))][:k]


def _remarks(
    names: Sequence[str], varies: np.ndarray, rays: Rays, count: int, pooled: int, depth: int
) -> list[str]:
    """Return what a user should know of ``pooled`` of ``count`` responses in ``depth`` layers."""
    k, num_layers, notes = rays.k, rays.num_layers, []
    if len(names) == 1:
        notes.append(f"one objective has no rays: the {k} best are taken")
    if not varies.any():
        notes.append(f"all responses score the same on every objective; the first {k} are taken")
    elif not varies.all():
        same = ", ".join(name for name, moves in zip(names, varies, strict=True) if not moves)
        notes.append(f"all responses score the same on {same}, which takes no part in the distance")
    if len(names) > CROWDED:
        notes.append(
            f"with {len(names)} objectives rays crowd together and the first layer swells; the paper has 3 at most"
        )
    if num_layers and depth < num_layers:
        notes.append(f"num_layers={num_layers} is more than the {depth} there are")
    if pooled < k:
        first = "the first layer holds" if depth == 1 else f"the first {depth} layers hold"
        held = first if pooled < count else "there are"
        notes.append(f"{held} {pooled} responses, fewer than k={k}: every preference takes them all")
    return notes


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
