"""The public forms of preference files, recognised by the columns of the first record; every later record is read alike.

TRL's forms, and those of LLaMA-Factory, ms-swift, OpenRLHF, ShareGPT and distilabel; docs/data.md lists what is read of each.
A column that is not read is named (see `paretune.data.unread`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain

from paretune.core.errors import DataError
from paretune.data.broken import told_together
from paretune.data.columns import Fields, Records, answer_of, flag_of, number_of, texts_or_messages
from paretune.data.dataset import ScoredDataset, from_records
from paretune.data.known import KNOWN
from paretune.data.prompts import (
    ASKED,
    TALKS,
    as_dialogue,
    ends_with_answer,
    parted,
    prompt_of,
    same_beginning,
)
from paretune.data.readers import Cell, Record
from paretune.data.row_store import gather
from paretune.data.rows import Prompt, Row
from paretune.data.unread import Left, looks_like

ANSWERS = ("completion", "response", "output", "answer")
CHOSEN = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
OPENAI = ("preferred_output", "non_preferred_output")
"""The pair of OpenAI's form, which has its prompt in ``input.messages``."""
LISTS = ("generations", "completions", "responses")
RATINGS = ("ratings", "scores", "rewards")
RATING = ("score", "rating", "reward")
FLAGS = ("label", "kto_tag")
SCORE_PAIRS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("reward_chosen", "reward_rejected"),
    ("chosen_reward", "rejected_reward"),
)
KNOWN_COLUMNS = tuple(
    dict.fromkeys((*ASKED, *TALKS, "system", "history", "chosen", "rejected", "rejected_response", "rejected_messages", *ANSWERS,
                   *LISTS, *RATINGS, *RATING, *FLAGS, *chain.from_iterable(SCORE_PAIRS), "weight", "margin"))
)  # fmt: skip


class UnnamedObjectiveError(DataError):
    """Labels of a form that does not say what they compare, and no name is given for it."""


@dataclass(frozen=True)
class Form:
    """A form of records.

    Attributes:
        fits: Whether a record with these columns has the form.
        read: Turns the records into rows, under the name of an objective.
        labelled: Whether the form compares or scores responses, so that the objective must be named.
    """

    fits: Callable[[set[str]], bool]
    read: Callable[[Iterator[Fields], str, Left], Iterator[Row]]
    labelled: bool


def read_form(
    records: Records, objective: str | None, ignored: Collection[str] = (), flat: bool | None = None
) -> ScoredDataset:
    """Return the data set of a stream whose form follows from the columns of its first record.

    Args:
        records: The records with their origins.
        objective: What the labels of the form mean; forms without labels do not need it.
        ignored: Columns that are left out knowingly.
        flat: Whether canonical records are spread over columns, as in CSV; by default as the first record has it.
    """
    stream = iter(records)
    first = next(stream, None)
    if first is None:
        return ScoredDataset((), ())
    where, record = first
    stream = chain([first], stream)
    columns = {name for name in record if name not in ignored}
    if _canonical(record, columns):
        kept = (
            (at, {name: value for name, value in one.items() if name not in ignored}) for at, one in stream
        )
        if any(source.named and source.named <= columns for source in KNOWN.values()):
            raise DataError(f"{where}: not the canonical form; {_cure(columns)()}")
        dataset = from_records(kept, flat="responses" not in columns if flat is None else flat)
        if objective is not None and dataset.objectives and objective not in dataset.objectives:
            raise DataError(
                f"{where}: these data name their objectives ({', '.join(dataset.objectives)}), so objective={objective} has no "
                "meaning; leave it out"
            )
        return dataset
    form = next((form for form in FORMS if form.fits(columns)), None)
    if form is None:
        raise DataError(
            f"{where}: unknown form, found columns {', '.join(map(repr, record)) or 'none'}; expected "
            "prompt and responses, chosen and rejected, prompt, completion and label, messages, or prompt; "
            + _spelt_otherwise(columns)
            + (
                "if the first line holds no names of columns, add a line that does; "
                if _is_csv(record)
                else "or "
            )
            + _cure(columns)()
        )
    if form.labelled and objective is None:
        said = [
            name
            for name in KNOWN_COLUMNS
            if name in columns and name not in (*ASKED, *TALKS, "system", "history")
        ]
        raise UnnamedObjectiveError(
            f"{where}: columns {', '.join(said)} hold labels of one objective; "
            "name it with objective=, for example objective=helpful"
        )
    left = Left(KNOWN_COLUMNS, ignored)
    rows = gather(
        told_together(lambda some: form.read(_fields(some, ignored), objective or "", left), stream)
    )
    named = (objective,) if form.labelled and objective else ()
    return ScoredDataset(named, rows, left.notes())


def _fields(records: Records, ignored: Collection[str]) -> Iterator[Fields]:
    for where, record in records:
        yield Fields(
            where,
            {name: value for name, value in record.items() if name not in ignored} if ignored else record,
        )


def _spelt_otherwise(columns: set[str]) -> str:
    """Return the known names of columns that differ in capitals or spaces, as the beginning of a cure."""
    near = {name: name.strip().lower() for name in sorted(columns) if name not in KNOWN_COLUMNS}
    known = [f"{name!r} to {plain!r}" for name, plain in near.items() if plain in KNOWN_COLUMNS]
    return f"names of columns are read as they are spelt: rename {', '.join(known)}, " if known else ""


def _is_csv(record: Record) -> bool:
    return any(isinstance(value, Cell) for value in record.values())


def _canonical(record: Record, columns: set[str]) -> bool:
    if "responses" in columns:
        return not any(name in columns for name in RATINGS if isinstance(record.get(name), list))
    return "response_0" in columns or columns >= {"prompt", "labels", "truncated"}


def _cure(columns: set[str]) -> Callable[[], str]:
    """Return what ends a message about columns: the public set they belong to, or the column map that would read them."""

    def cure() -> str:
        known = next(
            (name for name, source in KNOWN.items() if source.named and source.named <= columns), None
        )
        if known:
            return f"these are the columns of {known}: name the set {known} and give this file as its path"
        asked = next((name for name in (*ASKED, *TALKS) if name in columns), "PROMPT")
        lists = next((name for name in LISTS if name in columns), None)
        pair = next((pair for pair in CHOSEN if columns >= set(pair)), None)
        texts = sorted(
            name for name in columns.difference(ASKED, TALKS) if looks_like(name, "a text") == "a response"
        )
        named = lists or f"[{', '.join(texts if len(texts) > 1 else ('A', 'B'))}]"
        read = f"chosen: {pair[0]}, rejected: {pair[1]}" if pair else f"responses: {named}"
        if columns >= set(OPENAI):
            asked, read = "input.messages", f"chosen: {OPENAI[0]}, rejected: {OPENAI[1]}, objective: helpful"
        extra = "".join(
            f", {name}: {name}" for name in ("system", "history", "weight", "margin") if name in columns
        )
        return (
            "map the columns that matter (a YAML column map with path, and for example "
            f"prompt: {asked}, {read}{extra}; see docs/data.md)"
        )

    return cure


def _done(fields: Fields, left: Left, row: Row) -> Row:
    left.columns(fields, _cure(set(fields.record)))
    return row


# Pairs


def _preferences(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
    columns: tuple[str, str] | None = None
    for fields in records:
        columns = columns or next(pair for pair in CHOSEN if fields.record.keys() >= set(pair))
        prompt, responses = _pair(fields, *columns, left)
        yield _compared(fields, prompt, responses, objective, left)


def _pair(fields: Fields, good: str, bad: str, left: Left) -> tuple[Prompt, tuple[str, str]]:
    where = fields.where
    chosen, rejected = (texts_or_messages(fields.take(column), column, where) for column in (good, bad))
    if isinstance(chosen, str) and isinstance(rejected, str):
        first, second = as_dialogue(chosen), as_dialogue(rejected)
        if first and second:
            chosen, rejected = first, second
        else:
            prompt = prompt_of(fields)
            if prompt is None:
                raise DataError(
                    f"{where}: no column holds the prompt of {good!r} and {bad!r}, found "
                    f"{', '.join(map(repr, fields.record))}; add a 'prompt' column, or write both as dialogues (messages)"
                )
            asked = prompt[-1].content.strip()
            if asked and chosen.startswith(asked) and rejected.startswith(asked):
                left.fact("both responses begin with the prompt, which the model then reads twice", where)
            return prompt, (chosen, rejected)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError(
            f"{where}: columns {good!r} and {bad!r}: one is text, the other messages; use one form"
        )
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    if len(chosen) == len(rejected) == 1 and chosen[0].role == rejected[0].role == "assistant":
        prompt = prompt_of(fields)
        if prompt is None:
            raise DataError(
                f"{where}: columns {good!r} and {bad!r} have no common beginning; add a 'prompt' column"
            )
        return prompt, (chosen[0].content, rejected[0].content)
    given = prompt_of(fields, (chosen, rejected))
    before, answers = parted(chosen, rejected, (good, bad), where)
    if given is None and not before:
        raise DataError(
            f"{where}: columns {good!r} and {bad!r} have no common beginning; add a 'prompt' column"
        )
    return same_beginning(given, before, good, where), answers


def _compared(fields: Fields, prompt: Prompt, responses: tuple[str, str], objective: str, left: Left) -> Row:
    """Return the row of a pair, with the scores, the weight and the margin that stand beside it."""
    where = fields.where
    scores: dict[str, tuple[float, ...]] = {}
    for columns in SCORE_PAIRS:
        if any(fields.get(column) is not None for column in columns) and not scores:
            values = tuple(number_of(fields.take(column), column, where) for column in columns)
            scores[objective] = values
            if values[0] < values[1]:
                left.fact(
                    f"{columns[0]!r} is below {columns[1]!r}; pairs follow the comparison",
                    where,
                )
    if responses[0] == responses[1]:
        left.fact("chosen and rejected are the same text, which makes no pair", where)
    if any(response.strip().lower() in ("nan", "none", "null", "n/a", "<na>") for response in responses):
        left.fact("a response is a word for a missing value, such as nan, and is read as text", where)
    for name in ("generations", "messages"):
        if _repeats(fields, name, prompt, responses):
            fields.read.add(name)
    if "generations" in fields.read and not scores:
        scores = _ratings(fields, objective, responses)
    row = Row(
        prompt,
        responses,
        scores,
        {objective: ((0, 1, 1.0),)},
        source=where,
        weight=fields.optional_number("weight", 1.0),
        margin=fields.optional_number("margin", 0.0),
    )
    return _done(fields, left, row)


def _ratings(fields: Fields, objective: str, responses: tuple[str, str]) -> dict[str, tuple[float, ...]]:
    """Return the scores that a list beside ``generations`` gives to the two responses."""
    texts = fields.record["generations"]
    column = next((name for name in (*RATINGS, *RATING) if isinstance(fields.record.get(name), list)), None)
    if column is None or len(fields.record[column]) != len(texts) or set(texts) != set(responses):
        return {}
    values = dict(zip(texts, fields.take(column), strict=True))
    return {objective: tuple(number_of(values[response], column, fields.where) for response in responses)}


def _repeats(fields: Fields, name: str, prompt: Prompt, responses: tuple[str, str]) -> bool:
    """Return whether an unread column only repeats what is read: the dialogue of one response, or both responses."""
    value = fields.record.get(name)
    if name in fields.read or not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, str) for item in value):
        return set(value) <= set(responses)
    try:
        talk = texts_or_messages(value, name, fields.where)
    except DataError:
        return False
    return not isinstance(talk, str) and talk[-1].content in responses and talk[:-1] in (prompt, prompt[1:])


def _swift(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
    """Read ms-swift's pairs: a dialogue and its other ending, or a query with ``response`` and ``rejected_response``."""
    for fields in records:
        where = fields.where
        if fields.get("rejected_messages") is not None:
            prompt, responses = _pair(fields, "messages", "rejected_messages", left)
        elif "messages" in fields.record:
            prompt, answer = ends_with_answer(fields, "messages")
            responses = (answer, fields.answer("rejected_response"))
        else:
            column = next((name for name in ANSWERS if name in fields.record), "response")
            responses = (fields.answer(column), fields.answer("rejected_response"))
            asked = prompt_of(fields)
            if asked is None:
                raise DataError(f"{where}: no column holds the prompt; add a 'query' column")
            prompt = asked
        yield _compared(fields, prompt, responses, objective, left)


# Several responses, or one, with numbers or flags


def _rated(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
    for fields in records:
        where = fields.where
        texts = next((name for name in LISTS if name in fields.record), LISTS[0])
        numbers = next((name for name in RATINGS if name in fields.record), RATINGS[0])
        responses, values = fields.take(texts), fields.take(numbers)
        for column, value in ((texts, responses), (numbers, values)):
            if not isinstance(value, list):
                raise DataError(
                    f"{where}: column {column!r}: expected a list, one item per response, got {value!r:.60}"
                )
        if len(responses) != len(values):
            raise DataError(
                f"{where}: columns {texts!r} and {numbers!r}: {len(responses)} responses and {len(values)} numbers; give one each"
            )
        prompt = _required(fields)
        row = Row(
            prompt,
            tuple(answer_of(item, f"{texts}[{k}]", where) for k, item in enumerate(responses)),
            {objective: tuple(number_of(value, numbers, where) for value in values)},
            source=where,
        )
        yield _done(fields, left, row)


def _required(fields: Fields) -> Prompt:
    prompt = prompt_of(fields)
    if prompt is None:
        raise DataError(
            f"{fields.where}: column 'prompt' is missing; found {', '.join(map(repr, fields.record)) or 'none'}"
        )
    return prompt


def _answer_column(columns: Collection[str]) -> str:
    """Return the column of a record that holds its one response, alone or after the prompt."""
    return next((name for name in (*ANSWERS, *TALKS) if name in columns), ANSWERS[0])


def _one_answer(fields: Fields, column: str) -> tuple[Prompt, str]:
    """Return the prompt and the one response of a record, which stands in ``column``."""
    if column in TALKS:
        return ends_with_answer(fields, column)
    answer = fields.answer(column)
    return _required(fields), answer


def _judged(
    numbers: tuple[str, ...], value_of: Callable[[object, str, str], float]
) -> Callable[..., Iterator[Row]]:
    """Return the reader of records with one response and a flag or number each, grouped by prompt."""

    def read(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
        groups: dict[Prompt, list[tuple[str, str, float]]] = {}
        text, column = "", ""
        for fields in records:
            where = fields.where
            text = text or _answer_column(fields.record)
            column = column or next((name for name in numbers if name in fields.record), numbers[0])
            value = value_of(fields.take(column), column, where)
            prompt, answer = _one_answer(fields, text)
            row = Row(prompt, (answer,), source=where)  # checked here, where the record is known
            _done(fields, left, row)
            groups.setdefault(row.prompt, []).append((where, row.responses[0], value))
        for prompt, answers in groups.items():
            wheres, responses, scores = zip(*answers, strict=True)
            yield Row(prompt, responses, {objective: scores}, source=wheres[0])

    return read


def _flag(value: object, column: str, where: str) -> float:
    return float(flag_of(value, column, where))


def _demonstrations(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
    text = ""
    for fields in records:
        text = text or _answer_column(fields.record)
        prompt, answer = _one_answer(fields, text)
        yield _done(fields, left, Row(prompt, (answer,), source=fields.where))


def _prompts(records: Iterator[Fields], objective: str, left: Left) -> Iterator[Row]:
    for fields in records:
        fields.take("prompt")
        yield _done(fields, left, Row(_required(fields), (), source=fields.where))


def _any(columns: set[str], names: tuple[str, ...]) -> bool:
    return not columns.isdisjoint(names)


FORMS = (
    Form(lambda c: any(c >= set(pair) for pair in CHOSEN), _preferences, True),
    Form(
        lambda c: _any(c, ("rejected_response", "rejected_messages")) and _any(c, ("messages", *ANSWERS)),
        _swift,
        True,
    ),
    Form(lambda c: _any(c, LISTS) and _any(c, RATINGS) and _any(c, ASKED), _rated, True),
    Form(lambda c: _any(c, FLAGS) and _any(c, (*ANSWERS, *TALKS)), _judged(FLAGS, _flag), True),
    Form(
        lambda c: _any(c, RATING) and _any(c, ANSWERS) and _any(c, (*ASKED, *TALKS)),
        _judged(RATING, number_of),
        True,
    ),
    Form(lambda c: _any(c, ASKED) and _any(c, ANSWERS), _demonstrations, False),
    Form(
        lambda c: _any(c, ("messages", "conversations")) and not _any(c, ("prompt",)), _demonstrations, False
    ),
    Form(lambda c: "prompt" in c, _prompts, False),
)
