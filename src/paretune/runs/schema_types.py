"""Types for the values that a JSON schema admits: by them a config is checked against its schema in the words of its classes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

Schema = Mapping[str, Any]

_PLAIN: Mapping[str, Any] = {"integer": int, "number": float, "string": str, "boolean": bool, "null": None}
_BOUNDS: Mapping[str, Any] = {"minimum": Ge, "exclusiveMinimum": Gt, "maximum": Le, "exclusiveMaximum": Lt}


def type_of(part: Schema) -> Any:
    """Return the type of the values of a property; Any where the schema says nothing of them, or where they are settings.

    >>> type_of({"type": "array", "items": {"type": "string"}})
    list[str]
    >>> type_of({"anyOf": [{"type": "integer"}, {"type": "null"}]})
    int | None
    """
    if "anyOf" in part:
        kinds = [type_of(choice) for choice in part["anyOf"]]
        return Any if Any in kinds else reduce(operator.or_, kinds)
    if "const" in part or "enum" in part:
        return Literal[tuple(part["enum"] if "enum" in part else [part["const"]])]
    name = part.get("type")
    if isinstance(name, str) and name in _PLAIN:
        kind: Any = _PLAIN[name]
        for key, bound in _BOUNDS.items():
            if key in part:
                kind = Annotated[kind, bound(part[key])]
        return kind
    if name == "array":
        return list[type_of(part.get("items", {}))]  # type: ignore[misc]
    values = part.get("additionalProperties")
    if name == "object" and "properties" not in part and isinstance(values, Mapping):
        return dict[str, type_of(values)]  # type: ignore[misc]
    return Any
