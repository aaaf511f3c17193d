"""Declared tables of registered images: mosaics, ready-made cut-outs, SEDs that came with them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata

OBJECT_ID = "Euclid source identifier [; meta.id;meta.main]"
_RUN = "run that registered it, see astropt.run [; meta.id]"


def _text(name: str, comment: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, comment=comment)


def _integer(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, comment=comment)


def _double(name: str, comment: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, comment=comment)


def _registered() -> list[sa.Column[Any]]:
    """Which run registered a file, and when."""
    return [
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), comment=_RUN),
        sa.Column(
            "registered_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
            comment="when it was registered, or registered anew [; time.creation]",
        ),
    ]


def _version() -> list[sa.Column[Any]]:
    """What tells a changed file."""
    return [
        sa.Column(
            "size", sa.BigInteger, nullable=False, comment="size of the file [byte; meta.number]"
        ),
        _text("tag", "entity tag, or time of change in nanoseconds [; meta.version]"),
    ]


mosaic = sa.Table(
    "mosaic",
    metadata,
    sa.Column(
        "tile",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="MER tile [; meta.id;meta.main]",
    ),
    sa.Column(
        "band", sa.Text, primary_key=True, comment="VIS, NIR_Y, NIR_J, NIR_H [; instr.bandpass]"
    ),
    sa.Column(
        "kind",
        sa.Text,
        primary_key=True,
        comment="BGSUB, the image, or RMS, its noise map [; meta.code.class]",
    ),
    _text("uri", "absolute path, or URI, of the file [; meta.ref.url]"),
    _text("release", "data release, e.g. Q1 [; meta.version]"),
    _integer("width", "columns [pix; pos.wcs.naxis]"),
    _integer("height", "rows [pix; pos.wcs.naxis]"),
    _double("crval1", "right ascension of the tangent point, ICRS [deg; pos.wcs.crval]"),
    _double("crval2", "declination of the tangent point, ICRS [deg; pos.wcs.crval]"),
    _double("crpix1", "column of the tangent point, from 1 [pix; pos.wcs.crpix]"),
    _double("crpix2", "row of the tangent point, from 1 [pix; pos.wcs.crpix]"),
    _double("cd1_1", "change of x on the sky per column [deg/pix; pos.wcs.cdmatrix]"),
    _double("cd1_2", "change of x on the sky per row [deg/pix; pos.wcs.cdmatrix]"),
    _double("cd2_1", "change of y on the sky per column [deg/pix; pos.wcs.cdmatrix]"),
    _double("cd2_2", "change of y on the sky per row [deg/pix; pos.wcs.cdmatrix]"),
    _double(
        "magzero", "AB magnitude of one unit of flux; NaN if not stated [mag; arith.zp;phot.mag]"
    ),
    _integer("bitpix", "type of the pixels; -32 is float32 [; meta.code]"),
    sa.Column(
        "data_offset",
        sa.BigInteger,
        nullable=False,
        comment="bytes before the first pixel [byte; meta.number]",
    ),
    *_version(),
    _text("header_sha256", "SHA-256 of the header [; meta.checksum]"),
    sa.Column(
        "cells",
        pg.ARRAY(sa.BigInteger),
        nullable=False,
        comment="HEALPix cells, order 8, nested, that it touches [; pos.healpix]",
    ),
    *_registered(),
    sa.CheckConstraint("kind IN ('BGSUB', 'RMS')", name="mosaic_kind_check"),
    sa.Index("mosaic_cells", "cells", postgresql_using="gin"),
    schema="q1",
    comment="Registered mosaics: where each band of a tile lies, and its place on the sky",
)

cutout_file = sa.Table(
    "cutout_file",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    ),
    _text("path", "absolute path of the file [; meta.id;meta.file]"),
    _text("kind", "fits or parquet [; meta.code.class]"),
    sa.Column(
        "cube_bands",
        pg.ARRAY(sa.Text),
        comment="bands of the planes of a cube whose header does not tell [; instr.bandpass]",
    ),
    _integer("n_objects", "objects with images in it [; meta.number]"),
    *_version(),
    *_registered(),
    sa.CheckConstraint("kind IN ('fits', 'parquet')", name="cutout_file_kind_check"),
    sa.Index("cutout_file_path", "path", unique=True),
    schema="q1",
    comment="Registered files of ready-made cut-outs",
)

cutout = sa.Table(
    "cutout",
    metadata,
    sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False, comment=OBJECT_ID),
    sa.Column(
        "file_id",
        sa.BigInteger,
        sa.ForeignKey("q1.cutout_file.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="file that holds it, see q1.cutout_file [; meta.id]",
    ),
    sa.Index("cutout_file_id", "file_id"),
    schema="q1",
    comment="Which files hold ready-made cut-outs of an object; several where bands are apart",
)

sed = sa.Table(
    "sed",
    metadata,
    sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False, comment=OBJECT_ID),
    sa.Column(
        "flux",
        pg.ARRAY(sa.REAL),
        nullable=False,
        comment="fluxes in g, r, VIS, i, z, Y, J, H; NaN where absent [uJy; phot.flux.density]",
    ),
    sa.Column(
        "flux_error",
        pg.ARRAY(sa.REAL),
        nullable=False,
        comment="their errors [uJy; stat.error;phot.flux.density]",
    ),
    _text("origin", "file that they came from [; meta.id;meta.file]"),
    *_registered(),
    schema="q1",
    comment="Spectral energy distributions that came in files of their own; the encoders take "
    "those of q1.mer_catalogue first",
)
