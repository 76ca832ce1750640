"""The one table: rows over the same objectives; read, written, split by prompt and identified by content."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from paretune.core.errors import DataError, PreferenceError, suggest
from paretune.core.files import fingerprint_of, new_file
from paretune.core.preference import Preference
from paretune.data.broken import told_together
from paretune.data.readers import (
    Record,
    read_records,
    suffix_of,
    unflatten,
    write_csv,
    write_jsonl,
    write_parquet,
)
from paretune.data.row_store import ArrowRows, changed, gather, taken
from paretune.data.rows import Row, row_from_record, row_to_record

WRITABLE = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


@dataclass(frozen=True)
class ScoredDataset:
    """Rows over M named objectives, in order.

    ``rows`` is a tuple, or for data beyond what memory should hold a `paretune.data.row_store.ArrowRows`: iterate over them once
    rather than keep them. ``notes`` say what reading left out, a sentence each.

    Raises:
        DataError: An objective named twice, one that a preference could not name, or one used by a row but
            not listed.
    """

    objectives: tuple[str, ...]
    rows: Sequence[Row]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if not isinstance(self.rows, ArrowRows):
            object.__setattr__(self, "rows", tuple(self.rows))
        if self.objectives:
            try:
                Preference.uniform(self.objectives)
            except PreferenceError as error:
                raise DataError(f"objectives {', '.join(map(repr, self.objectives))}: {error}") from error
        known = set(self.objectives)
        if isinstance(self.rows, ArrowRows) and self.rows.names <= known:
            return
        for row in self.rows:
            for name in (*row.scores, *row.labels):
                if name not in known:
                    where = row.source or "row"
                    raise DataError(f"{where}: unknown objective {name!r}; {suggest(name, self.objectives)}")

    def matrix(self, row: Row) -> np.ndarray:
        """Return the scores of a row, [K, M] float64, higher is better, NaN for missing."""
        matrix = np.full((len(row.responses), len(self.objectives)), np.nan)
        for column, name in enumerate(self.objectives):
            if name in row.scores:
                matrix[:, column] = row.scores[name]
        return matrix

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify objectives and rows, in order, whatever file they came from."""
        return fingerprint_of(chain([list(self.objectives)], (row.fingerprint for row in self.rows)))

    @classmethod
    def read(cls, path: str | Path, objectives: Sequence[str] | None = None) -> ScoredDataset:
        """Read a file in the canonical form (see the module); its suffix decides how.

        Without ``objectives`` the file's own, in order of first appearance; with them exactly these, in this
        order.

        Raises:
            DataError: What is wrong, with ``file:line`` and the column.
        """
        dataset = from_records(read_records(path), flat=suffix_of(path).startswith(".csv"))
        if not dataset.rows:
            raise DataError(f"{path}: no rows; expected at least one prompt")
        return dataset if objectives is None else dataset.select(objectives)

    def write(self, path: str | Path) -> None:
        """Write the canonical form, atomically: ``.jsonl``, ``.jsonl.gz``, ``.parquet`` or ``.csv``.

        Raises:
            DataError: Another suffix, or no rows.
        """
        suffix = _writable(path)
        if not self.rows:
            raise DataError(f"{path}: no rows to write")
        if suffix == ".parquet":
            write_parquet(path, to_records(self), self.objectives)
        elif suffix == ".csv":
            widest, weighted, offset = 0, False, False
            for row in self.rows:
                widest = max(widest, len(row.responses))
                weighted, offset = weighted or row.weight != 1, offset or row.margin != 0
            beside = [name for name, stated in (("weight", weighted), ("margin", offset)) if stated]
            write_csv(path, to_records(self), self.objectives, widest, beside)
        else:
            write_jsonl(path, to_records(self))

    def split(self, fractions: Mapping[str, float], seed: int = 0) -> dict[str, ScoredDataset]:
        """Split by prompt into named parts, each of about its fraction of the keys.

        A key's place in [0, 1) is a hash of seed and key, so all rows of one prompt fall into one part and
        adding rows never moves others. Fractions summing to less than 1 leave the rest out.

        Raises:
            DataError: A fraction not in (0, 1], a sum above 1, or a part that came out empty.
        """
        total = math.fsum(fractions.values())
        stated = ", ".join(f"{name}={fraction:g}" for name, fraction in fractions.items())
        if not fractions or total > 1 + 1e-9 or not all(0 < fraction <= 1 for fraction in fractions.values()):
            raise DataError(f"split {stated or '(none)'}: expected fractions above 0 with a sum of at most 1")
        edges = np.cumsum(list(fractions.values()))
        if abs(total - 1) <= 1e-9:
            edges[-1] = 1.0  # rounding must not lose the last keys
        parts = {name: array("q") for name in fractions}
        for number, row in enumerate(self.rows):
            part = int(np.searchsorted(edges, _place(row.key, seed), side="right"))
            if part < len(edges):
                parts[list(fractions)[part]].append(number)
        for name, places in parts.items():
            if not places:
                prompts = len({row.key for row in self.rows})
                raise DataError(
                    f"split {stated}: part {name!r} is empty with {prompts} different prompts; "
                    "add data, or give it a larger fraction"
                )
        return {
            name: ScoredDataset(self.objectives, taken(self.rows, np.array(places)), self.notes)
            for name, places in parts.items()
        }

    def with_scores(self, objective: str, scores: Sequence[Sequence[float]]) -> ScoredDataset:
        """Return the data with an objective's scores set: a list of K numbers per row, NaN for missing.

        A new objective comes last; the scores of one already there are replaced.

        Raises:
            DataError: A wrong number of lists or of scores, or an infinite score.
        """
        if len(scores) != len(self.rows):
            raise DataError(
                f"objective {objective!r}: scores for {len(scores)} rows, the data set has {len(self.rows)}"
            )
        rows = gather(
            replace(row, scores={**row.scores, objective: tuple(values)})
            for row, values in zip(self.rows, scores, strict=True)
        )
        objectives = self.objectives if objective in self.objectives else (*self.objectives, objective)
        return ScoredDataset(objectives, rows, self.notes)

    def select(self, objectives: Sequence[str]) -> ScoredDataset:
        """Return the data with these objectives only, in this order; all rows stay.

        Raises:
            DataError: An objective the data does not have.
        """
        for name in objectives:
            if name not in self.objectives:
                raise DataError(f"unknown objective {name!r}; {suggest(name, self.objectives)}")

        def only(row: Row) -> Row:
            return replace(
                row,
                scores={name: row.scores[name] for name in objectives if name in row.scores},
                labels={name: row.labels[name] for name in objectives if name in row.labels},
            )

        return ScoredDataset(tuple(objectives), changed(self.rows, only, objectives), self.notes)

    def distinct(self) -> np.ndarray:
        """Return the places ``[n]``, in order, of the rows whose prompt (case and white space folded) came not before."""
        keys = np.fromiter((int(row.key, 16) for row in self.rows), np.uint64, len(self.rows))
        return np.sort(np.unique(keys, return_index=True)[1])


def concatenate(datasets: Iterable[ScoredDataset]) -> ScoredDataset:
    """Return all rows in order over the union of the objectives; rows with equal prompts stay apart."""
    stream = iter(datasets)
    first, second = next(stream, None), next(stream, None)
    if first is None or second is None:
        return first or ScoredDataset((), ())
    objectives: dict[str, None] = {}
    notes: dict[str, None] = {}

    def rows() -> Iterator[Row]:
        for dataset in chain([first, second], stream):
            objectives.update(dict.fromkeys(dataset.objectives))
            notes.update(dict.fromkeys(dataset.notes))
            yield from dataset.rows

    together = gather(rows())
    return ScoredDataset(tuple(objectives), together, tuple(notes))


def _place(key: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") / 2**48


def _writable(path: str | Path) -> str:
    """Return the suffix of a file that data can be written to, or raise a DataError."""
    suffix = suffix_of(path)
    if suffix not in WRITABLE:
        raise DataError(
            f"{path}: unknown file type {suffix!r}; expected a name ending in one of {', '.join(WRITABLE)}"
        )
    return suffix


def new_data_file(path: str | Path, what: str) -> None:
    """Check, before any work, that :meth:`ScoredDataset.write` can write a new file there.

    Raises:
        DataError: Data are not written to files of this suffix.
        ParetuneError: Something lies there already; ``what`` says what was to be written.
    """
    new_file(path, what)
    _writable(path)


def to_records(dataset: ScoredDataset) -> Iterator[Record]:
    """Yield the canonical records; the first names every objective, in order, for reading to find them."""
    for position, row in enumerate(dataset.rows):
        record = row_to_record(row)
        scores = record["scores"]
        missing = [None] * len(row.responses)
        record["scores"] = {
            n: scores.get(n, missing) for n in dataset.objectives if n in scores or position == 0
        }
        yield record


def from_records(records: Iterable[tuple[str, Record]], flat: bool = False) -> ScoredDataset:
    """Return the data set of ``(where, record)`` in canonical form (``flat``: as CSV cells)."""
    objectives: dict[str, None] = {}

    def rows(stream: Iterable[tuple[str, Record]]) -> Iterator[Row]:
        for where, cells in stream:
            record = unflatten(cells, where) if flat else cells
            row = row_from_record(record, where)
            for column in ("scores", "labels"):
                objectives.update(dict.fromkeys(record.get(column) or {}))
            yield row

    gathered = gather(told_together(rows, records))
    return ScoredDataset(tuple(objectives), gathered)
