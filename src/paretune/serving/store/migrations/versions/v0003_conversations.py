"""Conversations, and their turns as a tree."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself in a column of exactly this type.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "paretune_conversations",
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
    op.create_table(
        "paretune_turns",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("conversation", _ID, sa.ForeignKey("paretune_conversations.id"), nullable=False),
        sa.Column("parent", _ID),
        sa.Column("role", sa.String(9), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("side", sa.String(4)),
        sa.Column("policy", sa.String(200)),
        sa.Column("preference", sa.Text()),
        sa.Column("about", sa.Text()),
        sa.Index("paretune_turns_of", "conversation", "id"),
        sqlite_autoincrement=True,
    )
