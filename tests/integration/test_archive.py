"""Downloads from a TAP service, healthy and not: nothing may be missing unnoticed."""

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table, vstack
from tap_server import Faults, TapServer

from astropt_db.errors import ConfigurationError, FileError, MissingExtraError
from astropt_db.q1.archive import (
    Adql,
    ArchiveError,
    Cone,
    Service,
    Tile,
    fetch,
    find_service,
    parse_cone,
)
from astropt_db.q1.identity import encode

TILE, OTHER_TILE = 102158889, 102018211
IN_TILE, ELSEWHERE, RANKS = 120, 30, 5
CANDIDATES = "spectro_zcatalog_spe_galaxy_candidates"


def q1_tables() -> dict[str, dict[str, np.ndarray]]:
    """Two tiles, one north and one south, under the names of both archives."""
    rng = np.random.default_rng(20250319)
    size = IN_TILE + ELSEWHERE
    north = np.arange(size) < IN_TILE
    ra = np.where(north, rng.uniform(269.0, 270.5, size), rng.uniform(52.5, 53.5, size))
    dec = np.where(north, rng.uniform(65.7, 66.3, size), rng.uniform(-28.5, -27.8, size))
    ids, tile = encode(ra, dec), np.where(north, TILE, OTHER_TILE)
    point_like = np.ma.masked_array(rng.integers(0, 2, size), np.arange(size) % 3 == 0)
    mer = {
        "object_id": ids,
        "segmentation_map_id": tile * 1_000_000 + np.arange(size),
        "flux_vis_psf": rng.normal(size=size).astype(np.float32),
        "point_like_flag": point_like.astype(np.int16),
    }
    phz = {"object_id": ids, "phz_pdf": rng.random((size, 601)).astype(np.float32)}
    candidates = {
        "object_id": np.repeat(ids, RANKS),
        "spe_rank": np.tile(np.arange(RANKS, dtype=np.int32), size),
        "spe_z": rng.uniform(0, 2, RANKS * size),
    }
    esa_mer = mer | {"right_ascension": ra, "declination": dec}
    irsa_mer = mer | {"ra": ra, "dec": dec, "tileid": tile}
    others = {"phz_photo_z": phz, CANDIDATES: candidates}
    return (
        {"catalogue.mer_catalogue": esa_mer, "euclid_q1_mer_catalogue": irsa_mer}
        | {f"catalogue.{name}": table for name, table in others.items()}
        | {f"euclid_q1_{name}": table for name, table in others.items()}
    )


TABLES = q1_tables()
MER = TABLES["catalogue.mer_catalogue"]
TILE_IDS = MER["object_id"][:IN_TILE]


@pytest.fixture
def server():
    with TapServer(TABLES) as running:
        yield running
        left = [job.id for job in running.jobs if not job.deleted]
        assert left == [], "every job is deleted, whatever became of it"


@pytest.fixture
def esa(server) -> Service:
    """The ESA service in a hurry, with pages of 50 rows: a tile is three pages."""
    service = find_service("esa", server.url)
    return replace(service, page_rows=50, backoff=0.01, read_limit=5.0)


def read(files) -> Table:
    return vstack([Table.read(file) for file in files], metadata_conflicts="silent")


def assert_whole_tile(download) -> None:
    table = read(download.files)
    assert download.rows == IN_TILE
    assert table["object_id"].dtype == np.int64
    assert sorted(table["object_id"].tolist()) == sorted(TILE_IDS.tolist())


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


# --- what is asked for arrives ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["esa", "irsa"])
@pytest.mark.parametrize(("page_rows", "pages"), [(1000, 1), (120, 1), (50, 3), (7, 18)])
def test_a_tile_arrives_with_exact_ids(server, tmp_path, name, page_rows, pages) -> None:
    service = replace(find_service(name, server.url), page_rows=page_rows)
    (download,) = fetch(service, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(download)
    assert len(download.files) == pages
    assert download.fetched


def test_values_and_nulls_arrive_unchanged(esa, tmp_path) -> None:
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    table = read(download.files)
    order = np.argsort(TILE_IDS)
    assert np.array_equal(table["flux_vis_psf"], MER["flux_vis_psf"][:IN_TILE][order])
    assert np.array_equal(
        np.ma.getmaskarray(table["point_like_flag"]),
        np.ma.getmaskarray(MER["point_like_flag"])[:IN_TILE][order],
    )


@pytest.mark.parametrize("name", ["esa", "irsa"])
def test_products_without_positions_are_joined(server, tmp_path, name) -> None:
    service = replace(find_service(name, server.url), page_rows=33)
    wanted = [CANDIDATES, "phz_photo_z"]
    candidates, phz = fetch(service, Tile(TILE), wanted, tmp_path)
    pairs = {(row["object_id"], row["spe_rank"]) for row in read(candidates.files)}
    assert candidates.rows == RANKS * IN_TILE
    assert pairs == {(i, rank) for i in TILE_IDS.tolist() for rank in range(RANKS)}
    assert read(phz.files)["phz_pdf"].shape == (IN_TILE, 601)


def test_pages_do_not_cut_between_the_ranks_of_one_object(esa, server, tmp_path) -> None:
    service = replace(esa, page_rows=7)  # not a multiple of five ranks
    (download,) = fetch(service, Tile(OTHER_TILE), [CANDIDATES], tmp_path)
    assert len({tuple(row) for row in read(download.files)["object_id", "spe_rank"]}) == 150
    assert "spe_rank > " in server.queries[-1]


def test_a_cone_at_high_declination_is_round(esa, tmp_path) -> None:
    cone = parse_cone("269.7, 66.0, 9m")
    (download,) = fetch(esa, cone, ["mer_catalogue"], tmp_path)
    ra, dec = np.radians(MER["right_ascension"]), np.radians(MER["declination"])
    ra0, dec0 = np.radians(cone.ra), np.radians(cone.dec)
    cosine = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
    inside = np.degrees(np.arccos(cosine)) <= 0.15
    assert 3 < inside.sum() < IN_TILE
    assert set(read(download.files)["object_id"].tolist()) == set(MER["object_id"][inside].tolist())


def test_an_empty_selection_is_no_error(esa, tmp_path) -> None:
    (download,) = fetch(esa, Cone(10.0, 0.0, 0.1), ["mer_catalogue"], tmp_path)
    assert (download.rows, download.files) == (0, ())


def test_the_count_comes_first_and_is_sent_as_maxrec(esa, server, tmp_path) -> None:
    fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert server.queries[0].startswith("SELECT COUNT(*) FROM catalogue.mer_catalogue")
    assert [job.parameters["MAXREC"] for job in server.jobs[1:]] == ["50", "50", "20"]


def test_progress_counts_all_products(esa, tmp_path) -> None:
    seen = []
    products = ["mer_catalogue", "phz_photo_z"]
    fetch(esa, Tile(TILE), products, tmp_path, progress=lambda *step: seen.append(step))
    assert seen[:2] == [(0, None), (0, 240)]
    assert [rows for rows, _ in seen[2:]] == [50, 100, 120, 170, 220, 240]
    fetch(esa, Tile(TILE), [*products, CANDIDATES], tmp_path, progress=lambda *s: seen.append(s))
    assert (240, 840) in seen


def test_the_record_keeps_ids_as_text(esa, server, tmp_path) -> None:
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record["query"] == download.query
    assert record["complete"] is True
    assert record["count"] == IN_TILE
    assert record["url"] == server.url
    last = str(sorted(TILE_IDS.tolist())[49])
    assert record["pages"][0]["last_key"] == [last]


# --- the user's own ADQL ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adql", "rows"),
    [
        ("SELECT object_id FROM catalogue.mer_catalogue ORDER BY flux_vis_psf;", 150),
        ("select top 10 object_id from catalogue.mer_catalogue order by flux_vis_psf", 10),
        ("SELECT TOP 70 object_id FROM catalogue.mer_catalogue -- ';' all", 70),
        ("SELECT DISTINCT object_id FROM catalogue." + CANDIDATES, 150),
        ("SELECT MAX(spe_z) AS z FROM catalogue." + CANDIDATES, 1),
        (f"SELECT object_id FROM catalogue.{CANDIDATES} GROUP BY object_id", 150),
        ("SELECT flux_vis_psf FROM (SELECT TOP 9 * FROM catalogue.mer_catalogue) AS a", 9),
    ],
)
def test_own_adql_is_counted_as_it_stands(esa, tmp_path, adql, rows) -> None:
    (download,) = fetch(esa, Adql(adql), [], tmp_path)
    assert download.rows == rows == len(read(download.files))
    assert download.product == "adql"


@pytest.mark.parametrize(
    ("adql", "complaint"),
    [
        ("SELECT flux_vis_psf FROM catalogue.mer_catalogue", "no such column: t.object_id"),
        (
            f"SELECT object_id, spe_z FROM catalogue.{CANDIDATES}",
            "not in ascending order of a unique (object_id)",
        ),
    ],
)
def test_own_adql_that_cannot_be_paged_is_refused(esa, tmp_path, adql, complaint) -> None:
    with pytest.raises(ArchiveError) as caught:
        fetch(esa, Adql(adql), [], tmp_path)
    assert complaint in str(caught.value)
    assert leftovers(tmp_path) == []


def test_own_adql_is_paged_by_the_key_of_the_named_product(esa, tmp_path) -> None:
    adql = Adql(f"SELECT object_id, spe_rank FROM catalogue.{CANDIDATES}")
    (download,) = fetch(esa, adql, [CANDIDATES], tmp_path)
    assert download.rows == RANKS * (IN_TILE + ELSEWHERE)


@pytest.mark.parametrize(
    "adql",
    [
        "DROP TABLE x",
        "DELETE FROM x",
        "SELECT * FROM a; DROP TABLE b",
        "SELECT 1",
        "SELECT (a FROM b",
        "SELECT a) FROM b",
        "SELECT 'a FROM b",
        "",
        "-- nothing",
    ],
)
def test_anything_but_one_select_is_refused_unsent(esa, server, tmp_path, adql) -> None:
    with pytest.raises(ConfigurationError):
        fetch(esa, Adql(adql), [], tmp_path)
    assert server.requests == 0


# --- truncation and wrong answers ---------------------------------------------------------------


@pytest.mark.parametrize("page_rows", [50, 1000])
def test_silent_truncation_is_found(esa, server, tmp_path, page_rows) -> None:
    server.faults.keep_rows = 30
    with pytest.raises(ArchiveError) as caught:
        fetch(replace(esa, page_rows=page_rows), Tile(TILE), ["mer_catalogue"], tmp_path)
    expected = min(page_rows, IN_TILE)
    assert (caught.value.expected, caught.value.received) == (expected, 30)
    assert "Archive esa: " in str(caught.value)
    assert f"Expected {expected} rows, received 30" in str(caught.value)
    assert "segmentation_map_id / 1000000 = 102158889" in str(caught.value)
    assert leftovers(tmp_path) == []
    server.faults = Faults()
    assert_whole_tile(fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)[0])


def test_overflow_is_found(esa, server, tmp_path) -> None:
    server.faults.overflow_rows = 49
    with pytest.raises(ArchiveError, match="OVERFLOW"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("response_format", ["votable", "fits"])
def test_ids_that_went_through_a_double_are_refused(esa, server, tmp_path, response_format) -> None:
    server.faults.ids_as_double = True
    service = replace(esa, response_format=response_format)
    with pytest.raises(ArchiveError, match="object_id as floating-point"):
        fetch(service, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert leftovers(tmp_path) == []


def test_pages_out_of_order_are_refused(esa, server, tmp_path) -> None:
    server.faults.unordered = True
    with pytest.raises(ArchiveError, match="not in ascending order"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)


def test_an_archive_that_changes_in_between_is_asked_anew(esa, server, tmp_path) -> None:
    server.faults.fail_after_results = 2  # the count and one page
    with pytest.raises(ArchiveError):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    server.faults = Faults()
    with server.database.lock:
        server.database.connection.execute(
            "DELETE FROM catalogue.mer_catalogue WHERE object_id = ?", (int(TILE_IDS.min()),)
        )
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    ids = read(download.files)["object_id"].tolist()
    assert sorted(ids) == sorted(set(TILE_IDS.tolist()) - {int(TILE_IDS.min())})


@pytest.mark.parametrize("fault", ["error", "error_document"])
def test_the_services_own_words_are_shown_and_not_retried(esa, server, tmp_path, fault) -> None:
    setattr(server.faults, fault, "Column <nonsense> does not exist")
    with pytest.raises(ArchiveError, match="Column <nonsense> does not exist"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert len(server.jobs) == 1


def test_a_bad_request_is_shown_and_not_retried(esa, server, tmp_path) -> None:
    with pytest.raises(ArchiveError, match="HTTP 400: no such table: nowhere"):
        fetch(esa, Adql("SELECT a FROM nowhere"), [], tmp_path)
    assert [job.served for job in server.jobs] == [1]


# --- passing failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        Faults(unavailable=3),
        Faults(drop_results=2),
        Faults(cut_results=2),
        Faults(drop_results=2, unmarked_gzip=True),
        Faults(cut_results=2, unmarked_gzip=True),
        Faults(stall_results=1, stall_seconds=1.5),
        Faults(unmarked_gzip=True),
        Faults(job_seconds=0.3),
    ],
    ids=lambda faults: ",".join(f"{k}={v}" for k, v in vars(faults).items() if v),
)
@pytest.mark.parametrize("response_format", ["votable", "fits"])
def test_passing_failures_are_survived(esa, server, tmp_path, faults, response_format) -> None:
    server.faults = faults
    service = replace(esa, page_rows=60, read_limit=0.5, response_format=response_format)
    (download,) = fetch(service, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(download)
    assert len(server.jobs) == 3, "a lost connection costs no second run of the query"
    assert len(leftovers(tmp_path)) == 2


def test_a_service_that_stays_down_is_given_up(esa, server, tmp_path, caplog) -> None:
    server.faults.unavailable = 1000
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ArchiveError, match=r"Gave up after 5 attempts.*HTTP 503"),
    ):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert server.requests == 5
    assert sum("trying again" in message for message in caplog.messages) == 4


def test_nobody_listening_is_given_up(tmp_path) -> None:
    service = replace(find_service("irsa", "http://127.0.0.1:9/tap"), backoff=0.01)
    with pytest.raises(ArchiveError, match="Gave up after 5 attempts"):
        fetch(service, Tile(TILE), ["mer_catalogue"], tmp_path)


def test_a_proxys_login_page_is_no_result(esa, server, tmp_path) -> None:
    server.faults.web_page = True
    with pytest.raises(ArchiveError, match="no job description"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)


def test_a_job_over_its_time_is_deleted(esa, server, tmp_path) -> None:
    server.faults.job_seconds = 60.0
    with pytest.raises(ArchiveError, match=r"still EXECUTING after 0\.3 s"):
        fetch(replace(esa, job_limit=0.3), Tile(TILE), ["mer_catalogue"], tmp_path)
    assert [job.deleted for job in server.jobs] == [True]


# --- interruption and repetition ----------------------------------------------------------------


def test_an_interrupted_download_goes_on_where_it_stopped(esa, server, tmp_path) -> None:
    server.faults.fail_after_results = 3  # the count and two pages
    with pytest.raises(ArchiveError, match="Gave up"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.vot")}
    assert len(first) == 2
    server.faults = Faults()
    jobs = len(server.jobs)
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(download)
    assert len(server.jobs) == jobs + 2, "one count, one page"
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in first.items())


def test_a_complete_download_is_not_repeated(esa, server, tmp_path) -> None:
    (first,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    requests = server.requests
    (second,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert server.requests == requests
    assert second == replace(first, fetched=False)
    fetch(esa, Tile(OTHER_TILE), ["mer_catalogue"], tmp_path)
    assert server.requests > requests


def test_a_damaged_page_is_fetched_again(esa, server, tmp_path) -> None:
    (download,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    download.files[1].write_bytes(download.files[1].read_bytes()[:-1])
    (again,) = fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(again)
    assert len(server.jobs) == 4 + 3


def test_a_damaged_record_starts_anew(esa, tmp_path) -> None:
    fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
    next(tmp_path.glob("*.json")).write_text('{"pages": [{"file":')
    assert_whole_tile(fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)[0])


CLIENT = """
import sys
from dataclasses import replace
from pathlib import Path
from astropt_db.q1.archive import Tile, fetch, find_service
service = replace(find_service("esa", sys.argv[1]), page_rows=10)
fetch(service, Tile(int(sys.argv[2])), ["mer_catalogue"], Path(sys.argv[3]))
"""


def start_client(server: TapServer, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CLIENT, server.url, str(TILE), str(folder)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE)


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_ctrl_c_deletes_the_job(server, tmp_path) -> None:
    server.faults.job_seconds = 60.0
    with start_client(server, tmp_path) as client:
        wait_for(lambda: server.jobs and server.jobs[0].phase == "EXECUTING")
        time.sleep(0.2)
        client.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in client.communicate(timeout=30)[1]
    assert [job.deleted for job in server.jobs] == [True]


def test_after_kill_9_the_same_call_finishes(server, esa, tmp_path) -> None:
    server.faults.job_seconds = 0.1
    with start_client(server, tmp_path) as client:
        wait_for(lambda: len(list(tmp_path.glob("*.vot"))) >= 4)
        client.kill()
        client.communicate(timeout=30)
    for job in server.jobs:  # nobody is left to delete the last one
        job.deleted = True
    pages, jobs = len(list(tmp_path.glob("*.vot"))), len(server.jobs)
    (download,) = fetch(replace(esa, page_rows=10), Tile(TILE), ["mer_catalogue"], tmp_path)
    assert_whole_tile(download)
    # A page in place whose record was not written yet is asked for once more.
    assert len(server.jobs) - jobs in (1 + 12 - pages, 1 + 12 - pages + 1)
    assert len(leftovers(tmp_path)) == 12


# --- the user's mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "radius"),
    [("1,2,0.5", 0.5), ("1, 2, 30s", 30 / 3600), ("1,2,5m", 5 / 60), ("1,2,1e-3d", 1e-3)],
)
def test_cone_radii(text, radius) -> None:
    assert parse_cone(text) == Cone(1.0, 2.0, radius)


@pytest.mark.parametrize(
    "text", ["1,2", "1,2,3x", "a,2,3", "nan,0,1", "360,0,1", "1,91,1", "1,2,0"]
)
def test_bad_cones_are_refused(text) -> None:
    with pytest.raises(ConfigurationError, match="Cone"):
        parse_cone(text)


def test_irsa_has_no_physical_parameters(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="irsa has no table of 'phz_physical_parameters'"):
        fetch(find_service("irsa"), Tile(TILE), ["phz_physical_parameters"], tmp_path)
    with pytest.raises(ConfigurationError, match="no Q1 product 'mer_catalog'"):
        fetch(find_service("esa"), Tile(TILE), ["mer_catalog"], tmp_path)
    with pytest.raises(ConfigurationError, match="9 digits"):
        Tile(1)


def test_the_url_comes_from_the_option_or_the_environment(monkeypatch) -> None:
    assert find_service("esa").url == "https://eas.esac.esa.int/tap-server/tap"
    assert find_service("irsa").url == "https://irsa.ipac.caltech.edu/TAP"
    monkeypatch.setenv("ASTROPT_DB_TAP_URL", "http://127.0.0.1:1/tap/")
    assert find_service("esa").url == "http://127.0.0.1:1/tap"
    assert find_service("esa", "https://example.org/tap").url == "https://example.org/tap"
    with pytest.raises(ConfigurationError, match="Unknown archive 'mast'"):
        find_service("mast")
    with pytest.raises(ConfigurationError, match="not the http"):
        find_service("esa", "eas.esac.esa.int")


@pytest.mark.parametrize("url", ["https://me:hunter2@host/tap", "https://host/tap?token=hunter2"])
def test_a_url_with_a_secret_is_refused_unshown(url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_service("esa", url)
    assert "hunter2" not in str(caught.value)
    assert "netrc" in str(caught.value)


def test_a_folder_that_cannot_be_used(esa, tmp_path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileError, match="taken"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path / "taken")


def test_without_pyvo_the_extra_is_named(monkeypatch, esa, tmp_path) -> None:
    monkeypatch.delitem(sys.modules, "astropt_db.q1.archive_jobs", raising=False)
    monkeypatch.setitem(sys.modules, "pyvo", None)
    with pytest.raises(MissingExtraError, match=r"astropt-db\[archive\]"):
        fetch(esa, Tile(TILE), ["mer_catalogue"], tmp_path)
