"""The store of a server: profiles, presets, votes, audit records and conversations. What it has acknowledged is on disk."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa

from paretune.core.errors import StoreError
from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.serving.store import tables
from paretune.serving.store.access import LARGEST, Access, find_profile, insert_or, made_profile, now, utc
from paretune.serving.store.conversations import Conversations, delete_all
from paretune.serving.store.database import open_engine
from paretune.serving.store.entries import (
    AuditRecord,
    Preset,
    Profile,
    Vote,
    VotedAnswer,
    check_policy,
    checked_name,
)


class Deleted(NamedTuple):
    """Numbers of what was deleted with a profile."""

    votes: int
    presets: int
    conversations: int


class Store(Access):
    """Profiles, presets, votes, audit records and conversations in one database that several threads and servers can share.

    A method that writes returns once the commit is on disk, so that it survives a killed process and, if the disk writes what
    it acknowledges, a power cut. Every method blocks; an async server calls it in a thread.

    Attributes:
        conversations: The conversations of the same database.

    Raises:
        StoreError: From every method, if the database cannot be used; the message states what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.conversations = Conversations(self)

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Open the store at an SQLAlchemy URL or the path of an SQLite file; create or migrate it first where needed.

        Raises:
            StoreError: The database cannot be reached, is of another program or of a newer version, or has no store and
                ``create`` is false.
        """
        return cls(open_engine(url, create))

    # Profiles and presets

    def profile(self, name: str, owner: str | None = None) -> Profile:
        """Return the profile of a name; the first use of a name creates it, for ``owner``."""
        name = checked_name(name, "profile")
        found = self.find_profile(name)
        if found is not None:
            return found
        with self.writing() as connection:
            row = made_profile(connection, name, owner)
        return Profile(row.name, utc(row.created), row.owner)

    def find_profile(self, name: str) -> Profile | None:
        """Return the profile of a name; None where there is none."""
        with self.reading() as connection:
            row = find_profile(connection, checked_name(name, "profile"))
        return None if row is None else Profile(row.name, utc(row.created), row.owner)

    def profiles(self) -> list[Profile]:
        """Return all profiles with the numbers of their votes, the oldest first."""
        votes = sa.func.count(tables.votes.c.id).label("votes")
        query = sa.select(tables.profiles, votes).outerjoin(tables.votes).group_by(tables.profiles.c.id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(tables.profiles.c.id)).all()
        return [Profile(row.name, utc(row.created), row.owner, row.votes) for row in rows]

    def delete_profile(self, name: str) -> Deleted | None:
        """Delete a profile with all that belongs to it; return the numbers, or None where there is no such profile."""
        name = checked_name(name, "profile")
        with self.writing() as connection:
            row = find_profile(connection, name)
            if row is None:
                return None
            votes, presets = (
                connection.execute(sa.delete(table).where(table.c.profile == row.id)).rowcount
                for table in (tables.votes, tables.presets)
            )
            conversations = delete_all(connection, row.id)
            connection.execute(sa.delete(tables.profiles).where(tables.profiles.c.id == row.id))
        return Deleted(votes, presets, conversations)

    def save_preset(
        self, profile: str, name: str, policy: str, preference: Preference, owner: str | None = None
    ) -> Preset:
        """Save a preference under a name; a preset of that name is replaced atomically, and then belongs to ``owner``."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        check_policy(policy)
        values = {
            "policy": policy,
            "preference": _preference_text(preference),
            "updated": now(),
            "owner": owner,
        }
        with self.writing() as connection:
            key = {"profile": made_profile(connection, profile, owner).id, "name": name}
            update = sa.update(tables.presets).filter_by(**key).values(values)
            if not connection.execute(update).rowcount:
                insert_or(connection, sa.insert(tables.presets).values(**key, **values), update)
        return Preset(profile, name, policy, preference, utc(values["updated"]), owner)

    def presets(self, profile: str | None = None) -> list[Preset]:
        """Return the presets of a profile, or of all, sorted by name; an unknown profile has none."""
        query = sa.select(tables.presets, tables.profiles.c.name.label("person")).join(tables.profiles)
        if profile is not None:
            query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
        with self.reading() as connection:
            rows = connection.execute(query.order_by(tables.profiles.c.id, tables.presets.c.name)).all()
        with self.sound():
            return [
                Preset(
                    row.person,
                    row.name,
                    row.policy,
                    _preference(row.preference),
                    utc(row.updated),
                    row.owner,
                )
                for row in rows
            ]

    def delete_preset(self, profile: str, name: str) -> bool:
        """Delete a preset; return whether there was one."""
        profile, name = checked_name(profile, "profile"), checked_name(name, "preset")
        person = sa.select(tables.profiles.c.id).where(tables.profiles.c.name == profile).scalar_subquery()
        with self.writing() as connection:
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
            "created": now(),
            "policy": vote.policy,
            "prompt": json.dumps([[m.role, m.content] for m in vote.prompt]),
            "first": _answer_text(vote.first),
            "second": _answer_text(vote.second),
            "winner": vote.winner,
            "objective": None if vote.objective is None else json.dumps(vote.objective),
            "owner": vote.owner,
        }
        with self.writing() as connection:
            person = made_profile(connection, profile, vote.owner).id
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
            query = query.where(tables.votes.c.id < max(0, min(before, LARGEST)))
        if owner is not None:
            query = query.where(sa.or_(tables.votes.c.owner == owner, tables.votes.c.owner.is_(None)))
        return self._read_votes(query.order_by(tables.votes.c.id.desc()).limit(min(limit, LARGEST)))

    def vote(self, identity: int) -> Vote | None:
        """Return the vote of an id; None where there is none."""
        found = self._read_votes(_vote_query().where(tables.votes.c.id == min(identity, LARGEST)))
        return found[0] if found else None

    def delete_vote(self, identity: int) -> bool:
        """Delete a vote; return whether there was one."""
        with self.writing() as connection:
            vote = sa.delete(tables.votes).where(tables.votes.c.id == min(identity, LARGEST))
            return bool(connection.execute(vote).rowcount)

    def count_votes(self, policy: str, profile: str | None = None) -> dict[str, tuple[int, int]]:
        """Return the number of votes on a policy and the id of the last, of each person who has voted on it, or of one."""
        votes = tables.votes.c
        query = sa.select(tables.profiles.c.name, sa.func.count(votes.id), sa.func.max(votes.id))
        query = query.join(tables.votes).where(votes.policy == policy)
        if profile is not None:
            query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
        with self.reading() as connection:
            rows = connection.execute(query.group_by(tables.profiles.c.id).order_by(tables.profiles.c.id))
            return {name: (count, last) for name, count, last in rows}

    def _read_votes(self, query: sa.Select[Any]) -> list[Vote]:
        with self.reading() as connection:
            rows = connection.execute(query).all()
        with self.sound():
            return [_vote(row) for row in rows]

    # Audit

    def record_use(self, record: AuditRecord) -> int:
        """Save an audit record and return its id."""
        check_policy(record.policy)
        values = {
            "created": now(),
            "policy": record.policy,
            "used": _preference_text(record.used),
            "asked": None if record.asked is None else _preference_text(record.asked),
            "request": json.dumps([record.model, record.client, record.request_id, *_more(record)]),
            "owner": record.client or None,
        }
        with self.writing() as connection:
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
        query = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(min(limit, LARGEST))
        if before is not None:
            query = query.where(tables.audit.c.id < max(0, min(before, LARGEST)))
        if client is not None:
            query = query.where(tables.audit.c.owner == client)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        with self.sound():
            return [_audit_record(row) for row in rows]


def _vote_query(profile: str | None = None, policy: str | None = None) -> sa.Select[Any]:
    query = sa.select(tables.votes, tables.profiles.c.name.label("person")).join(tables.profiles)
    if profile is not None:
        query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
    return query if policy is None else query.where(tables.votes.c.policy == policy)


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
    model, client, request_id, *more = json.loads(row.request)
    asked = None if row.asked is None else _preference(row.asked)
    used, created = _preference(row.used), utc(row.created)
    return AuditRecord(row.policy, used, asked, model, client, request_id, row.id, created, *more)


def _more(record: AuditRecord) -> list[float | str]:
    """Return the strength of an answer and who chose, as far as they are not as always: earlier records have neither."""
    if record.chosen_by:
        return [record.strength, record.chosen_by]
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
        created=utc(row.created),
        owner=row.owner,
    )
