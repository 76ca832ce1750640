"""Records of any tool as a table of scores: which column says what, and every mistake by file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.core.errors import ConfigError, DataError, ParetuneError, suggest
from paretune.core.numbers import number_in
from paretune.core.preference import Preference
from paretune.fronts.score_table import BASE, CORNERS, SEED_MARK, ScoreRow, ScoreTable

ROLES = ("policy", "preference", "prompt", "sample", "seed", "scorer", "scores")
"""What a column may say beside the score on an objective."""
WEIGHT = "weight_"
"""What begins the name of a column with the weight on one objective, such as ``weight_warm``."""
LARGEST = 1e30
"""The largest size of a score, beyond which squares are not finite."""
_MOST_NAMED = 6


def read_table(
    records: Any,
    columns: Mapping[str, str] | None = None,
    objectives: Sequence[str] | None = None,
    unseeded: Sequence[str] = (BASE, CORNERS),
) -> ScoreTable:
    """Return records as a table of scores.

    A record is a mapping with the columns ``policy``, ``prompt``, ``preference`` (objective -> weight, as an object or as text such
    as ``warm=0.7,concise=0.3``; or one column ``weight_OBJECTIVE`` for each), one column for the score on each objective (or an
    object ``scores``), and, where there are any, ``sample`` (which of several answers), ``seed`` (the training seed), ``scorer``.

    Args:
        records: Records, or ``(where, record)`` pairs, where ``where`` is ``file:line``; or a data frame of pandas, or a
            data set of the ``datasets`` library.
        columns: Role or objective -> the name of its column in ``records``.
        objectives: The M objectives; by default those that preferences, ``scores`` or ``weight_`` columns name.
        unseeded: Policies whose training seeds count as answers, such as the base model, which has none.

    Raises:
        DataError: A column is missing, or a value is not what its column holds; the message begins with ``where``.
        ConfigError: ``columns`` names a role or column that is not there.
    """
    pairs = list(_pairs(records))
    if not pairs:
        raise DataError("no row of scores; expected one row for each answer")
    form = _Form.of(pairs, dict(columns or {}), objectives)
    rows = [form.row(where, record) for where, record in pairs]
    seeds: dict[str, set[str]] = {}
    for row, seed in rows:
        seeds.setdefault(row.policy, set()).add(seed)
    return ScoreTable(
        form.objectives,
        [_seeded(row, seed, seeds[row.policy], row.policy in unseeded) for row, seed in rows],
        form.notes,
    )


def _pairs(records: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yield ``(where, record)`` of records, pairs or a data frame."""
    if isinstance(records, Mapping):
        raise DataError("a table of scores: got one mapping, expected a list of them, one for each answer")
    framed = hasattr(records, "to_dict") and hasattr(
        records, "iterrows"
    )  # a data set of Python has the first alone
    for number, entry in enumerate(records.to_dict("records") if framed else records, start=1):
        where, record = entry if isinstance(entry, tuple) and len(entry) == 2 else (f"row {number}", entry)
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: {record!r:.60} is no row; expected a mapping of columns to values")
        yield where, record


def _seeded(row: ScoreRow, seed: str, seeds: set[str], unseeded: bool) -> ScoreRow:
    """Return a row whose policy has the training seed in its name, where its policy has several."""
    name, sample = row.policy, row.sample
    if unseeded and seed:
        sample = f"{seed}/{sample}"
    elif len(seeds) > 1:
        if not seed.isdigit():
            raise DataError(
                f"{row.where}: column 'seed': {seed!r}; policy {name!r} has several seeds, so each needs a whole number from 0"
            )
        name = f"{name}{SEED_MARK}{seed}"
    return ScoreRow(name, row.preference, row.prompt, sample, row.scores, row.scorer, row.where)


@dataclass(frozen=True)
class _Form:
    """Which column of a table says what: ``columns`` has role or objective -> column."""

    columns: Mapping[str, str]
    objectives: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[str, Mapping[str, Any]]],
        columns: dict[str, str],
        objectives: Sequence[str] | None,
    ) -> _Form:
        names = list(dict.fromkeys(str(name) for _, record in pairs for name in record))
        for role, column in columns.items():
            if column not in names:
                raise ConfigError(
                    f"column {role}={column}: no column {column!r} in {pairs[0][0]}; {suggest(column, names)}"
                )
        columns = {role: role for role in ROLES if role in names and role not in columns} | columns
        for role in ("policy", "prompt"):
            if role not in columns:
                raise DataError(
                    f"{pairs[0][0]}: no column {role!r}; the columns are {_named(names)}. Name the one that says it: "
                    f"--column {role}=NAME"
                )
        found = tuple(objectives or _objectives(pairs, columns, names))
        if len(found) < 2:
            raise DataError(
                f"{pairs[0][0]}: {len(found)} objectives ({', '.join(found) or 'none'}) among the columns {_named(names)}; a front "
                "has at least two. Preferences name them, or --objectives a,b"
            )
        stray = [role for role in columns if role not in (*ROLES, *found)]
        if stray:
            raise ConfigError(f"column {stray[0]}={columns[stray[0]]}: {suggest(stray[0], [*ROLES, *found])}")
        columns |= {name: name for name in found if name in names and name not in columns}
        read = {*columns.values(), *(f"{WEIGHT}{name}" for name in found)}
        unread = [name for name in names if name not in read]
        notes = (f"not read: the column{'s' * (len(unread) > 1)} {_named(unread)}",) if unread else ()
        return cls(columns, found, notes)

    def row(self, where: str, record: Mapping[str, Any]) -> tuple[ScoreRow, str]:
        """Return a row and its training seed."""

        def text(role: str) -> str:
            value = record.get(self.columns.get(role, role)) if role in self.columns else None
            return "" if value is None or value != value else _text(value)

        for role in ("policy", "prompt"):
            if not text(role):
                raise DataError(f"{where}: column {self.columns[role]!r}: empty; expected the {role}")
        seed = text("seed").removesuffix(".0")
        scores = tuple(self._score(where, record, objective) for objective in self.objectives)
        preference = self._preference(where, record)
        row = ScoreRow(
            text("policy"), preference, text("prompt"), text("sample"), scores, text("scorer"), where
        )
        return row, seed

    def _score(self, where: str, record: Mapping[str, Any], objective: str) -> float:
        column, table = self.columns.get(objective), _value(record.get(self.columns.get("scores", "")))
        if column is not None and column in record:
            value = record[column]
        elif isinstance(table, Mapping) and objective in table:
            column, value = f"scores.{objective}", table[objective]
        else:
            raise DataError(
                f"{where}: no score on {objective!r}; its columns are {_named(list(record))}. Score every answer on every "
                f"objective, or name the column: --column {objective}=NAME"
            )
        return _number(value, f"{where}: column {column!r}")

    def _preference(self, where: str, record: Mapping[str, Any]) -> Preference | None:
        """Return the preference of a row over all objectives, None where it has none."""
        column = self.columns.get("preference")
        value = _value(record.get(column)) if column else None
        if column is None or value is None or value == "" or value != value:
            weights = {n: record.get(f"{WEIGHT}{n}") for n in self.objectives}
            given = {n: w for n, w in weights.items() if w is not None and w != "" and w == w}
            if not given:
                return None
            value = {n: _number(w, f"{where}: column {f'{WEIGHT}{n}'!r}") for n, w in given.items()}
        try:
            if isinstance(value, str):
                return Preference.parse(value, self.objectives, allow_extrapolation=True)
            if isinstance(value, Mapping):
                stated = {n: w for n, w in value.items() if w is not None}
                return Preference.of(stated, self.objectives, allow_extrapolation=True)
            weights_ = tuple(value)
            return Preference(self.objectives, weights_, allow_extrapolation=True)
        except (ParetuneError, TypeError) as error:
            raise DataError(
                f"{where}: column {column or WEIGHT + self.objectives[0]!r}: {value!r:.80} is no preference ({error}); expected "
                f"weights on {', '.join(self.objectives)} with sum 1, as {_example(self.objectives)}"
            ) from error


def _objectives(
    pairs: Sequence[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str], names: Sequence[str]
) -> list[str]:
    """Return the objectives that preferences, ``weight_`` columns, the objects ``scores`` or the columns given by hand name."""
    found: dict[str, None] = {}
    for _, record in pairs:
        for role in ("scores", "preference"):
            value = _value(record.get(columns[role])) if role in columns else None
            if isinstance(value, Mapping):
                found |= dict.fromkeys(map(str, value))
            elif isinstance(value, str) and "=" in value:
                found |= dict.fromkeys(part.partition("=")[0].strip() for part in value.split(","))
    found |= dict.fromkeys(name.removeprefix(WEIGHT) for name in names if name.startswith(WEIGHT))
    return list(found) or [role for role in columns if role not in ROLES]


def _value(value: Any) -> Any:
    """Return an object or a list that stands in a cell as JSON text; anything else as it is."""
    if isinstance(value, str) and value[:1] in "{[" and value:
        try:
            return json.loads(value)
        except ValueError:
            return str(value)
    return str(value) if isinstance(value, str) else value


def _number(value: Any, place: str) -> float:
    """Return a score or weight; anything that is no finite number is a DataError."""
    missing = value is None or value == "" or str(value) in ("NaN", "Infinity", "-Infinity")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = math.nan if missing else number_in(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        raise DataError(f"{place}: {value!r:.60} is no number") from None
    if not math.isfinite(number) or abs(number) > LARGEST:
        given = "empty" if value is None or value == "" else str(value)
        raise DataError(
            f"{place}: {given:.60}; expected a finite number. Score every answer, or leave the prompt out of all policies"
        )
    return number


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value).strip()
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _example(objectives: Sequence[str]) -> str:
    return f"{objectives[0]}=0.7,{objectives[1]}=0.3"
