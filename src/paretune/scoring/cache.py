"""Scores, and answers of judges, on disk by content: a text is scored once, whichever file it comes from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import ScoreError

_PER_QUERY = 500  # SQLite allows 999 parameters in older builds


class ScoreCache:
    """A map from content keys to finite scores in one SQLite file, safe for several processes and against a kill.

    Every call opens its own connection, so threads can share an object, and it survives a fork.

    Raises:
        ScoreError: The file is damaged, is not a score cache or cannot be written; the message names it and the cure.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table = _Table(self.path, 0x70746E73, "score cache", "REAL", "the scores are computed again")
        with self._table.connection():
            pass

    def get(self, keys: Sequence[str]) -> dict[str, float]:
        """Return the known scores of ``keys``; unknown keys are absent."""
        return self._table.get(keys)

    def put(self, scores: Mapping[str, float]) -> None:
        """Store finite scores in one transaction: all of them or none."""
        self._table.put(scores)

    def __len__(self) -> int:
        return self._table.count()


class AnswerCache:
    """A map from content keys to answers of judges, as JSON texts; else as :class:`ScoreCache`.

    Raises:
        ScoreError: See there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table = _Table(self.path, 0x70746E61, "cache of answers", "TEXT", "the answers are asked again")

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the known answers of ``keys``; unknown keys are absent."""
        return self._table.get(keys)

    def put(self, answers: Mapping[str, str]) -> None:
        """Store answers in one transaction: all of them or none."""
        self._table.put(answers)

    def __len__(self) -> int:
        return self._table.count()


@dataclass(frozen=True)
class _Table:
    """The one table of a file.

    Attributes:
        path: The file.
        owner: Number in the header of the SQLite file: a database of another program is never written to.
        what: What the file is, in words of a message.
        kind: SQLite's type of the values.
        lost: What happens where the file is deleted.
    """

    path: Path
    owner: int
    what: str
    kind: str
    lost: str
    version: int = 1

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with self.connection() as connection:
            for start in range(0, len(keys), _PER_QUERY):
                part = list(keys[start : start + _PER_QUERY])
                marks = ",".join("?" * len(part))
                found.update(
                    connection.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", part)
                )
        return found

    def put(self, values: Mapping[str, Any]) -> None:
        with self.connection() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", list(values.items()))

    def count(self) -> int:
        with self.connection() as connection:
            return int(connection.execute("SELECT count(*) FROM scores").fetchone()[0])

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60.0)
            self._prepare(connection)
            yield connection
        except sqlite3.OperationalError as error:
            raise ScoreError(
                f"{self.path}: the {self.what} cannot be used ({error}); {_cure(str(error))}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ScoreError(
                f"{self.path}: the {self.what} is damaged ({error}); delete the file (and the one beside "
                f"it ending in -journal): {self.lost}"
            ) from error
        except OSError as error:
            raise ScoreError(
                f"{self.path}: the {self.what} cannot be created ({error.strerror or error})"
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _check(self, connection: sqlite3.Connection) -> None:
        """Check a file of an earlier process once.

        Raises:
            sqlite3.DatabaseError: It is damaged.
        """
        if self.path not in _CHECKED:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            if found != "ok":
                raise sqlite3.DatabaseError(" ".join(found.split()))
            _CHECKED.add(self.path)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        ours = (self.owner, self.version)
        if _mark(connection) == ours:
            self._check(connection)
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # from here on no other process can create the table
            owner, version = _mark(connection)
            if (owner, version) == ours:
                return
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ScoreError(
                    f"{self.path}: not a {self.what} of this version (expected id {self.owner:#x}, "
                    f"version {self.version}; found {owner:#x}, {version}); name another file, or delete this one"
                )
            connection.execute(
                f"CREATE TABLE scores (key TEXT PRIMARY KEY, value {self.kind} NOT NULL) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA application_id = {self.owner}")
            connection.execute(f"PRAGMA user_version = {self.version}")


_CHECKED: set[Path] = set()
"""Files that this process has found whole: a damaged tree of keys is no error of SQLite's, but keys are not found in it."""


def _mark(connection: sqlite3.Connection) -> tuple[int, int]:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    return owner, connection.execute("PRAGMA user_version").fetchone()[0]


def _cure(reason: str) -> str:
    if "locked" in reason:
        return "another process has locked it for a minute: wait for it, or name another file"
    if "full" in reason:
        return "free some disk space and run the command again: finished scores are kept"
    return "check that the folder exists and can be written, or name another file"
