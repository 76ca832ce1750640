"""What checks values against a type: pydantic takes milliseconds to prepare it, so that each type is prepared once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@cache
def validator(form: Any) -> TypeAdapter[Any]:
    """Return what checks values against a type such as ``dict[str, float]`` or a class of settings."""
    from pydantic import TypeAdapter

    return TypeAdapter(form)
