"""What is wrong with a value of a setting, in words: its key, what was expected there, what was given."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from paretune.core.bounds import out_of_bounds, words
from paretune.core.errors import suggest
from paretune.core.numbers import number_in

_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "text": "texts"}


def expected(hint: Any) -> str:
    """Return the words for what a type admits, such as ``a list of texts``.

    >>> expected(list[str]), expected(int | None)
    ('a list of texts', 'a whole number, or null')
    """
    hint = plain(hint)
    if hint is NoneType:
        return "null"
    if hint is bool:
        return "true or false"
    if hint in (int, float):
        return words(hint)
    if hint is str:
        return "text"
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ", or ".join(map(expected, inner))
    if origin is Literal:
        return f"one of: {', '.join(map(str, inner))}"
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return f"{_PLURALS.get(expected(inner[1]), 'settings') if inner else 'settings'} by name, such as {{NAME: VALUE}}"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return f"a list of {_PLURALS.get(expected(inner[0]), 'settings') if inner else 'values'}"
    return "settings such as {KEY: VALUE}"


def admits(hint: Any, kind: type) -> bool:
    """Return whether a type admits values of ``kind`` itself, not inside a list or mapping."""
    return kind in options(hint) or Any in options(hint)


def complaint(hint: Any, value: Any) -> str:
    """Return ``expected ..., got ...`` for a value that a type does not admit, with the cure where it is known."""
    kinds = [kind for kind in options(hint) if kind is not NoneType]
    if isinstance(value, str) and kinds and all(get_origin(kind) is Literal for kind in kinds):
        return (
            f"unknown value {shown(value)}; {suggest(value, [c for kind in kinds for c in get_args(kind)])}"
        )
    cure = ""
    if str in kinds and isinstance(value, (bool, int, float, datetime.date)):
        cure = "; put it in quotes"
    if int in kinds and isinstance(value, str) and is_number(value):
        cure = "; write it in digits, without a fraction"
    return f"expected {expected(hint)}, got {shown(value)}{cure}"


def shown(value: Any) -> str:
    """Return a value as a config would state it, cut to 60 characters."""
    named = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return named[value]
    text = value.isoformat() if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unfit(hint: Any, value: Any) -> str:
    """Return what is wrong with a plain value that a parser of settings would take without a word; empty where nothing is.

    These are true and false for a number, numbers that are not finite, and texts such as ``1_000``.
    """
    if isinstance(value, bool):
        counted = admits(hint, int) or admits(hint, float)
        return "" if admits(hint, bool) or not counted else complaint(hint, value)
    if isinstance(value, float) and not math.isfinite(value):
        return out_of_bounds(value)
    if isinstance(value, str) and "_" in value and not admits(hint, str):
        return complaint(hint, value) if is_number(value.replace("_", "")) else ""
    return ""


def plain(hint: Any) -> Any:
    """Return a type without its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def options(hint: Any) -> tuple[Any, ...]:
    """Return the types that a type is a choice of; itself alone where it is none."""
    hint = plain(hint)
    return tuple(map(plain, get_args(hint))) if get_origin(hint) in (Union, UnionType) else (hint,)


def holds(hint: Any, key: type) -> bool:
    """Return whether values of a type hold others: by number for ``key`` int, by name for str."""
    wanted = Sequence if key is int else Mapping
    origins = [get_origin(kind) or kind for kind in options(hint)]
    return any(isinstance(o, type) and o is not str and issubclass(o, wanted) for o in origins)


def inside(hint: Any) -> Any:
    """Return the type of what a list or a mapping holds; Any where it is not stated."""
    held = [get_args(kind) for kind in options(hint) if get_origin(kind) not in (None, Literal)]
    if len(held) != 1 or not held[0]:
        return Any
    return held[0][1] if issubclass(_container(hint), Mapping) else held[0][0]


def _container(hint: Any) -> type:
    (kind,) = [get_origin(kind) for kind in options(hint) if get_origin(kind) not in (None, Literal)]
    return kind  # type: ignore[no-any-return]


def is_number(text: str) -> bool:
    """Return whether a text is a number; YAML reads ``1e-4`` as a text."""
    try:
        number_in(text)
    except ValueError:
        return False
    return True
