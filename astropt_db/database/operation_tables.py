"""Declared tables of the operation of a shared server."""

from __future__ import annotations

import sqlalchemy as sa

from astropt_db.database.tables import metadata

release_access = sa.Table(
    "release_access",
    metadata,
    sa.Column(
        "release", sa.Text, primary_key=True, comment="data release, e.g. Q1 [; meta.version]"
    ),
    sa.Column(
        "role_name",
        sa.Text,
        primary_key=True,
        comment="role whose members may see it; astropt_reader for everybody [; meta.id]",
    ),
    schema="astropt",
    comment="Which role sees which release, where row-level security is on",
)
