"""Operations: which role may see which release.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the list of releases and roles for row-level security."""
    op.create_table(
        "release_access",
        sa.Column("release", sa.Text, primary_key=True),
        sa.Column("role_name", sa.Text, primary_key=True),
        schema="astropt",
    )


def downgrade() -> None:
    """Drop it, with the functions that read it."""
    op.execute("DROP TABLE astropt.release_access CASCADE")
    op.execute("DROP FUNCTION IF EXISTS astropt.restrict_table, astropt.visible_releases CASCADE")
