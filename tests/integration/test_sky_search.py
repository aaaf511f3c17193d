"""Cones and matches against astropy, on random and on nasty positions."""

from __future__ import annotations

from collections.abc import Iterator

import astropy.units as u
import numpy as np
import psycopg
import pytest
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from conftest import temporary_database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.sky.crossmatch import PAIRS, Positions, PositionTable, find_pairs
from astropt_db.sky.healpix import healpix29
from astropt_db.sky.ranges import disc_ranges

RADII = (0.0, 0.05, 1.0, 30.0, 1000.0)
# Centres where something changes: the seam, the poles, the edges of the polar cells, dec +66.
NASTY = (
    (0.0, 0.0), (360.0 - 1e-9, 0.0), (0.0, 66.0), (359.99999, -48.4), (269.7, 66.0),
    (10.0, 90.0), (200.0, 89.99999), (45.0, -90.0), (300.0, -89.9999), (90.0, 41.8103),
    (44.99999, 41.81), (180.0, -41.8103149), (270.0, 80.0), (45.0, 0.0), (315.0, 1e-9),
)  # fmt: skip
TABLE = PositionTable(
    sql.Identifier("q1", "mer_catalogue"), "object_id", "right_ascension", "declination"
)
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer, template: str) -> Iterator[psycopg.Connection]:
    with temporary_database(server, template) as url, psycopg.connect(url) as connection:
        yield connection


def around(ra: float, dec: float, radius: float, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Positions up to two radii from a centre."""
    rng = np.random.default_rng(seed)
    centre = SkyCoord(ra, dec, unit="deg")
    away = 2 * max(radius, 0.01) * np.sqrt(rng.random(n)) * u.arcsec
    found = centre.directional_offset_by(360 * rng.random(n) * u.deg, away)
    return found.ra.deg % 360, found.dec.deg


def fill(connection: psycopg.Connection, ra: np.ndarray, dec: np.ndarray) -> None:
    """These positions as the only sources, without what a real source has, too."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        fields = [
            Field("object_id", "bigint", np.arange(len(ra))),
            Field("right_ascension", "double precision", ra),
            Field("declination", "double precision", dec),
            Field("healpix29", "bigint", healpix29(ra, dec)),
            Field("ingest_file_id", "bigint", np.zeros(len(ra), np.int64)),
        ]
        copy_rows(cursor, TABLE.table, fields)


centres = st.one_of(
    st.sampled_from(NASTY),
    st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90)),
)


@given(centre=centres, radius=st.sampled_from(RADII), seed=st.integers(0, 999))
@example(centre=(5e-324, -5e-324), radius=0.0, seed=0)
@quick
def test_cone_and_match_find_what_astropy_finds(
    connection: psycopg.Connection, centre: tuple[float, float], radius: float, seed: int
) -> None:
    ra, dec = around(*centre, radius, 80, seed)
    probes = tuple(np.append(one, c) for one, c in zip(around(*centre, radius, 8, seed + 1), centre,
                                                       strict=True))  # fmt: skip
    here, there = SkyCoord(*probes, unit="deg"), SkyCoord(ra, dec, unit="deg")
    separation = here[:, None].separation(there[None, :]).arcsec
    # Rounding decides on the edge itself.
    sure = np.abs(separation - radius) > 1e-7
    expected = set(zip(*np.nonzero((separation <= radius) & sure), strict=True))
    first, second, *_ = search_around_sky(here, there, radius * u.arcsec)
    if radius:
        assert expected == {(i, j) for i, j in zip(first, second, strict=True) if sure[i, j]}
    try:
        fill(connection, ra, dec)
        with connection.cursor() as cursor:
            place = Positions(np.arange(9), *probes, np.full(9, radius))
            find_pairs(cursor, place, TABLE)
            pairs = cursor.execute(
                sql.SQL("SELECT probe_id, target_id FROM {}").format(PAIRS)
            ).fetchall()
            assert {(i, j) for i, j in pairs if sure[i, j]} == expected
            for i, (one, other) in enumerate(zip(*probes, strict=True)):
                rows = cursor.execute(
                    "SELECT object_id, separation FROM astropt.cone(%s, %s, %s)",
                    [one, other, radius],
                ).fetchall()
                found = {(i, j) for j, _ in rows if sure[i, j]}
                assert found == {pair for pair in expected if pair[0] == i}
                assert all(abs(s - separation[i, j]) < 1e-6 for j, s in rows)
    finally:
        connection.rollback()


def test_a_distance_near_nothing_is_no_error(connection: psycopg.Connection) -> None:
    query = "SELECT astropt.angular_separation(%s, %s, %s, %s)"
    for places in ([0, 0, 5e-324, 5e-324], [0, 90, 180, 90], [10, 1e-170, 10, 0]):
        assert connection.execute(query, places).fetchone() == (pytest.approx(0, abs=1e-13),)
    assert connection.execute(query, [0, 0, 180, 0]).fetchone() == (180,)
    assert connection.execute(query, [None, 0, 180, 0]).fetchone() == (None,)
    connection.rollback()


@pytest.mark.parametrize("degrees", [0.5, 2, 5, 20])
@pytest.mark.parametrize("centre", NASTY)
def test_a_wide_cone_finds_what_astropy_finds(
    connection: psycopg.Connection, centre: tuple[float, float], degrees: float
) -> None:
    radius = 3600.0 * degrees
    ra, dec = around(*centre, radius, 200, 7)
    away = SkyCoord(*centre, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).arcsec
    sure = np.abs(away - radius) > 1e-6
    try:
        fill(connection, ra, dec)
        rows = connection.execute(
            "SELECT object_id FROM astropt.cone(%s, %s, %s)", [*centre, radius]
        ).fetchall()
    finally:
        connection.rollback()
    expected = np.flatnonzero((away <= radius) & sure).tolist()
    assert sorted(i for (i,) in rows if sure[i]) == expected
    assert 10 < len(expected) < 200


@pytest.mark.parametrize("centre", NASTY)
def test_nearest_is_that_of_astropy(
    connection: psycopg.Connection, centre: tuple[float, float]
) -> None:
    ra, dec = around(*centre, 10, 60, 5)
    index, separation, _ = match_coordinates_sky(
        SkyCoord(*centre, unit="deg"), SkyCoord(ra, dec, unit="deg")
    )
    try:
        fill(connection, ra, dec)
        rows = connection.execute(
            "SELECT object_id, separation FROM astropt.nearest(%s, %s, 100, 3)", centre
        ).fetchall()
    finally:
        connection.rollback()
    assert rows[0][0] == index
    assert rows[0][1] == pytest.approx(separation.arcsec[0], abs=1e-6)
    assert [s for _, s in rows] == sorted(s for _, s in rows)


def test_cells_in_sql_are_those_of_cdshealpix(connection: psycopg.Connection) -> None:
    rng = np.random.default_rng(3)
    ra = np.concatenate([rng.random(3000) * 360, [one for one, _ in NASTY]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 3000))),
                          [one for _, one in NASTY]])  # fmt: skip
    rows = connection.execute(
        "SELECT astropt.healpix29(r, d) FROM unnest(%s::float8[], %s::float8[]) AS t (r, d)",
        [ra.tolist(), dec.tolist()],
    ).fetchall()
    ours = np.array([row[0] for row in rows])
    # Rounding may move a position over the edge of the smallest cell, not over that of a large one.
    assert np.mean(ours[:3000] == healpix29(ra[:3000], dec[:3000])) > 0.9
    assert np.array_equal(ours[:3000] >> 22, healpix29(ra[:3000], dec[:3000]) >> 22)


@given(centre=centres, radius=st.floats(0, 7200), seed=st.integers(0, 999))
@quick
def test_ranges_hold_the_disc(centre: tuple[float, float], radius: float, seed: int) -> None:
    ra, dec = around(*centre, radius / 2, 100, seed)
    here = SkyCoord(*centre, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).arcsec
    ra, dec = ra[here <= radius], dec[here <= radius]
    found = disc_ranges(np.array([centre[0]]), np.array([centre[1]]), radius)
    cells = healpix29(ra, dec)
    inside = (cells[:, None] >= found.first) & (cells[:, None] <= found.last)
    assert inside.any(axis=1).all()


def test_impossible_cones_are_told(connection: psycopg.Connection) -> None:
    for values in ((0, 91, 1), (0, 0, -1), (float("nan"), 0, 1), (0, float("nan"), 1)):
        with pytest.raises(psycopg.errors.RaiseException, match="no cone at ra"):
            connection.execute("SELECT * FROM astropt.cone(%s, %s, %s)", values)
        connection.rollback()
    with pytest.raises(ValueError, match="from 0 to 7200"):
        disc_ranges(np.array([0.0]), np.array([0.0]), 8000)
