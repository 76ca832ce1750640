"""Functions that an answer may call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tools:
    """Functions that an answer may call.

    Attributes:
        functions: All of them in the form of OpenAI's API, as the model is shown them.
        allowed: Names of those that may be called.
        must: Whether the answer must be a call.
        parallel: Whether an answer may have several calls.
        strict: Whether arguments must fit their schema even where no call is demanded.
    """

    functions: tuple[Mapping[str, Any], ...]
    allowed: tuple[str, ...]
    must: bool = False
    parallel: bool = True
    strict: bool = False

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """Name -> JSON schema of its arguments, of the functions that may be called."""
        known = {tool["function"]["name"]: tool["function"] for tool in self.functions}
        return {name: known[name].get("parameters") or {"type": "object"} for name in self.allowed}
