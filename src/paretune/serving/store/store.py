"""The store of a server: profiles, presets, votes and audit records. What it has acknowledged is on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from paretune.core.errors import StoreError
from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.serving.store.database import PATIENCE, display_name, explained, open_engine
from paretune.serving.store.entries import (
    LONGEST_NAME,
    LONGEST_POLICY,
    AuditRecord,
    Preset,
    Profile,
    Vote,
    VotedAnswer,
    check_policy,
    checked_name,
)

# Tables. People's texts and numbers are in columns of JSON in ASCII, so that every float and every character, NUL too, is read
# as it was written, whatever the database and its encoding.

_LARGEST = 2**63 - 1
_metadata = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_profiles = sa.Table(
    "paretune_profiles",
    _metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(LONGEST_NAME), nullable=False),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.UniqueConstraint("name", name="paretune_profiles_name"),
    sqlite_autoincrement=True,
)
_presets = sa.Table(
    "paretune_presets",
    _metadata,
    sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), primary_key=True),
    sa.Column("name", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("preference", sa.Text(), nullable=False),
    sa.Column("updated", sa.DateTime(), nullable=False),
)
_votes = sa.Table(
    "paretune_votes",
    _metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), nullable=False, index=True),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("prompt", sa.Text(), nullable=False),
    sa.Column("first", sa.Text(), nullable=False),
    sa.Column("second", sa.Text(), nullable=False),
    sa.Column("winner", sa.String(6), nullable=False),
    sa.Column("objective", sa.Text()),
    sqlite_autoincrement=True,
)
_audit = sa.Table(
    "paretune_audit",
    _metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("used", sa.Text(), nullable=False),
    sa.Column("asked", sa.Text()),
    sa.Column("request", sa.Text(), nullable=False),
    sqlite_autoincrement=True,
)


class Store:
    """Profiles, presets, votes and audit records in one database that several threads and several servers can share.

    A method that writes returns once the commit is on disk, so that it survives a killed process and, if the disk writes what
    it acknowledges, a power cut. Every method blocks; an async server calls it in a thread.

    Raises:
        StoreError: From every method, if the database cannot be used; the message states what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._name = display_name(engine.url)
        # SQLite has one writer at a time, and the others poll; within a process they queue here instead.
        self._turn = threading.BoundedSemaphore(1 if engine.dialect.name == "sqlite" else 2**16)

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Open the store at an SQLAlchemy URL or the path of an SQLite file; create or migrate it first where needed.

        Raises:
            StoreError: The database cannot be reached, is of another program or of a newer version, or has no store and
                ``create`` is false.
        """
        return cls(open_engine(url, create))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # Profiles and presets

    def profile(self, name: str) -> Profile:
        """Return the profile of a name; the first use of a name creates it."""
        name = checked_name(name, "profile")
        with self._reading() as connection:
            row = _find_profile(connection, name)
        if row is None:
            with self._writing() as connection:
                row = _profile(connection, name)
        return Profile(row.name, _utc(row.created))

    def profiles(self) -> list[Profile]:
        """Return all profiles, the oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_profiles).order_by(_profiles.c.id)).all()
        return [Profile(row.name, _utc(row.created)) for row in rows]

    def save_preset(self, profile: str, name: str, policy: str, preference: Preference) -> Preset:
        """Save a preference under a name; a preset of that name is replaced atomically."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        check_policy(policy)
        values = {"policy": policy, "preference": _preference_text(preference), "updated": _now()}
        with self._writing() as connection:
            key = {"profile": _profile(connection, profile).id, "name": name}
            update = sa.update(_presets).filter_by(**key).values(values)
            if not connection.execute(update).rowcount:
                _insert_or(connection, sa.insert(_presets).values(**key, **values), update)
        return Preset(profile, name, policy, preference, _utc(values["updated"]))

    def presets(self, profile: str | None = None) -> list[Preset]:
        """Return the presets of a profile, or of all, sorted by name; an unknown profile has none."""
        query = sa.select(_presets, _profiles.c.name.label("person")).join(_profiles)
        if profile is not None:
            query = query.where(_profiles.c.name == checked_name(profile, "profile"))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_profiles.c.id, _presets.c.name)).all()
        with self._sound():
            return [
                Preset(row.person, row.name, row.policy, _preference(row.preference), _utc(row.updated))
                for row in rows
            ]

    def delete_preset(self, profile: str, name: str) -> bool:
        """Delete a preset; return whether there was one."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        person = sa.select(_profiles.c.id).where(_profiles.c.name == profile).scalar_subquery()
        with self._writing() as connection:
            deleted = connection.execute(
                sa.delete(_presets).where(_presets.c.profile == person, _presets.c.name == name)
            )
            return bool(deleted.rowcount)

    # Votes

    def add_vote(self, profile: str, vote: Vote) -> int:
        """Save a vote and return its id; the first vote of a person creates the profile."""
        profile = checked_name(profile, "profile")
        values = {
            "created": _now(),
            "policy": vote.policy,
            "prompt": json.dumps([[m.role, m.content] for m in vote.prompt]),
            "first": _answer_text(vote.first),
            "second": _answer_text(vote.second),
            "winner": vote.winner,
            "objective": None if vote.objective is None else json.dumps(vote.objective),
        }
        with self._writing() as connection:
            person = _profile(connection, profile).id
            inserted = connection.execute(sa.insert(_votes).values(profile=person, **values))
            assert inserted.inserted_primary_key is not None
            return int(inserted.inserted_primary_key[0])

    def votes(self, profile: str | None = None, policy: str | None = None) -> list[Vote]:
        """Return the votes of one profile or of all, on one policy or on all, in the order of their ids."""
        query = sa.select(_votes, _profiles.c.name.label("person")).join(_profiles)
        if profile is not None:
            query = query.where(_profiles.c.name == checked_name(profile, "profile"))
        if policy is not None:
            query = query.where(_votes.c.policy == policy)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_votes.c.id)).all()
        with self._sound():
            return [_vote(row) for row in rows]

    # Audit

    def record_use(self, record: AuditRecord) -> int:
        """Save an audit record and return its id."""
        check_policy(record.policy)
        values = {
            "created": _now(),
            "policy": record.policy,
            "used": _preference_text(record.used),
            "asked": None if record.asked is None else _preference_text(record.asked),
            "request": json.dumps([record.model, record.client, record.request_id]),
        }
        with self._writing() as connection:
            inserted = connection.execute(sa.insert(_audit).values(values))
            assert inserted.inserted_primary_key is not None
            return int(inserted.inserted_primary_key[0])

    def audit(self, limit: int = 100, before: int | None = None) -> list[AuditRecord]:
        """Return up to ``limit`` audit records, the newest first; with ``before``, those of smaller ids."""
        if limit < 1:
            raise StoreError(f"audit: expected a limit of at least 1, got {limit}")
        query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(min(limit, _LARGEST))
        if before is not None:
            query = query.where(_audit.c.id < max(0, min(before, _LARGEST)))
        with self._reading() as connection:
            rows = connection.execute(query).all()
        with self._sound():
            return [_audit_record(row) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explained(self._name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that is committed at the end of the context."""
        if not self._turn.acquire(timeout=PATIENCE):
            raise StoreError(f"{self._name}: too many requests write to the store at once; try again")
        try:
            with explained(self._name), self._writer.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    @contextmanager
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise StoreError(
                f"{self._name}: a record that paretune did not write ({error}); restore a copy of the store"
            ) from error


def _find_profile(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(_profiles).where(_profiles.c.name == name)).one_or_none()


def _profile(connection: sa.Connection, name: str) -> sa.Row[Any]:
    """Return the row of a profile; create it where there is none."""
    row = _find_profile(connection, name)
    if row is None:
        _insert_or(connection, sa.insert(_profiles).values(name=name, created=_now()))
        row = _find_profile(connection, name)
        assert row is not None
    return row


def _insert_or(connection: sa.Connection, insert: sa.Insert, instead: sa.Update | None = None) -> None:
    """Insert a row; if another process has inserted it, execute ``instead``."""
    try:
        with connection.begin_nested():
            connection.execute(insert)
    except sa.exc.IntegrityError:
        if instead is not None:
            connection.execute(instead)


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


def _utc(stored: Any) -> datetime:
    assert isinstance(stored, datetime)
    return stored.replace(tzinfo=timezone.utc)


def _preference_text(preference: Preference) -> str:
    return json.dumps(preference.as_dict())


def _preference(text: str) -> Preference:
    weights = json.loads(text)
    return Preference.of(weights, allow_extrapolation=min(weights.values()) < 0)


def _answer_text(answer: VotedAnswer) -> str:
    record = {"text": answer.text, "preference": answer.preference.as_dict(), "truncated": answer.truncated}
    if answer.scores is not None:
        record["scores"] = dict(answer.scores)
    return json.dumps(record)


def _answer(text: str) -> VotedAnswer:
    record = json.loads(text)
    preference = _preference(json.dumps(record["preference"]))
    return VotedAnswer(record["text"], preference, record.get("scores"), record["truncated"])


def _audit_record(row: sa.Row[Any]) -> AuditRecord:
    model, client, request_id = json.loads(row.request)
    asked = None if row.asked is None else _preference(row.asked)
    used, created = _preference(row.used), _utc(row.created)
    return AuditRecord(row.policy, used, asked, model, client, request_id, row.id, created)


def _vote(row: sa.Row[Any]) -> Vote:
    return Vote(
        policy=row.policy,
        prompt=tuple(Message(role, content) for role, content in json.loads(row.prompt)),
        first=_answer(row.first),
        second=_answer(row.second),
        winner=row.winner,
        objective=None if row.objective is None else json.loads(row.objective),
        profile=row.person,
        id=row.id,
        created=_utc(row.created),
    )
