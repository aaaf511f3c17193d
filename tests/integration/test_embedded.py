"""The embedded server as real processes: started, shared, killed, recovered."""

from __future__ import annotations

import os
import signal
import time

import psutil
import psycopg
import pytest
from processes import START, ask, client, output, wait_for_end

from astropt_db.database.connect import open_connection
from astropt_db.database.embedded import EmbeddedServer


def test_start_status_url_stop(home):
    server = EmbeddedServer(home)
    assert not server.status().running
    assert not home.exists(), "looking at the status makes nothing"
    server.start()
    status = server.status()
    assert status.running
    assert status.port is None
    assert status.version.startswith("18.")
    assert status.data_directory == home / "pgdata"
    assert status.url == server.url()
    assert "ready to accept connections" in status.log.read_text()
    assert ask(server.url("postgres"), "SELECT current_user") == "postgres"

    server.start()
    assert server.status().pid == status.pid
    assert server.stop()
    assert not server.stop()
    stopped = server.status()
    assert (stopped.running, stopped.pid, stopped.url) == (False, None, None)
    assert status.pid is not None
    wait_for_end(status.pid)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url("postgres"))


def test_clients_that_start_at_once_share_one_server(home):
    clients = [client(START, home) for _ in range(4)]
    assert len({output(each) for each in clients}) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_server_outlives_its_client(home, how):
    process = client(START + "time.sleep(60)", home)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.killpg(process.pid, how)
    process.communicate(timeout=10)
    assert process.returncode != 0
    server = EmbeddedServer(home)
    assert ask(server.url("postgres"), "SELECT 1") == 1
    server.start()
    assert server.status().pid == pid


def test_client_killed_while_it_makes_the_server(home):
    process = client(START, home)
    deadline = time.monotonic() + 30
    while not list(home.glob(".pgdata-*/base")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    server = EmbeddedServer(home)
    server.start()
    assert ask(server.url("postgres"), "SELECT 1") == 1


def test_databases_are_made_once(server, database_url):
    name = str(ask(database_url, "SELECT current_database()"))
    server.create_database(name)
    count = "SELECT count(*) FROM pg_database WHERE datname = current_database()"
    assert ask(database_url, count) == 1


def test_killed_server_recovers_with_its_rows(home):
    server = EmbeddedServer(home)
    server.start()
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE galaxy AS SELECT generate_series(1, 1000) AS id")
    pid = server.status().pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.kill()
    wait_for_end(*(process.pid for process in family))
    assert (home / "pgdata" / "postmaster.pid").exists()
    assert not server.status().running
    server.start()
    assert server.status().pid != pid
    assert ask(server.url("postgres"), "SELECT count(*) FROM galaxy") == 1000


def test_killed_postmaster_with_a_busy_backend(home):
    server = EmbeddedServer(home)
    server.start()
    pid = server.status().pid
    assert pid is not None
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE TABLE galaxy (id bigint)")
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        server.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO galaxy VALUES (1)")
    assert ask(server.url("postgres"), "SELECT count(*) FROM galaxy") == 0


def test_a_connection_waits_while_the_server_recovers(home):
    server = EmbeddedServer(home)
    server.start()
    url = server.url("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE galaxy AS SELECT generate_series(1, 500000) AS id")
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        wait_for_end(connection.info.backend_pid)
    refused = False
    for _ in range(1000):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            if refused := "the database system is" in str(error):
                break
    assert refused, "the server recovered before it could refuse anybody"
    with open_connection(url) as connection:
        assert connection.execute("SELECT count(*) FROM galaxy").fetchone() == (500000,)


@pytest.mark.parametrize("content", ["", "{stranger}\n", "{stranger}\n{rest}"])
def test_stale_pid_file(home, content):
    server = EmbeddedServer(home)
    server.start()
    file = home / "pgdata" / "postmaster.pid"
    rest = file.read_text().split("\n", 1)[1]
    server.stop()
    # The number now belongs to this test, which PostgreSQL alone would take for a server.
    file.write_text(content.format(stranger=os.getpid(), rest=rest))
    assert not server.status().running
    server.start()
    assert ask(server.url("postgres"), "SELECT 1") == 1
