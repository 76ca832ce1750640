"""Opening the database of a store: SQLite or any SQLAlchemy URL, migrated to the newest schema; each error names its cure."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from paretune.core.errors import StoreError

PATIENCE = 30.0
"""Seconds that a writer waits for one other to finish, or for a free connection, before an error."""
POLL = (0.002, 0.02)
"""Seconds between two tries to write; random, so that everybody who waits has the same chance."""

VERSION_TABLE = "paretune_schema"
MIGRATIONS = Path(str(files("paretune.serving.store") / "migrations"))

_MOST_CONNECTIONS = 40  # the threads in which FastAPI runs blocking work
_MIGRATION_LOCK = 0x7061726574756E65  # "paretune", the key of PostgreSQL's advisory lock
_migrating = threading.Lock()  # Alembic's context is one for the whole process


class StoreGoneError(StoreError):
    """The files of a store were deleted, replaced or cut while it was in use."""


def open_engine(url: str, create: bool = True) -> sa.Engine:
    """Return an engine on the database of ``url``, with its tables created or migrated to the newest schema.

    A transaction of an engine with the execution option ``writes`` holds SQLite's write lock from its first statement on.

    Args:
        url: SQLAlchemy URL, such as ``postgresql://user@host/name``, or the path of an SQLite file.
        create: Create the SQLite file, its folder and the tables where there are none.

    Raises:
        StoreError: The database cannot be used; the message states why, and what to do.
    """
    parsed = _parsed(url)
    name = display_name(parsed)
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed, name, create)
    try:
        engine = sa.create_engine(
            parsed,
            pool_size=5,
            max_overflow=_MOST_CONNECTIONS - 5,
            pool_timeout=PATIENCE,
            pool_pre_ping=parsed.get_backend_name() != "sqlite",
            connect_args=_connect_args(parsed),
        )
    except (ImportError, exc.NoSuchModuleError) as error:
        raise StoreError(
            f"{name}: no driver for {parsed.drivername!r} ({error}); for PostgreSQL: pip install 'psycopg[binary]'"
        ) from error
    except (exc.ArgumentError, TypeError) as error:
        raise StoreError(f"{name}: {error}; expected an SQLAlchemy URL") from error
    prepare = {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}.get(engine.dialect.name)
    if prepare:
        prepare(engine)
    try:
        _migrate(engine, name, create)
    except BaseException:
        engine.dispose()
        raise
    return engine


def display_name(url: sa.URL) -> str:
    """Return the name of the database in messages: the file, or the URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the errors of the database into StoreErrors that state ``name`` and the cure, never the data."""
    try:
        yield
    except (exc.SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        cure = next((cure for pattern, cure in _CURES if re.search(pattern, reason, re.IGNORECASE)), "")
        raise StoreError(f"{name}: {reason}" + (f"; {cure}" if cure else "")) from error


_CURES = (
    (r"locked|lock timeout", "another process is writing for too long; end it, or try again"),
    (r"QueuePool limit", "too many requests use the store at once; try again"),
    (r"readonly|read-only", "make the file and its folder writable for this user, or name another store"),
    (r"unable to open", "check that the folder exists and that this user may write to it"),
    (
        r"not a database|malformed|encrypted",
        "this is no SQLite database, or a damaged one; restore a copy of it, or name another store",
    ),
    (r"is full|no space|disk I/O", "nothing of this was written; free some space and try again"),
    (r"permission denied|must be owner", "grant this user the right to create and write tables there"),
    (r"authentication|password|role .* does not exist", "check user and password in the URL of the store"),
    (r"database .* does not exist", "create it first, for example with createdb"),
    (r"connect|server closed|timeout|terminat|resolve|starting up", "check that the server runs and its address is right"),
    (r"no equivalent in encoding", "names need a database of encoding UTF8: createdb --encoding=UTF8 --template=template0"),
    (r"no such (table|column)|does not exist", "the tables of the store are not as paretune made them; restore a copy"),
)  # fmt: skip


def _parsed(url: str) -> sa.URL:
    if "://" not in url:
        if not url.strip():
            raise StoreError("no store named; expected the path of an SQLite file, or an SQLAlchemy URL")
        return sa.URL.create("sqlite", database=url)
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise StoreError(
            "cannot read the URL of the store; expected for example sqlite:///votes.sqlite or postgresql://user@host/name"
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):  # SQLAlchemy's default is the driver's older version
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def _check_file(url: sa.URL, name: str, create: bool) -> None:
    if url.database in (None, "", ":memory:") or "mode=memory" in str(url.database):
        raise StoreError(f"{url}: a database in memory loses everything at exit; name a file")
    file = Path(str(url.database))
    if str(file).startswith("file:"):
        return
    if file.is_dir():
        raise StoreError(f"{name}: this is a folder; name a file in it, for example {file / 'store.sqlite'}")
    if file.exists():
        return
    if not create:
        raise StoreError(f"{name}: no such store; check the path")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{name}: cannot create its folder ({error.strerror}); name another folder"
        ) from error
    # Prompts and answers are private. SQLite gives the files beside it the same rights.
    with suppress(OSError):  # SQLite says better what is wrong
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class Presence:
    """Whether the files of an SQLite store are still those that were opened, and whole.

    SQLite goes on with a file that was deleted, and what it then acknowledges is gone at the end; a file that was cut may even end
    the process. The files are never opened here, because closing one would release SQLite's own locks on it.
    """

    def __init__(self, url: sa.URL) -> None:
        file = str(url.database) if url.get_backend_name() == "sqlite" else "file:"
        self._file = None if file.startswith("file:") else Path(file)
        self._identity = None if self._file is None else _identity(self._file)
        self._sizes = {"": 1, "-wal": 0, "-shm": 0}
        self._lock = threading.Lock()  # a size is compared before another thread remembers a later one

    def check(self) -> None:
        """Raise a StoreGoneError where the store, or its log, was deleted, replaced or cut."""
        if self._file is None or self._identity is None:
            return
        found = _identity(self._file)
        if found is None:
            raise self._gone("", "was deleted")
        if found != self._identity:
            raise self._gone("", "was replaced by another file")
        with self._lock:
            for ending in self._sizes:
                size = self._size(ending)
                if size < self._sizes[ending]:
                    raise self._gone(ending, "was cut" if size >= 0 else "was deleted")
                self._sizes[ending] = size

    def make_closable(self) -> None:
        """Give a cut index its size back: SQLite has it in memory, and to read beyond the end of the file would end the process."""
        if self._file is not None and 0 <= self._size("-shm") < self._sizes["-shm"]:
            with suppress(OSError):
                os.truncate(f"{self._file}-shm", self._sizes["-shm"])

    def _size(self, ending: str) -> int:
        """Return the size of the file, or of one that SQLite keeps beside it; -1 where there is none."""
        assert self._file is not None
        try:
            return self._file.with_name(self._file.name + ending).stat().st_size
        except OSError:
            return -1 if self._sizes[ending] else 0

    def _gone(self, ending: str, what: str) -> StoreError:
        return StoreGoneError(
            f"{self._file}{ending}: {what} while it was in use; nothing can be kept until a copy of the store is restored and the "
            "server is started again"
        )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# Connections


def _connect_args(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": PATIENCE}
    if url.drivername == "postgresql+psycopg":
        # In a database of another encoding the server then says which character it cannot keep.
        return {"client_encoding": "utf8"} | (
            {} if "connect_timeout" in url.query else {"connect_timeout": 10}
        )
    return {}


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Make SQLite commit to disk, not to its cache; begin transactions here, as Python's driver begins them too late."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        for pragma in ("synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes"):
            _begin_writing(connection)
        else:
            connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: sa.Connection) -> None:
    """Begin a transaction that holds the write lock; wait as long as others finish their writes, but not for one that does not.

    SQLite itself waits for a total time and polls ever more slowly, so on a busy machine the one that has waited the longest could
    lose against newcomers until its time is up.
    """
    deadline, seen = time.monotonic() + PATIENCE, None
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except exc.OperationalError as error:
                if "locked" not in str(error.orig):
                    raise
                version = _data_version(connection)
                if version != seen:
                    deadline, seen = time.monotonic() + PATIENCE, version
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(*POLL))
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * PATIENCE)}")


def _data_version(connection: sa.Connection) -> Any:
    """Return a number that changes whenever another connection commits; None where it cannot be read just now."""
    try:
        return connection.exec_driver_sql("PRAGMA data_version").scalar()
    except exc.OperationalError:
        return None


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Use a log that lets readers and the writer work at once; on a file system without support, SQLite's mode stays as it is."""
    connection = engine.raw_connection()
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite itself does not wait while another process changes the mode of a new file.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    finally:
        connection.close()


def _prepare_postgresql(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{PATIENCE:.0f}s'")
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":  # a commit would be acknowledged before it is on the disk
                cursor.execute("SET synchronous_commit = on")
        connection.commit()


# Schema


def _migrate(engine: sa.Engine, name: str, create: bool) -> None:
    """Migrate to the newest schema, under a lock and, where the database supports it, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    script = ScriptDirectory.from_config(config)
    with explained(name):
        with engine.connect() as connection:
            current = _is_current(connection, script, name, create)
        if engine.dialect.name == "sqlite":
            _use_write_ahead_log(engine)  # only now, so that the file of another program stays as it is
        if current:
            return
        with _migrating, engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            if not _is_current(connection, script, name, create):
                config.attributes.update(connection=connection, version_table=VERSION_TABLE)
                command.upgrade(config, "head")


def _is_current(connection: sa.Connection, script: ScriptDirectory, name: str, create: bool) -> bool:
    """Return whether the schema is the newest; a StoreError if it is newer than this version, or no store."""
    revision = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
    known = [step.revision for step in script.walk_revisions()]  # the newest comes first
    if revision is None:
        tables = sa.inspect(connection).get_table_names() if connection.dialect.name == "sqlite" else []
        if tables:
            raise StoreError(
                f"{name}: a database of another program (it has a table {tables[0]!r}); name another file"
            )
        if not create:
            raise StoreError(f"{name}: no store in this database; check its name")
    elif revision not in known:
        raise StoreError(
            f"{name}: a newer paretune created this store (schema {revision}, this version knows up to {known[0]}); "
            "upgrade paretune, or name another store"
        )
    return revision == known[0]
