"""The scores to expect at a preference, read off a measured front also between the measured preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ParetuneError, suggest
from paretune.core.preference import Preference, simplex_grid
from paretune.fronts.record import FrontRecord
from paretune.fronts.triangulation import FLAT, barycentric, triangulate

EQUAL = 1e-9
"""Margins closer than this, in ranges, are the same: rounding."""
_DIVISIONS = {1: 1, 2: 20, 3: 10, 4: 5, 5: 4}


@dataclass(frozen=True)
class Expected:
    """The scores that a front expects at a preference.

    Attributes:
        mean, low, high: Objective -> score with its interval; None where nothing is known.
        measured: Whether the preference that answers was measured itself; else the numbers are read off between
            measured neighbours.
        used: The preference that answers, which is another one than asked where the policy has anchors.
    """

    mean: dict[str, float | None]
    low: dict[str, float | None]
    high: dict[str, float | None]
    measured: bool
    used: Preference

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "measured": self.measured,
            "used": self.used.as_dict(),
        }


@dataclass(frozen=True, eq=False)
class Surface:
    """The measured front of one policy: N preferences over M objectives with mean scores and intervals.

    Arrays are kept as float64 copies. Of a preference that occurs twice, the first is kept.

    Attributes:
        policy: The policy's name.
        objectives: M names; higher scores are better on each.
        preferences: Measured preferences ``[N, M]`` on the simplex.
        means: Mean scores ``[N, M]``.
        low, high: Bounds ``[N, M]`` of their intervals, NaN where undefined. Each interval is for a preference that is chosen
            before its scores are seen.
        anchored: Whether the policy answers with the nearest measured preference, never between two.
        shrunk, band_low, band_high: What :attr:`for_choosing` has in place of means and bounds ``[N, M]``; by default these.
        on_front: The chance ``[N]`` that no other point of the policy is clearly better on everything, NaN where it was not
            measured, as in earlier records; None where nobody said.

    Raises:
        ParetuneError: Shapes do not fit, a mean is not finite, or nothing was measured.
        PreferenceError: A preference is off the simplex, or a name cannot be an objective.
    """

    policy: str
    objectives: tuple[str, ...]
    preferences: np.ndarray
    means: np.ndarray
    low: np.ndarray
    high: np.ndarray
    anchored: bool = False
    shrunk: np.ndarray | None = None
    band_low: np.ndarray | None = None
    band_high: np.ndarray | None = None
    on_front: np.ndarray | None = None

    def __post_init__(self) -> None:
        names = Preference.uniform(self.objectives).objectives
        object.__setattr__(self, "objectives", names)
        tables = {}
        defaults = {"shrunk": self.means, "band_low": self.low, "band_high": self.high}
        for field in ("preferences", "means", "low", "high", *defaults):
            given = getattr(self, field)
            table = np.array(defaults[field] if given is None else given, dtype=np.float64)
            if table.ndim != 2 or not len(table) or table.shape[1] != len(names):
                raise ParetuneError(
                    f"front of {self.policy!r}: {field} of shape {table.shape}; expected [N, {len(names)}], at least one row"
                )
            tables[field] = table
        if len({len(table) for table in tables.values()}) > 1:
            sizes = ", ".join(f"{field} {len(table)}" for field, table in tables.items())
            raise ParetuneError(f"front of {self.policy!r}: tables of different length ({sizes})")
        for row, weights in enumerate(tables["preferences"]):
            Preference(names, tuple(weights))
            if not np.isfinite([tables["means"][row], tables["shrunk"][row]]).all():
                raise ParetuneError(
                    f"front of {self.policy!r}: the mean scores at {Preference(names, tuple(weights))} are "
                    f"{tables['means'][row].tolist()}; expected finite numbers"
                )
        weights = np.round(tables["preferences"], 6)
        _, first = np.unique(weights, axis=0, return_index=True)
        for field, table in tables.items():
            kept = table[np.sort(first)]
            kept.setflags(write=False)
            object.__setattr__(self, field, kept)
        if self.on_front is not None:
            chances = np.array(self.on_front, dtype=np.float64)
            if chances.shape != (len(weights),):
                raise ParetuneError(
                    f"front of {self.policy!r}: on_front of shape {chances.shape}; expected [{len(weights)}]"
                )
            object.__setattr__(self, "on_front", chances[np.sort(first)])

    @classmethod
    def read(cls, path: str | Path, policy: str | None = None) -> Surface:
        """Read a policy's front from the ``front.json`` of a run; ``policy`` may be left out where there is one only.

        Raises:
            ParetuneError: The file is missing or no record, or it has no such policy.
        """
        record = FrontRecord.read(path)
        names = [measured.name for measured in record.policies]
        if not names:
            raise ParetuneError(f"{path}: no policy was measured; run paretune run to the end")
        if policy is None and len(names) > 1:
            raise ParetuneError(f"{path}: holds the policies {', '.join(names)}; choose one with --policy")
        try:
            return cls.of(record, names[0] if policy is None else policy)
        except ParetuneError as error:
            raise type(error)(f"{path}: {error}") from error

    @classmethod
    def of(cls, record: FrontRecord, policy: str) -> Surface:
        """Return the surface of one policy of a record; what was measured off the simplex is left out.

        Raises:
            ParetuneError: There is no such policy, or it was measured nowhere.
        """
        measured = record.policy(policy)
        points = [point for point in measured.points if min(point.preference.values()) >= 0]
        asked = [point.used if measured.anchored else point.preference for point in points]
        weights = [[weights.get(name, 0.0) for name in record.objectives] for weights in asked]
        tables = ([getattr(point, key) for point in points] for key in ("mean", "low", "high"))
        mean, low, high = (np.array(table, dtype=np.float64) for table in tables)
        bands = {
            "shrunk": mean,
            "band_low": np.full_like(mean, np.nan),
            "band_high": np.full_like(mean, np.nan),
        }
        if all(point.shrunk for point in points):  # earlier records have none
            bands = {key: np.array([getattr(point, key) for point in points]) for key in bands}
        chances = [np.nan if point.on_front is None else point.on_front for point in points]
        return cls(
            policy,
            record.objectives,
            np.array(weights, dtype=np.float64),
            mean,
            low,
            high,
            measured.anchored,
            **bands,
            on_front=np.array(chances, dtype=np.float64),
        )

    @cached_property
    def for_choosing(self) -> Surface:
        """The surface with what to expect at a preference that is chosen because its scores look best.

        The best of several measured points is too good on average. Its means are shrunk towards each other, and its bounds hold
        at all preferences at once, so also at the chosen one (:func:`paretune.fronts.intervals.shrunk`,
        :func:`paretune.fronts.intervals.bands`).
        """
        assert self.shrunk is not None and self.band_low is not None and self.band_high is not None
        tables = self.shrunk, self.band_low, self.band_high
        return Surface(self.policy, self.objectives, self.preferences, *tables, self.anchored)

    @cached_property
    def scale(self) -> np.ndarray:
        """The unit ``[M]`` of margins and distances: each objective's range of measured means, above 0.

        The unit of an objective that the policy does not move is the mean width of its intervals, or else its largest size.
        """
        unit = np.ptp(self.means, axis=0)
        size = np.abs(self.means).max(axis=0)
        width = np.array([_mean(column) for column in (self.high - self.low).T])
        unit = np.where(unit > 1e-12 * size, unit, width)
        return np.where(unit > 0, unit, np.where(size > 0, size, 1.0))

    @cached_property
    def order(self) -> np.ndarray:
        """The objectives' positions ``[M]`` in alphabetical order, by which ties are broken."""
        return np.array(sorted(range(len(self.objectives)), key=lambda m: self.objectives[m]))

    @cached_property
    def cells(self) -> np.ndarray:
        """The numbers ``[C, K]`` of the measured preferences that span each cell, in which scores are linear.

        A cell of fewer than K repeats its last. An anchored policy has N cells of one preference.
        """
        N = len(self.preferences)
        if self.anchored or N == 1:
            return np.arange(N)[:, None]
        faces = {tuple(sorted(n for n in cell if n < N)) for cell in self._mesh.tolist()}
        kept = [face for face in faces if face and not any(set(face) < set(other) for other in faces)]
        longest = max(map(len, kept))
        return np.array(sorted((*face, *[face[-1]] * (longest - len(face))) for face in kept))

    @cached_property
    def _mesh(self) -> np.ndarray:
        points = self.preferences[:, self.order]
        # The triangulation breaks ties by position, so the points are numbered in an order that does not depend on listing.
        rank = np.lexsort(points.T[::-1])
        mesh = triangulate(points[rank])
        N = len(points)
        names = np.concatenate([rank, N + np.arange(len(self.order))])
        return np.asarray(names[mesh])

    def shares(self, preferences: np.ndarray) -> np.ndarray:
        """Return the shares ``[Q, N]`` of the measured preferences in what answers at each of ``[Q, M]``.

        Where the policy has anchors, the nearest by L1 distance has the share 1 (of ties the first). Shares are NaN outside the
        hull of what was measured.
        """
        asked = np.asarray(preferences, dtype=np.float64)
        if self.anchored:
            apart = np.abs(asked[:, None] - self.preferences[None]).sum(axis=2).round(6)
            return np.eye(len(self.preferences))[apart.argmin(axis=1)]
        asked = asked / asked.sum(axis=1, keepdims=True)
        return barycentric(self.preferences[:, self.order], self._mesh, asked[:, self.order])

    def outcomes(self, preferences: np.ndarray) -> np.ndarray:
        """Return the expected scores ``[Q, M]`` at preferences ``[Q, M]``, NaN outside the hull of what was measured."""
        return self.shares(preferences) @ self.means

    def expected(self, preference: Preference) -> Expected:
        """Return expected scores with intervals, interpolated linearly between measured preferences.

        The bounds are interpolated too, which is wider than the truth where scores are linear. All are None where the preference
        lies outside the hull of what was measured, or off the simplex.

        Raises:
            PreferenceError: The front does not have an objective.
        """
        asked = preference.over(self.objectives)
        weights = asked.array()[None]
        unknown = asked.extrapolated and not self.anchored
        shares = np.full(len(self.preferences), np.nan) if unknown else self.shares(weights)[0]
        used = self.preference(int(shares.argmax())) if self.anchored else asked
        top = float(shares.max())
        mean, low, high = (self._named(_mixed(shares, table)) for table in (self.means, self.low, self.high))
        return Expected(mean, low, high, top >= 1 - FLAT, used)

    def within(self, minimums: Mapping[str, float]) -> Surface:
        """Return the part of the front whose preferences give each objective at least its minimum weight.

        The part holds the measured preferences inside and a grid over it with interpolated scores, so that its corners and edges
        are known. A policy with anchors keeps what was measured inside.

        Raises:
            ParetuneError: Nothing was measured inside, an objective is unknown, or a number is no weight.
        """
        for name, minimum in minimums.items():
            if name not in self.objectives:
                raise ParetuneError(f"minimum weight on {name!r}: {suggest(str(name), self.objectives)}")
            if not (math.isfinite(minimum) and 0 <= minimum <= 1):
                raise ParetuneError(f"minimum weight {minimum!r} on {name!r}; expected a number from 0 to 1")
        least = np.array([minimums.get(name, 0.0) for name in self.objectives])
        if not least.any():
            return self
        weights = self.preferences[(self.preferences >= least - FLAT).all(axis=1)]
        rest = 1.0 - least.sum()
        if not self.anchored and rest >= 0:
            M = len(least)
            grid = least + rest * simplex_grid(M, _DIVISIONS.get(M, 2))
            weights = np.concatenate([weights, grid])
        shares = self.shares(weights)
        known = np.isfinite(shares).all(axis=1)
        if not known.any():
            asked = ", ".join(f"{name} {minimum:g}" for name, minimum in minimums.items())
            raise ParetuneError(
                f"front of {self.policy!r}: nothing was measured with the weights at least {asked}; lower them, or measure there"
            )
        tables = {
            name: np.stack([_mixed(row, getattr(self, name)) for row in shares[known]])
            for name in ("means", "low", "high", "shrunk", "band_low", "band_high")
        }
        return Surface(self.policy, self.objectives, weights[known], anchored=self.anchored, **tables)

    def preference(self, n: int) -> Preference:
        """Return the measured preference number ``n``."""
        return Preference(self.objectives, tuple(self.preferences[n].tolist()))

    def chance(self, n: int) -> float | None:
        """Return the chance of point number ``n`` to be on the front; None where it is not known."""
        known = self.on_front is not None and math.isfinite(self.on_front[n])
        return float(self.on_front[n]) if known and self.on_front is not None else None

    def _named(self, values: np.ndarray) -> dict[str, float | None]:
        return {
            name: float(value) if math.isfinite(value) else None
            for name, value in zip(self.objectives, values, strict=True)
        }


def as_preference(weights: np.ndarray, objectives: Sequence[str]) -> Preference:
    """Return weights ``[M]`` as a preference, rounded to 6 decimals and still summing to 1."""
    rounded = np.round(np.clip(np.asarray(weights, dtype=np.float64), 0.0, None), 6)
    rounded[rounded.argmax()] += 1.0 - rounded.sum()
    return Preference(tuple(objectives), tuple(np.round(rounded, 6).tolist()))


def _mixed(shares: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the mix ``[M]`` of rows of ``table [N, M]`` by shares ``[N]``; NaN where a share is."""
    # An unknown bound with the share 0 does not make the others unknown.
    taken = ~(shares == 0)
    return np.asarray(shares[taken] @ table[taken])


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
