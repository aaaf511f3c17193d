"""Declared tables of the embedding queue: chunks of sources, and sources without a vector."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata
from astropt_db.images.tables import OBJECT_ID

_ENCODER = "encoder, see astropt.encoder [; meta.id]"

embed_chunk = sa.Table(
    "embed_chunk",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    ),
    sa.Column(
        "encoder_id",
        sa.Integer,
        sa.ForeignKey("astropt.encoder.id", ondelete="CASCADE"),
        nullable=False,
        comment=_ENCODER,
    ),
    sa.Column(
        "tile",
        sa.BigInteger,
        comment="MER tile of the pixels; NULL for ready-made cut-outs [; meta.id]",
    ),
    sa.Column(
        "object_ids",
        pg.ARRAY(sa.BigInteger),
        nullable=False,
        comment="its sources, from the lowest declination upwards [; meta.id]",
    ),
    sa.Column("n_sources", sa.Integer, nullable=False, comment="how many [; meta.number]"),
    sa.Column(
        "state",
        sa.Text,
        nullable=False,
        server_default="pending",
        comment="pending, running, done, failed (split into smaller ones), dead (given up) "
        "[; meta.code.status]",
    ),
    sa.Column(
        "attempts",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="times that a worker claimed it [; meta.number]",
    ),
    sa.Column("worker", pg.UUID, comment="process that has or had it [; meta.id]"),
    sa.Column(
        "lease_until",
        sa.DateTime(timezone=True),
        comment="when the claim ends unless renewed, by the server's clock [; time.end]",
    ),
    sa.Column(
        "not_before",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment="earliest moment of the next claim [; time.start]",
    ),
    sa.Column(
        "parent_id", sa.BigInteger, comment="chunk that it was split from [; meta.id.parent]"
    ),
    sa.Column(
        "run_id", sa.BigInteger, comment="run of the last claim, see astropt.run [; meta.id]"
    ),
    sa.Column(
        "n_embedded",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="vectors written [; meta.number]",
    ),
    sa.Column(
        "n_problems",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="sources that went to astropt.embed_problem [; meta.number]",
    ),
    sa.Column("error", sa.Text, comment="what went wrong the last time [; meta.code.error]"),
    sa.Column("started_at", sa.DateTime(timezone=True), comment="last claim [; time.start]"),
    sa.Column("ended_at", sa.DateTime(timezone=True), comment="end [; time.end]"),
    sa.CheckConstraint(
        "state IN ('pending', 'running', 'done', 'failed', 'dead')", name="embed_chunk_state_check"
    ),
    sa.Index(
        "embed_chunk_pending",
        "encoder_id",
        "id",
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index(
        "embed_chunk_pending_tile",
        "encoder_id",
        "tile",
        "id",
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index(
        "embed_chunk_running",
        "encoder_id",
        "lease_until",
        postgresql_where=sa.text("state = 'running'"),
    ),
    schema="astropt",
    comment="Queue of the embedding workers: sources of one tile for one encoder, a thousand or "
    "so in a row",
)

embed_problem = sa.Table(
    "embed_problem",
    metadata,
    sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False, comment=OBJECT_ID),
    sa.Column(
        "encoder_id",
        sa.Integer,
        sa.ForeignKey("astropt.encoder.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment=_ENCODER,
    ),
    sa.Column(
        "reason",
        sa.Text,
        nullable=False,
        comment="no_pixels, not_finite, zero_vector, bad_file, error, worker_died "
        "[; meta.code.error]",
    ),
    sa.Column("detail", sa.Text, nullable=False, comment="what was found [; meta.note]"),
    sa.Column("tile", sa.BigInteger, comment="MER tile of the pixels [; meta.id]"),
    sa.Column("run_id", sa.BigInteger, nullable=False, comment="run that met it [; meta.id]"),
    sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment="when [; time.creation]",
    ),
    schema="astropt",
    comment="Sources that an encoder has no vector for, each with its reason",
)
