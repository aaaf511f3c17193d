"""TOPCAT's own engine reads every public view over TCP."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from astropy.io import fits
from conftest import CHECKOUT, MEMORY_DISK, temporary_home
from delivery_database import fill
from processes import free_port

from astropt_db.database import migrate
from astropt_db.database.connect import Database
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.deliver.export import export

DRIVER = Path(os.environ.get("POSTGRESQL_JDBC", "/usr/share/java/postgresql.jar"))
pytestmark = [
    pytest.mark.skipif(shutil.which("stilts") is None, reason="STILTS is not installed"),
    pytest.mark.skipif(not DRIVER.exists(), reason=f"no JDBC driver of PostgreSQL in {DRIVER}"),
]

_SOURCES = """
    INSERT INTO q1.mer_catalogue (object_id, right_ascension, declination, segmentation_map_id,
        vis_det, flux_detection_total, healpix29, ingest_file_id)
    SELECT 2696340586660174666 + i, 269.63, 66.01, 102158586000001, 1, 100, 7, f.id
    FROM generate_series(1, 20) AS i, astropt.ingest_file AS f
"""
_FILE = """
    WITH r AS (
        INSERT INTO astropt.run (command, arguments, code_version, host, pid, state)
        VALUES ('test', '{}', '0', 'here', 1, 'done') RETURNING id
    )
    INSERT INTO astropt.ingest_file (run_id, path, product, release, state)
    SELECT id, 'a file', 'mer_catalogue', 'Q1', 'done' FROM r
"""


@pytest.fixture(scope="module")
def tcp() -> Iterator[EmbeddedServer]:
    """A server with a TCP port and some rows in every view."""
    with temporary_home(MEMORY_DISK if MEMORY_DISK.is_dir() else None) as home:
        server = EmbeddedServer(home)
        server.start(free_port())
        server.create_database("astropt")
        database = Database(server.url("astropt"))
        migrate.upgrade(database.url)
        with psycopg.connect(database.url) as connection:
            connection.execute(_FILE)
            connection.execute(_SOURCES)
        fill(database)
        yield server


def jdbc(server: EmbeddedServer, query: str) -> str:
    """What is pasted into TOPCAT, as docs/howto/topcat.md says."""
    parts = urlsplit(server.url("astropt", tcp=True))
    return (
        f"jdbc:postgresql://127.0.0.1:{parts.port}/astropt"
        f"?user={parts.username}&password={parts.password}#{query}"
    )


def stilts(*arguments: str) -> str:
    command = ["stilts", "-classpath", str(DRIVER), "-Djdbc.drivers=org.postgresql.Driver"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def public_views(server: EmbeddedServer) -> dict[str, dict[str, str]]:
    """Column types of every public view."""
    views: dict[str, dict[str, str]] = {}
    with psycopg.connect(server.url("astropt")) as connection:
        rows = connection.execute(
            "SELECT i.table_schema || '.' || i.table_name, i.column_name, i.data_type "
            "FROM astropt.column_info AS i JOIN pg_views AS v ON v.schemaname = i.table_schema "
            "AND v.viewname = i.table_name ORDER BY 1, i.position"
        ).fetchall()
    for view, name, kind in rows:
        views.setdefault(view, {})[name] = kind
    return views


def readable(columns: dict[str, str]) -> str:
    """Columns as docs/howto/topcat.md asks for them: arrays as text."""
    return ", ".join(
        f'"{name}"::text' if kind.endswith("[]") else f'"{name}"' for name, kind in columns.items()
    )


def test_no_public_view_holds_a_vector_or_json(tcp: EmbeddedServer) -> None:
    kinds = {kind for columns in public_views(tcp).values() for kind in columns.values()}
    assert not [kind for kind in kinds if "vec" in kind or "json" in kind]


def test_stilts_reads_every_public_view(tcp: EmbeddedServer, tmp_path: Path) -> None:
    views = public_views(tcp)
    assert len(views) >= 10
    inputs = [
        f"in{i}={jdbc(tcp, f'SELECT {readable(columns)} FROM {view} LIMIT 20')}"
        for i, (view, columns) in enumerate(views.items(), 1)
    ]
    target = tmp_path / "views.fits"
    said = stilts("tmultin", f"nin={len(views)}", *inputs, f"out={target}", "ofmt=fits-basic")
    assert "Ignoring column" not in said
    with warnings.catch_warnings(), fits.open(target) as units:
        warnings.simplefilter("ignore")
        for (view, columns), unit in zip(views.items(), units[1:], strict=True):
            assert [name.lower() for name in unit.columns.names] == list(columns), view
        ids = units[list(views).index("astropt.source") + 1].data["object_id"]
        assert min(ids.tolist()) == 2696340586660174667


def test_a_vector_arrives_as_an_array(tcp: EmbeddedServer) -> None:
    query = "SELECT * FROM astropt.embedding_array"
    shown = stilts("tpipe", f"in={jdbc(tcp, query)}", "omode=meta")
    assert re.search(r"embedding\(Array\)", shown), shown
    assert re.search(r"object_id\(Long\)", shown), shown


@pytest.mark.parametrize("suffix", ["fits", "vot", "parquet", "csv"])
def test_stilts_reads_our_exports(tcp: EmbeddedServer, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"source.{suffix}"
    export(Database(tcp.url("astropt")), target, "source")
    try:
        shown = stilts("tpipe", f"in={target}", "omode=meta")
    except AssertionError as error:
        if suffix == "parquet" and "parquet" in str(error).lower():
            pytest.skip("this STILTS was built without Parquet")
        raise
    assert re.search(r"Rows: +20\b", shown)
    assert re.search(r"object_id\(Long\)", shown), shown
    if suffix in ("fits", "vot"):
        assert re.search(r"mag_vis\(Double\)/mag", shown)


def test_the_page_shows_what_the_test_does() -> None:
    page = (CHECKOUT / "docs" / "howto" / "topcat.md").read_text()
    assert "-Djdbc.drivers=org.postgresql.Driver" in page
    assert "jdbc:postgresql://127.0.0.1:5433/astropt" in page
