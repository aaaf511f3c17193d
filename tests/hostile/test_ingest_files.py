"""Files that are damaged, mislabelled or malicious, given to the real command line.

A bad file never stops the others and leaves nothing behind; once it is mended, the same command
brings the database to where it would have been without the accident.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Outcome, content, ingest, process, run, select
from conftest import temporary_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from q1_files import (
    TILE,
    file_name,
    fits_bytes,
    make_rows,
    write_fits,
    write_product,
)

from astropt_db.database.connect import Database
from astropt_db.errors import FileError
from astropt_db.q1.readers import open_tables

MER = "mer_catalogue"
OTHER = TILE + 1
N_ROWS = 20
Damage = Callable[[bytes], bytes]
VOTABLE = b"""<?xml version="1.0"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">
<TABLE><FIELD name="OBJECT_ID" datatype="long"/><FIELD name="VIS_DET" datatype="short"/>
</TABLE></RESOURCE></VOTABLE>"""


def card(before: bytes, after: bytes) -> Damage:
    """Damage that changes header cards and no sizes."""

    def change(good: bytes) -> bytes:
        assert before in good
        length = max(len(before), len(after))
        old = good[good.index(before) :][:length]
        return good.replace(old, after.ljust(length), 1)

    return change


def zipped(good: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("catalogue.fits", good)
    return packed.getvalue()


def parquet(good: bytes) -> bytes:
    packed = io.BytesIO()
    rows = make_rows(MER, N_ROWS, OTHER)
    values = {n: rows[n].astype(rows[n].dtype.newbyteorder("=")) for n in rows.dtype.names[:40]}
    pq.write_table(pa.table(values), packed)
    return packed.getvalue()


def other_table(*left_out: str) -> Damage:
    """A well-formed file that lacks some columns."""
    rows = make_rows(MER, N_ROWS, OTHER)
    kept = [name for name in rows.dtype.names if name not in left_out]
    return lambda good: fits_bytes({"": rows[kept]})


DAMAGED: dict[str, tuple[Damage, str]] = {
    "data cut off": (lambda good: good[:-9000], "is truncated: its headers promise"),
    "one byte short": (lambda good: good.rstrip(b"\0")[:-1], "is truncated"),
    "header cut off": (lambda good: good[: 2880 * 3], "no readable FITS header at byte 2880"),
    "first block only": (lambda good: good[:2880], "holds no binary table"),
    "zero length": (lambda good: b"", "is empty"),
    "gzip ends early": (lambda good: gzip.compress(good)[:-400], "damaged gzip"),
    "gzip of a cut file": (lambda good: gzip.compress(good[:-9000]), "is truncated"),
    "gzip header only": (lambda good: gzip.compress(good)[:6], "damaged gzip"),
    "gzip checksum": (lambda good: gzip.compress(good)[:-8] + bytes(8), "damaged gzip"),
    "a billion rows": (
        card(b"NAXIS2  =                   20", b"NAXIS2  =           1000000000"),
        "is truncated",
    ),
    "negative rows": (
        card(b"NAXIS2  =                   20", b"NAXIS2  =                  -20"),
        "NAXIS2 is -20",
    ),
    "rows are a word": (card(b"NAXIS2  =                   20", b"NAXIS2  = 'many'"), "'many'"),
    "row is too short": (card(b"NAXIS1  = ", b"NAXIS1  =                   99"), "inconsistent"),
    "no such type": (card(b"TFORM5  = '1D      '", b"TFORM5  = '1Z      '"), "no valid TFORM"),
    "variable length": (
        card(b"TFORM5  = '1D      '", b"TFORM5  = 'PE(9)   '"),
        "FITS type 'PE(9)'",
    ),
    "scale is a word": (card(b"TUNIT7  = ", b"TSCAL7  = 'big'"), "makes no sense"),
    "same name twice": (
        card(b"'FLUX_DETECTION_TOTAL'", b"'FLUXERR_DETECTION_TOTAL'"),
        "two columns",
    ),
    "zip": (zipped, "is a zip archive"),
    "web page": (lambda good: b"<!DOCTYPE html><html>Bad gateway</html>", "it is an HTML page"),
    "picture": (lambda good: b"\x89PNG\r\n\x1a\n" + bytes(3000), "is not a catalogue"),
    "VOTable ends early": (lambda good: VOTABLE[:150], "is not a valid VOTable"),
    "Parquet cut off": (lambda good: parquet(good)[:-500], "not a complete Parquet file"),
    "no ids": (other_table("OBJECT_ID"), "no OBJECT_ID column"),
    "no position": (other_table("DECLINATION"), "no RIGHT_ASCENSION and DECLINATION"),
}


@dataclass(frozen=True)
class Accident:
    """One run over a good file and every damaged one, and a second after they were mended."""

    paths: dict[str, Path]
    first: Outcome
    files: list[tuple[str, str, str]]
    rows_after_first: int
    second: Outcome
    after_second: dict[str, tuple[int, int]]
    undisturbed: dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def accident(server, template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    paths = {
        name: write_product(folder, MER, N_ROWS, TILE + i)
        for i, name in enumerate(["undamaged", *DAMAGED])
    }
    with temporary_database(server, template) as url:
        assert ingest(Database(url), folder).code == 0
        undisturbed = content(Database(url))
    good = {name: path.read_bytes() for name, path in paths.items()}
    for name, (damage, _) in DAMAGED.items():
        paths[name].write_bytes(damage(good[name]))
    with temporary_database(server, template) as url:
        database = Database(url)
        first = ingest(database, folder)
        files = select(database, "SELECT path, state, error FROM astropt.ingest_file")
        rows = content(database)[MER][0]
        for name, path in paths.items():
            path.write_bytes(good[name])
        second = ingest(database, folder)
        yield Accident(paths, first, files, rows, second, content(database), undisturbed)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_its_damage(accident, name):
    path, message = str(accident.paths[name]), DAMAGED[name][1]
    (line,) = [line for line in accident.first.err.splitlines() if path in line]
    assert line.startswith("failed")
    assert message in line
    ((state, error),) = [row[1:] for row in accident.files if row[0] == path]
    assert state == "failed"
    assert message in error


def test_damaged_files_leave_nothing_behind_and_stop_no_other(accident):
    assert accident.first.code == 1
    assert accident.rows_after_first == N_ROWS
    assert f"{len(DAMAGED)} of {len(DAMAGED) + 1} files failed" in accident.first.err
    assert "Traceback" not in accident.first.err
    assert [row[0] for row in accident.files if row[1] == "done"] == [
        str(accident.paths["undamaged"])
    ]


def test_the_same_command_finishes_once_the_files_are_mended(accident):
    assert accident.second.code == 0
    assert f"inserted {N_ROWS * len(DAMAGED)} / updated 0 / unchanged {N_ROWS} /" in (
        accident.second.out
    )
    assert accident.after_second == accident.undisturbed


def test_one_bad_file_of_four_with_two_jobs(ready_database, tmp_path):
    paths = [write_product(tmp_path, MER, N_ROWS, TILE + i) for i in range(4)]
    good = paths[1].read_bytes()
    paths[1].write_bytes(good[:-5000])
    arguments = ("ingest", "catalogue", "--jobs", 2, tmp_path)
    with process(ready_database, *arguments) as running:
        _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"{paths[1]}: is truncated" in err
    assert "1 of 4 files failed" in err
    assert content(ready_database)[MER][0] == 3 * N_ROWS
    paths[1].write_bytes(good)
    assert run(ready_database, *arguments).code == 0
    assert content(ready_database)[MER][0] == 4 * N_ROWS


@pytest.mark.parametrize(
    "name",
    [
        "'; DROP TABLE q1.mer_catalogue; --.fits",
        '"); DELETE FROM astropt.quarantine; --.fits',
        "100%s {} \\x00 $1.fits",
        "Übersicht тест 星表.fits",
        os.fsdecode(b"caf\xe9.fits"),
        "two\nlines.fits",
    ],
    ids=["sql", "sql and quotes", "placeholders", "non-ASCII", "not UTF-8", "line break"],
)
def test_file_names_are_only_names(ready_database, tmp_path, name):
    path = write_fits(tmp_path / name, {"": make_rows(MER, N_ROWS)})
    first = ingest(ready_database, path, path.parent)
    assert first.code == 0, first.err
    assert content(ready_database)[MER][0] == N_ROWS
    path.write_bytes(path.read_bytes()[:-5000])
    bad = ingest(ready_database, tmp_path)
    assert bad.code == 1
    assert "is truncated" in bad.err
    assert len([line for line in bad.err.splitlines() if line.startswith("failed")]) == 1
    states = "SELECT state FROM astropt.ingest_file ORDER BY id"
    assert select(ready_database, states) == [("done",), ("failed",)]


ODD_COLUMNS = [
    "x'); DROP TABLE q1.mer_catalogue; --",
    'say "hi"',
    "100%",
    "%s {} $1",
    "Größe [µJy]",
    "\\",
]


@pytest.mark.parametrize("column", ODD_COLUMNS)
def test_column_names_are_only_names(ready_database, tmp_path, column):
    rows = make_rows("mer_morphology", 6)
    values = {
        name: rows[name].astype(rows[name].dtype.newbyteorder("=")).tolist()
        for name in rows.dtype.names[:9]
    }
    values["OBJECT_ID"][4] = 4_000_000_000_000_000_000
    values[column] = [f"value {i}" for i in range(6)]
    path = tmp_path / "morphology.parquet"
    pq.write_table(pa.table(values), path)

    assert ingest(ready_database, "--product", "mer_morphology", path).code == 1

    query = "SELECT count(*), count(extra ->> %s) FROM q1.mer_morphology"
    assert select(ready_database, query, [column]) == [(5, 5)]
    ((row,),) = select(ready_database, "SELECT row FROM astropt.quarantine")
    assert row[column] == "value 4"
    assert row["OBJECT_ID"] == "4000000000000000000"
    retried = run(ready_database, "quarantine", "retry")
    assert retried.code == 1
    assert "still in quarantine 1" in retried.out


@pytest.mark.parametrize("suffix", [".csv", ".dat", ".vot", ""])
def test_the_content_decides_what_a_file_is(ready_database, tmp_path, suffix):
    path = write_fits(tmp_path / f"catalogue{suffix}", {"": make_rows(MER, N_ROWS)})
    assert ingest(ready_database, path).code == 0
    assert content(ready_database)[MER][0] == N_ROWS


@pytest.fixture
def plain_user(server):
    """Nobody special while the test runs: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    # The server's own user is the one who gets through to its socket.
    os.seteuid((server.home / "pgdata").stat().st_uid)
    yield
    os.seteuid(0)


@pytest.fixture
def public_folder():
    """A folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("closed", ["tiles", "tiles/inside", f"tiles/inside/{file_name(MER)}"])
@pytest.mark.parametrize("given", ["tiles", "tiles/inside", f"tiles/inside/{file_name(MER)}"])
def test_what_may_not_be_read(ready_database, public_folder, request, closed, given):
    write_product(public_folder / "tiles" / "inside", MER, N_ROWS)
    readable = write_product(public_folder, MER, N_ROWS, OTHER)
    (public_folder / closed).chmod(0)
    request.getfixturevalue("plain_user")

    first = ingest(ready_database, readable, public_folder / given)

    assert first.code == 1
    assert str(public_folder / "tiles") in first.err
    assert "may not be read" in first.err or "Permission denied" in first.err
    assert content(ready_database)[MER][0] == N_ROWS
    mode = 0o644 if closed.endswith(".fits") else 0o755
    if os.getuid() == 0:
        os.seteuid(0)
    (public_folder / closed).chmod(mode)
    assert ingest(ready_database, readable, public_folder / given).code == 0
    assert content(ready_database)[MER][0] == 2 * N_ROWS


def test_paths_that_lead_nowhere(ready_database, tmp_path):
    good = write_product(tmp_path, MER, N_ROWS)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "absent.fits", "does not exist"),
        (tmp_path / "*.parquet", "matches no file"),
        (tmp_path / "empty", "holds no catalogue file"),
    ):
        outcome = ingest(ready_database, path, good)
        assert outcome.code == 1
        assert f"error: {path}: {message}" in outcome.err
        assert content(ready_database)[MER][0] == N_ROWS


MORPHOLOGY = fits_bytes({"": make_rows("mer_morphology", 2)})
FRAGMENTS = [
    *(key.ljust(8) + b"= " for key in (b"NAXIS", b"NAXIS1", b"NAXIS2", b"PCOUNT", b"TFIELDS")),
    *(key.ljust(8) + b"= " for key in (b"TNULL1", b"TSCAL2", b"TZERO1", b"THEAP", b"TILEINDX")),
    *(b"'%sE'" % number for number in (b"0", b"-1", b"99999999999")),
    *(b"1.5", b"-3", b"1E400", b"NaN", b"T", b"'", b"CONTINUE", b"END".ljust(80), b"XTENSION"),
]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_fits_header_ends_in_another_exception(tmp_path, data):
    """Cards overwritten at random; the reader refuses the file or reads it."""
    damaged = bytearray(MORPHOLOGY)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, 60)) * 80 + data.draw(st.sampled_from([0, 8, 10, 29]))
        text = data.draw(st.sampled_from(FRAGMENTS) | st.binary(min_size=1, max_size=30))
        damaged[start : start + len(text)] = text
    path = tmp_path / "catalogue.fits"
    path.write_bytes(bytes(damaged))
    with contextlib.suppress(FileError):
        for table in open_tables(path):
            with table:
                assert all(block.n_rows > 0 for block in table.blocks())
