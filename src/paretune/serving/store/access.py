"""Access to a store's database: transactions that are on disk when they end, and rows that several kinds of entries need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from paretune.core.errors import StoreError
from paretune.serving.store import tables
from paretune.serving.store.database import PATIENCE, Presence, display_name, explained

SHARED = "default"
"""The profile that everybody may use."""
LARGEST = 2**63 - 1
"""The largest id that a database holds."""


class Access:
    """One database that several threads and several servers can share.

    Raises:
        StoreError: From every method, if the database cannot be used; the message states what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._name = display_name(engine.url)
        # SQLite has one writer at a time, and the others poll; within a process they queue here instead.
        self._turn = threading.BoundedSemaphore(1 if engine.dialect.name == "sqlite" else 2**16)
        self._written = 0
        self._presence = Presence(engine.url)

    def close(self) -> None:
        """Close all connections."""
        self._presence.make_closable()
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection to read with."""
        self._presence.check()
        with explained(self._name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that is committed at the end of the context."""
        written = -1
        while not self._turn.acquire(timeout=PATIENCE):
            if written == self._written:  # nobody has finished in all this time
                raise StoreError(f"{self._name}: too many requests write to the store at once; try again")
            written = self._written
        try:
            self._presence.check()
            with explained(self._name), self._writer.begin() as connection:
                yield connection
            self._presence.check()  # else what was committed may be in a file that is gone
            self._written += 1
        finally:
            self._turn.release()

    @contextmanager
    def sound(self) -> Iterator[None]:
        """Turn the errors of a record that cannot be read into StoreErrors."""
        try:
            yield
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise StoreError(
                f"{self._name}: a record that paretune did not write ({error}); restore a copy of the store"
            ) from error


def find_profile(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    """Return the row of a profile; None where there is none."""
    return connection.execute(sa.select(tables.profiles).where(tables.profiles.c.name == name)).one_or_none()


def made_profile(connection: sa.Connection, name: str, owner: str | None) -> sa.Row[Any]:
    """Return the row of a profile; create it where there is none. The profile ``default`` belongs to nobody."""
    row = find_profile(connection, name)
    if row is None:
        values = {"name": name, "created": now(), "owner": None if name == SHARED else owner}
        insert_or(connection, sa.insert(tables.profiles).values(values))
        row = find_profile(connection, name)
        assert row is not None
    return row


def insert_or(connection: sa.Connection, insert: sa.Insert, instead: sa.Update | None = None) -> None:
    """Insert a row; if another process has inserted it, execute ``instead``."""
    try:
        with connection.begin_nested():
            connection.execute(insert)
    except sa.exc.IntegrityError:
        if instead is not None:
            connection.execute(instead)


def now() -> datetime:
    """Return the time in UTC, as databases keep it."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def utc(stored: Any) -> datetime:
    """Return a time of a database with its zone."""
    assert isinstance(stored, datetime)
    return stored.replace(tzinfo=timezone.utc)
