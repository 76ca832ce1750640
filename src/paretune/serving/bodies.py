"""Requests and errors in the form of OpenAI's API; requests are checked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from paretune.core.errors import ParetuneError, suggest
from paretune.data.rows import Message, Prompt

MOST_CHOICES = 8
MOST_STOPS = 4


class ApiError(ParetuneError):
    """A response other than success, in the form that OpenAI's clients read."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def body(self) -> bytes:
        """Error as JSON; characters outside ASCII are escaped."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        content = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": content}).encode("ascii")

    @property
    def headers(self) -> dict[str, str]:
        """Headers: content type, and when to try again."""
        wait = {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}
        more = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return {"content-type": "application/json", **wait, **more}


class _Failed(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class Failure(BaseModel):
    """The form of every error."""

    error: _Failed


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

NEUTRAL: dict[str, list[Any]] = {
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0],
    "function_call": ["none"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "modalities": [["text"]],
    "parallel_tool_calls": [True, False],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "service_tier": ["auto", "default"],
    "store": [False],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
}
"""Fields of OpenAI's API that this server does not support, with the values that are accepted because they change nothing."""

UNSUPPORTED = {"audio", "prediction", "reasoning_effort", "verbosity", "web_search_options", *NEUTRAL}
HINTS = {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"}
"""Fields about the caller that never change the answer; accepted and ignored."""


class Body(BaseModel):
    """A request's body: every field is known and has its type, and every number is finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


Weights = Annotated[dict[str, float], Field(max_length=64)]
CheckBoxes = Annotated[list[Annotated[str, StringConstraints(max_length=500)]], Field(max_length=64)]
"""Names of objectives, which get equal weights."""
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^\w([\w .-]*[\w.-])?$")]
"""Name of a profile or a preset; the store has the same rule."""
Policy = Annotated[str, Field(min_length=1, max_length=200)]
Given = Weights | CheckBoxes | Annotated[str, Field(max_length=2000)]
"""A preference as weights per objective, as names of objectives with equal weights, or as text."""


class Part(Body):
    """A part of a message; text is the only supported type."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """One message; the role ``developer`` is read as ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Union[Text, list[Part]]  # noqa: UP007

    def message(self) -> Message:
        """Return the library's form of the message."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(Body):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Generation(Body):
    """The fields that chat and text completions share; those of OpenAI's API have its names.

    Attributes:
        preference: ``{"helpful": 0.7, "harmless": 0.3}`` or the text ``helpful=0.7,harmless=0.3``, whose weights sum to 1; or
            ``["helpful", "harmless"]`` or ``helpful+harmless`` for equal weights.
        profile: Owner of the preset in ``model: "name@preset"``.
    """

    model: Annotated[str, StringConstraints(max_length=500)] | None = None
    preference: Weights | CheckBoxes | Annotated[str, StringConstraints(max_length=2000)] | None = None
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

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Refuse unsupported and unknown fields; drop those that change nothing."""
        if not isinstance(values, Mapping):
            return values
        kept = {}
        for key, value in values.items():
            if key in cls.model_fields:
                kept[key] = value
            elif value is None or key in HINTS:
                continue
            elif key in UNSUPPORTED:
                if not any(
                    value == one and isinstance(value, bool) == isinstance(one, bool)
                    for one in NEUTRAL.get(key, ())
                ):
                    message = "'{field}' is not supported by this server; leave it out"
                    raise PydanticCustomError("unsupported_parameter", message, {"field": key})
            else:
                near = suggest(str(key)[:100], cls.model_fields)
                raise PydanticCustomError(
                    "unknown_parameter",
                    "unknown field '{field}'; {near}",
                    {"field": str(key)[:100], "near": near},
                )
        if kept.get("stream_options") is not None and not kept.get("stream"):
            raise PydanticCustomError(
                "unsupported_parameter", "'stream_options' needs stream: true", {"field": "stream_options"}
            )
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer and are not part of it."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    def prompts(self) -> list[Prompt | str]:
        """Return the conversation as a list of one.

        Raises:
            ApiError: All messages are empty, or the last one is the assistant's.
        """
        return [prompt_of(self.messages)]

    @property
    def limit(self) -> int | None:
        """Largest number of tokens to generate."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """The body of ``/v1/completions``: text to continue as it is, without a chat template."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)]

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


def prompt_of(messages: Sequence[ChatMessage]) -> Prompt:
    """Return the library's form of a conversation.

    Raises:
        ApiError: All messages are empty, or the last one is the assistant's.
    """
    prompt = tuple(message.message() for message in messages)
    if prompt[-1].role == "assistant":
        raise ApiError(
            422, "the last message is the assistant's; expected a user's last", "invalid_messages", "messages"
        )
    if not any(message.content.strip() for message in prompt):
        raise ApiError(
            422, "all messages are empty; expected at least one with text", "invalid_messages", "messages"
        )
    return prompt


def validation_error(findings: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return pydantic's findings as one error: 400 for invalid JSON and unsupported fields, else 422."""
    first = findings[0]
    path = [str(part)[:100] for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    kind = str(first["type"])
    if kind == "json_invalid":
        return ApiError(
            400,
            f"the body is not valid JSON ({first.get('ctx', {}).get('error', 'damaged')})",
            "invalid_json",
        )
    if kind in ("unsupported_parameter", "unknown_parameter"):
        return ApiError(400, str(first["msg"]), kind, str(first.get("ctx", {}).get("field")))
    named = [
        p
        for p in path
        if not p.startswith(("function-", "constrained-", "list[", "dict[")) and p not in ("str", "union")
    ]
    param = ".".join(named) or None
    message = "; ".join(dict.fromkeys(str(finding["msg"]) for finding in findings[:4]))
    return ApiError(422, f"{param or 'the request'}: {message}", "invalid_value", param)
