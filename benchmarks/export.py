"""Time and peak memory of exports in every format, each by the command in a process of its own.

The rows are made by a query on a private server in a temporary folder; each file is removed before
the next is written: ``python benchmarks/export.py [--rows 30000000] [--formats fits hats]``. A
HATS catalogue takes longest: the server computes the cells and sorts.
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

from astropt_db.database import migrate
from astropt_db.database.embedded import EmbeddedServer

SUFFIXES = {
    "fits": ".fits",
    "votable": ".vot",
    "ecsv": ".ecsv",
    "csv": ".csv",
    "parquet": ".parquet",
    "hats": ".hats",
}
# Places spread over 63 square degrees in no order.
QUERY = """
    SELECT 2696340586660174666 + i AS object_id, 260 + 1e-6::float8 * (i * 11 % 19500000) AS ra,
        62 + 1e-6::float8 * (i * 7919 % 8000000) AS dec, 20 + (i % 1000)::real / 200 AS mag,
        (i % 4)::smallint AS flag, CASE WHEN i % 3 > 0 THEN i END AS other_id
    FROM generate_series(1, {rows}::bigint) AS i
"""


def export(url: str, target: Path, rows: int) -> tuple[float, float, float]:
    """Seconds, peak resident memory of the process in MB, and size of the result in MB."""
    started = time.perf_counter()
    query = QUERY.replace("{rows}", str(rows))
    command = ["-m", "astropt_db", "export", "--query", query, "-o", str(target), "--db", url]
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
        migrate.upgrade(server.url("astropt"))
        print(
            f"{arguments.rows:,} rows\nformat    seconds   rows/s   MB peak   MB written",
            flush=True,
        )
        for name in arguments.formats:
            target = folder / f"many{SUFFIXES[name]}"
            seconds, memory, size = export(server.url("astropt"), target, arguments.rows)
            rate = arguments.rows / seconds
            print(f"{name:8} {seconds:8.0f} {rate:8,.0f} {memory:9,.0f} {size:9,.0f}", flush=True)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
    finally:
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
