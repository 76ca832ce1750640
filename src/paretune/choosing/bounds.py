"""Deployment bounds: the part of the simplex of preferences that a server serves, and that no request can leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paretune.core.errors import ConfigError, PreferenceError, suggest
from paretune.core.numbers import number_in
from paretune.core.preference import TOLERANCE, Preference


class BoundsError(PreferenceError):
    """A preference lies outside the bounds of a deployment."""


@dataclass(frozen=True)
class Bounds:
    """Minimum weights: every preference that is served gives each objective at least its own.

    Attributes:
        objectives: M names.
        minimums: M weights of at least 0 whose sum is at most 1, in the order of ``objectives``.
    """

    objectives: tuple[str, ...]
    minimums: tuple[float, ...]

    @classmethod
    def of(cls, minimums: Mapping[str, float], objectives: Sequence[str]) -> Bounds:
        """Make bounds from ``{objective: minimum weight}``; objectives left out have the minimum 0.

        Raises:
            ConfigError: An objective is unknown, a minimum lies outside [0, 1], or no preference meets them all.
        """
        for name, minimum in minimums.items():
            if name not in objectives:
                raise ConfigError(f"minimum weight on {name!r}: {suggest(name, objectives)}")
            if not math.isfinite(minimum) or not 0 <= minimum <= 1:
                raise ConfigError(
                    f"minimum weight {minimum!r} of objective {name!r} is not a number from 0 to 1"
                )
        total = sum(minimums.values())
        if total > 1 + TOLERANCE:
            raise ConfigError(
                f"the minimum weights sum to {total:.6g}, so no preference meets them; their sum must be at most 1"
            )
        return cls(tuple(objectives), tuple(minimums.get(name, 0.0) for name in objectives))

    def check(self, preference: Preference, what: str = "preference") -> None:
        """Check that ``preference`` is within the bounds; ``what`` names it in the error.

        Raises:
            BoundsError: It is not; the message names every minimum weight it is below.
        """
        short = [
            f"{name} {preference[name]:.4g} is below its minimum weight {minimum:g}"
            for name, minimum in zip(self.objectives, self.minimums, strict=True)
            if preference[name] < minimum - TOLERANCE
        ]
        if short:
            raise BoundsError(f"{what} {preference} is outside the bounds of this server: {', '.join(short)}")

    def admits(self, preference: Preference) -> bool:
        """Return whether ``preference`` is within the bounds."""
        try:
            self.check(preference)
        except BoundsError:
            return False
        return True

    def nearest(self, preference: Preference) -> Preference:
        """Return the preference within the bounds that is nearest to ``preference`` (L2); itself where it is within them.

        Weights below their minimum are raised to it, and what that takes is taken evenly from the others (Held, Wolfe and Crowder
        1974, "Validation of subgradient optimization").
        """
        if self.admits(preference):
            return preference
        minimums = np.array(self.minimums)
        room = max(0.0, 1.0 - minimums.sum())
        above = preference.over(self.objectives).array() - minimums
        falling = np.sort(above)[::-1]
        levels = (np.cumsum(falling) - room) / np.arange(1, len(falling) + 1)
        level = levels[falling > levels][-1] if room > 0 else np.inf
        weights = minimums + np.maximum(above - level, 0.0)
        return Preference(self.objectives, tuple((weights / weights.sum()).tolist()))

    @property
    def centre(self) -> Preference:
        """The centre of the bounds: uniform where there are no minimum weights."""
        rest = max(0.0, 1.0 - sum(self.minimums)) / len(self.objectives)
        weights = [minimum + rest for minimum in self.minimums]
        return Preference(self.objectives, tuple(weight / sum(weights) for weight in weights))

    def as_dict(self) -> dict[str, float]:
        """Return ``{objective: minimum weight}``."""
        return dict(zip(self.objectives, self.minimums, strict=True))


def parse_bounds(texts: Iterable[str]) -> dict[str, float]:
    """Read minimum weights such as ``["harmless=0.3", ...]``.

    Raises:
        ConfigError: A text is not OBJECTIVE=WEIGHT, or an objective is given twice.
    """
    minimums: dict[str, float] = {}
    for text in texts:
        name, sign, number = (part.strip() for part in text.partition("="))
        try:
            weight = number_in(number)
        except ValueError:
            sign = ""
        if not sign or not name or name in minimums:
            raise ConfigError(
                f"minimum weight {text!r}: expected OBJECTIVE=WEIGHT, such as harmless=0.3, each objective once"
            )
        minimums[name] = weight
    return minimums
