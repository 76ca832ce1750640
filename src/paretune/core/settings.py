"""Values from a file into typed settings, with errors that name the key.

Settings are frozen dataclasses or pydantic models. A group of settings that another one is composed of stands in the file either
under a key of its own or, where its field is :func:`flat`, beside the other settings of its owner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from paretune.core.bounds import bounds_of, out_of_bounds
from paretune.core.errors import ConfigError, suggest
from paretune.core.settings_words import admits, complaint, holds, inside, is_number, options, unfit
from paretune.core.validator import validator

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Flat:
    """How the settings of a group stand beside those of its owner.

    Attributes:
        rename: Name of a setting in the group -> its key in the file, where the two differ.
        without: Settings of the group that the file cannot give.
        later: Settings that were added after version 0.1; :func:`as_values` omits them at their default, so that fingerprints
            of earlier runs stay the same.
    """

    rename: Mapping[str, str]
    without: Sequence[str]
    later: Sequence[str]

    def keys(self, group: object) -> dict[str, str]:
        """Return key in the file -> name of the setting in ``group``."""
        names = [field.name for field in dataclasses.fields(group)]  # type: ignore[arg-type]
        return {self.rename.get(name, name): name for name in names if name not in self.without}


def flat(
    group: T,
    rename: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    later: Sequence[str] = (),
) -> T:
    """Declare a field whose own settings stand beside those of its owner; ``group`` holds their defaults, see :class:`Flat`."""
    metadata = {"flat": Flat(dict(rename or {}), without, later)}
    return dataclasses.field(default=group, metadata=metadata)  # type: ignore[no-any-return]


def later(default: T) -> T:
    """Declare a setting that was added after version 0.1: :func:`as_values` omits it at its default, see :class:`Flat`."""
    return dataclasses.field(default=default, metadata={"later": True})  # type: ignore[no-any-return]


def flat_fields(kind: Any) -> dict[str, tuple[Flat, Any]]:
    """Return name -> (how it is flat, its default) of each :func:`flat` field of a class or an instance."""
    fields: tuple[dataclasses.Field[Any], ...] = (
        dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    )
    return {
        field.name: (field.metadata["flat"], field.default) for field in fields if "flat" in field.metadata
    }


@cache
def known_keys(kind: Any) -> Mapping[str, Any]:
    """Return key in the file -> annotated type with its bounds, for every setting of a class."""
    hints = get_type_hints(kind, include_extras=True)
    if issubclass(kind, BaseModel):
        return {name: hints[name] for name in kind.model_fields}
    groups, keys = flat_fields(kind), dict[str, Any]()
    for field in dataclasses.fields(kind):
        if field.name in groups:
            how, group = groups[field.name]
            inner = get_type_hints(type(group), include_extras=True)
            keys |= {key: inner[name] for key, name in how.keys(group).items()}
        else:
            keys[field.name] = hints[field.name]
    return keys


def parse(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build settings of class ``kind`` from a mapping.

    Args:
        kind: A frozen dataclass or a pydantic model.
        values: Key -> value, as a file gives them.
        where: Key under which the settings stand, such as ``methods.modpo``.

    Raises:
        ConfigError: An unknown key (the nearest known one is given), a missing one, or a value of the wrong type or range.
    """
    _check_keys(kind, values, where)
    try:
        return validator(kind).validate_python(_nested(kind, values))  # type: ignore[arg-type,no-any-return]
    except ValidationError as error:
        raise ConfigError("; ".join(explained(error, kind, where))) from error


def check_value(hint: Any, value: Any, where: str) -> None:
    """Raise a ConfigError unless a value is one that a type admits; the message begins with ``where``, its key."""
    _check_plain(hint, value, where)
    try:
        validator(hint).validate_python(value)
    except ValidationError as error:
        raise ConfigError("; ".join(explained(error, hint, where))) from error


def as_values(settings: Any) -> dict[str, Any]:
    """Return settings as the values that a file would give: fingerprints are made of these."""
    groups = flat_fields(settings)
    unset = {
        f.name
        for f in dataclasses.fields(settings)
        if "later" in f.metadata and getattr(settings, f.name) == f.default
    }
    values = {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if name not in groups and name not in unset
    }
    for name, (how, default) in groups.items():
        group = getattr(settings, name)
        for key, inner in how.keys(group).items():
            if inner not in how.later or getattr(group, inner) != getattr(default, inner):
                values[key] = getattr(group, inner)
    return values


def settings_class(hint: Any) -> type | None:
    """Return the class of settings that a type such as ``Endpoint | None`` stands for; None where it is a plain value."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType]
    kind = kinds[0] if len(kinds) == 1 else None
    composed = isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel))
    return kind if composed else None


def _check_keys(kind: type, values: Mapping[str, Any], where: str) -> None:
    known = known_keys(kind)
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"unknown key {path}; {suggest(str(key), known)}")
        inner = settings_class(known[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(inner, value, path)
        else:
            _check_plain(known[key], value, path)


def _check_plain(hint: Any, value: Any, path: str) -> None:
    """Raise a ConfigError where a value, or one inside it, is true or false for a number, or not finite."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inside(hint), inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            _check_plain(inside(hint), inner, f"{path}[{number}]")
    elif fault := unfit(hint, value):
        raise ConfigError(f"{path}{':' if fault.startswith('expected') else ''} {fault}")


def _nested(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of flat groups under the names of their fields."""
    nested = dict(values)
    for name, (how, default) in flat_fields(kind).items():
        given = {inner: nested.pop(key) for key, inner in how.keys(default).items() if key in nested}
        nested[name] = {**vars(default), **given}
    return nested


def explained(error: ValidationError, kind: Any, where: str = "") -> list[str]:
    """Return pydantic's findings on settings of class ``kind``, or on a value of this type.

    Each begins with its key, and says what was expected and what was given.
    """
    found = [(*_located(kind, finding["loc"], where), finding) for finding in error.errors()]
    keys = [key for key, _, _ in found]
    lines = [
        _explained(kind, key, hint, finding)
        for key, hint, finding in found
        if not any(inner != key and inner.startswith((f"{key}[", f"{key}.")) for inner in keys if key)
    ]
    return list(dict.fromkeys(lines))


def _explained(kind: Any, key: str, hint: Any, finding: Any) -> str:
    value = finding.get("input")
    match finding["type"]:
        case "value_error":  # a message of ours holds what was given
            return f"{key}: {finding['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            name = str(finding["loc"][-1])
            return f"unknown key {f'{key}.{name}'.removeprefix('.')}; {suggest(name, known_keys(kind))}"
    number = float(value) if isinstance(value, str) and admits(hint, float) and is_number(value) else value
    if isinstance(number, (int, float)) and (fault := out_of_bounds(number, bounds_of(hint))):
        return f"{key} {fault}"
    return f"{key}: {complaint(hint, value)}".removeprefix(": ")


def _located(kind: Any, location: Sequence[Any], where: str) -> tuple[str, Any]:
    """Return the key of a finding as the file has it, with the type of its value."""
    key, hint, parts = where, kind, list(location)
    while parts:
        inner = settings_class(hint)
        if inner is not None:
            groups = flat_fields(inner)
            if parts[0] in groups:  # its settings stand beside those of its owner
                how, _ = groups[parts.pop(0)]
                if not parts:
                    break
                parts[0] = how.rename.get(parts[0], parts[0])
            if parts[0] not in (known := known_keys(inner)):
                break
            hint = known[parts[0]]
        elif holds(hint, int if isinstance(parts[0], int) else str):
            hint = inside(hint)
        elif (
            len(options(hint)) > 1 and len(parts) > 1
        ):  # a note of pydantic's own: which of several types it tried
            parts.pop(0)
            continue
        else:
            break
        part = parts.pop(0)
        key = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}".removeprefix(".")
    return key, hint
