"""Time and peak memory of exports in every format, each by the command in a process of its own.

A private server in a temporary folder holds ``--rows`` sources (7 columns); each file is removed
before the next is written: ``python benchmarks/export.py [--rows 30000000] [--formats fits hats]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from astropt_db.database import migrate
from astropt_db.database.copy import Field, copy_rows
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.sky.healpix import healpix29

SUFFIXES = {
    "fits": ".fits",
    "votable": ".vot",
    "ecsv": ".ecsv",
    "csv": ".csv",
    "parquet": ".parquet",
    "hats": ".hats",
}
_CHUNK = 1_000_000
_TABLE = """
    CREATE TABLE survey.many (object_id bigint, healpix29 bigint, ra double precision,
        "dec" double precision, mag real, flag smallint, name text);
    COMMENT ON COLUMN survey.many.healpix29 IS 'HEALPix cell [; pos.healpix]';
    COMMENT ON COLUMN survey.many.mag IS 'magnitude [mag; phot.mag]';
    GRANT SELECT ON survey.many TO astropt_reader
"""


def fill(url: str, rows: int) -> None:
    """Positions spread evenly over 63 square degrees, in no order."""
    rng = np.random.default_rng(1)
    low, high = np.sin(np.radians([62.0, 70.0]))
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLE)
        for first in range(0, rows, _CHUNK):
            n = min(_CHUNK, rows - first)
            ra = 260 + 19.5 * rng.random(n)
            dec = np.degrees(np.arcsin(rng.uniform(low, high, n)))
            fields = [
                Field("object_id", "bigint", 2**60 + np.arange(first, first + n)),
                Field("healpix29", "bigint", healpix29(ra, dec)),
                Field("ra", "double precision", ra),
                Field("dec", "double precision", dec),
                Field("mag", "real", rng.normal(23, 1, n).astype(np.float32)),
                Field("flag", "smallint", rng.integers(0, 4, n).astype(np.int16)),
            ]
            copy_rows(cursor, sql.Identifier("survey", "many"), fields)


def export(url: str, target: Path) -> tuple[float, float, float]:
    """Seconds, peak resident memory of the process in MB, and size of the result in MB."""
    started = time.perf_counter()
    command = ["-m", "astropt_db", "export", "survey.many", "-o", str(target), "--db", url]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said)
    files = [target] if target.is_file() else list(target.rglob("*.*"))
    size = sum(path.stat().st_size for path in files if path.is_file())
    return time.perf_counter() - started, usage.ru_maxrss / 1024, size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--formats", nargs="+", choices=list(SUFFIXES), default=list(SUFFIXES))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="export-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "home")
    try:
        server.start()
        server.create_database("astropt")
        url = server.url("astropt")
        migrate.upgrade(url)
        fill(url, arguments.rows)
        print(
            f"{arguments.rows:,} rows\nformat    seconds   rows/s   MB peak   MB written",
            flush=True,
        )
        for name in arguments.formats:
            target = folder / f"many{SUFFIXES[name]}"
            seconds, memory, size = export(url, target)
            rate = arguments.rows / seconds
            print(f"{name:8} {seconds:8.0f} {rate:8,.0f} {memory:9,.0f} {size:9,.0f}", flush=True)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
    finally:
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
