"""From preferences to the gates of one low-rank update: the five rules by which a policy follows its preference in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.fronts.triangulation import barycentric, triangulate
from paretune.models.adapter import Adapter
from paretune.models.gates import anchor_gates, nearest_anchor, soup_gates
from paretune.models.singular_gates import features

BetweenAnchors: TypeAlias = Literal["nearest", "soup"]
"""What answers between the preferences of anchors: the nearest anchor, or a soup of those around the preference."""
SINGULAR = 1e-9
"""Determinant below which M preferences do not span the simplex."""
DIGITS = 6
"""Decimals of shares: weights are given to six, and a share below is rounding."""


class Gating(Protocol):
    """A rule from preferences to gates."""

    kind: ClassVar[str]
    """The rule's name in ``policy.json``."""

    @property
    def anchors(self) -> tuple[Preference, ...]:
        """The preferences it answers with, if only these; otherwise none."""

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return gates ``[B, R]`` over the ranks of all adapters at preferences ``[B, M]``; None without an update."""


@dataclass(frozen=True)
class NoUpdate:
    """The base model: every preference gives the same."""

    kind: ClassVar[str] = "base"
    anchors: ClassVar[tuple[Preference, ...]] = ()

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return None: there is nothing to gate."""
        return None


@dataclass(frozen=True)
class Soup:
    """The weighted sum of M updates: adapter j has the preference's weight on objective j. Exact, unlike a mean of factors."""

    kind: ClassVar[str] = "soup"
    anchors: ClassVar[tuple[Preference, ...]] = ()

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return scale times weight on the block of each adapter."""
        return soup_gates(weights, _ranks(adapters), _scales(adapters))


@dataclass(frozen=True)
class Anchors:
    """The one of K adapters whose preference is nearest by L1 distance; of ties the first.

    Attributes:
        anchors: The K preferences that the adapters were trained for, over the policy's objectives.
    """

    anchors: tuple[Preference, ...]
    kind: ClassVar[str] = "anchors"

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return the scale on the block of the adapter chosen, 0 elsewhere."""
        return anchor_gates(self.choice(weights), _ranks(adapters), _scales(adapters))

    def choice(self, weights: Tensor) -> Tensor:
        """Return the number ``[B]`` of the anchor that answers at each of the preferences ``[B, M]``."""
        rows = np.stack([anchor.array() for anchor in self.anchors])
        choice, _ = nearest_anchor(weights, torch.tensor(rows, dtype=torch.float32))
        return choice


@dataclass(frozen=True)
class Between:
    """The soup of the adapters whose preferences a preference lies between, by its barycentric coordinates there.

    At the preference of an adapter it is that adapter alone. M adapters at preferences that span the simplex make one affine map,
    also beyond them: Bone Soup's ``B^-T w``, with the preferences in the rows of B (arXiv 2502.10762). More of them are divided
    into cells by a Delaunay triangulation; a preference outside all of them is answered by the nearest.

    Attributes:
        trained: The K preferences that the adapters were trained for, over the policy's objectives.
    """

    trained: tuple[Preference, ...]
    kind: ClassVar[str] = "between"
    anchors: ClassVar[tuple[Preference, ...]] = ()

    @property
    def affine(self) -> bool:
        """Whether it is one affine map of the preference."""
        rows = self._rows
        return len(rows) == rows.shape[1] and abs(float(np.linalg.det(rows))) > SINGULAR

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return scale times share on the block of each adapter."""
        shares = torch.from_numpy(self.shares(weights.double().numpy()))
        return soup_gates(shares, _ranks(adapters), _scales(adapters))

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """Return the shares ``[B, K]`` of the adapters, rows summing to 1, at preferences ``[B, M]``."""
        rows = self._rows
        if self.affine:
            found = np.linalg.solve(rows.T, weights.T).T
        else:
            found = barycentric(rows, self._cells, weights)
            outside = np.isnan(found).any(axis=1)
            choice, _ = nearest_anchor(torch.from_numpy(weights[outside]), torch.from_numpy(rows))
            found[outside] = np.eye(len(rows))[choice.numpy()]
        return np.round(found, DIGITS) + 0.0  # at a trained preference exactly that adapter

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.stack([preference.array() for preference in self.trained])

    @cached_property
    def _cells(self) -> np.ndarray:
        return triangulate(self._rows)


@dataclass(frozen=True)
class Conditioned:
    """One adapter of several blocks (Panacea).

    At most one block is always on. One block per objective is weighted by the preference, and one per learned feature of the
    preference follows that feature, see :mod:`paretune.models.singular_gates`.
    """

    kind: ClassVar[str] = "conditioned"
    anchors: ClassVar[tuple[Preference, ...]] = ()

    def gates(self, adapters: Sequence[Adapter], weights: Tensor) -> Tensor | None:
        """Return scale times weight on each block."""
        (adapter,) = adapters
        learned = _learned(adapter)
        bent = features(weights, *learned) if learned else torch.ones(len(weights), 0)
        always = torch.ones(len(weights), len(adapter.blocks) - weights.shape[1] - bent.shape[1])
        return soup_gates(torch.cat([always, weights, bent], dim=1), adapter.ranks, adapter.scales)

    def check(self, adapter: Adapter, objectives: Sequence[str]) -> None:
        """Check that the blocks of an adapter fit the objectives.

        Raises:
            ModelError: There are too many or too few blocks.
        """
        learned = _learned(adapter)
        if len(adapter.blocks) - len(objectives) - (len(learned[1]) if learned else 0) not in (0, 1):
            raise ModelError(
                f"an adapter of {len(adapter.blocks)} blocks for {len(objectives)} objectives; expected one block per "
                "objective, and at most one that they share"
            )


def _ranks(adapters: Sequence[Adapter]) -> list[int]:
    return [adapter.rank for adapter in adapters]


def _scales(adapters: Sequence[Adapter]) -> list[float]:
    return [adapter.scale for adapter in adapters]


def _learned(adapter: Adapter) -> tuple[Tensor, Tensor] | None:
    """Return A and a of the learned features that bend an adapter's gates; None where it has none."""
    stored = adapter.info.get("features")
    return (torch.tensor(stored["weight"]), torch.tensor(stored["bias"])) if stored else None
