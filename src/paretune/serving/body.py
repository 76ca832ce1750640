"""What all bodies of requests have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from paretune.serving.api_errors import ApiError

Text = Annotated[str, StringConstraints(max_length=1_000_000)]


class Body(BaseModel):
    """A request's body: every field is known and has its type, and every number is finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Leave out fields that are null and need not be given: clients write null for what they do not state."""
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in fields or fields[key].is_required()
        }


@dataclass(frozen=True)
class Setback:
    """Something in a request that only a lenient server passes over.

    Attributes:
        field: Field that is ignored or clamped.
        error: Answer of a server that is not lenient.
        clamped: Value that is used instead; None where the field is ignored.
    """

    field: str
    error: ApiError
    clamped: float | None = None
