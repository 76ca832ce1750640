"""The API key that made a profile, a preset, a vote or an audit record; an index of people's votes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, in which older rows belong to nobody, and an index by which a person's votes are counted."""
    for table in ("paretune_profiles", "paretune_presets", "paretune_votes", "paretune_audit"):
        op.add_column(table, sa.Column("owner", sa.Text()))
    op.create_index("paretune_votes_of", "paretune_votes", ["profile", "policy", "id"])
