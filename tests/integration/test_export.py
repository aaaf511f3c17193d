"""``astropt-db export``: every format gives back what the database holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.io.votable import parse as votable_parse
from astropy.table import Table
from commands import run, select
from conftest import temporary_database
from delivery_database import fill
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from pyarrow import parquet

from astropt_db.database.connect import Database
from astropt_db.database.copy_out import BATCH_ROWS
from astropt_db.database.embedded import EmbeddedServer
from astropt_db.deliver.export import FORMATS, export
from astropt_db.deliver.fits_file import KEYWORDS
from astropt_db.errors import ConfigurationError, DatabaseError, FileError

IDS = [2684805874647806467, -532257415282400330, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 0]
SUFFIXES = ["fits", "vot", "ecsv", "csv", "parquet"]
VALUES = """
    SELECT i::bigint AS object_id, nullif(i, 0)::bigint AS other_id, mod(i, 7) = 0 AS good,
        (mod(i, 1000))::smallint AS small, nullif(mod(i, 3), 0)::integer AS part,
        (i / 3.0)::real AS flux, CASE WHEN i > 0 THEN i / 7.0::float8 END AS mean,
        repeat('ab', (mod(abs(i), 4))::integer) AS note, NULL::text AS nothing,
        1.50::numeric AS price, ARRAY[0.5, 'NaN', mod(i, 5)]::real[] AS pdf,
        timestamptz '2026-10-21 12:00:00.25+02' AS moment
    FROM unnest(%s::bigint[]) AS i
"""


@pytest.fixture(scope="module")
def database(server: EmbeddedServer, template: str) -> Iterator[Database]:
    """Rows in a view with comments: units and UCDs must come along."""
    with temporary_database(server, template) as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS survey")
            connection.execute("GRANT USAGE ON SCHEMA survey TO astropt_reader")
            connection.execute(
                sql.SQL("CREATE TABLE survey.sample AS {}").format(sql.SQL(VALUES)), [IDS]
            )
            connection.execute("GRANT SELECT ON survey.sample TO astropt_reader")
            connection.execute("COMMENT ON TABLE survey.sample IS 'A sample with <every> type'")
            connection.execute(
                "COMMENT ON COLUMN survey.sample.flux IS 'flux & more [uJy; phot.flux]'"
            )
        yield Database(url)


def read(path: Path) -> dict[str, list[object]]:
    """Values as Python objects, masked ones as None, whatever the format."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()
    if path.suffix == ".csv":
        frame = pd.read_csv(path, dtype_backend="pyarrow")
        return pa.Table.from_pandas(frame).to_pydict()
    names = {".fits": "fits", ".vot": "votable", ".ecsv": "ascii.ecsv"}
    table = Table.read(path, format=names[path.suffix])
    table.convert_bytestring_to_unicode()
    return {name: table[name].tolist() for name in table.colnames}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_value_comes_back(database: Database, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"sample.{suffix}"
    report = export(database, target, "sample")
    assert (report.rows, report.columns) == (len(IDS), 12)
    found = read(target)
    assert found["object_id"] == IDS
    assert found["other_id"] == [i or None for i in IDS]
    assert [bool(v) for v in found["good"]] == [i % 7 == 0 for i in IDS]
    assert found["small"] == [int(np.fmod(i, 1000)) for i in IDS]
    assert found["part"] == [int(np.fmod(i, 3)) or None for i in IDS]
    assert np.allclose(np.array(found["flux"], float), np.array(IDS) / 3, rtol=1e-7)
    means = [i / 7 if i > 0 else np.nan for i in IDS]
    given_means = [np.nan if v is None else v for v in found["mean"]]
    assert np.allclose(np.array(given_means, float), means, rtol=1e-15, equal_nan=True)
    assert [v or "" for v in found["note"]] == ["ab" * (abs(i) % 4) for i in IDS]
    assert [v for v in found["nothing"] if v] == []
    assert set(found["price"]) == {1.5}
    if suffix != "csv":
        pdf = np.array([np.asarray(v, np.float32) for v in found["pdf"]])
        assert np.array_equal(pdf[:, 2], np.fmod(IDS, 5))
        assert np.isnan(pdf[:, 1]).all()
    if suffix != "parquet":
        assert set(found["moment"]) == {"2026-10-21T10:00:00.25"}


def test_headers_speak(database: Database, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        export(database, tmp_path / f"a.{suffix}", "survey.sample")
    fits = Table.read(tmp_path / "a.fits")
    assert fits["flux"].unit == "uJy"
    assert fits.meta["TUCD6"] == "phot.flux"
    assert fits.meta["TCOMM6"] == "flux & more"
    votable = Table.read(tmp_path / "a.vot", format="votable")
    assert votable["flux"].unit == "uJy"
    assert votable["flux"].meta["ucd"] == "phot.flux"
    assert votable["flux"].description == "flux & more"
    ecsv = Table.read(tmp_path / "a.ecsv")
    assert ecsv["flux"].unit == "uJy"
    assert ecsv["flux"].meta["ucd"] == "phot.flux"
    assert ecsv.meta["source"] == "survey.sample"
    assert ecsv.meta["creator"].startswith("astropt-db ")
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.field("flux").metadata[b"unit"] == b"uJy"
    assert schema.metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"
    assert b"&lt;every&gt;" in schema.metadata[b"IVOA.VOTable-Parquet.content"]
    votable_of_parquet = tmp_path / "described.vot"
    votable_of_parquet.write_bytes(schema.metadata[b"IVOA.VOTable-Parquet.content"])
    assert Table.read(votable_of_parquet, format="votable").colnames == fits.colnames


def test_a_query_keeps_the_units_of_what_it_shows(database: Database, tmp_path: Path) -> None:
    query = "WITH s AS (SELECT * FROM survey.sample) SELECT flux AS f, 2 * mean AS m FROM s; "
    export(database, tmp_path / "a.ecsv", query=query + "\n")
    table = Table.read(tmp_path / "a.ecsv")
    assert table["f"].unit == "uJy"
    assert table["m"].unit is None
    assert table.meta["query"].startswith("WITH s AS")


def test_provenance_stands_in_every_header(
    server: EmbeddedServer, sky_template: str, tmp_path: Path
) -> None:
    """Release, encoder, predictor, run and query, as the database has them."""
    query = "SELECT object_id, z_median FROM astropt.photoz WHERE z_median < 9"
    with temporary_database(server, sky_template) as url:
        database = Database(url)
        fill(database)
        for suffix in ("fits", "vot", "ecsv", "parquet"):
            export(database, tmp_path / f"a.{suffix}", query=query)
        row = select(
            database,
            "SELECT e.name, e.weights_sha256, p.id, (SELECT max(id) FROM astropt.run "
            "WHERE command = 'ingest catalogue') FROM astropt.encoder AS e, astropt.predictor AS p "
            "WHERE p.task = 'photoz'",
        )[0]
    parquet_metadata = parquet.read_schema(tmp_path / "a.parquet").metadata
    votable = votable_parse(tmp_path / "a.vot").resources[0]
    header = fits.getheader(tmp_path / "a.fits")
    headers: list[dict[str, str]] = [
        {k.decode().removeprefix("astropt-db."): v.decode() for k, v in parquet_metadata.items()},
        {info.name: info.value for info in votable.infos},
        dict(Table.read(tmp_path / "a.ecsv").meta),
        {name: header[key] for name, (key, _) in KEYWORDS.items() if key in header},
    ]
    for found in headers:
        assert found["releases"] == "Q1"
        assert found["encoder"].startswith(f"{row[0]} (weights sha256 {row[1][:16]}, run ")
        assert f"photoz: linear on embedding (predictor {row[2]}, weights" in found["predictors"]
        assert f"ingest catalogue {row[3]}" in found["runs"]
        assert found["query"] == query
        assert found["creator"].startswith("astropt-db ")


def test_several_batches_and_none(database: Database, tmp_path: Path) -> None:
    many = BATCH_ROWS + 5
    query = (
        "SELECT i::bigint, CASE WHEN i % 2 = 0 THEN i::text END AS t "
        f"FROM generate_series(1, {many}) AS i"
    )
    for suffix in SUFFIXES:
        target = tmp_path / f"a.{suffix}"
        assert export(database, target, query=query).rows == many
        found = read(target)
        assert found["i"] == list(range(1, many + 1))
        assert export(database, target, query=f"{query} LIMIT 0", overwrite=True).rows == 0
        assert [len(values) for values in read(target).values()] == [0, 0]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
ROWS = st.lists(
    st.tuples(
        st.integers(-(2**63) + 1, 2**63 - 1),
        st.none() | st.integers(-(2**31) + 1, 2**31 - 1),
        st.none() | TEXTS,
        st.none() | st.lists(st.none() | st.integers(-(2**62), 2**62), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS)
def test_any_rows_come_back(
    database: Database, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with psycopg.connect(database.url) as connection:
        connection.execute("DROP TABLE IF EXISTS survey.fuzz")
        connection.execute("CREATE TABLE survey.fuzz (a bigint, b integer, c text, d bigint[])")
        for row in rows:
            connection.execute("INSERT INTO survey.fuzz VALUES (%s, %s, %s, %s)", row)
        connection.execute("GRANT SELECT ON survey.fuzz TO astropt_reader")
    a, b, c, d = (list(column) for column in zip(*rows, strict=True))
    export(database, folder / "a.parquet", "fuzz")
    assert read(folder / "a.parquet") == {"a": a, "b": b, "c": c, "d": d}
    for suffix in ("fits", "vot", "ecsv"):
        export(database, folder / f"a.{suffix}", query="SELECT a, b FROM survey.fuzz")
        assert read(folder / f"a.{suffix}") == {"a": a, "b": b}
    export(database, folder / "t.vot", query="SELECT c FROM survey.fuzz")
    basic = ["".join(x if x <= "\uffff" else "\ufffd" for x in text or "") for text in c]
    assert [text or "" for text in read(folder / "t.vot")["c"]] == basic


def test_vectors_become_arrays(database: Database, tmp_path: Path) -> None:
    query = "SELECT '[1,2,3.5]'::halfvec AS embedding, '{\"a\": 1}'::jsonb AS extra"
    for suffix in ("fits", "parquet"):
        export(database, tmp_path / f"a.{suffix}", query=query)
        found = read(tmp_path / f"a.{suffix}")
        assert list(found["embedding"][0]) == [1, 2, 3.5]
        assert found["extra"] == ['{"a": 1}']


# Bad input


def test_an_existing_file_stays(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("mine")
    answer = run(database, "export", "source", "-o", target)
    assert answer.code == 1
    assert answer.err == f"error: {target} exists; --overwrite replaces it\n"
    assert target.read_text() == "mine"
    assert run(database, "export", "source", "-o", target, "--overwrite").code == 0
    assert target.read_text().startswith("object_id,")


@pytest.mark.parametrize(
    ("name", "hint"), [("sorce", "astropt.source"), ("q1.mer_catalog", "q1.mer_catalogue")]
)
def test_an_unknown_view_brings_a_suggestion(
    database: Database, tmp_path: Path, name: str, hint: str
) -> None:
    answer = run(database, "export", name, "-o", tmp_path / "a.fits")
    assert answer.code == 1
    assert f"no view or table {name!r}; did you mean" in answer.err
    assert hint in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 1; SELECT 2", "expected one statement"),
        ("SELECT 1) TO PROGRAM 'true' --", "syntax error"),
        ("SELECT nothing FROM survey.sample WHERE", "syntax error"),
        ("SELECT 1 AS a, 2 AS a", "several columns the name a"),
        ("SELECT * FROM no_such_table", "does not exist"),
        ("SET statement_timeout = 0", "gives no rows"),
        ("DELETE FROM survey.sample RETURNING object_id", "read-only transaction"),
        ("SELECT pg_sleep(5)", "stopped after 0.2 s"),
        ("SELECT ARRAY[[1, 2], [3, 4]] AS a", "several dimensions"),
    ],
)
def test_a_wrong_query_leaves_nothing(
    database: Database, tmp_path: Path, query: str, message: str
) -> None:
    with pytest.raises((DatabaseError, ConfigurationError), match=message):
        export(database, tmp_path / "a.parquet", query=query, timeout_s=0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_comment_at_the_end_is_harmless(database: Database, tmp_path: Path) -> None:
    assert export(database, tmp_path / "a.csv", query="SELECT 1 AS a -- one").rows == 1


def test_usage(database: Database, tmp_path: Path) -> None:
    assert "one of the two" in run(database, "export", "-o", tmp_path / "a.csv").err
    assert "cannot be told" in run(database, "export", "source", "-o", tmp_path / "a.xls").err
    assert "no folder" in run(database, "export", "source", "-o", tmp_path / "b/a.csv").err
    assert (
        "is neither a file"
        in run(database, "export", "source", "--format", "csv", "-o", "/dev/null").err
    )
    assert {suffix for one in FORMATS for suffix in one.suffixes} >= {f".{s}" for s in SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(database: Database, small_disk: Path, suffix: str) -> None:
    target = small_disk / f"a.{suffix}"
    target.write_text("older")
    query = "SELECT i, md5(i::text) AS t FROM generate_series(1, 200000) AS i"
    with pytest.raises(FileError, match="the disk is full"):
        export(database, target, query=query, overwrite=True)
    assert target.read_text() == "older"
    assert list(small_disk.iterdir()) == [target]
