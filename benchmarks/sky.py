"""Cones and matches beside Q3C, astropy and STILTS, on one table in one server.

A private PostgreSQL 15 (Debian's, which Q3C is packaged for) runs in a temporary folder; Q3C and
ours use the same table, memory and parallel settings there. Run it as root, or with ``--bin``
naming a server's programs: ``python benchmarks/sky.py [--rows 3000000] [--probes 100000]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import astropy.units as u
import numpy as np
import psycopg
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.table import Table
from psycopg import sql

from astropt_db.database.copy import Field, copy_rows
from astropt_db.sky.crossmatch import Positions, PositionTable, find_pairs
from astropt_db.sky.healpix import healpix29

SETTINGS = {
    "shared_buffers": "1GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "512MB",
    "max_parallel_workers_per_gather": "2",
    "max_wal_size": "8GB",
    "jit": "off",
    "listen_addresses": "",
}
TIMEOUT_S = 150
SOURCE = PositionTable(
    sql.Identifier("q1", "mer_catalogue"), "object_id", "right_ascension", "declination"
)


@contextmanager
def private_server(programs: Path) -> Iterator[str]:
    """A new server in a temporary folder; its address."""
    folder = Path(tempfile.mkdtemp(prefix="sky-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    options = [f"-c{key}={value}" for key, value in SETTINGS.items()]
    data = folder / "data"
    subprocess.run(
        [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C",
            "-E",
            "UTF8",
        ],
        user=user,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
    )
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder, *options],
        user=user,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        address = f"host={folder} dbname=postgres user=postgres"
        for _ in range(100):
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions spread evenly over 63 square degrees at dec +66, the density of Euclid's Q1."""
    rng = np.random.default_rng(seed)
    low, high = np.sin(np.radians([62.0, 70.0]))
    dec = np.degrees(np.arcsin(rng.uniform(low, high, n)))
    return 260 + 19.5 * rng.random(n), dec


def fill(connection: psycopg.Connection, ra: np.ndarray, dec: np.ndarray) -> None:
    """The table, our index and Q3C's."""
    functions = Path(__file__).parents[1] / "sql" / "functions"
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE EXTENSION q3c; CREATE SCHEMA q1; CREATE SCHEMA astropt; CREATE SCHEMA survey"
        )
        cursor.execute(
            "CREATE TABLE q1.mer_catalogue (object_id bigint, healpix29 bigint, "
            "right_ascension double precision, declination double precision)"
        )
        cursor.execute(
            "CREATE TABLE probe (id bigint, ra double precision, declination double precision)"
        )
        for name in ("10_sky.sql", "11_cone.sql"):
            cursor.execute((functions / name).read_bytes())
        fields = [
            Field("object_id", "bigint", np.arange(len(ra))),
            Field("healpix29", "bigint", healpix29(ra, dec)),
            Field("right_ascension", "double precision", ra),
            Field("declination", "double precision", dec),
        ]
        copy_rows(cursor, sql.Identifier("q1", "mer_catalogue"), fields)
        cursor.execute("CREATE INDEX ON q1.mer_catalogue (healpix29)")
        cursor.execute(
            "CREATE INDEX ON q1.mer_catalogue (q3c_ang2ipix(right_ascension, declination))"
        )
    connection.commit()
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE q1.mer_catalogue")
    connection.autocommit = False


def cones(connection: psycopg.Connection, query: bytes, ra: np.ndarray, dec: np.ndarray) -> int:
    """One query per position; returns the rows found.

    Not prepared, as a person's query is not; most of Q3C's time is then planning (7 ms in one
    EXPLAIN, 0.45 ms execution).
    """
    found = 0
    with connection.cursor() as cursor:
        for one in zip(ra.tolist(), dec.tolist(), strict=True):
            found += len(cursor.execute(query, (*one, 1.0), prepare=False).fetchall())
    return found


OURS = b"SELECT object_id FROM astropt.cone(%s, %s, %s)"
Q3C = (
    b"SELECT object_id FROM q1.mer_catalogue WHERE q3c_radial_query("
    b"right_ascension, declination, %s, %s, %s / 3600)"
)


def match_ours(connection: psycopg.Connection, ra: np.ndarray, dec: np.ndarray) -> int:
    """Positions on the client, pairs on the server."""
    with connection.cursor() as cursor:
        n = find_pairs(cursor, Positions(np.arange(len(ra)), ra, dec, np.ones(len(ra))), SOURCE)
    connection.commit()
    return n


def match_q3c(
    connection: psycopg.Connection, ra: np.ndarray, dec: np.ndarray, analyze: bool = True
) -> int:
    """The same: positions from the client into a table, pairs into a temporary table."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS probe")
        cursor.execute(
            "CREATE UNLOGGED TABLE probe (id bigint, ra double precision, "
            "declination double precision)"
        )
        order = np.argsort(healpix29(ra, dec))
        fields = [
            Field("id", "bigint", order),
            Field("ra", "double precision", ra[order]),
            Field("declination", "double precision", dec[order]),
        ]
        copy_rows(cursor, sql.Identifier("probe"), fields)
        if analyze:
            cursor.execute("ANALYZE probe")
        for setting in ("parallel_setup_cost = 0", "min_parallel_table_scan_size = 0"):
            cursor.execute(b"SET LOCAL " + setting.encode())
        cursor.execute(
            "CREATE TEMPORARY TABLE pair ON COMMIT DROP AS SELECT p.id, m.object_id "
            "FROM probe AS p JOIN q1.mer_catalogue AS m ON q3c_join(p.ra, "
            "p.declination, m.right_ascension, m.declination, 1.0 / 3600)"
        )
        n = cursor.rowcount
    connection.commit()
    return n


def match_astropy(ra: np.ndarray, dec: np.ndarray, ra3: np.ndarray, dec3: np.ndarray) -> int:
    """In memory, reading not counted."""
    one, other = SkyCoord(ra, dec, unit="deg"), SkyCoord(ra3, dec3, unit="deg")
    return len(search_around_sky(one, other, 1 * u.arcsec)[0])


def match_stilts(folder: Path) -> int:
    """tskymatch2 on FITS files."""
    out = folder / "out.fits"
    subprocess.run(
        [
            "stilts",
            "tskymatch2",
            f"in1={folder}/one.fits",
            f"in2={folder}/other.fits",
            "ra1=ra",
            "dec1=dec",
            "ra2=ra",
            "dec2=dec",
            "error=1",
            "find=all",
            f"out={out}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )
    return len(Table.read(out))


def timed(function: Callable[[], int]) -> tuple[float, int]:
    """Seconds, and what the function counted."""
    start = time.perf_counter()
    n = function()
    return time.perf_counter() - start, n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--probes", type=int, default=100_000)
    parser.add_argument("--cones", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-rivals", action="store_true", help="only Q3C")
    parser.add_argument("--bin", type=Path, default=Path("/usr/lib/postgresql/15/bin"))
    arguments = parser.parse_args()
    ra, dec = draw(arguments.rows, 1)
    rng = np.random.default_rng(2)
    some = rng.choice(len(ra), arguments.probes, replace=False)
    probe_ra = ra[some] + rng.normal(0, 0.3 / 3600, len(some)) / np.cos(np.radians(dec[some]))
    probe_dec = dec[some] + rng.normal(0, 0.3 / 3600, len(some))
    with private_server(arguments.bin) as address, psycopg.connect(address) as connection:
        fill(connection, ra, dec)
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{TIMEOUT_S}s"])
        connection.commit()
        n = arguments.cones
        print(connection.execute("SELECT version()").fetchone()[0].split(" on ")[0])
        pairs = [
            (
                "cone 1 arcsec",
                lambda q=OURS: cones(connection, q, probe_ra[:n], probe_dec[:n]),
                lambda q=Q3C: cones(connection, q, probe_ra[:n], probe_dec[:n]),
            ),
            (
                "match",
                lambda: match_ours(connection, probe_ra, probe_dec),
                lambda: match_q3c(connection, probe_ra, probe_dec),
            ),
        ]
        for label, ours, theirs in pairs:
            ours(), theirs()
            rounds = [(timed(ours), timed(theirs)) for _ in range(arguments.rounds)]
            ratios = [one[0] / other[0] for one, other in rounds]
            assert all(one[1] == other[1] for one, other in rounds), rounds
            print(
                f"{label}: ours {np.median([one[0] for one, _ in rounds]):.3f} s, "
                f"Q3C {np.median([other[0] for _, other in rounds]):.3f} s, ratio "
                f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), "
                f"{rounds[0][0][1]} found by both"
            )
    if arguments.no_rivals:
        return
    seconds, n = timed(lambda: match_astropy(probe_ra, probe_dec, ra, dec))
    print(f"astropy search_around_sky: {seconds:.2f} s, {n} pairs")
    if shutil.which("stilts"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            Table({"ra": probe_ra, "dec": probe_dec}).write(folder / "one.fits")
            Table({"ra": ra, "dec": dec}).write(folder / "other.fits")
            seconds, n = timed(lambda: match_stilts(folder))
        print(f"STILTS tskymatch2 (files read and written): {seconds:.2f} s, {n} pairs")


if __name__ == "__main__":
    main()
