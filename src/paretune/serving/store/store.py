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
from paretune.serving.store import tables
from paretune.serving.store.database import PATIENCE, Presence, display_name, explained, open_engine
from paretune.serving.store.entries import (
    AuditRecord,
    Preset,
    Profile,
    Vote,
    VotedAnswer,
    check_policy,
    checked_name,
)

SHARED = "default"
"""The profile that everybody may use."""
_LARGEST = 2**63 - 1


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
        self._written = 0
        self._presence = Presence(engine.url)

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
        self._presence.make_closable()
        self._engine.dispose()

    # Profiles and presets

    def profile(self, name: str, owner: str | None = None) -> Profile:
        """Return the profile of a name; the first use of a name creates it, for ``owner``."""
        name = checked_name(name, "profile")
        found = self.find_profile(name)
        if found is not None:
            return found
        with self._writing() as connection:
            row = _profile(connection, name, owner)
        return Profile(row.name, _utc(row.created), row.owner)

    def find_profile(self, name: str) -> Profile | None:
        """Return the profile of a name; None where there is none."""
        with self._reading() as connection:
            row = _find_profile(connection, checked_name(name, "profile"))
        return None if row is None else Profile(row.name, _utc(row.created), row.owner)

    def profiles(self) -> list[Profile]:
        """Return all profiles with the numbers of their votes, the oldest first."""
        votes = sa.func.count(tables.votes.c.id).label("votes")
        query = sa.select(tables.profiles, votes).outerjoin(tables.votes).group_by(tables.profiles.c.id)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(tables.profiles.c.id)).all()
        return [Profile(row.name, _utc(row.created), row.owner, row.votes) for row in rows]

    def delete_profile(self, name: str) -> tuple[int, int] | None:
        """Delete a profile with its votes and presets; return their numbers, or None where there is no such profile."""
        name = checked_name(name, "profile")
        with self._writing() as connection:
            row = _find_profile(connection, name)
            if row is None:
                return None
            votes, presets = (
                connection.execute(sa.delete(table).where(table.c.profile == row.id)).rowcount
                for table in (tables.votes, tables.presets)
            )
            connection.execute(sa.delete(tables.profiles).where(tables.profiles.c.id == row.id))
        return votes, presets

    def save_preset(
        self, profile: str, name: str, policy: str, preference: Preference, owner: str | None = None
    ) -> Preset:
        """Save a preference under a name; a preset of that name is replaced atomically, and then belongs to ``owner``."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        check_policy(policy)
        values = {
            "policy": policy,
            "preference": _preference_text(preference),
            "updated": _now(),
            "owner": owner,
        }
        with self._writing() as connection:
            key = {"profile": _profile(connection, profile, owner).id, "name": name}
            update = sa.update(tables.presets).filter_by(**key).values(values)
            if not connection.execute(update).rowcount:
                _insert_or(connection, sa.insert(tables.presets).values(**key, **values), update)
        return Preset(profile, name, policy, preference, _utc(values["updated"]), owner)

    def presets(self, profile: str | None = None) -> list[Preset]:
        """Return the presets of a profile, or of all, sorted by name; an unknown profile has none."""
        query = sa.select(tables.presets, tables.profiles.c.name.label("person")).join(tables.profiles)
        if profile is not None:
            query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(tables.profiles.c.id, tables.presets.c.name)).all()
        with self._sound():
            return [
                Preset(
                    row.person,
                    row.name,
                    row.policy,
                    _preference(row.preference),
                    _utc(row.updated),
                    row.owner,
                )
                for row in rows
            ]

    def delete_preset(self, profile: str, name: str) -> bool:
        """Delete a preset; return whether there was one."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        person = sa.select(tables.profiles.c.id).where(tables.profiles.c.name == profile).scalar_subquery()
        with self._writing() as connection:
            deleted = connection.execute(
                sa.delete(tables.presets).where(
                    tables.presets.c.profile == person, tables.presets.c.name == name
                )
            )
            return bool(deleted.rowcount)

    # Votes

    def add_vote(self, profile: str, vote: Vote) -> int:
        """Save a vote and return its id; the first vote of a person creates the profile, for the vote's owner."""
        profile = checked_name(profile, "profile")
        values = {
            "created": _now(),
            "policy": vote.policy,
            "prompt": json.dumps([[m.role, m.content] for m in vote.prompt]),
            "first": _answer_text(vote.first),
            "second": _answer_text(vote.second),
            "winner": vote.winner,
            "objective": None if vote.objective is None else json.dumps(vote.objective),
            "owner": vote.owner,
        }
        with self._writing() as connection:
            person = _profile(connection, profile, vote.owner).id
            inserted = connection.execute(sa.insert(tables.votes).values(profile=person, **values))
            assert inserted.inserted_primary_key is not None
            return int(inserted.inserted_primary_key[0])

    def votes(self, profile: str | None = None, policy: str | None = None, after: int = 0) -> list[Vote]:
        """Return the votes of one profile or of all, on one policy or on all, with ids above ``after``, in their order."""
        query = _vote_query(profile, policy).where(tables.votes.c.id > after)
        return self._read_votes(query.order_by(tables.votes.c.id))

    def newest_votes(
        self,
        profile: str | None = None,
        policy: str | None = None,
        limit: int = 100,
        before: int | None = None,
        owner: str | None = None,
    ) -> list[Vote]:
        """Return up to ``limit`` votes, the newest first.

        Args:
            profile: Name of a person; None for all.
            policy: Name of a policy; None for all.
            limit: Largest number of votes.
            before: Id below which to go on.
            owner: Name of an API key, for its votes and those of nobody; None for all.
        """
        query = _vote_query(profile, policy)
        if before is not None:
            query = query.where(tables.votes.c.id < max(0, min(before, _LARGEST)))
        if owner is not None:
            query = query.where(sa.or_(tables.votes.c.owner == owner, tables.votes.c.owner.is_(None)))
        return self._read_votes(query.order_by(tables.votes.c.id.desc()).limit(min(limit, _LARGEST)))

    def vote(self, identity: int) -> Vote | None:
        """Return the vote of an id; None where there is none."""
        found = self._read_votes(_vote_query().where(tables.votes.c.id == min(identity, _LARGEST)))
        return found[0] if found else None

    def delete_vote(self, identity: int) -> bool:
        """Delete a vote; return whether there was one."""
        with self._writing() as connection:
            vote = sa.delete(tables.votes).where(tables.votes.c.id == min(identity, _LARGEST))
            return bool(connection.execute(vote).rowcount)

    def count_votes(self, policy: str, profile: str | None = None) -> dict[str, tuple[int, int]]:
        """Return the number of votes on a policy and the id of the last, of each person who has voted on it, or of one."""
        votes = tables.votes.c
        query = sa.select(tables.profiles.c.name, sa.func.count(votes.id), sa.func.max(votes.id))
        query = query.join(tables.votes).where(votes.policy == policy)
        if profile is not None:
            query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
        with self._reading() as connection:
            rows = connection.execute(query.group_by(tables.profiles.c.id).order_by(tables.profiles.c.id))
            return {name: (count, last) for name, count, last in rows}

    def _read_votes(self, query: sa.Select[Any]) -> list[Vote]:
        with self._reading() as connection:
            rows = connection.execute(query).all()
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
            "request": json.dumps([record.model, record.client, record.request_id, *_strength(record)]),
            "owner": record.client or None,
        }
        with self._writing() as connection:
            inserted = connection.execute(sa.insert(tables.audit).values(values))
            assert inserted.inserted_primary_key is not None
            return int(inserted.inserted_primary_key[0])

    def audit(
        self, limit: int = 100, before: int | None = None, client: str | None = None
    ) -> list[AuditRecord]:
        """Return up to ``limit`` audit records, the newest first; with ``before``, those of smaller ids.

        With ``client``, only those of this API key are returned.
        """
        if limit < 1:
            raise StoreError(f"audit: expected a limit of at least 1, got {limit}")
        query = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(min(limit, _LARGEST))
        if before is not None:
            query = query.where(tables.audit.c.id < max(0, min(before, _LARGEST)))
        if client is not None:
            query = query.where(tables.audit.c.owner == client)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        with self._sound():
            return [_audit_record(row) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        self._presence.check()
        with explained(self._name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
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
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise StoreError(
                f"{self._name}: a record that paretune did not write ({error}); restore a copy of the store"
            ) from error


def _find_profile(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(tables.profiles).where(tables.profiles.c.name == name)).one_or_none()


def _profile(connection: sa.Connection, name: str, owner: str | None) -> sa.Row[Any]:
    """Return the row of a profile; create it where there is none. The profile ``default`` belongs to nobody."""
    row = _find_profile(connection, name)
    if row is None:
        values = {"name": name, "created": _now(), "owner": None if name == SHARED else owner}
        _insert_or(connection, sa.insert(tables.profiles).values(values))
        row = _find_profile(connection, name)
        assert row is not None
    return row


def _vote_query(profile: str | None = None, policy: str | None = None) -> sa.Select[Any]:
    query = sa.select(tables.votes, tables.profiles.c.name.label("person")).join(tables.profiles)
    if profile is not None:
        query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
    return query if policy is None else query.where(tables.votes.c.policy == policy)


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
    model, client, request_id, *strength = json.loads(row.request)
    asked = None if row.asked is None else _preference(row.asked)
    used, created = _preference(row.used), _utc(row.created)
    return AuditRecord(row.policy, used, asked, model, client, request_id, row.id, created, *strength)


def _strength(record: AuditRecord) -> list[float]:
    """Return the strength of an answer where it is not 1: earlier records have none."""
    return [] if record.strength == 1 else [record.strength]


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
        owner=row.owner,
    )
