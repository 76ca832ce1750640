"""Deployment bounds: the part of the simplex of preferences that a server serves, and no request can leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paretune.core.errors import ConfigError, PreferenceError, suggest
from paretune.core.preference import TOLERANCE, Preference


class BoundsError(PreferenceError):
    """A preference outside the bounds of a deployment."""


@dataclass(frozen=True)
class Bounds:
    """Floors on weights: every preference that is served gives each objective at least its floor.

    Attributes:
        objectives: M names.
        floors: M numbers >= 0 whose sum is at most 1, in the order of ``objectives``.
    """

    objectives: tuple[str, ...]
    floors: tuple[float, ...]

    @classmethod
    def of(cls, floors: Mapping[str, float], objectives: Sequence[str]) -> Bounds:
        """Make bounds from ``{objective: floor}``; objectives left out have the floor 0.

        Raises:
            ConfigError: an unknown objective, a floor outside [0, 1], floors that leave nothing.
        """
        for name, floor in floors.items():
            if name not in objectives:
                raise ConfigError(f"floor on {name!r}: {suggest(name, objectives)}")
            if not math.isfinite(floor) or not 0 <= floor <= 1:
                raise ConfigError(f"floor {floor!r} of objective {name!r} is not a weight from 0 to 1")
        total = sum(floors.values())
        if total > 1 + TOLERANCE:
            raise ConfigError(
                f"the floors sum to {total:.6g}, so no preference meets them; their sum must be at most 1"
            )
        return cls(tuple(objectives), tuple(floors.get(name, 0.0) for name in objectives))

    def check(self, preference: Preference, what: str = "preference") -> None:
        """Raise a BoundsError that names every floor ``preference`` is below."""
        short = [
            f"{name} {preference[name]:.4g} is below its floor {floor:g}"
            for name, floor in zip(self.objectives, self.floors, strict=True)
            if preference[name] < floor - TOLERANCE
        ]
        if short:
            raise BoundsError(f"{what} {preference} is outside the bounds of this server: {', '.join(short)}")

    def admits(self, preference: Preference) -> bool:
        """Tell whether ``preference`` is within the bounds."""
        try:
            self.check(preference)
        except BoundsError:
            return False
        return True

    @property
    def centre(self) -> Preference:
        """The centre of what is admitted: uniform where there are no floors."""
        rest = max(0.0, 1.0 - sum(self.floors)) / len(self.objectives)
        weights = [floor + rest for floor in self.floors]
        return Preference(self.objectives, tuple(weight / sum(weights) for weight in weights))

    def as_dict(self) -> dict[str, float]:
        """Return ``{objective: floor}``."""
        return dict(zip(self.objectives, self.floors, strict=True))


def parse_bounds(floors: Iterable[str]) -> dict[str, float]:
    """Read ``["harmless=0.3", ...]``, floors on weights.

    Raises:
        ConfigError: a text that is not OBJECTIVE=WEIGHT, or an objective that stands twice.
    """
    named: dict[str, float] = {}
    for text in floors:
        name, sign, number = (part.strip() for part in text.partition("="))
        try:
            weight = float(number)
        except ValueError:
            sign = ""
        if not sign or not name or name in named:
            raise ConfigError(
                f"floor {text!r}: expected OBJECTIVE=WEIGHT, such as harmless=0.3, each objective once"
            )
        named[name] = weight
    return named
