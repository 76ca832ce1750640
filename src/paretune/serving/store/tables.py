"""The tables of a store.

People's texts and numbers are in columns of JSON in ASCII, so that every float and every character, NUL too, is read as it was
written, whatever the database and its encoding. ``owner`` is the name of the API key that made a row; null is nobody's.
"""

from __future__ import annotations

import sqlalchemy as sa

from paretune.serving.store.entries import LONGEST_NAME, LONGEST_POLICY

metadata = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
profiles = sa.Table(
    "paretune_profiles",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(LONGEST_NAME), nullable=False),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("owner", sa.Text()),
    sa.UniqueConstraint("name", name="paretune_profiles_name"),
    sqlite_autoincrement=True,
)
presets = sa.Table(
    "paretune_presets",
    metadata,
    sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), primary_key=True),
    sa.Column("name", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("preference", sa.Text(), nullable=False),
    sa.Column("updated", sa.DateTime(), nullable=False),
    sa.Column("owner", sa.Text()),
)
votes = sa.Table(
    "paretune_votes",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), nullable=False, index=True),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("prompt", sa.Text(), nullable=False),
    sa.Column("first", sa.Text(), nullable=False),
    sa.Column("second", sa.Text(), nullable=False),
    sa.Column("winner", sa.String(6), nullable=False),
    sa.Column("objective", sa.Text()),
    sa.Column("owner", sa.Text()),
    sa.Index("paretune_votes_of", "profile", "policy", "id"),
    sqlite_autoincrement=True,
)
audit = sa.Table(
    "paretune_audit",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("policy", sa.String(LONGEST_POLICY), nullable=False),
    sa.Column("used", sa.Text(), nullable=False),
    sa.Column("asked", sa.Text()),
    sa.Column("request", sa.Text(), nullable=False),
    sa.Column("owner", sa.Text()),
    sqlite_autoincrement=True,
)
conversations = sa.Table(
    "paretune_conversations",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("updated", sa.DateTime(), nullable=False),
    sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), nullable=False),
    sa.Column("title", sa.Text()),
    sa.Column("system", sa.Text(), nullable=False),
    sa.Column("head", _ID),
    sa.Column("turns", sa.Integer(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("owner", sa.Text()),
    sa.Index("paretune_conversations_of", "profile", "updated"),
    sqlite_autoincrement=True,
)
turns = sa.Table(
    "paretune_turns",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("created", sa.DateTime(), nullable=False),
    sa.Column("conversation", _ID, sa.ForeignKey("paretune_conversations.id"), nullable=False),
    sa.Column("parent", _ID),
    sa.Column("role", sa.String(9), nullable=False),
    sa.Column("content", sa.Text(), nullable=False),
    sa.Column("side", sa.String(4)),
    sa.Column("policy", sa.String(LONGEST_POLICY)),
    sa.Column("preference", sa.Text()),
    sa.Column("about", sa.Text()),
    sa.Index("paretune_turns_of", "conversation", "id"),
    sqlite_autoincrement=True,
)
