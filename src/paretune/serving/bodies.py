"""Requests in the form of OpenAI's API, checked before anything is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from paretune.core.errors import suggest
from paretune.core.tools import Tools
from paretune.data.rows import Prompt
from paretune.serving.api_errors import ApiError
from paretune.serving.body import Body, Setback, Text
from paretune.serving.messages import ChatMessage, prompt_of, unknown_fields
from paretune.serving.tools import MOST_TOOLS, Choice, Tool, tools_of
from paretune.serving.unsupported import HINTS, LENIENT, REFUSED

MOST_CHOICES = 8
MOST_STOPS = 4
MOST_STRENGTH = 4.0
"""The largest strength of a request; far beyond what was trained text falls apart."""
MOST_LIKELY = 20
"""Likely tokens that are told beside each token at most, as in OpenAI's API."""


Weights = Annotated[dict[str, float], Field(max_length=64)]
CheckBoxes = Annotated[list[Annotated[str, StringConstraints(max_length=500)]], Field(max_length=64)]
"""Names of objectives, which get equal weights."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^\w([\w .-]*[\w.-])?$")]
"""Name of a profile or a preset; the store has the same rule."""
Policy = Annotated[str, Field(min_length=1, max_length=200)]


def _in_digits(value: object) -> object:
    if isinstance(value, str) and "_" in value:
        raise PydanticCustomError("int_parsing", "expected a whole number")
    return value


Whole = Annotated[int, BeforeValidator(_in_digits)]
"""A whole number in an address, where pydantic reads ``1_0`` as ten."""
Given = Weights | CheckBoxes | Annotated[str, Field(max_length=2000)]
"""A preference as weights per objective, as names of objectives with equal weights, or as text."""


class JsonSchema(Body):
    """A JSON schema with a name; ``strict`` changes nothing, as answers always fit the schema."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "answer"
    description: Annotated[str, StringConstraints(max_length=10_000)] = ""
    stated: dict[str, Any] = Field(alias="schema")
    strict: bool = True


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_text(self) -> str | None:
        """Return the JSON schema, as text, that an answer must fit; None for any text.

        Raises:
            ApiError: The type ``json_schema`` without a schema, or a schema of another type.
        """
        if (self.type == "json_schema") != (self.json_schema is not None):
            told = "the type json_schema needs json_schema: {name, schema}, and no other type has one"
            raise ApiError(400, f"response_format: {told}", "invalid_value", "response_format")
        if self.json_schema is not None:
            return json.dumps(self.json_schema.stated)
        return '{"type": "object"}' if self.type == "json_object" else None


class StreamOptions(Body):
    """Options of a streamed response; ``include_obfuscation``, which pads the pieces of a stream, is ignored and said to be."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Generation(Body):
    """The fields that chat and text completions share; those of OpenAI's API have its names.

    Attributes:
        preference: ``{"helpful": 0.7, "harmless": 0.3}`` or the text ``helpful=0.7,harmless=0.3``, whose weights sum to 1; or
            ``["helpful", "harmless"]`` or ``helpful+harmless`` for equal weights.
        strength: How far to steer, beside where to: 1 is what was trained, 0 the base model.
        profile: Owner of the preset in ``model: "name@preset"``.
    """

    model: Annotated[str, StringConstraints(max_length=500)] | None = None
    preference: Weights | CheckBoxes | Annotated[str, StringConstraints(max_length=2000)] | None = None
    strength: float = Field(default=1.0, ge=0, le=MOST_STRENGTH)
    profile: Name = "default"
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**62), le=2**62)
    stop: (
        Annotated[str, StringConstraints(min_length=1, max_length=500)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=500)]],
            Field(max_length=MOST_STOPS),
        ]
        | None
    ) = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    _setbacks: tuple[Setback, ...] = PrivateAttr(())
    _hints: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _known(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse fields that change the form of an answer; drop those that change nothing; note the others for later."""
        if not isinstance(values, Mapping):
            return handler(values)
        kept: dict[str, Any] = {}
        setbacks, hints = [], []
        for key, value in values.items():
            if value is None:
                continue
            if key in HINTS:
                hints.append(key)
            elif key in cls.model_fields:
                kept[key] = value
            elif key in REFUSED:
                if not _is_neutral(REFUSED[key].neutral, value):
                    told = REFUSED[key].told(key)
                    if REFUSED[key].is_form:
                        message = "{told}; leave it out"
                        raise PydanticCustomError(
                            "unsupported_parameter", message, {"told": told, "field": key}
                        )
                    error = ApiError(400, f"{told}; {LENIENT}", "unsupported_parameter", key)
                    setbacks.append(Setback(key, error))
            else:
                name = str(key)[:100]
                told = f"unknown field '{name}'; {suggest(name, cls.model_fields)}; {LENIENT}"
                setbacks.append(Setback(name, ApiError(400, told, "unknown_parameter", name)))
        setbacks += _out_of_range(kept)
        request = handler(kept)
        if request.stream_options is not None and request.stream_options.include_obfuscation:
            hints.append("stream_options.include_obfuscation")
        request._setbacks, request._hints = tuple(setbacks), tuple(hints)
        return request

    @property
    def setbacks(self) -> tuple[Setback, ...]:
        """What only a lenient server passes over."""
        return self._setbacks

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer and are not part of it."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def _is_neutral(neutral: Sequence[Any], value: object) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def _out_of_range(kept: dict[str, Any]) -> list[Setback]:
    """Remove the values that a lenient server clamps or ignores from the fields of a request; return them as setbacks."""
    setbacks = []

    def found(field: str, told: str, status: int = 422, clamped: float | None = None) -> None:
        code = "unsupported_parameter" if status == 400 else "invalid_value"
        setbacks.append(Setback(field, ApiError(status, f"{field}: {told}", code, field), clamped))

    for field in ("max_tokens", "max_completion_tokens"):
        value = kept.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            found(field, f"{value}: expected at least 1; leave it out for the server's own limit")
            del kept[field]
    value = kept.get("temperature")
    if isinstance(value, int | float) and not isinstance(value, bool) and 2 < value < math.inf:
        found("temperature", f"{value}: expected at most 2", clamped=2.0)
        kept["temperature"] = 2.0
    if kept.get("stream_options") is not None and not kept.get("stream"):
        found("stream_options", "it needs stream: true", 400)
        del kept["stream_options"]
    return setbacks


class ChatRequest(_Generation):
    """The body of ``/v1/chat/completions``; with ``continue_final_message`` the answer goes on where the last message ends."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    continue_final_message: bool = False
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_LIKELY)
    tools: list[Tool] = Field(default_factory=list, max_length=MOST_TOOLS)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool = True

    @property
    def callable(self) -> Tools | None:
        """Functions that the answer may call; None for none.

        Raises:
            ApiError: ``tool_choice`` does not fit ``tools``.
        """
        return tools_of(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def schema_text(self) -> str | None:
        """JSON schema, as text, that the answer must fit; None for any text."""
        return None if self.response_format is None else self.response_format.schema_text()

    @property
    def likely(self) -> int | None:
        """Number of likely tokens that are told beside each token; None where log-probabilities are not asked for.

        Raises:
            ApiError: ``top_logprobs`` without ``logprobs``.
        """
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "invalid_value", "top_logprobs")
        return self.top_logprobs if self.logprobs else None

    def prompts(self) -> list[Prompt | str]:
        """Return the conversation as a list of one.

        Raises:
            ApiError: All messages are empty, or the last one is the assistant's and is not to be continued.
        """
        return [prompt_of(self.messages, strict=False, continued=self.continue_final_message)]

    @property
    def setbacks(self) -> tuple[Setback, ...]:
        """What only a lenient server passes over, in the messages too."""
        return (*self._setbacks, *unknown_fields(self.messages))

    @property
    def ignored(self) -> list[str]:
        """Fields that every server ignores, those of messages too."""
        return [
            *self._hints,
            *(f"messages.{n}.{name}" for n, message in enumerate(self.messages) for name in message._ignored),
        ]

    @property
    def limit(self) -> int | None:
        """Largest number of tokens to generate."""
        return self.max_completion_tokens or self.max_tokens


def _as_text(value: object) -> object:
    """Refuse token ids, which OpenAI's API reads in place of text."""
    entries = value if isinstance(value, list) else []
    if any(isinstance(entry, list) or type(entry) is int for entry in entries):
        raise PydanticCustomError("token_ids", "token ids are not read; send text")
    return value


class CompletionRequest(_Generation):
    """The body of ``/v1/completions``: text to continue as it is, without a chat template."""

    prompt: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)], BeforeValidator(_as_text)
    ]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELY)

    @property
    def schema_text(self) -> str | None:
        """None: text is continued in no stated form."""
        return None

    @property
    def callable(self) -> Tools | None:
        """None: text is continued without calls."""
        return None

    @property
    def likely(self) -> int | None:
        """Number of likely tokens that are told beside each token; None where log-probabilities are not asked for."""
        return self.logprobs

    @property
    def ignored(self) -> list[str]:
        """Fields that every server ignores."""
        return list(self._hints)

    def prompts(self) -> list[Prompt | str]:
        """Return the texts to continue."""
        texts = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if not all(texts):
            raise ApiError(422, "the prompt is empty; give some text to continue", "invalid_prompt", "prompt")
        return list(texts)

    @property
    def limit(self) -> int | None:
        """Largest number of tokens to generate."""
        return self.max_tokens
