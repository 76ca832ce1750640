"""Values from a file into typed settings, with errors that name the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from paretune.core.errors import ConfigError, suggest

T = TypeVar("T")


def parse_dataclass(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a settings dataclass from a mapping; an unknown key or a wrong type is a ConfigError that says where."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {where}.{key}; {suggest(str(key), names)}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(_readable(error, where)) from error


def _readable(error: ValidationError, where: str) -> str:
    """Return pydantic's findings as one line each: key, what was given, what was expected."""
    lines = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"]) or where
        lines.append(
            f"{key}: {finding['msg'].removeprefix('Value error, ')} (got {finding.get('input')!r:.80})"
        )
    return f"{where}: " + "; ".join(lines)
