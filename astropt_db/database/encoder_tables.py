"""Declared tables of encoders and their vectors."""

from __future__ import annotations

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata

encoder = sa.Table(
    "encoder",
    metadata,
    sa.Column(
        "id",
        sa.Integer,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    ),
    sa.Column("name", sa.Text, nullable=False, comment="name, unique [; meta.id]"),
    sa.Column(
        "modalities",
        sa.Text,
        nullable=False,
        comment="what it sees: vis, vis_nisp, vis_nisp_sed [; meta.id]",
    ),
    sa.Column(
        "dimension", sa.Integer, nullable=False, comment="length of a vector [; meta.number]"
    ),
    sa.Column(
        "weights_sha256",
        sa.Text,
        nullable=False,
        comment="SHA-256 of the weights' file [; meta.checksum]",
    ),
    sa.Column(
        "source",
        sa.Text,
        nullable=False,
        comment="bundled name, path or hf:// address that the weights were read from [; meta.ref]",
    ),
    sa.Column(
        "preprocessing",
        pg.JSONB,
        nullable=False,
        comment="how images become tokens: bands, patch size, order, rounding [; meta.note]",
    ),
    sa.Column(
        "pooling",
        pg.JSONB,
        nullable=False,
        comment="which states are averaged: name, block, tokens, reduce [; meta.note]",
    ),
    sa.Column(
        "card",
        pg.JSONB,
        nullable=False,
        comment="model card: architecture, training data, settings as far as known [; meta.note]",
    ),
    sa.Column(
        "is_current",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="true for the one that commands and functions take by default [; meta.code]",
    ),
    sa.Column(
        "run_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.run.id"),
        comment="run that added it, see astropt.run [; meta.id]",
    ),
    sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment="when it was added [; time.creation]",
    ),
    sa.CheckConstraint("dimension BETWEEN 1 AND 4000", name="encoder_dimension_check"),
    sa.Index("encoder_name", "name", unique=True),
    sa.Index("encoder_current", "is_current", unique=True, postgresql_where=sa.text("is_current")),
    schema="astropt",
    comment="Trained models with preprocessing and pooling; other settings are another encoder",
)

embedding = sa.Table(
    "embedding",
    metadata,
    sa.Column(
        "object_id",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Euclid source identifier [; meta.id;meta.main]",
    ),
    sa.Column(
        "encoder_id",
        sa.Integer,
        primary_key=True,
        autoincrement=False,
        comment="encoder, see astropt.encoder; one partition for each [; meta.id]",
    ),
    sa.Column(
        "run_id",
        sa.BigInteger,
        nullable=False,
        comment="run that computed it, see astropt.run [; meta.id]",
    ),
    sa.Column(
        "flags",
        sa.SmallInteger,
        nullable=False,
        server_default="0",
        comment="bits: 1 window over an image's edge, 2 a band is missing, 8 many missing "
        "pixels, 16 no SED [; meta.code]",
    ),
    sa.Column(
        "missing_fraction",
        sa.REAL,
        nullable=False,
        server_default="0",
        comment="fraction of the window's pixels that is missing, over all bands [; stat.value]",
    ),
    sa.Column(
        "embedding",
        HALFVEC(),
        nullable=False,
        comment="the vector; finite, not zero [; meta.record]",
    ),
    sa.CheckConstraint("l2_norm(embedding) > 0", name="embedding_norm_check"),
    schema="astropt",
    comment="One vector for each source and encoder; astropt.embedding_array shows them as real[]",
    postgresql_partition_by="LIST (encoder_id)",
)
