"""The forms of preference files: TRL's, recognised by their columns, and any columns, by a map (see
`paretune.data.load`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from paretune.core.errors import DataError, suggest
from paretune.data.columns import Records, parse_dialogue, take, text_of
from paretune.data.dataset import ScoredDataset, from_records
from paretune.data.readers import NotJson, Record, parse_json
from paretune.data.row_store import gather
from paretune.data.rows import Comparison, Prompt, Row, number_from, prompt_from

UNSUPPORTED = ("tools", "images", "image", "chat_template_kwargs")


def extract_prompt(chosen: Sequence[Any], rejected: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return the common beginning of two texts or message lists, and what remains of each (as TRL's
    `extract_prompt`).
    """
    index = 0
    for index in range(min(len(chosen), len(rejected))):
        if chosen[index] != rejected[index]:
            if chosen[index - 1] == " ":  # the space belongs to the answer
                index -= 1
            break
    return chosen[:index], chosen[index:], rejected[index:]


def read_form(records: Records, objective: str | None) -> ScoredDataset:
    """Return the data set of a stream whose form follows from the columns of its first record."""
    stream = iter(records)
    first = next(stream, None)
    if first is None:
        return ScoredDataset((), ())
    where, record = first
    stream = chain([first], stream)
    columns = set(record)
    if "responses" in columns or "response_0" in columns or columns >= {"prompt", "labels", "truncated"}:
        return from_records(stream, flat="responses" not in columns)
    for needed, read, labelled in FORMS:
        if columns >= needed:
            if labelled and objective is None:
                raise DataError(
                    f"{where}: columns {', '.join(sorted(needed))} hold labels of one objective; "
                    "name it with objective=, for example objective=helpful"
                )
            rows = gather(read(((where, _parsed(entry, where)) for where, entry in stream), objective or ""))
            return ScoredDataset((objective,) if labelled and objective else (), rows)
    raise DataError(
        f"{where}: unknown form, found columns {', '.join(map(repr, record)) or 'none'}; expected "
        "prompt and responses, "
        "chosen and rejected, prompt, completion and label, messages, or prompt; or map the "
        "columns (see paretune.data.load)"
    )


def _parsed(record: Record, where: str) -> Record:
    """Refuse columns that would change the prompt, and parse message lists written into CSV cells."""
    for column in UNSUPPORTED:
        if record.get(column):
            raise DataError(
                f"{where}: column {column!r} is not supported; remove it, or write it into the prompt"
            )
    return {
        column: parse_json(value, f"{where}: column {column!r}")
        if isinstance(value, str) and value.startswith("[{")
        else value
        for column, value in record.items()
    }


def _preferences(records: Records, objective: str) -> Iterator[Row]:
    for where, record in records:
        prompt, chosen, rejected = (
            record.get("prompt"),
            take(record, "chosen", where),
            take(record, "rejected", where),
        )
        for column in ("chosen", "rejected"):
            if not record[column] or not isinstance(record[column], str | list):
                raise DataError(
                    f"{where}: column {column!r}: expected text or messages, got {record[column]!r:.60}"
                )
        whole = isinstance(chosen, list) and len(chosen) > 1  # the answer with the conversation before it
        if prompt is None or (whole and isinstance(prompt, str)):
            prompt, chosen, rejected = _parted(chosen, rejected, where)
        responses = (_answer(chosen, "chosen", where), _answer(rejected, "rejected", where))
        yield Row(_prompt(prompt, where), responses, labels={objective: ((0, 1, 1.0),)}, source=where)


def _parted(chosen: Any, rejected: Any, where: str) -> tuple[Any, Any, Any]:
    if isinstance(chosen, str) and isinstance(rejected, str):
        first, second = parse_dialogue(chosen), parse_dialogue(rejected)
        if first and second and first[-1].role == second[-1].role == "assistant":
            if first[:-1] != second[:-1]:
                raise DataError(
                    f"{where}: columns 'chosen' and 'rejected': the dialogues part before the last answer"
                )
            return first[:-1], first[-1].content, second[-1].content
    if type(chosen) is not type(rejected):
        raise DataError(
            f"{where}: columns 'chosen' and 'rejected': one is text, the other messages; use one form"
        )
    prompt, first, second = extract_prompt(chosen, rejected)
    if not prompt:
        raise DataError(
            f"{where}: columns 'chosen' and 'rejected' have no common beginning; add a 'prompt' column"
        )
    return prompt, first, second


def _prompt(value: Any, where: str) -> Prompt:
    return value if isinstance(value, tuple) else prompt_from(value, "prompt", where)


def _answer(value: Any, column: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], dict)
        and value[0].get("role") == "assistant"
    ):
        return text_of(value[0], "content", where)
    raise DataError(f"{where}: column {column!r}: expected text or one assistant message, got {value!r:.60}")


def _unpaired(records: Records, objective: str) -> Iterator[Row]:
    groups: dict[Prompt, list[tuple[str, str, float]]] = {}
    flags = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
    for where, record in records:
        label = str(take(record, "label", where)).lower()
        if label not in flags:
            raise DataError(f"{where}: column 'label': expected true or false, got {record['label']!r:.60}")
        answer = _answer(take(record, "completion", where), "completion", where)
        groups.setdefault(_prompt(take(record, "prompt", where), where), []).append(
            (where, answer, flags[label])
        )
    for prompt, answers in groups.items():
        wheres, responses, scores = zip(*answers, strict=True)
        yield Row(prompt, responses, {objective: scores}, source=wheres[0])


def _completions(records: Records, objective: str) -> Iterator[Row]:
    for where, record in records:
        yield Row(
            _prompt(take(record, "prompt", where), where),
            (_answer(take(record, "completion", where), "completion", where),),
            source=where,
        )


def _conversations(records: Records, objective: str) -> Iterator[Row]:
    for where, record in records:
        messages = prompt_from(take(record, "messages", where), "messages", where)
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise DataError(f"{where}: column 'messages': expected a prompt and the assistant's answer last")
        yield Row(messages[:-1], (messages[-1].content,), source=where)


def _prompts(records: Records, objective: str) -> Iterator[Row]:
    for where, record in records:
        yield Row(_prompt(take(record, "prompt", where), where), (), source=where)


FORMS: tuple[tuple[set[str], Callable[[Records, str], Iterator[Row]], bool], ...] = (
    ({"chosen", "rejected"}, _preferences, True),
    ({"prompt", "completion", "label"}, _unpaired, True),
    ({"prompt", "completion"}, _completions, False),
    ({"messages"}, _conversations, False),
    ({"prompt"}, _prompts, False),
)


# Column maps


def read_mapped(records: Records, columns: Mapping[str, Any]) -> ScoredDataset:
    """Read records by a map of columns (see the module)."""
    names = tuple(dict.fromkeys((*(columns.get("scores") or {}), *(columns.get("labels") or {}))))
    return ScoredDataset(names, gather(_mapped(records, columns)))


def _mapped(records: Records, columns: Mapping[str, Any]) -> Iterator[Row]:
    scores, labels = columns.get("scores") or {}, columns.get("labels") or {}
    wanted = columns.get("responses") or []
    groups: dict[Prompt, list[tuple[str, str, dict[str, float]]]] = {}
    for where, record in records:
        prompt = prompt_from(take(_parsed(record, where), columns["prompt"], where), columns["prompt"], where)
        texts = (
            take(record, wanted, where)
            if isinstance(wanted, str)
            else [text_of(record, c, where) for c in wanted]
        )
        if isinstance(texts, str):
            numbers = {name: _number(record, column, where) for name, column in scores.items()}
            groups.setdefault(prompt, []).append((where, texts, numbers))
            continue
        if not isinstance(texts, list):
            raise DataError(
                f"{where}: column {wanted!r}: expected text or a list of texts, got {texts!r:.60}"
            )
        yield Row(
            prompt,
            tuple(texts),
            {name: _numbers(record, column, where) for name, column in scores.items()},
            {name: _label(record, stated, name, len(texts), where) for name, stated in labels.items()},
            source=where,
        )
    for prompt, answers in groups.items():
        if labels:
            raise DataError(
                f"{answers[0][0]}: 'labels' compare two responses of one record; here each record has one"
            )
        wheres, responses, numbers_K = zip(*answers, strict=True)
        yield Row(
            prompt,
            responses,
            {name: tuple(n[name] for n in numbers_K) for name in scores},
            source=wheres[0],
        )


def _numbers(record: Record, column: Any, where: str) -> tuple[float, ...]:
    if isinstance(column, list):
        return tuple(_number(record, part, where) for part in column)
    values = take(record, column, where)
    if not isinstance(values, list):
        raise DataError(f"{where}: column {column!r}: expected one number per response, got {values!r:.60}")
    return tuple(number_from(value, column, where) for value in values)


def _number(record: Record, column: Any, where: str) -> float:
    if not isinstance(column, str):
        raise DataError(f"data: scores: expected a column beside one response, got {column!r}")
    value = take(record, column, where)
    if isinstance(value, str) and not isinstance(value, NotJson):  # a CSV cell
        try:
            value = float(value) if value.strip() else None
        except ValueError as error:
            raise DataError(
                f"{where}: column {column!r}: expected a number or nothing, got {value!r:.60}"
            ) from error
    return number_from(value, column, where)


def _label(record: Record, stated: Any, objective: str, count: int, where: str) -> tuple[Comparison, ...]:
    if not isinstance(stated, Mapping) or set(stated) != {"column", "values"}:
        raise DataError(
            f"data: labels.{objective}: expected {{column: ..., values: {{value: p}}}}, got {stated!r:.60}"
        )
    cell = take(record, stated["column"], where)
    if cell is None or cell == "":
        return ()
    if count != 2:
        raise DataError(
            f"{where}: column {stated['column']!r}: compares two responses, this record has {count}"
        )
    meaning = {str(value).lower(): p for value, p in stated["values"].items()}
    p = meaning.get(str(cell).lower())
    if p is None or (isinstance(p, float) and math.isnan(p)):
        raise DataError(
            f"{where}: column {stated['column']!r}: value {cell!r:.60} is not in the map; "
            f"{suggest(str(cell), meaning)}"
        )
    return ((0, 1, float(p)),)
