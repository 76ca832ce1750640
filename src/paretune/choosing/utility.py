"""A scalarisation as a user names it, in choosing: ``min``, ``quantile=0.1``, or ``all``."""

from __future__ import annotations

import math

from paretune.core.errors import ParetuneError, suggest
from paretune.core.numbers import number_in
from paretune.core.preference import Preference
from paretune.core.scalarise import SCALARISATIONS, Shape
from paretune.fronts.scalarised import ByForm, best_by
from paretune.fronts.surface import Surface

ALL = "all"
NUMBERS = {
    "quantile": ("quantile", 0.0, 1.0),
    "smooth-tchebycheff": ("mu", 1e-6, math.inf),
    "augmented-tchebycheff": ("rho", 0.0, math.inf),
}
"""Form -> the parameter that a number behind it sets, with its bounds."""


def choose_by(surface: Surface, weights: Preference, named: str) -> list[ByForm]:
    """Return the best preference of a front for a person's weights by the scalarisation that ``named`` says, or by ``all``.

    Raises:
        ParetuneError: There is no such scalarisation, or its number cannot be.
        PreferenceError: The front does not have an objective.
    """
    kind, sign, number = (part.strip() for part in named.partition("="))
    if kind not in (known := [*SCALARISATIONS, ALL]):
        raise ParetuneError(f"--by {named!r}: {suggest(kind, known)}")
    shape = Shape()
    if sign:
        if kind not in NUMBERS:
            raise ParetuneError(
                f"--by {named!r}: {kind} takes no number; {', '.join(NUMBERS)} do, such as quantile=0.1"
            )
        field, low, high = NUMBERS[kind]
        try:
            value = number_in(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
            raise ParetuneError(f"--by {named!r}: expected {kind}=NUMBER with a number {bounds}")
        shape = Shape(**{field: value})
    return best_by(surface, weights, [] if kind == ALL else [kind], shape)
