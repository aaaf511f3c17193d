"""Vectors without a foreign key of their own: their partition belongs to one encoder.

Looking the encoder up for each row took a third of the time of storing vectors. A partition is
made for an encoder that is there and takes no other number, and numbers do not change; so it is
enough that an encoder with a partition stays.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the key; refuse to delete an encoder that has a partition."""
    op.execute("ALTER TABLE astropt.embedding DROP CONSTRAINT embedding_encoder_id_fkey")
    op.execute(
        """
        CREATE FUNCTION astropt.keep_encoder() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF to_regclass(format('astropt.embedding_%s', OLD.id)) IS NOT NULL THEN
                RAISE foreign_key_violation USING MESSAGE = format(
                    'encoder %s has vectors: drop astropt.embedding_%s first', OLD.name, OLD.id);
            END IF;
            RETURN OLD;
        END
        $$
        """
    )
    op.execute(
        "COMMENT ON FUNCTION astropt.keep_encoder IS "
        "'Trigger of astropt.encoder: one that has a partition of vectors stays'"
    )
    op.execute(
        "CREATE TRIGGER encoder_keep BEFORE DELETE ON astropt.encoder "
        "FOR EACH ROW EXECUTE FUNCTION astropt.keep_encoder()"
    )


def downgrade() -> None:
    """Back to the key."""
    op.execute("DROP TRIGGER encoder_keep ON astropt.encoder")
    op.execute("DROP FUNCTION astropt.keep_encoder")
    op.execute(
        "ALTER TABLE astropt.embedding ADD CONSTRAINT embedding_encoder_id_fkey "
        "FOREIGN KEY (encoder_id) REFERENCES astropt.encoder (id)"
    )
