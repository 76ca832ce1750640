"""Requests in the form of OpenAI's API, checked before anything is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from paretune.core.errors import suggest
from paretune.data.rows import Message, Prompt
from paretune.serving.api_errors import ApiError
from paretune.serving.unsupported import FORMS, HINTS, LENIENT, NEUTRAL, SILENT, UNSUPPORTED

MOST_CHOICES = 8
MOST_STOPS = 4
MOST_STRENGTH = 4.0
"""The largest strength of a request; far beyond what was trained text falls apart."""
MOST_LIKELY = 20
"""Likely tokens that are told beside each token at most, as in OpenAI's API."""


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


Weights = Annotated[dict[str, float], Field(max_length=64)]
CheckBoxes = Annotated[list[Annotated[str, StringConstraints(max_length=500)]], Field(max_length=64)]
"""Names of objectives, which get equal weights."""
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
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


class Part(Body):
    """A part of a message; text is the only supported type."""

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Leave out what says nothing, and hints for caches."""
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not _says_nothing(key, value)}


class ChatMessage(Body):
    """One message; the role ``developer`` is read as ``system``.

    A message of a response may be sent back as it is: fields that are null, and what servers add to an assistant's turn, are
    ignored. ``name`` is ignored too, as chat templates do not read it.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Union[Text, list[Part], None] = None  # noqa: UP007
    name: Annotated[str, StringConstraints(max_length=500)] | None = None
    _ignored: tuple[str, ...] = PrivateAttr(())
    _unknown: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _known(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep the fields of a message; note what is ignored, and refuse calls of tools and turns without content."""
        if not isinstance(values, Mapping):
            return handler(values)
        assistant = values.get("role") == "assistant"
        kept, ignored, unknown = {}, [], []
        for key, value in values.items():
            if key in ("role", "content"):
                kept[key] = value
            elif key in ("tool_calls", "function_call") and value:
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "a message has '{field}', but this server calls no tools; leave such turns out",
                    {"field": key},
                )
            elif value is None or value in ([], {}, ""):
                continue
            elif key == "name":
                kept[key] = value
                ignored.append(key)
            elif assistant or key in SILENT:
                ignored.append(str(key)[:100])
            else:
                unknown.append(str(key)[:100])
        _refuse_parts(kept.get("content"))
        if assistant:
            kept["content"] = kept.get("content") or ""
        elif kept.get("content") is None:
            kept.pop("content", None)
            raise PydanticCustomError(
                "no_content",
                "a {role} message without content; expected text",
                {"role": str(values.get("role"))[:20]},
            )
        message = handler(kept)
        message._ignored, message._unknown = tuple(ignored), tuple(unknown)
        return message

    def message(self) -> Message:
        """Return the library's form of the message."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


def _refuse_parts(content: object) -> None:
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind != "text":
            raise PydanticCustomError(
                "unsupported_part",
                "a part of the type '{kind}'; this server reads parts of the type 'text' only, leave others out",
                {"kind": kind[:60]},
            )


def _says_nothing(key: object, value: object) -> bool:
    return key not in ("type", "text") and (value in (None, [], {}, "") or key == "cache_control")


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
    """Options of a streamed response."""

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

    @model_validator(mode="wrap")
    @classmethod
    def _known(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse fields that change the form of an answer; drop those that change nothing; note the others for later."""
        if not isinstance(values, Mapping):
            return handler(values)
        kept: dict[str, Any] = {}
        setbacks = []
        for key, value in values.items():
            if value is None or key in HINTS:
                continue
            if key in cls.model_fields:
                kept[key] = value
            elif key in UNSUPPORTED:
                if not _is_neutral(key, value):
                    if key in FORMS:
                        message = "'{field}' is not supported by this server; leave it out"
                        raise PydanticCustomError("unsupported_parameter", message, {"field": key})
                    told = f"'{key}' is not supported by this server; {LENIENT}"
                    setbacks.append(Setback(key, ApiError(400, told, "unsupported_parameter", key)))
            else:
                name = str(key)[:100]
                told = f"unknown field '{name}'; {suggest(name, cls.model_fields)}; {LENIENT}"
                setbacks.append(Setback(name, ApiError(400, told, "unknown_parameter", name)))
        setbacks += _out_of_range(kept)
        request = handler(kept)
        request._setbacks = tuple(setbacks)
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


def _is_neutral(key: str, value: object) -> bool:
    return any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL.get(key, ())
    )


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
        """Fields of messages that every server ignores."""
        return [
            f"messages.{n}.{name}" for n, message in enumerate(self.messages) for name in message._ignored
        ]

    @property
    def limit(self) -> int | None:
        """Largest number of tokens to generate."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """The body of ``/v1/completions``: text to continue as it is, without a chat template."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELY)

    @property
    def schema_text(self) -> str | None:
        """None: text is continued in no stated form."""
        return None

    @property
    def likely(self) -> int | None:
        """Number of likely tokens that are told beside each token; None where log-probabilities are not asked for."""
        return self.logprobs

    @property
    def ignored(self) -> list[str]:
        """Fields that every server ignores; there are none without messages."""
        return []

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


def unknown_fields(messages: Sequence[ChatMessage]) -> list[Setback]:
    """Return the fields of messages that this server does not know."""
    setbacks = []
    for number, message in enumerate(messages):
        for name in message._unknown:
            field = f"messages.{number}.{name}"
            told = f"{field}: unknown field; a message has a role and content; {LENIENT}"
            setbacks.append(Setback(field, ApiError(422, told, "invalid_value", field)))
    return setbacks


def prompt_of(messages: Sequence[ChatMessage], strict: bool = True, continued: bool = False) -> Prompt:
    """Return the library's form of a conversation.

    Raises:
        ApiError: All messages are empty, the last one is the assistant's (or, if ``continued``, is not, or has no text to go on
            from), or, if ``strict``, a message has an unknown field.
    """
    if strict and (unknown := unknown_fields(messages)):
        raise unknown[0].error
    prompt = tuple(message.message() for message in messages)
    if continued and not (len(prompt) > 1 and prompt[-1].role == "assistant" and prompt[-1].content.strip()):
        told = "continue_final_message goes on from an assistant's last message; expected one with text, behind a user's"
        raise ApiError(422, told, "invalid_messages", "continue_final_message")
    if prompt[-1].role == "assistant" and not continued:
        raise ApiError(
            422, "the last message is the assistant's; expected a user's last", "invalid_messages", "messages"
        )
    if not any(message.content.strip() for message in prompt):
        raise ApiError(
            422, "all messages are empty; expected at least one with text", "invalid_messages", "messages"
        )
    return prompt
