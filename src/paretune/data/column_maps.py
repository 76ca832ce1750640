"""Records of any columns, by a map that names what each column holds (see `paretune.data.load`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from paretune.core.errors import DataError, suggest
from paretune.data.broken import told_together
from paretune.data.columns import Fields, Records, answer_of, number_of, texts_or_messages
from paretune.data.dataset import ScoredDataset
from paretune.data.formats import UnnamedObjectiveError
from paretune.data.prompts import with_earlier
from paretune.data.row_store import gather
from paretune.data.rows import Comparison, Message, Prompt, Row
from paretune.data.unread import Left

KEYS = (
    "prompt",
    "system",
    "history",
    "responses",
    "chosen",
    "rejected",
    "scores",
    "labels",
    "weight",
    "margin",
)
"""Keys of a source that name columns."""


@dataclass(frozen=True)
class Label:
    """A column that compares the two responses of a record.

    ``values`` has the strength of each of its values, None where a value says that nobody compared them.
    """

    column: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class ColumnMap:
    """What each column holds.

    Attributes:
        prompt, system, history, weight, margin: Names of columns; "" for none but of the prompt.
        responses: One column per response, or the name of one column: a list, an object with a text for each name, or one response
            per record.
        scores: Objective -> a column per response, or the column beside one response or one list.
        labels: Objective -> the column that compares two responses.
        compared: The objective under which the first response is chosen, and the second rejected; "" for none.
    """

    prompt: str
    responses: str | tuple[str, ...]
    scores: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    system: str = ""
    history: str = ""
    weight: str = ""
    margin: str = ""
    compared: str = ""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ColumnMap:
        """Return the map of the keys of a source.

        Raises:
            DataError: A key that does not hold what it should; the message names it.
        """
        for key in ("prompt", "system", "history", "weight", "margin", "chosen", "rejected", "objective"):
            if key in given and not (isinstance(given[key], str) and given[key]):
                raise DataError(
                    f"data: {key}: expected the name of a column, got {given[key]!r:.60}{_yes(given[key])}"
                )
        names = {key: str(given.get(key, "")) for key in ("prompt", "system", "history", "weight", "margin")}
        if not names["prompt"]:
            raise DataError("data: a column map needs 'prompt', the column with the prompt")
        compared, responses = "", given.get("responses")
        if "chosen" in given or "rejected" in given:
            if "chosen" not in given or "rejected" not in given or responses is not None:
                raise DataError("data: chosen and rejected: expected both, in place of responses")
            if "objective" not in given:
                raise UnnamedObjectiveError(
                    "data: chosen and rejected compare under one objective; name it, as in objective: helpful"
                )
            compared, responses = str(given["objective"]), [given["chosen"], given["rejected"]]
        texts = _responses(responses)
        if isinstance(texts, tuple) and len(set(texts)) < len(texts):
            raise DataError(
                f"data: the responses are the columns {', '.join(texts)}; expected each column once"
            )
        if names["prompt"] in ((texts,) if isinstance(texts, str) else texts):
            raise DataError(
                f"data: the column {names['prompt']!r} is the prompt, and a response too; name another column for one of them"
            )
        scores = {
            _named("scores", name): _scores(name, columns, texts)
            for name, columns in _mapping("scores", given)
        }
        labels = {_named("labels", name): _stated(name, stated) for name, stated in _mapping("labels", given)}
        if (scores or labels) and not texts:
            raise DataError("data: scores and labels belong to responses; name their columns under responses")
        if labels and isinstance(texts, tuple) and len(texts) != 2:
            raise DataError(f"data: labels compare two responses, and 'responses' names {len(texts)} columns")
        return cls(responses=texts, scores=scores, labels=labels, compared=compared, **names)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives, in order."""
        return tuple(dict.fromkeys((*self.scores, *self.labels, *([self.compared] if self.compared else []))))


def _yes(value: object) -> str:
    return (
        "; YAML reads yes, no, on and off as true and false: write it in quotes"
        if isinstance(value, bool)
        else ""
    )


def _mapping(key: str, given: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    value = given.get(key)
    if value is None:
        return []
    if not isinstance(value, Mapping):
        shape = "[helpful_a, helpful_b]" if key == "scores" else "{column: winner, values: {a: 1, b: -1}}"
        raise DataError(f"data: {key}: expected {{objective: {shape}}}, got {value!r:.60}")
    return list(value.items())


def _named(key: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise DataError(f"data: {key}.{name}: expected the name of an objective, got {name!r}{_yes(name)}")
    return name


def _responses(value: object) -> str | tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise DataError(f"data: responses: expected the name of a column, or a list of names, got {value!r:.60}")


def _scores(name: object, value: object, texts: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(texts, str):
        if isinstance(value, str) and value:
            return value
        raise DataError(f"data: scores.{name}: expected the column beside {texts!r}, got {value!r:.60}")
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(column, str) for column in value):
        raise DataError(f"data: scores.{name}: expected a column per response, got {value!r:.60}")
    if len(value) != len(texts):
        raise DataError(
            f"data: scores.{name}: {len(value)} columns for {len(texts)} responses; name one each"
        )
    return tuple(value)


def _stated(name: object, stated: object) -> Label:
    shape = f"data: labels.{name}: expected {{column: ..., values: {{value: p}}}}, got {stated!r:.60}"
    if not isinstance(stated, Mapping) or set(stated) != {"column", "values"}:
        raise DataError(shape)
    column, values = stated["column"], stated["values"]
    if not isinstance(column, str) or not isinstance(values, Mapping) or not values:
        raise DataError(shape)
    meaning: dict[str, float | None] = {}
    for value, p in values.items():
        if p is not None and (isinstance(p, bool) or not isinstance(p, Real) or not -1 <= float(p) <= 1):
            raise DataError(
                f"data: labels.{name}.values.{value}: expected a number from -1 (the second response is preferred) to 1 (the "
                f"first), or null (they were not compared), got {p!r:.40}"
            )
        strength = None if p is None else float(p)
        spelt = _spelt(value)
        if meaning.get(spelt, strength) != strength:
            raise DataError(
                f"data: labels.{name}.values: {spelt!r} stands twice, with different numbers; keep one of them"
            )
        also = (
            {True: ("yes", "on"), False: ("no", "off")}[value] if isinstance(value, bool) else ()
        )  # as YAML reads them
        meaning |= {word: strength for word in (spelt, *also) if word == spelt or word not in meaning}
    return Label(column, meaning)


def _spelt(value: object) -> str:
    """Return a value of a map or of a column as one spelling: 1 and 1.0 are one value, True and "true" too."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and float(value).is_integer()
    ):
        return str(int(float(value)))
    return str(value).strip().lower()


def read_mapped(records: Records, columns: ColumnMap, ignored: Collection[str] = ()) -> ScoredDataset:
    """Read records by a map of columns; columns that it does not name are counted in the notes, but for those ``ignored``."""
    left = Left()
    if ignored:
        records = (
            (where, {name: value for name, value in record.items() if name not in ignored})
            for where, record in records
        )
    rows = gather(told_together(lambda stream: _mapped(stream, columns, left), records))
    return ScoredDataset(columns.objectives, rows, left.notes())


def _mapped(records: Records, columns: ColumnMap, left: Left) -> Iterator[Row]:
    groups: dict[Prompt, list[tuple[str, str, dict[str, float]]]] = {}
    # A record may lack one of these; a source in which none has it was meant otherwise.
    unseen = {columns.system, columns.history, columns.weight, columns.margin} - {""}
    where = ""
    record: dict[str, Any] = {}
    for where, record in records:
        fields = Fields(where, record)
        unseen = {column for column in unseen if not fields.has(column)}
        asked = texts_or_messages(fields.take(columns.prompt), columns.prompt, where)
        prompt = with_earlier(
            fields,
            (Message("user", asked),) if isinstance(asked, str) else asked,
            columns.history,
            (columns.system,),
        )
        texts, names = _texts(fields, columns.responses)
        weight = fields.optional_number(columns.weight, 1.0) if columns.weight else 1.0
        margin = fields.optional_number(columns.margin, 0.0) if columns.margin else 0.0
        single = isinstance(texts, str)
        row = Row(
            prompt,
            (texts,) if isinstance(texts, str) else tuple(texts),
            {name: _numbers(fields, column, single, names) for name, column in columns.scores.items()},
            _labels(fields, columns, single, len(texts)),
            source=where,
            weight=weight,
            margin=margin,
        )
        left.columns(fields, None)
        if not single:
            yield row
            continue
        if columns.weight or columns.margin:
            raise DataError(
                f"{where}: weight and margin belong to a pair of responses; here each record has one response"
            )
        numbers = {name: row.scores.get(name, (math.nan,))[0] for name in columns.scores}
        groups.setdefault(row.prompt, []).append((where, row.responses[0], numbers))
    if record and unseen:
        found = ", ".join(map(repr, record))
        raise DataError(
            f"{where}: no record has the column {min(unseen)!r} that the map names; found {found}; correct the name, or take it "
            "out of the map"
        )
    for prompt, answers in groups.items():
        wheres, responses, numbers_K = zip(*answers, strict=True)
        scores = {name: tuple(n[name] for n in numbers_K) for name in columns.scores}
        yield Row(prompt, responses, scores, source=wheres[0])


def _texts(
    fields: Fields, wanted: str | tuple[str, ...]
) -> tuple[str | Sequence[str], tuple[str, ...] | None]:
    """Return the response of a record, or its responses; and their names, where the column holds an object of named ones."""
    where = fields.where
    if not isinstance(wanted, str):
        return [answer_of(fields.take(column), column, where) for column in wanted], None
    value = fields.take(wanted)
    if isinstance(value, list):
        return [answer_of(item, f"{wanted}[{k}]", where) for k, item in enumerate(value)], None
    if isinstance(value, dict) and not {"role", "content"} <= set(value):
        named = {
            str(name): text for name, text in value.items() if text is not None
        }  # Parquet has null for what is not there
        if not named:
            raise DataError(f"{where}: column {wanted!r}: no response in it; leave the record out")
        return [answer_of(text, f"{wanted}.{name}", where) for name, text in named.items()], tuple(named)
    if not isinstance(value, str | dict):
        raise DataError(
            f"{where}: column {wanted!r}: expected text, a list of texts or an object of texts, got {value!r:.60}"
        )
    return answer_of(value, wanted, where), None


def _numbers(
    fields: Fields, columns: str | tuple[str, ...], single: bool, names: tuple[str, ...] | None
) -> tuple[float, ...]:
    where = fields.where
    if not isinstance(columns, str):
        return tuple(number_of(fields.take(column), column, where) for column in columns)
    value = fields.take(columns)
    if single:
        return (number_of(value, columns, where),)
    if isinstance(value, dict) and names is not None:
        strange = [name for name, number in value.items() if name not in names and number is not None]
        if strange:
            raise DataError(
                f"{where}: column {columns!r}: a score of {strange[0]!r}, which is no response; there are {', '.join(names)}"
            )
        return tuple(number_of(value.get(name), f"{columns}.{name}", where) for name in names)
    if not isinstance(value, list):
        raise DataError(f"{where}: column {columns!r}: expected one number per response, got {value!r:.60}")
    return tuple(number_of(item, columns, where) for item in value)


def _labels(
    fields: Fields, columns: ColumnMap, single: bool, count: int
) -> dict[str, tuple[Comparison, ...]]:
    if single and columns.labels:
        raise DataError(
            f"{fields.where}: 'labels' compare two responses of one record; here each record has one"
        )
    labels = {name: _label(fields, stated, count) for name, stated in columns.labels.items()}
    return {columns.compared: ((0, 1, 1.0),), **labels} if columns.compared else labels


def _label(fields: Fields, stated: Label, count: int) -> tuple[Comparison, ...]:
    cell = fields.take(stated.column)
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return ()
    if count != 2:
        raise DataError(
            f"{fields.where}: column {stated.column!r}: compares two responses, this record has {count}"
        )
    spelt = _spelt(cell)
    if spelt not in stated.values:
        raise DataError(
            f"{fields.where}: column {stated.column!r}: value {cell!r:.60} is not in the map; "
            f"{suggest(str(cell)[:60], stated.values)}; correct it, or give it a number in the map (null: not compared)"
        )
    p = stated.values[spelt]
    return () if p is None else ((0, 1, p),)
