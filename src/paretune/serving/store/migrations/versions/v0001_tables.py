"""Profiles, presets, votes and the audit of preferences used."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself in a column of exactly this type.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "paretune_profiles",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("name", name="paretune_profiles_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "paretune_presets",
        sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("preference", sa.Text(), nullable=False),
        sa.Column("updated", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "paretune_votes",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("profile", _ID, sa.ForeignKey("paretune_profiles.id"), nullable=False, index=True),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("first", sa.Text(), nullable=False),
        sa.Column("second", sa.Text(), nullable=False),
        sa.Column("winner", sa.String(6), nullable=False),
        sa.Column("objective", sa.Text()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "paretune_audit",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("policy", sa.String(200), nullable=False),
        sa.Column("used", sa.Text(), nullable=False),
        sa.Column("asked", sa.Text()),
        sa.Column("request", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
