"""Ingestion against what a user would pick instead, in one run on one server.

    python benchmarks/ingest.py                    # ratios at 100,000 rows
    python benchmarks/ingest.py --curve            # and time per row from 10,000 to 1,000,000
    python benchmarks/ingest.py --stream 30000000  # memory for a large Parquet set

Rivals: a bare binary COPY of all 469 columns, encoded beforehand, into the same table without
indexes, and ``pandas.DataFrame.to_sql``. Ours is the whole way from the FITS file to committed,
validated and indexed rows. The rounds alternate; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from astropy.io import fits
from astropy.table import Table
from psycopg import sql
from q1_sample import write_mer_catalogue

from astropt_db.database import migrate
from astropt_db.database.connect import Database, open_connection
from astropt_db.database.copy import HEADER, TRAILER, copy_statement, encode
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.database.provenance import recorded_run
from astropt_db.ingest.catalogue import Options, ingest_file
from astropt_db.ingest.identify import identify
from astropt_db.ingest.match import targets
from astropt_db.ingest.rows import converted_rows
from astropt_db.q1 import identity
from astropt_db.q1.readers import open_tables


def ours(database: Database, path: Path) -> float:
    """Seconds from the file to committed rows, in emptied tables."""
    with open_connection(database.url) as connection:
        connection.execute(
            "TRUNCATE q1.mer_catalogue, q1.phz_classification, astropt.quarantine, "
            "astropt.ingest_file, astropt.run CASCADE"
        )
    with recorded_run(database, "benchmark", {}) as run:
        start = time.perf_counter()
        (report,) = ingest_file(database, path, Options(), run.id)
        seconds = time.perf_counter() - start
    if report.state != "done":
        raise SystemExit(report.message)
    return seconds


def encoded_rows(path: Path) -> tuple[tuple[str, ...], list[memoryview]]:
    """All columns of the file in COPY's format, NULLs included."""
    ((table, target),) = targets(open_tables(path))
    blocks = list(converted_rows(table, target, identify(table, target), 0))
    names = tuple(field.name for field in blocks[0].fields)
    return names, [encode(block.fields) for block in blocks]


def bare_copy(database: Database, names: tuple[str, ...], bodies: list[memoryview]) -> float:
    """Seconds for COPY alone into the table without indexes."""
    with open_connection(database.url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bare")
        cursor.execute("CREATE TABLE bare (LIKE q1.mer_catalogue)")
        connection.commit()
        start = time.perf_counter()
        with cursor.copy(copy_statement(sql.Identifier("bare"), names)) as copy:
            copy.write(HEADER)
            for body in bodies:
                copy.write(body)
            copy.write(TRAILER)
        connection.commit()
        return time.perf_counter() - start


def pandas_to_sql(database: Database, path: Path, rows: int) -> float:
    """Seconds for ``to_sql`` of some rows, reading the file not counted."""
    with fits.open(path) as hdus:
        frame = Table(hdus[1].data[:rows]).to_pandas()
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: open_connection(database.url)
    )
    start = time.perf_counter()
    frame.to_sql("pandas_rows", engine, if_exists="replace", index=False)
    return time.perf_counter() - start


def compare(database: Database, folder: Path, rows: int, rounds: int) -> None:
    """Print rates and ratios."""
    path = write_mer_catalogue(folder, rows)
    names, bodies = encoded_rows(path)
    few = min(rows, 2000)
    rates: dict[str, list[float]] = {"ours": [], "bare": [], "pandas": []}
    for _ in range(rounds):
        rates["bare"].append(rows / bare_copy(database, names, bodies))
        rates["ours"].append(rows / ours(database, path))
        rates["pandas"].append(few / pandas_to_sql(database, path, few))
    print(f"\nMER final, {rows:,} rows x 469 columns, {rounds} rounds in turn, medians\n")
    print("| way | rows/s | ours / it, median (range over rounds) |")
    print("|---|---:|---:|")
    titles = {
        "ours": "astropt-db, FITS to committed, validated, indexed",
        "bare": "bare binary COPY, encoded before, no index",
        "pandas": f"pandas.to_sql ({few:,} rows), read before, no index",
    }
    for key, title in titles.items():
        ratios = [o / r for o, r in zip(rates["ours"], rates[key], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {title} | {statistics.median(rates[key]):,.0f} | {spread} |")


def curve(database: Database, folder: Path) -> None:
    """Print time per row and peak memory at growing sizes, each in a process of its own."""
    print("\n| rows | file, MB | seconds | microseconds/row | peak memory, MB |")
    print("|---:|---:|---:|---:|---:|")
    for rows in (10_000, 31_623, 100_000, 316_228, 1_000_000):
        path = write_mer_catalogue(folder, rows, seed=2)
        seconds, memory = measured_in_process(database, path)
        print(
            f"| {rows:,} | {path.stat().st_size / 1e6:,.0f} | {seconds:.2f} | "
            f"{1e6 * seconds / rows:.1f} | {memory:,.0f} |",
            flush=True,
        )
        path.unlink()


def measured_in_process(database: Database, path: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of one ingestion in a fresh process."""
    command = [sys.executable, __file__, "--one", str(path), "--url", database.url]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = found.stdout.split()[-2:]
    return float(seconds), float(memory)


def stream(database: Database, folder: Path, rows: int) -> None:
    """Print time and peak memory for one large Parquet file with few columns."""
    path = folder / "EUC_PHZ_CLASSCAT_20241018T214045.289017Z_00.00.parquet"
    rng = np.random.default_rng(3)
    writer = None
    for _ in range(0, rows, 500_000):
        ra, dec = rng.random(500_000) * 360, np.degrees(np.arcsin(rng.random(500_000) * 2 - 1))
        table = pa.table(
            {
                "OBJECT_ID": identity.encode(ra, dec),
                "VIS_DET": np.ones(500_000, np.int16),
                "PHZ_GAL_PROB": rng.random(500_000, np.float32),
                "PHZ_STAR_PROB": rng.random(500_000, np.float32),
                "PHZ_CLASSIFICATION": np.full(500_000, 2, np.int32),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    command = [sys.executable, __file__, "--one", str(path), "--url", database.url]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = map(float, found.stdout.split()[-2:])
    size = path.stat().st_size / 1e6
    print(
        f"\nParquet, {rows:,} rows x 5 columns ({size:,.0f} MB): {seconds:.0f} s, "
        f"{rows / seconds:,.0f} rows/s, peak memory of the worker {memory:,.0f} MB"
    )


def peak_memory_mb() -> float:
    """Peak memory of this process; ru_maxrss would count the parent's, before exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--stream", type=int, default=0, metavar="ROWS")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(ours(Database(options.url), options.one), peak_memory_mb())
        return
    with tempfile.TemporaryDirectory(prefix="adb-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = EmbeddedServer(folder / "home")
        server.start()
        try:
            server.create_database("astropt")
            database = Database(server.url("astropt"), server)
            migrate.upgrade(database.url)
            versions = f"PostgreSQL {server.status().version}, psycopg {psycopg.__version__}"
            print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
            if options.rounds:
                compare(database, folder, options.rows, options.rounds)
            if options.curve:
                curve(database, folder)
            if options.stream:
                stream(database, folder, options.stream)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
