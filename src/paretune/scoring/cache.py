"""Scores on disk by content: a text is scored once, whichever file it comes from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from paretune.core.errors import ScoreError

_APPLICATION_ID = (
    0x70746E73  # "ptns", in the header of the SQLite file: a database of another program is never written to
)
_VERSION = 1
_PER_QUERY = 500  # SQLite allows 999 parameters in older builds


class ScoreCache:
    """A map from content keys to finite scores in one SQLite file, safe for several processes and against a kill.

    Every call opens its own connection, so threads can share an object, and it survives a fork.

    Raises:
        ScoreError: The file is damaged, is not a score cache or cannot be written; the message names it and the cure.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._connection():
            pass

    def get(self, keys: Sequence[str]) -> dict[str, float]:
        """Return the known scores of ``keys``; unknown keys are absent."""
        scores: dict[str, float] = {}
        with self._connection() as connection:
            for start in range(0, len(keys), _PER_QUERY):
                part = list(keys[start : start + _PER_QUERY])
                marks = ",".join("?" * len(part))
                scores.update(
                    connection.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", part)
                )
        return scores

    def put(self, scores: Mapping[str, float]) -> None:
        """Store finite scores in one transaction: all of them or none."""
        with self._connection() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", list(scores.items()))

    def __len__(self) -> int:
        with self._connection() as connection:
            return int(connection.execute("SELECT count(*) FROM scores").fetchone()[0])

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60.0)
            self._prepare(connection)
            yield connection
        except sqlite3.OperationalError as error:
            raise ScoreError(
                f"{self.path}: the score cache cannot be used ({error}); {_cure(str(error))}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ScoreError(
                f"{self.path}: the score cache is damaged ({error}); delete the file (and the one beside "
                f"it ending in -journal): the scores are computed again"
            ) from error
        except OSError as error:
            raise ScoreError(
                f"{self.path}: the score cache cannot be created ({error.strerror or error})"
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        ours = (_APPLICATION_ID, _VERSION)
        if _mark(connection) == ours:
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # from here on no other process can create the table
            owner, version = _mark(connection)
            if (owner, version) == ours:
                return
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ScoreError(
                    f"{self.path}: not a score cache of this version (expected id {_APPLICATION_ID:#x}, "
                    f"version {_VERSION}; found {owner:#x}, {version}); name another file, or delete this one"
                )
            connection.execute(
                "CREATE TABLE scores (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID"
            )
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _mark(connection: sqlite3.Connection) -> tuple[int, int]:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    return owner, connection.execute("PRAGMA user_version").fetchone()[0]


def _cure(reason: str) -> str:
    if "locked" in reason:
        return "another process has locked it for a minute: wait for it, or name another file"
    if "full" in reason:
        return "free some disk space and run the command again: finished scores are kept"
    return "check that the folder exists and can be written, or name another file"
