"""Functions that a request offers to the model, and the choice among them, in the form of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from paretune.core.errors import suggest
from paretune.core.tools import Tools
from paretune.serving.api_errors import ApiError
from paretune.serving.body import Body

MOST_TOOLS = 128
_NAME = r"^[A-Za-z0-9_.-]{1,64}$"


def _named(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise PydanticCustomError(
            "function_name", "expected a name of at most 64 letters, digits, '_', '-' and '.'"
        )
    return name


FunctionName = Annotated[str, AfterValidator(_named), Field(json_schema_extra={"pattern": _NAME})]


class Function(Body):
    """A function with the JSON schema of its arguments.

    Attributes:
        strict: Whether arguments must fit the schema where no call is demanded, too; where one is, they always fit.
    """

    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=20_000)] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class Tool(Body):
    """A tool; functions are the only supported type."""

    type: Literal["function"]
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _of_functions(cls, values: Any) -> Any:
        kind = values.get("type") if isinstance(values, Mapping) else None
        if isinstance(kind, str) and kind != "function":
            raise PydanticCustomError(
                "unsupported_tool",
                "a tool of the type '{kind}'; this server knows the type 'function' only, leave others out",
                {"kind": kind[:60]},
            )
        return values


class _Named(Body):
    name: FunctionName


class NamedChoice(Body):
    """The choice of one function."""

    type: Literal["function"]
    function: _Named


class _Allowed(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Field(min_length=1, max_length=MOST_TOOLS)]


class AllowedChoice(Body):
    """The choice among some of the functions."""

    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


Choice = Literal["none", "auto", "required"] | NamedChoice | AllowedChoice


def tools_of(tools: Sequence[Tool], choice: Choice | None, parallel: bool) -> Tools | None:
    """Return the functions that an answer may call; None where it may call none. One that is named is called once.

    Raises:
        ApiError: Two functions have one name, or the choice names a function that is not there.
    """
    names = [tool.function.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _wrong("tools", f"two functions are named {twice!r}; give each its own name")
    must = choice == "required"
    allowed = names
    if isinstance(choice, AllowedChoice):
        must = choice.allowed_tools.mode == "required"
        allowed = list(dict.fromkeys(each.function.name for each in choice.allowed_tools.tools))
    elif isinstance(choice, NamedChoice):
        must, allowed, parallel = True, [choice.function.name], False
    for name in allowed:
        if name not in names:
            told = suggest(name, names) if names else "there are no tools"
            raise _wrong("tool_choice", f"no tool is named {name!r}; {told}")
    if must and not allowed:
        raise _wrong("tool_choice", "'required' needs tools")
    if not names or choice == "none":
        return None
    functions = tuple(
        tool.model_dump(exclude_defaults=True, exclude={"function": {"strict"}}) for tool in tools
    )
    strict = any(tool.function.strict for tool in tools)
    return Tools(functions, tuple(allowed), must, parallel, strict)


def _wrong(field: str, told: str) -> ApiError:
    return ApiError(422, f"{field}: {told}", "invalid_value", field)
