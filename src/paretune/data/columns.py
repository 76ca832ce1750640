"""Columns of a record: values, texts, answers, and dialogues written as one text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from paretune.core.errors import DataError
from paretune.core.numbers import number_in
from paretune.data.readers import Cell, NotJson, Record, parse_json
from paretune.data.rows import Message, Prompt, message_from, number_from, prompt_from

Records = Iterable[tuple[str, Record]]
"""``(where, record)``: the origin of a record, for messages, and its columns."""


def take(record: Record, column: str, where: str) -> Any:
    """Return a column's value; a missing column is a DataError that lists the columns found."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object with {column!r}, got {record!r:.60}")
    if column not in record:
        raise DataError(
            f"{where}: column {column!r} is missing; found {', '.join(map(repr, record)) or 'none'}"
        )
    return record[column]


def text_of(record: Record, column: str, where: str) -> str:
    """Return a column that must hold text."""
    value = take(record, column, where)
    if isinstance(value, NotJson):
        raise DataError(
            f"{where}: column {column!r}: {value!r} is not JSON; write text, or leave the record out"
        )
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r}: expected text, got {value!r:.60}")
    return str(value)


def list_of(record: Record, column: str, where: str) -> list[Any]:
    """Return a column that must hold a list."""
    value = take(record, column, where)
    if not isinstance(value, list):
        raise DataError(f"{where}: column {column!r}: expected a list, got {value!r:.60}")
    return value


def is_empty(value: object) -> bool:
    """Return whether a value says nothing: null, or empty text, list or object, also as JSON in a text."""
    return (
        value is None
        or value in ("", [], {})
        or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))
    )


def parsed_cell(value: Any, where: str) -> Any:
    """Return the messages that a CSV cell holds as JSON; any other value is itself.

    A cell is messages where it parses as a list of which every item has a role and a content; else it is text.
    """
    if not isinstance(value, Cell) or not re.match(r"\[\{\s*['\"]", value):
        return value
    if not value.rstrip().endswith("]") or not all(
        re.search(rf"['\"]{name}['\"]\s*:", value) for name in ("role", "content")
    ):
        return value
    items = parse_json(value, where)
    roled = isinstance(items, list) and all(
        isinstance(item, dict) and {"role", "content"} <= set(item) for item in items
    )
    return items if roled else value


def messages_of(value: Any, column: str, where: str) -> Prompt:
    """Return a column that must hold a list of messages, or one message."""
    value = parsed_cell(value, f"{where}: column {column!r}")
    if isinstance(value, dict):
        return (message_from(value, column, where),)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: column {column!r}: expected a list of messages, got {value!r:.60}")
    if all(isinstance(item, str) for item in value):
        raise DataError(
            f"{where}: column {column!r}: a list of texts, expected a text or messages; write the turns of a dialogue as messages "
            f"(role and content), and several responses as one record each, or read them by a column map, as in responses: {column}"
        )
    return prompt_from(value, column, where)


def texts_or_messages(value: Any, column: str, where: str) -> str | Prompt:
    """Return a column that may hold a text, one message or a list of messages; nothing at all is a DataError."""
    value = parsed_cell(value, f"{where}: column {column!r}")
    if isinstance(value, NotJson):
        raise DataError(
            f"{where}: column {column!r}: {value!r} is not JSON; write text, or leave the record out"
        )
    if (
        not value
        or not isinstance(value, str | list | dict)
        or (isinstance(value, str) and not value.strip())
    ):
        raise DataError(
            f"{where}: column {column!r}: expected text or messages, got {value!r:.60}; write them, or leave the record out"
        )
    return str(value) if isinstance(value, str) else messages_of(value, column, where)


def answer_of(value: Any, column: str, where: str) -> str:
    """Return an answer: text, or one message of the assistant."""
    said = texts_or_messages(value, column, where)
    if isinstance(said, str):
        return said
    if len(said) == 1 and said[0].role == "assistant":
        return said[0].content
    raise DataError(
        f"{where}: column {column!r}: expected text or one assistant message, got {len(said)} messages "
        f"({', '.join(m.role for m in said)[:60]})"
    )


def number_of(value: Any, column: str, where: str) -> float:
    """Return a number that may be written as text, as CSV cells and some public sets have it; NaN for null and empty text."""
    if isinstance(value, str):
        try:
            value = number_in(value) if value.strip() else None
        except ValueError as error:
            raise DataError(
                f"{where}: column {column!r}: expected a number or nothing, got {value!r:.60}"
            ) from error
    return number_from(value, column, where)


def flag_of(value: Any, column: str, where: str) -> bool:
    """Return a truth value: true or false, 1 or 0, or these as text."""
    flags = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    flag = flags.get(str(value).strip().lower())
    if flag is None or isinstance(value, list | dict | NotJson):
        raise DataError(
            f"{where}: column {column!r}: expected true or false, got {value!r:.60}; write true for a good response, else false"
        )
    return flag


class Fields:
    """The columns of one record, which notes those that are read.

    Attributes:
        record: The record.
        where: Its origin, for messages.
        read: Names of the columns read so far.
        inside: Column -> places inside it that were read, such as ``meta.help`` or ``answers.0.text``.
    """

    __slots__ = ("inside", "read", "record", "where")

    def __init__(self, where: str, record: Record) -> None:
        self.where, self.record = where, record
        self.read: set[str] = set()
        self.inside: dict[str, set[str]] = {}

    def take(self, column: str) -> Any:
        """Return a column's value, or that of a place inside a column, as ``meta.help``; a missing one is a DataError."""
        outer, dot, _ = column.partition(".")
        if column in self.record or not dot or outer not in self.record:
            self.read.add(column)
            return take(self.record, column, self.where)
        self.inside.setdefault(outer, set()).add(column)
        return self._inside(outer, column)

    def _inside(self, outer: str, column: str) -> Any:
        value, place = self.record[outer], outer
        for key in column.split(".")[1:]:
            if isinstance(value, Cell) and value[:1] in ("{", "["):  # CSV has no objects of its own
                value = parse_json(value, f"{self.where}: column {place!r}")
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                held = f"{len(value)} items" if isinstance(value, list) else f"{value!r:.60}"
                if isinstance(value, dict):
                    held = ", ".join(map(repr, value)) or "nothing"
                raise DataError(
                    f"{self.where}: column {column!r}: no {key!r} in {place!r}, which holds {held}"
                )
            place = f"{place}.{key}"
        return value

    def get(self, column: str) -> Any:
        """Return a column's value, or None where the record has no such column or it says nothing."""
        if column not in self.record:
            if column.partition(".")[0] in self.record and "." in column:
                value = self.take(column)
                return None if is_empty(value) else value
            return None
        self.read.add(column)
        value = self.record[column]
        return None if is_empty(value) else value

    def has(self, column: str) -> bool:
        """Return whether the record has a column, or the column that a place such as ``meta.help`` is in."""
        outer, dot, _ = column.partition(".")
        return column in self.record or (bool(dot) and outer in self.record)

    def text(self, column: str) -> str:
        """Return a column that must hold text, and some."""
        self.read.add(column)
        text = text_of(self.record, column, self.where)
        if not text.strip():
            raise DataError(f"{self.where}: column {column!r}: empty; expected text")
        return text

    def optional_text(self, column: str) -> str:
        """Return a column that may hold text, "" where it says nothing."""
        value = self.get(column)
        return "" if value is None else text_of({column: value}, column, self.where)

    def answer(self, column: str) -> str:
        """Return a column that must hold an answer."""
        return answer_of(self.take(column), column, self.where)

    def optional_number(self, column: str, default: float) -> float:
        """Return a column that may hold a number."""
        number = number_of(self.get(column), column, self.where)
        return default if number != number else number


def parse_dialogue(text: str) -> Prompt:
    r"""Return the turns of a ``\n\nHuman: ...\n\nAssistant: ...`` text, () when it starts otherwise.

    Two turns of one speaker in a row are one message, separated by a blank line: the speaker went on after a pause.
    """
    pieces = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if len(pieces) < 3 or pieces[0].strip():
        return ()
    roles = {"Human": "user", "Assistant": "assistant"}
    return merged(
        (roles[name], content.strip()) for name, content in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def merged(turns: Iterable[tuple[str, str]]) -> Prompt:
    """Return (role, content) turns as messages; turns of one role in a row become one message."""
    messages: list[Message] = []
    for role, content in turns:
        if messages and messages[-1].role == role:
            content = f"{messages.pop().content}\n\n{content}".strip()
        messages.append(Message(role, content))
    return tuple(messages)
