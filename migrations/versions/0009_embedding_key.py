"""Vectors without a foreign key of their own: their partition belongs to one encoder.

Looking the encoder up for each row took a third of the time of storing vectors. A partition is
made for an encoder that is there and takes no other number, numbers do not change, and no command
deletes an encoder; ``doctor`` finds a partition whose encoder somebody has deleted by hand.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the key."""
    op.execute("ALTER TABLE astropt.embedding DROP CONSTRAINT embedding_encoder_id_fkey")


def downgrade() -> None:
    """Back to the key."""
    op.execute(
        "ALTER TABLE astropt.embedding ADD CONSTRAINT embedding_encoder_id_fkey "
        "FOREIGN KEY (encoder_id) REFERENCES astropt.encoder (id)"
    )
