"""The messages of a conversation in the form of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from paretune.data.rows import Message, Prompt, ToolCall
from paretune.serving.api_errors import ApiError
from paretune.serving.body import Body, Setback, Text
from paretune.serving.tools import MOST_TOOLS, FunctionName
from paretune.serving.unsupported import LENIENT, SILENT

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200)]


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


def _object(text: str) -> str:
    """Check that the arguments of a call are an object; none at all are an empty one."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PydanticCustomError("arguments", "expected the text of a JSON object")
    return text or "{}"


class CalledFunction(Body):
    """The function of a call, with its arguments as the text of a JSON object."""

    name: FunctionName
    arguments: Annotated[Text, AfterValidator(_object)]


class Called(Body):
    """A call that the assistant has asked for; what clients keep beside it, such as its place, is ignored."""

    id: Identifier
    type: Literal["function"] = "function"
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if key in cls.model_fields}


class ChatMessage(Body):
    """One message; the role ``developer`` is read as ``system``.

    A message of a response may be sent back as it is: fields that are null, and what servers add to an assistant's turn, are
    ignored. ``name`` is ignored too, as chat templates do not read it.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Union[Text, list[Part], None] = None  # noqa: UP007
    name: Annotated[str, StringConstraints(max_length=500)] | None = None
    tool_calls: list[Called] = Field(default_factory=list, max_length=MOST_TOOLS)
    tool_call_id: Identifier | None = None
    _ignored: tuple[str, ...] = PrivateAttr(())
    _unknown: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _known(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep the fields of a message; note what is ignored, and refuse old calls and turns without content."""
        if not isinstance(values, Mapping):
            return handler(values)
        role = values.get("role")
        kept, ignored, unknown = {}, [], []
        for key, value in values.items():
            if key in ("role", "content"):
                kept[key] = value
            elif value is None or value in ([], {}, ""):
                continue
            elif key == "function_call":
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "a message has '{field}', which OpenAI's API has replaced; send tool_calls",
                    {"field": key},
                )
            elif (key, role) in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
                kept[key] = value
            elif key == "name":
                kept[key] = value
                ignored.append(key)
            elif (role == "assistant" and key != "tool_call_id") or key in SILENT:
                ignored.append(str(key)[:100])
            else:
                unknown.append(str(key)[:100])
        _refuse_parts(kept.get("content"))
        if role == "assistant":
            kept["content"] = kept.get("content") or ""
        elif kept.get("content") is None:
            kept.pop("content", None)
            raise PydanticCustomError(
                "no_content",
                "a {role} message without content; expected text",
                {"role": str(role)[:20]},
            )
        message = handler(kept)
        message._ignored, message._unknown = tuple(ignored), tuple(unknown)
        return message

    def message(self) -> Message:
        """Return the library's form of the message."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = tuple(
            ToolCall(each.id, each.function.name, each.function.arguments) for each in self.tool_calls
        )
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, calls, self.tool_call_id or "")


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
            from), or, if ``strict``, a message has an unknown field or calls a function.
    """
    if strict:
        _refuse_calls(messages)
        if unknown := unknown_fields(messages):
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


def _refuse_calls(messages: Sequence[ChatMessage]) -> None:
    for number, message in enumerate(messages):
        if message.tool_calls or message.role == "tool":
            field = f"messages.{number}"
            told = f"{field}: calls of functions and their results are for chat completions alone; leave such turns out here"
            raise ApiError(422, told, "invalid_messages", field)
