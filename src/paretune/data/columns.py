"""Columns of a record: values, texts, and dialogues written as one text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from paretune.core.errors import DataError
from paretune.data.readers import Record
from paretune.data.rows import Message, Prompt

Records = Iterable[tuple[str, Record]]
"""``(where, record)``: the origin of a record, for messages, and its columns."""


def take(record: Record, column: str, where: str) -> Any:
    """Return a column's value; a missing column is a DataError that lists the columns found."""
    if column not in record:
        raise DataError(
            f"{where}: column {column!r} is missing; found {', '.join(map(repr, record)) or 'none'}"
        )
    return record[column]


def text_of(record: Record, column: str, where: str) -> str:
    """Return a column that must hold text."""
    value = take(record, column, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r}: expected text, got {value!r:.60}")
    return value


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
