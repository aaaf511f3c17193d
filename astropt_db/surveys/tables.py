"""Declared table of the registry of surveys; the surveys themselves are tables of their own."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata


def _count(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, comment=f"{comment} [; meta.number]")


survey = sa.Table(
    "survey",
    metadata,
    sa.Column(
        "name", sa.Text, primary_key=True, comment="table in schema survey [; meta.id;meta.main]"
    ),
    sa.Column(
        "run_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.run.id"),
        nullable=False,
        comment="run that loaded it, see astropt.run [; meta.id]",
    ),
    sa.Column("recipe", sa.Text, comment="recipe; NULL if none [; meta.id]"),
    sa.Column("paths", pg.ARRAY(sa.Text), nullable=False, comment="files [; meta.id;meta.file]"),
    sa.Column(
        "sha256",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="SHA-256 of each file, and of the options [; meta.checksum]",
    ),
    sa.Column("id_column", sa.Text, nullable=False, comment="column of the id [; meta.id]"),
    sa.Column(
        "radius", sa.Double, nullable=False, comment="usual match radius [arcsec; pos.angDistance]"
    ),
    _count("n_read", "rows read"),
    _count("n_rows", "rows in the table"),
    _count("n_without_position", "rows left out, whose position is missing or impossible"),
    _count("n_cut", "rows left out by the recipe's cuts"),
    _count("n_duplicates", "rows left out, whose id came before"),
    sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment="when it was loaded [; time.creation]",
    ),
    sa.Column(
        "match_radius",
        sa.Double,
        comment="radius of the match; NULL if not matched [arcsec; pos.angDistance]",
    ),
    sa.Column("match_kind", sa.Text, comment="best or all [; meta.code]"),
    sa.Column("n_pairs", sa.BigInteger, comment="rows of the association [; meta.number]"),
    sa.Column("n_matched", sa.BigInteger, comment="survey rows with a source [; meta.number]"),
    sa.Column(
        "n_chance",
        sa.Double,
        comment="matches expected by chance, from shifted positions [; meta.number;stat.mean]",
    ),
    sa.Column(
        "matched_at", sa.DateTime(timezone=True), comment="when it was matched [; time.processing]"
    ),
    sa.CheckConstraint("match_kind IN ('best', 'all')", name="survey_match_kind_check"),
    schema="astropt",
    comment="Other surveys that were loaded, and how they were matched",
)
