"""A row of the one table: a prompt with K responses, scored or compared on M objectives; checked, from and to JSON.

The canonical form of a row, one JSON object per line (only ``prompt`` and ``responses`` are required)::

    {"prompt": [{"role": "user", "content": "Hi"}], "responses": ["a", "b"],
     "scores": {"concise": [-40, -31], "warm": [0.3, null]}, "labels": {"helpful": [[0, 1, 1.0]]},
     "truncated": [false, true], "source": "mine.jsonl:7"}

``prompt`` may also be plain text, which is one user message. A row may have a ``weight`` (of its pairs in a loss, 1 without) and a
``margin`` (by how much chosen should beat rejected, 0 without). Parquet has the same columns (``scores`` and
``labels`` are structs with one field per objective). CSV has one line per row and the columns ``prompt`` (plain
text, or the JSON of the messages, which starts with ``[{``), ``response_0`` to ``response_{K-1}`` (an empty
cell: no such response), ``scores.<objective>.<k>`` (an empty cell: missing), ``labels`` and ``truncated``
(JSON), ``source``. All three are read back as they were written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any

from paretune.core.errors import DataError, suggest
from paretune.core.files import fingerprint
from paretune.data.readers import NotJson, Record

ROLES = ("system", "user", "assistant", "tool")
COLUMNS = ("prompt", "responses", "scores", "labels", "truncated", "source", "weight", "margin")
SPEAKERS = {"human": "user", "gpt": "assistant"}
"""Names of speakers in ShareGPT's messages, where they differ from `ROLES`."""

Comparison = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function that a model has asked for; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is one of `ROLES`.

    Attributes:
        role: Who speaks.
        content: What is said.
        calls: Functions that the assistant calls in this turn; only conversations at a server have them.
        call_id: Of the role ``tool``, the call whose result this is; empty where it is not told.

    Raises:
        DataError: Another role, or a content that is not text.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"message: unknown role {self.role!r:.60}; {suggest(str(self.role), ROLES)}")
        if not isinstance(self.content, str):
            raise DataError(f"message of the {self.role}: expected text, got {_shown(self.content)}")


Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Row:
    """A prompt and its K responses (K = 0: a prompt alone), with scores and comparisons for each objective.

    ``scores[objective]`` holds K numbers, higher is better, NaN is missing; an objective without any number
    is left out. ``labels[objective]`` holds comparisons ``(a, b, p)`` of responses a and b: p in [-1, 1] is
    +1 when a is preferred, -1 when b is, 0 for a tie. ``truncated[k]`` marks that response k was cut by a
    token limit, so that its end is not its author's. ``source`` is the row's origin, ``file:line``, and begins
    every message about it. ``weight`` (at least 0) multiplies the loss of every pair of the row, and ``margin`` is subtracted
    from what chosen is ahead by, in the units of the reward (`paretune.training.losses.pair_loss`).

    Raises:
        DataError: Columns that do not fit together; the message names them.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[Comparison, ...]] = field(default_factory=dict)
    truncated: tuple[bool, ...] = ()
    source: str = ""
    weight: float = 1.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        where = self.source or "row"
        _check_prompt(self.prompt, where)
        for k, response in enumerate(self.responses):
            _check_text(response, f"responses[{k}]", where)
            if not response.strip():
                raise DataError(
                    f"{where}: column 'responses[{k}]': empty response; leave it out, or drop the row"
                )
        count = len(self.responses)
        truncated = tuple(self.truncated) or (False,) * count
        if len(truncated) != count:
            raise DataError(
                f"{where}: column 'truncated': {len(truncated)} values for {count} responses; give one each"
            )
        scores = {name: _checked_scores(values, name, count, where) for name, values in self.scores.items()}
        labels = {name: _checked_labels(values, name, count, where) for name, values in self.labels.items()}
        if not (math.isfinite(self.weight) and self.weight >= 0 and math.isfinite(self.margin)):
            raise DataError(
                f"{where}: columns 'weight' and 'margin': expected finite numbers, the weight at least 0, got {self.weight:g} "
                f"and {self.margin:g}"
            )
        # Missing everywhere is the same as absent: one spelling, so that equal rows compare equal.
        scores = {name: values for name, values in scores.items() if not all(map(math.isnan, values))}
        labels = {name: values for name, values in labels.items() if values}
        for name, value in (
            ("prompt", tuple(self.prompt)),
            ("responses", tuple(map(str, self.responses))),  # plain texts, also of CSV cells
            ("scores", scores),
            ("labels", labels),
            ("truncated", truncated),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of_checked(cls, **parts: Any) -> Row:
        """Return the row of all its fields, as an earlier row had them; nothing is checked again."""
        row = object.__new__(cls)
        vars(row).update(parts)
        return row

    @cached_property
    def key(self) -> str:
        """Fingerprint of the prompt, case and white space folded: rows with one key stay in one part of a split."""
        return prompt_key(self.prompt)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the content, without ``source``."""
        record = row_to_record(self)
        return fingerprint([record[c] for c in COLUMNS if c != "source" and c in record])


def prompt_key(prompt: Prompt) -> str:
    """Return the fingerprint of a prompt, case and white space folded."""
    return fingerprint([[m.role, " ".join(m.content.casefold().split())] for m in prompt])


# Checks of one row


def _check_text(text: object, column: str, where: str) -> None:
    if isinstance(text, NotJson):
        raise DataError(f"{where}: column {column!r}: {text!r} is not JSON; write text, or leave the row out")
    if not isinstance(text, str):
        raise DataError(
            f"{where}: column {column!r}: expected text, got {_shown(text)}; write it, or leave the row out"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: column {column!r}: half of a surrogate pair at character {error.start + 1}, "
            "which is not Unicode text"
        ) from error


def _check_prompt(prompt: Sequence[Message], where: str) -> None:
    if not prompt or not any(isinstance(m.content, str) and m.content.strip() for m in prompt):
        raise DataError(f"{where}: column 'prompt': empty prompt; expected at least one message with text")
    for position, message in enumerate(prompt):
        _check_text(message.content, f"prompt[{position}].content", where)
    if prompt[-1].role == "assistant":
        raise DataError(
            f"{where}: column 'prompt': the last message is the assistant's; expected user, tool "
            "or system last "
            "(the answer belongs in 'responses')"
        )


def _checked_scores(values: Sequence[float], objective: str, count: int, where: str) -> tuple[float, ...]:
    column = f"scores.{objective}"
    if len(values) != count:
        raise DataError(
            f"{where}: column {column!r}: {len(values)} scores for {count} responses; give one "
            "each, null if missing"
        )
    return tuple(number_from(value, column, where) for value in values)


def _checked_labels(
    values: Sequence[Comparison], objective: str, count: int, where: str
) -> tuple[Comparison, ...]:
    column = f"labels.{objective}"
    for a, b, p in values:
        for index in (a, b):
            if not 0 <= index < count:
                raise DataError(
                    f"{where}: column {column!r}: no response {index}; expected an index from 0 to "
                    f"{count - 1}"
                )
        if a == b:
            raise DataError(f"{where}: column {column!r}: response {a} is compared with itself")
        if not -1 <= p <= 1:
            raise DataError(
                f"{where}: column {column!r}: strength {p} is outside [-1, 1]; +1 prefers the "
                "first response, -1 the second"
            )
    return tuple((int(a), int(b), float(p)) for a, b, p in values)


# Records: JSON values to rows and back


def row_from_record(record: Record, where: str) -> Row:
    """Return the row of a canonical record; a DataError starts with ``where`` and names the column."""
    for name in record:
        if name not in COLUMNS:
            raise DataError(f"{where}: unknown column {name!r}; {suggest(str(name), COLUMNS)}")
    for name in ("prompt", "responses"):
        if record.get(name) is None:
            found = "null; expected a value" if name in record else "missing; found "
            listed = "" if name in record else ", ".join(map(repr, record)) or "no columns"
            raise DataError(f"{where}: column {name!r} is {found}{listed}")
    truncated = _list(record.get("truncated"), "truncated", where, "true or false for each response")
    for value in truncated:
        if not isinstance(value, bool):
            raise DataError(f"{where}: column 'truncated': expected true or false, got {_shown(value)}")
    source = record.get("source") or ""
    _check_text(source, "source", where)
    row = Row(
        prompt=prompt_from(record["prompt"], "prompt", where),
        responses=tuple(_list(record["responses"], "responses", where, "texts")),
        scores={
            name: tuple(_list(values, f"scores.{name}", where, "numbers"))
            for name, values in _objectives(record.get("scores"), "scores", where)
        },
        labels={
            name: tuple(
                _comparison(v, f"labels.{name}", where)
                for v in _list(values, f"labels.{name}", where, "comparisons")
            )
            for name, values in _objectives(record.get("labels"), "labels", where)
        },
        truncated=tuple(truncated),
        source=where,
        weight=number_or(record.get("weight"), 1.0, "weight", where),
        margin=number_or(record.get("margin"), 0.0, "margin", where),
    )
    return replace(row, source=str(source)) if source else row


def prompt_from(value: object, column: str, where: str) -> Prompt:
    """Return a prompt from plain text (one user message) or a list of messages.

    A message is ``{"role", "content"}``, or ShareGPT's ``{"from", "value"}``. Its content is text, or a list of parts of which all
    are text.
    """
    if isinstance(value, str):
        return (Message("user", str(value)),)
    items = _list(value, column, where, "messages, or plain text")
    return tuple(message_from(item, f"{column}[{position}]", where) for position, item in enumerate(items))


def message_from(item: object, at: str, where: str) -> Message:
    """Return one message of a list, see :func:`prompt_from`; ``at`` is its place, for messages of errors."""
    names = ("from", "value") if isinstance(item, dict) and "from" in item else ("role", "content")
    if not isinstance(item, dict) or any(name not in item for name in names):
        raise DataError(
            f"{where}: column {at!r}: expected {{'role': ..., 'content': ...}}, got {_shown(item)}"
        )
    for name, extra in item.items():
        if name not in names and extra not in (None, "", [], {}):
            raise DataError(
                f"{where}: column '{at}.{name}': only role and content are supported; put it into the content"
            )
    role, content = item[names[0]], item[names[1]]
    _check_text(role, f"{at}.{names[0]}", where)
    role = SPEAKERS.get(role, role) if names[0] == "from" else role
    if role not in ROLES:
        known = (*SPEAKERS, *ROLES) if names[0] == "from" else ROLES
        column = f"{at}.{names[0]}"
        raise DataError(f"{where}: column {column!r}: unknown role {role!r}; {suggest(str(role), known)}")
    if isinstance(content, list):
        content = "".join(_part(part, f"{at}.{names[1]}[{n}]", where) for n, part in enumerate(content))
    _check_text(content, f"{at}.{names[1]}", where)
    return Message(str(role), str(content))


def _part(part: object, at: str, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise DataError(
            f"{where}: column {at!r}: expected a part of text, got {_shown(part)}; other parts are not supported"
        )
    return str(part["text"])


def number_or(value: object, default: float, column: str, where: str) -> float:
    """Return a finite number, or ``default`` for null."""
    number = number_from(value, column, where)
    return default if math.isnan(number) else number


def number_from(value: object, column: str, where: str) -> float:
    """Return a finite number, or NaN for null; everything else is a DataError."""
    if value is None:
        return math.nan
    if isinstance(value, NotJson):
        raise DataError(f"{where}: column {column!r}: {value!r} is not JSON; write null for a missing number")
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise DataError(f"{where}: column {column!r}: expected a number or null, got {_shown(value)}")
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a signalling NaN of Decimal
        number = math.inf
    if math.isinf(number):
        raise DataError(
            f"{where}: column {column!r}: infinite, or too large for 64 bits; expected a finite "
            "number or null"
        )
    return math.nan if math.isnan(number) else number  # one NaN object, so that equal rows compare equal


def _comparison(value: object, column: str, where: str) -> Comparison:
    items = _list(value, column, where, "[a, b, p]")
    numbers = [number_from(item, column, where) for item in items]
    if len(numbers) != 3 or any(map(math.isnan, numbers)) or not all(n.is_integer() for n in numbers[:2]):
        raise DataError(
            f"{where}: column {column!r}: expected [a, b, p] (two response indices, p from -1 to "
            f"1), got {_shown(value)}"
        )
    return int(numbers[0]), int(numbers[1]), numbers[2]


def _list(value: object, column: str, where: str, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: column {column!r}: expected a list of {what}, got {_shown(value)}")
    return list(value)


def _objectives(value: object, column: str, where: str) -> list[tuple[str, object]]:
    """Return objective -> values, without those that are null (a Parquet struct holds all fields in every row)."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise DataError(f"{where}: column {column!r}: expected an object of objectives, got {_shown(value)}")
    return [(str(name), values) for name, values in value.items() if values is not None]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def row_to_record(row: Row) -> Record:
    """Return the canonical record of a row, NaN as None; ``weight`` and ``margin`` only where they differ from 1 and 0."""
    record: Record = {
        "prompt": [{"role": m.role, "content": m.content} for m in row.prompt],
        "responses": list(row.responses),
        "scores": {
            name: [None if math.isnan(v) else v for v in values] for name, values in row.scores.items()
        },
        "labels": {name: [list(c) for c in values] for name, values in row.labels.items()},
        "truncated": list(row.truncated),
        "source": row.source,
    }
    # Left out where they say nothing, as most do.
    return record | {name: value for name, value, usual in _stated(row) if value != usual}


def _stated(row: Row) -> tuple[tuple[str, float, float], ...]:
    return (("weight", row.weight, 1.0), ("margin", row.margin, 0.0))
