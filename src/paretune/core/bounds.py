"""Numbers with their bounds: stated once beside a setting, checked for a file, for Python and in the schema that editors read."""

from __future__ import annotations

import math
from functools import cache, partial
from numbers import Integral, Real
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from paretune.core.errors import ConfigError

SEEDS = 2**32
"""Number of seeds: what numpy's generators take."""

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(SEEDS)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]

LARGEST = 10**18
"""Beyond it a number is a slip of the keyboard: no machine counts as far, and no rate or scale is as large."""


def check_bounds(settings: Any) -> None:
    """Check the numbers of a dataclass of settings by the bounds in its annotations; call it in ``__post_init__``.

    Raises:
        ConfigError: A value that is no number where one is due, not finite, or out of bounds; the message begins with its name.
    """
    for name, (kind, bounds) in _numbers(type(settings)).items():  # type: ignore[arg-type]
        value: Any = getattr(settings, name)
        if value is None:
            continue
        number: Any = value if isinstance(value, Integral if kind is int else Real) else None
        if number is None or isinstance(number, bool):
            raise ConfigError(f"{name}: expected {words(kind)}, got {value!r:.60}")
        if fault := out_of_bounds(number, bounds):
            raise ConfigError(f"{name} {fault}")


def out_of_bounds(value: float, bounds: tuple[Any, ...] = ()) -> str:
    """Return what is wrong with a number, such as ``must be at least 1, got 0``; empty where nothing is."""
    if not isinstance(value, Integral) and not math.isfinite(value):
        return f"must be a finite number, got {value}"
    if not all(map(partial(_within, value), bounds)):
        return f"must be {described(bounds)}, got {_short(value)}"
    if abs(value) > LARGEST:
        return f"must be at most {LARGEST:.0e}, got {_short(value)}"
    return ""


def _within(value: float, bound: Any) -> bool:
    if isinstance(bound, Ge):
        return value >= _edge(bound.ge)
    if isinstance(bound, Gt):
        return value > _edge(bound.gt)
    if isinstance(bound, Le):
        return value <= _edge(bound.le)
    return value < _edge(bound.lt)


def _edge(number: Any) -> float:
    return number  # type: ignore[no-any-return]


def _short(value: float) -> str:
    """Return a number as it is given, without hundreds of digits."""
    return str(value) if abs(value) <= LARGEST else f"a number of about {math.log10(abs(value)):.0f} digits"


def described(bounds: tuple[Any, ...]) -> str:
    """Return bounds in words, such as ``at least 0 and below 1``."""
    parts = []
    for bound in bounds:
        if isinstance(bound, Ge):
            parts.append(f"at least {bound.ge}")
        elif isinstance(bound, Gt):
            parts.append(f"above {bound.gt}")
        elif isinstance(bound, Le):
            parts.append(f"at most {bound.le}")
        elif isinstance(bound, Lt):
            parts.append(f"below {bound.lt}")
    return " and ".join(parts) or "finite"


def words(kind: type) -> str:
    """Return a kind of number in words."""
    return "a whole number" if kind is int else "a number"


def bounds_of(hint: Any) -> tuple[Any, ...]:
    """Return the bounds of an annotation such as ``Count | None``; none where it states none."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Annotated:
            stated = tuple(bound for bound in part.__metadata__ if isinstance(bound, (Ge, Gt, Le, Lt)))
            if stated:
                return stated
    return ()


@cache
def _numbers(kind: type) -> dict[str, tuple[type, tuple[Any, ...]]]:
    """Return name -> (int or float, bounds) of the settings that are numbers or None."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = [part for part in (get_args(hint) if _is_union(hint) else (hint,)) if part is not type(None)]
        plain = get_args(parts[0])[0] if get_origin(parts[0]) is Annotated else parts[0]
        if len(parts) == 1 and plain in (int, float):
            found[name] = (plain, bounds_of(hint))
    return found


def _is_union(hint: Any) -> bool:
    from types import UnionType
    from typing import Union

    return get_origin(hint) in (Union, UnionType)
