"""Jobs in the form of OpenAI's API, as upstream servers read them, and what their chunks say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from paretune.core.tools import Tools
from paretune.data.rows import Message, Prompt
from paretune.serving.events import Piece


def turn(message: Message) -> dict[str, Any]:
    """Return a message in the form of OpenAI's API."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    return {**turn, "tool_call_id": message.call_id} if message.call_id else turn


def offered(tools: Tools) -> dict[str, Any]:
    """Return the fields of a request that offer functions.

    Those that may not be called are left out, as few servers know a choice among some.
    """
    more = {"strict": True} if tools.strict else {}
    functions: list[dict[str, Any]] = [
        {"type": "function", "function": {**tool["function"], **more}}
        for tool in tools.functions
        if tool["function"]["name"] in tools.allowed
    ]
    choice: Any = "required" if tools.must else "auto"
    if tools.must and len(functions) == 1:
        choice = {"type": "function", "function": {"name": functions[0]["function"]["name"]}}
    return {"tools": functions, "tool_choice": choice, "parallel_tool_calls": tools.parallel}


def piece_of(choice: Mapping[str, Any]) -> Piece | None:
    """Return what a chunk adds to an answer."""
    delta = choice.get("delta") or {}
    text = choice.get("text") if "text" in choice else delta.get("content")
    told = (choice.get("logprobs") or {}).get("content") or ()
    calls = tuple({"index": number, **call} for number, call in enumerate(delta.get("tool_calls") or ()))
    return Piece(text or "", logprobs=tuple(told), calls=calls) if text or told or calls else None


def ended(prompt: Prompt, end: str) -> Prompt:
    """Return the prompt with ``end`` appended to its last user turn."""
    if not end:
        return prompt
    last = max((k for k, message in enumerate(prompt) if message.role == "user"), default=len(prompt) - 1)
    return tuple(replace(m, content=m.content + end) if k == last else m for k, m in enumerate(prompt))
