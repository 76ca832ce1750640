"""Conversations of people: trees of turns that are searched by their text. What was acknowledged is on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from paretune.core.errors import StoreError
from paretune.serving.store import tables
from paretune.serving.store.access import LARGEST, Access, made_profile, now, utc
from paretune.serving.store.entries import LONGEST_TEXT, LONGEST_TITLE, Conversation, Turn, checked_name

MOST_TURNS = 10_000
MOST_CONVERSATIONS = 10_000
"""Of one person."""
MOST_CHARACTERS = 32_000_000
"""Of one conversation, which is read as a whole."""
LONGEST_SEARCH = 200
TITLE = 80
"""Characters of a title that is made from a turn."""
_BATCH = 100


class RefusedError(StoreError):
    """A conversation that is full, or a turn that does not belong to it.

    Attributes:
        code: Name of the error.
        field: What it is about.
    """

    def __init__(self, message: str, code: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code, self.field = code, field


class Conversations:
    """The conversations in a store's database."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add(self, profile: str, title: str = "", system: str = "", owner: str | None = None) -> Conversation:
        """Begin a conversation of a person; the first use of a name creates the profile.

        Args:
            profile: Name of the person.
            title: What it is listed under; empty for the first line of its first user's turn.
            system: System prompt.
            owner: Name of the API key that begins it.

        Raises:
            RefusedError: The person has too many.
        """
        profile, time = checked_name(profile, "profile"), now()
        _check_texts(title, system)
        table = tables.conversations
        values = {
            "created": time,
            "updated": time,
            "title": json.dumps(title) if title else None,
            "system": json.dumps(system),
            "turns": 0,
            "size": 0,
            "owner": owner,
        }
        with self._access.writing() as connection:
            person = made_profile(connection, profile, owner).id
            count = sa.select(sa.func.count()).select_from(table).where(table.c.profile == person)
            if connection.execute(count).scalar_one() >= MOST_CONVERSATIONS:
                message = f"{profile!r} has {MOST_CONVERSATIONS} conversations; delete some"
                raise RefusedError(message, "too_many_conversations", "profile")
            inserted = connection.execute(sa.insert(table).values(profile=person, **values))
            assert inserted.inserted_primary_key is not None
            number = int(inserted.inserted_primary_key[0])
        return Conversation(number, title, profile, utc(time), utc(time), system, owner=owner)

    def newest(
        self,
        profile: str | None = None,
        search: str = "",
        limit: int = 100,
        before: Conversation | None = None,
        owner: str | None = None,
    ) -> list[Conversation]:
        """Return up to ``limit`` conversations without their turns, the last changed first.

        Args:
            profile: Name of a person; None for all.
            search: Text in the title or in a turn, whatever its case; empty for any.
            limit: Largest number of conversations.
            before: One of them to go on from.
            owner: Name of an API key, for its conversations and those of nobody; None for all.
        """
        query, sought = _query(profile, owner), search[:LONGEST_SEARCH].lower()
        if sought:
            within = tables.turns.c.conversation == tables.conversations.c.id
            turn = sa.select(tables.turns.c.id).where(within, *_may_hold(tables.turns.c.content, sought))
            title = sa.and_(
                tables.conversations.c.title.is_not(None), *_may_hold(tables.conversations.c.title, sought)
            )
            query = query.where(sa.or_(title, turn.exists()))
        found: list[Conversation] = []
        while len(found) < limit:
            batch = self._read(query, before, min(limit, _BATCH))
            kept = [one for one in batch if not sought or self._holds(one, sought)]
            found += kept[: limit - len(found)]
            if len(batch) < min(limit, _BATCH):
                break
            before = batch[-1]
        return found

    def find(self, identity: int) -> Conversation | None:
        """Return the conversation of an id without its turns; None where there is none."""
        query = _query().where(tables.conversations.c.id == min(identity, LARGEST))
        with self._access.reading() as connection:
            row = connection.execute(query).one_or_none()
        with self._access.sound():
            return None if row is None else _conversation(row)

    def get(self, identity: int) -> Conversation | None:
        """Return the conversation of an id; None where there is none."""
        identity = min(identity, LARGEST)
        turns = sa.select(tables.turns).where(tables.turns.c.conversation == identity)
        with self._access.reading() as connection:  # the turns are read last, so that the head is one of them
            row = connection.execute(_query().where(tables.conversations.c.id == identity)).one_or_none()
            rows = connection.execute(turns.order_by(tables.turns.c.id)).all()
        with self._access.sound():
            return None if row is None else _conversation(row, tuple(map(_turn, rows)))

    def add_turn(self, identity: int, turn: Turn) -> int | None:
        """Add a turn, which becomes the head; return its id, or None where there is no such conversation.

        Raises:
            RefusedError: The conversation is full, or has no turn ``parent``.
        """
        size, time = len(turn.content), now()
        values = {
            "created": time,
            "parent": turn.parent,
            "role": turn.role,
            "content": json.dumps(turn.content),
            "side": turn.side,
            "policy": turn.policy,
            "preference": None if turn.preference is None else json.dumps(dict(turn.preference)),
            "about": json.dumps(dict(turn.about)) if turn.about else None,
        }
        with self._access.writing() as connection:
            row = _locked(connection, identity)
            if row is None:
                return None
            if turn.parent is not None:
                _require_turn(connection, row.id, turn.parent, "parent")
            if row.turns >= MOST_TURNS or row.size + size > MOST_CHARACTERS:
                raise RefusedError(
                    f"a conversation has at most {MOST_TURNS} turns and {MOST_CHARACTERS} characters; begin another one",
                    "conversation_full",
                )
            inserted = connection.execute(sa.insert(tables.turns).values(conversation=row.id, **values))
            assert inserted.inserted_primary_key is not None
            number = int(inserted.inserted_primary_key[0])
            changes = {"turns": row.turns + 1, "size": row.size + size, "head": number, "updated": time}
            if row.title is None and turn.role == "user" and turn.content.strip():
                changes["title"] = json.dumps(title_of(turn.content))
            _update(connection, row.id, changes)
        return number

    def change(
        self, identity: int, title: str | None = None, system: str | None = None, head: int | None = None
    ) -> Conversation | None:
        """Change what is given; return the conversation without its turns, or None where there is no such one.

        Raises:
            RefusedError: The conversation has no turn ``head``.
        """
        _check_texts(title or "", system or "")
        changes: dict[str, Any] = {} if head is None else {"head": head}
        for name, text in (("title", title), ("system", system)):
            if text is not None:
                changes[name] = json.dumps(text)
        with self._access.writing() as connection:
            row = _locked(connection, identity)
            if row is None:
                return None
            if head is not None:
                _require_turn(connection, row.id, head, "head")
            if changes:
                _update(connection, row.id, {**changes, "updated": now()})
        return self.find(identity)

    def delete(self, identity: int) -> bool:
        """Delete a conversation with its turns; return whether there was one."""
        with self._access.writing() as connection:
            row = _locked(connection, identity)
            if row is None:
                return False
            connection.execute(sa.delete(tables.turns).where(tables.turns.c.conversation == row.id))
            connection.execute(sa.delete(tables.conversations).where(tables.conversations.c.id == row.id))
        return True

    def _read(self, query: sa.Select[Any], before: Conversation | None, limit: int) -> list[Conversation]:
        """Return the next conversations in the order of their last change."""
        columns = tables.conversations.c
        if before is not None:
            time = before.updated.replace(tzinfo=None)
            earlier = sa.and_(columns.updated == time, columns.id < before.id)
            query = query.where(sa.or_(columns.updated < time, earlier))
        with self._access.reading() as connection:
            query = query.order_by(columns.updated.desc(), columns.id.desc()).limit(limit)
            rows = connection.execute(query).all()
        with self._access.sound():
            return [_conversation(row) for row in rows]

    def _holds(self, conversation: Conversation, sought: str) -> bool:
        """Return whether the title or a turn has the text, which the database can only tell roughly."""
        if sought in conversation.title.lower():
            return True
        content = tables.turns.c.content
        query = sa.select(content).where(tables.turns.c.conversation == conversation.id)
        with self._access.reading() as connection, self._access.sound():
            texts = connection.execute(query.where(*_may_hold(content, sought))).scalars()
            return any(sought in json.loads(text).lower() for text in texts)


def delete_all(connection: sa.Connection, profile: int) -> int:
    """Delete the conversations of a profile's id; return their number."""
    table = tables.conversations
    theirs = sa.select(table.c.id).where(table.c.profile == profile)
    connection.execute(sa.delete(tables.turns).where(tables.turns.c.conversation.in_(theirs)))
    return int(connection.execute(sa.delete(table).where(table.c.profile == profile)).rowcount)


def title_of(text: str) -> str:
    """Return the first line of a text that has words, cut after a word where it is long."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= TITLE:
        return line
    start = line[:TITLE].rpartition(" ")[0] if " " in line[:TITLE] else line[: TITLE - 1]
    return f"{start}\N{HORIZONTAL ELLIPSIS}"


def _check_texts(title: str, system: str) -> None:
    if len(title) > LONGEST_TITLE or len(system) > LONGEST_TEXT:
        raise StoreError(
            f"conversation: expected a title of at most {LONGEST_TITLE} characters and a system prompt of at most {LONGEST_TEXT}"
        )


def _may_hold(column: sa.ColumnElement[Any], sought: str) -> Iterator[sa.ColumnElement[bool]]:
    """Yield what narrows a search in a column of JSON: its longest part in which databases know small letters from capital ones.

    They know those of ASCII; other letters are written as numbers there.
    """
    plain = [
        "".join(part)
        for known, part in groupby(sought, lambda one: one.isascii() or one.lower() == one.upper())
        if known
    ]
    if plain:
        yield column.icontains(json.dumps(max(plain, key=len))[1:-1], autoescape=True)
    else:
        yield sa.true()


def _query(profile: str | None = None, owner: str | None = None) -> sa.Select[Any]:
    columns = tables.conversations.c
    query = sa.select(tables.conversations, tables.profiles.c.name.label("person")).join(tables.profiles)
    if profile is not None:
        query = query.where(tables.profiles.c.name == checked_name(profile, "profile"))
    return query if owner is None else query.where(sa.or_(columns.owner == owner, columns.owner.is_(None)))


def _locked(connection: sa.Connection, identity: int) -> sa.Row[Any] | None:
    """Return the row of a conversation, which no other writer changes until the end of the transaction."""
    query = sa.select(tables.conversations).where(tables.conversations.c.id == min(identity, LARGEST))
    return connection.execute(query.with_for_update()).one_or_none()


def _require_turn(connection: sa.Connection, conversation: int, turn: int, field: str) -> None:
    columns = tables.turns.c
    query = sa.select(columns.id).where(
        columns.id == min(turn, LARGEST), columns.conversation == conversation
    )
    if connection.execute(query).one_or_none() is None:
        message = f"the conversation {conversation} has no turn {turn}; expected the id of one of its turns"
        raise RefusedError(message, "invalid_value", field)


def _update(connection: sa.Connection, conversation: int, changes: dict[str, Any]) -> None:
    table = tables.conversations
    connection.execute(sa.update(table).where(table.c.id == conversation).values(changes))


def _conversation(row: sa.Row[Any], turns: tuple[Turn, ...] = ()) -> Conversation:
    return Conversation(
        id=row.id,
        title="" if row.title is None else json.loads(row.title),
        profile=row.person,
        created=utc(row.created),
        updated=utc(row.updated),
        system=json.loads(row.system),
        head=row.head,
        count=row.turns,
        turns=turns,
        owner=row.owner,
    )


def _turn(row: sa.Row[Any]) -> Turn:
    return Turn(
        role=row.role,
        content=json.loads(row.content),
        parent=row.parent,
        side=row.side,
        policy=row.policy,
        preference=None if row.preference is None else json.loads(row.preference),
        about={} if row.about is None else json.loads(row.about),
        id=row.id,
        created=utc(row.created),
    )
