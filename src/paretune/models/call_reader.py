"""Calls of functions read out of an answer while it is written."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from paretune.data.rows import ToolCall

_BETWEEN = re.compile(r"[\s,;]*")
_DECODER = json.JSONDecoder()


class CallReader:
    """An answer that comes in pieces: what is text of it, and the functions that it calls.

    What looks like a call, but is cut, is no JSON or names a function that nobody offered, stays text. The regions are found by
    transformers' parser of responses.

    Attributes:
        found: Number of calls so far.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        response_template: Mapping[str, Any],
        names: Collection[str],
        functions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Begin an answer.

        Args:
            tokenizer: Any tokenizer; it only knows the parser.
            response_template: Its fields ``tool_calls`` and ``content``, see `paretune.models.tool_calls.CallForm`.
            names: Names of the functions that may be called.
            functions: All functions in the form of OpenAI's API, by whose schemas arguments that are no JSON get their types.
        """
        self._parser: Any = tokenizer.get_response_parser(
            dict(response_template), prefix="", tools=[dict(tool) for tool in functions]
        )
        self._names = frozenset(names)
        self._fed, self._at, self._told = "", 0, 0  # the whole answer; read and told up to these places
        self._broken = self._dead = False
        self._space = ""
        self.found = 0

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the text and the calls that are certain once ``text`` is added."""
        self._fed += text
        if self._dead:
            return text, []
        try:
            return self._take(self._parser.feed(text))
        except ValueError:
            return self._give_up()

    def finish(self) -> tuple[str, list[ToolCall]]:
        """Return what was held back, as nothing follows."""
        if self._dead:
            return "", []
        try:
            text, calls = self._take(self._parser.finalize()[1])
        except ValueError:
            return self._give_up()
        return (text + self._fed[self._told :] if self._broken else text), calls

    def _give_up(self) -> tuple[str, list[ToolCall]]:
        """Return all that was not told yet as text: the parser cannot read it, and nothing behind it."""
        self._dead = True
        return self._fed[self._told :], []

    def _take(self, events: Sequence[Mapping[str, Any]]) -> tuple[str, list[ToolCall]]:
        text, calls = "", list[ToolCall]()
        for event in events:
            kind, is_call = event["type"], event["field"] == "tool_calls"
            if kind == "region_chunk":
                begin = self._fed.find(event["text"], self._at)
                self._at = begin + len(event["text"])
                if not is_call:
                    text += (self._fed[self._told : begin] if self._broken else "") + event["text"]
                    self._told, self._broken = self._at, False
            elif kind == "region_close" and is_call:
                read = self._calls(event["value"])
                if read:
                    calls += read
                    self.found += len(read)
                    self._told = self._at
                else:
                    self._broken = True
        if self.found:  # white space between calls and behind them says nothing
            text = self._space + text
            kept = text.rstrip()
            self._space = text[len(kept) :] if kept else ""
            text = kept
        return text, calls

    def _calls(self, value: Any) -> list[ToolCall] | None:
        """Return the calls of a region; None where it holds anything else."""
        values = _values(value) if isinstance(value, str) else value if isinstance(value, list) else [value]
        read = [self._call(each) for each in values]
        return None if None in read else [call for call in read if call is not None]

    def _call(self, value: Any) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        inner = value.get("function")
        if isinstance(inner, dict):
            value = inner
        name = value.get("name", inner)
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            (arguments,) = _values(arguments)[:1] or [{}]
        if name not in self._names or not isinstance(arguments, dict):
            return None
        # Nine letters and digits, as Mistral's templates demand.
        return ToolCall(secrets.token_hex(5)[:9], name, json.dumps(arguments, ensure_ascii=False))


def _values(text: str) -> list[Any]:
    """Return the JSON values of a text, one after the other, lists taken apart; [None] where it is anything else."""
    values: list[Any] = []
    at = len(text) - len(text.lstrip())
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except ValueError:
            return [None]
        values += value if isinstance(value, list) else [value]
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
    return values
