"""Downloads from a TAP service that fails: nothing may be missing unnoticed."""

import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from archive_service import (
    IN_TILE,
    OTHER_TILE,
    TILE,
    TILE_IDS,
    archive,
    assert_whole_tile,
    hasty,
    leftovers,
    read,
)
from tap_server import Faults, TapServer

from astropt_db.q1.archive import (
    Adql,
    ArchiveError,
    Service,
    Tile,
    fetch,
    find_service,
)


@pytest.fixture
def server():
    with archive() as running:
        yield running


@pytest.fixture
def esa(server) -> Service:
    return hasty(server)


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
