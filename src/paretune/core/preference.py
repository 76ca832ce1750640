"""Preferences: named weights over objectives, never rescaled unasked; grids and draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np

from paretune.core.errors import PreferenceError, suggest
from paretune.core.numbers import number_in

TOLERANCE = 1e-6
"""How far a sum of weights may be from 1: well above rounding, well below anything a reader would notice."""

_MOST_GRID_ROWS = 2_000_000


@dataclass(frozen=True, slots=True)
class Preference:
    """Weights ``[M]`` on named objectives: each >= 0, their sum within 1e-6 of 1, else a PreferenceError.

    ``allow_extrapolation`` admits negative weights, such as ``concise=1.2,warm=-0.2``: policies that are affine in the
    preference continue along their line, beyond everything they were trained for.

    ``strength`` is how far an answer is steered, beside where to: a factor on the whole update, so that the answers are near those
    of a training with beta / strength; 0 is the base model. :meth:`at` sets it.

    Names are unique, non-empty, without surrounding white space and free of ``,``, ``=`` and ``@``, so that
    the text ``helpful=0.7,harmless=0.3`` can be read back, also from a model name ``mine@helpful=0.7,...``.
    """

    objectives: tuple[str, ...]
    weights: tuple[float, ...]
    allow_extrapolation: bool = field(default=False, compare=False, repr=False)
    strength: float = 1.0

    def __post_init__(self) -> None:
        names = _checked_names(self.objectives)
        given = tuple(self.weights)
        if len(given) != len(names):
            raise PreferenceError(
                f"{len(given)} weights for {len(names)} objectives ({', '.join(names)}); give each one weight"
            )
        weights = tuple(
            _checked_weight(name, weight, self.allow_extrapolation)
            for name, weight in zip(names, given, strict=True)
        )
        _check_sum(names, weights)
        given_strength = self.strength
        known = isinstance(given_strength, (int, float)) and not isinstance(given_strength, bool)
        if not known or not 0 <= given_strength < math.inf:
            raise PreferenceError(f"strength {given_strength!r} is not a finite number of at least 0")
        object.__setattr__(self, "strength", float(given_strength))
        object.__setattr__(self, "objectives", names)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def parse(
        cls, text: str, objectives: Sequence[str] | None = None, allow_extrapolation: bool = False
    ) -> Preference:
        """Read ``"helpful=0.7,harmless=0.3"``, or ``"helpful+harmless"`` for equal weights; white space is ignored.

        With ``objectives`` the result has these, in this order, and those left out of ``text`` get weight 0.

        Raises:
            PreferenceError: An unknown or repeated objective, not a number, negative, or a sum other than 1.

        >>> str(Preference.parse("harmless = 1", ["helpful", "harmless"]))
        'helpful=0.0,harmless=1.0'
        """
        if (names := _checked_boxes(text, objectives)) is not None:
            return cls.checked(names, objectives)
        weights: dict[str, float] = {}
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if not equals or not name:
                raise PreferenceError(
                    f"preference {text!r}: {part.strip()!r} is not NAME=WEIGHT; "
                    f"write for example {_example(objectives)}"
                )
            if name in weights:
                raise PreferenceError(f"preference {text!r}: objective {name!r} is given twice; give it once")
            weights[name] = _checked_weight(name, number, allow_extrapolation)
        return cls.of(weights, objectives, allow_extrapolation)

    @classmethod
    def of(
        cls,
        weights: Mapping[str, float],
        objectives: Sequence[str] | None = None,
        allow_extrapolation: bool = False,
    ) -> Preference:
        """Make a preference from ``{objective: weight}``; with ``objectives``, those left out get weight 0.

        Raises:
            PreferenceError: An objective that is not among ``objectives``, or weights off the simplex.
        """
        names = tuple(weights) if objectives is None else _checked_names(objectives)
        for name in weights:
            if name not in names:
                raise PreferenceError(f"unknown objective {name!r}; {suggest(name, names)}")
        return cls(names, tuple(weights.get(name, 0.0) for name in names), allow_extrapolation)

    @classmethod
    def checked(cls, names: Sequence[str], objectives: Sequence[str] | None = None) -> Preference:
        """Put equal weights on the objectives ``names``, as check boxes do (Personalized Soups, arXiv 2310.11564).

        With ``objectives``, the others get weight 0.

        Raises:
            PreferenceError: no name, a repeated one, or one that is not among ``objectives``.

        >>> str(Preference.checked(["warm", "concise"], ["concise", "polite", "warm"]))
        'concise=0.5,polite=0.0,warm=0.5'
        """
        chosen = _checked_names(names)
        return cls.of(dict.fromkeys(chosen, 1.0 / len(chosen)), objectives)

    @classmethod
    def one_hot(cls, objective: str, objectives: Sequence[str]) -> Preference:
        """Put all weight on ``objective``, 0 on the others of ``objectives``."""
        return cls.of({objective: 1.0}, objectives)

    @classmethod
    def uniform(cls, objectives: Sequence[str]) -> Preference:
        """Put weight 1/M on each of the M objectives."""
        names = _checked_names(objectives)
        return cls(names, (1.0 / len(names),) * len(names))

    def at(self, strength: float) -> Preference:
        """Return the same direction at another strength.

        Raises:
            PreferenceError: Not a finite number of at least 0.
        """
        return Preference(self.objectives, self.weights, self.allow_extrapolation, strength)

    @property
    def extrapolated(self) -> bool:
        """Whether the weights lie off the simplex."""
        return min(self.weights) < 0

    def array(self) -> np.ndarray:
        """Return the weights as ``[M]`` float64, in the order of ``objectives``."""
        return np.array(self.weights, dtype=np.float64)

    def as_dict(self) -> dict[str, float]:
        """Return ``{objective: weight}`` in the order of ``objectives``."""
        return dict(zip(self.objectives, self.weights, strict=True))

    def over(self, objectives: Sequence[str]) -> Preference:
        """Return the same weights over other objectives: reordered, 0 for new ones, zeros may be left out.

        Raises:
            PreferenceError: An objective of non-zero weight is missing from ``objectives``.
        """
        names = _checked_names(objectives)
        for name, weight in self.as_dict().items():
            if name not in names and weight != 0:
                raise PreferenceError(
                    f"preference {self}: objective {name!r} has weight {weight!r} and cannot be dropped; "
                    f"{suggest(name, names)}"
                )
        kept = {name: weight for name, weight in self.as_dict().items() if name in names}
        return Preference.of(kept, names, self.allow_extrapolation).at(self.strength)

    def __getitem__(self, objective: str) -> float:
        for name, weight in zip(self.objectives, self.weights, strict=True):
            if name == objective:
                return weight
        raise PreferenceError(f"unknown objective {objective!r}; {suggest(str(objective), self.objectives)}")

    def __str__(self) -> str:
        beside = "" if self.strength == 1 else f" at strength {self.strength:g}"
        return _text(self.objectives, self.weights) + beside


def simplex_grid(num_objectives: int, divisions: int) -> np.ndarray:
    """Return the ``[N, M]`` lattice of weights ``k / divisions``, rows summing to 1 (Das and Dennis 1998).

    ``N = comb(divisions + M - 1, M - 1)``. Rows fall lexicographically: the first is one-hot on the first
    objective, the last one-hot on the last. Each weight is the double nearest to ``k / divisions``.

    >>> simplex_grid(2, 2)
    array([[1. , 0. ],
           [0.5, 0.5],
           [0. , 1. ]])
    """
    if num_objectives < 1 or divisions < 1:
        raise PreferenceError(
            f"no grid has {divisions} divisions over {num_objectives} objectives; give at least 1 of each"
        )
    rows = math.comb(divisions + num_objectives - 1, num_objectives - 1)
    if rows > _MOST_GRID_ROWS:
        raise PreferenceError(
            f"a grid of {divisions} divisions over {num_objectives} objectives has {rows} points, more than "
            f"{_MOST_GRID_ROWS}; use fewer divisions, or draw points with sample_simplex"
        )
    # Stars and bars: M - 1 bars among divisions + M - 1 places; the weights are the gaps between the bars.
    places = divisions + num_objectives - 1
    bars = np.fromiter(
        chain.from_iterable(combinations(range(places), num_objectives - 1)),
        dtype=np.int64,
        count=rows * (num_objectives - 1),
    ).reshape(rows, num_objectives - 1)
    fence = np.concatenate([np.full((rows, 1), -1), bars, np.full((rows, 1), places)], axis=1)
    return ((np.diff(fence, axis=1) - 1) / divisions)[::-1].copy()


def preference_grid(objectives: Sequence[str], divisions: int) -> list[Preference]:
    """Return the rows of :func:`simplex_grid` as preferences over ``objectives``."""
    names = _checked_names(objectives)
    return [Preference(names, tuple(row)) for row in simplex_grid(len(names), divisions).tolist()]


def sample_simplex(
    count: int, num_objectives: int, alpha: float | Sequence[float] = 1.0, seed: int = 0
) -> np.ndarray:
    """Draw ``[count, M]`` Dirichlet weights: ``alpha`` 1 is uniform, less favours corners, more the centre.

    Raises:
        PreferenceError: A negative count, no objective, or ``alpha`` not one or M positive numbers.
    """
    concentration = np.asarray(alpha, dtype=np.float64)
    if concentration.ndim == 0:
        concentration = np.full(max(num_objectives, 0), float(concentration))
    if count < 0 or num_objectives < 1:
        raise PreferenceError(
            f"cannot draw {count} points over {num_objectives} objectives; give at least 1 objective"
        )
    usable = np.isfinite(concentration) & (concentration > 0)
    if concentration.shape != (num_objectives,) or not usable.all():
        raise PreferenceError(
            f"alpha {alpha!r} for {num_objectives} objectives; give one positive number, or one per objective"
        )
    return np.random.default_rng(seed).dirichlet(concentration, size=count)


def _checked_names(objectives: Iterable[str]) -> tuple[str, ...]:
    if isinstance(objectives, str):
        raise PreferenceError(f"objectives {objectives!r} is one text; give a list of names")
    names = tuple(objectives)
    if not names:
        raise PreferenceError("no objectives given; a preference needs at least one")
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip() or set(name) & set(",=@"):
            raise PreferenceError(
                f"objective {name!r} cannot be a name; use non-empty text without ',', '=', '@' or white "
                "space at its ends"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PreferenceError(f"objective {twice!r} is listed twice in {', '.join(names)}; name each once")
    return names


def _checked_weight(name: str, given: object, allow_extrapolation: bool = False) -> float:
    # To Python a bool is a number; in a preference it is a mistake.
    if isinstance(given, (str, int, float, np.integer, np.floating)) and not isinstance(given, bool):
        try:
            weight = number_in(given) if isinstance(given, str) else float(given)
        except (ValueError, OverflowError):
            weight = math.nan
        if math.isfinite(weight) and (weight >= 0 or allow_extrapolation):
            return weight + 0.0  # -0.0 becomes 0.0
    expected = "a finite number" if allow_extrapolation else "a number from 0 to 1"
    raise PreferenceError(f"weight {given!r} of objective {name!r} is not {expected}")


def _check_sum(names: Sequence[str], weights: Sequence[float]) -> None:
    total = sum(weights)
    if abs(total - 1.0) <= TOLERANCE:
        return
    if not any(weights):
        raise PreferenceError(f"preference {_text(names, weights)}: all weights are 0; they must sum to 1")
    if min(weights) < 0:
        raise PreferenceError(
            f"preference {_text(names, weights)}: the weights sum to {total:.6g}, expected 1 off the simplex as well"
        )
    relative = np.array(weights) / max(weights)  # dividing by the largest first keeps huge weights finite
    rescaled = np.round(relative / relative.sum(), 4)
    rescaled[rescaled.argmax()] += 1.0 - rescaled.sum()
    raise PreferenceError(
        f"preference {_text(names, weights)}: the weights sum to {total:.6g}, expected 1; "
        f"did you mean {_text(names, np.round(rescaled, 4).tolist())} ?"
    )


def _text(names: Sequence[str], weights: Sequence[float]) -> str:
    return ",".join(f"{name}={weight!r}" for name, weight in zip(names, weights, strict=True))


def _checked_boxes(text: str, objectives: Sequence[str] | None) -> list[str] | None:
    """Return the names in ``concise+warm``; None where the text gives weights, or is no list of names."""
    if "=" in text or "," in text:
        return None
    if objectives is not None and text.strip() in objectives:
        return [text.strip()]
    return [name.strip() for name in text.split("+")] if "+" in text else None


def _example(objectives: Sequence[str] | None) -> str:
    names = list(objectives or ("helpful", "harmless"))
    return _text(names, [1.0, *[0.0] * (len(names) - 1)])


def nearest(preference: Preference, anchors: Sequence[Preference]) -> Preference:
    """Return the anchor that a policy answers with: the nearest by L1 distance, of ties the first (as `gates.nearest_anchor`)."""
    rows = np.stack([anchor.over(preference.objectives).array() for anchor in anchors]).astype(np.float32)
    asked = preference.array().astype(np.float32)
    apart = np.abs(rows.astype(np.float64) - asked.astype(np.float64)).sum(axis=1).round(6)
    return anchors[int(apart.argmin())]
