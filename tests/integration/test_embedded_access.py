"""Who may use the embedded server: users of the machine, and clients over TCP."""

from __future__ import annotations

import os
import shutil
import socket

import psutil
import psycopg
import pytest
from processes import START, as_root, ask, client, free_port, mode, output, plain_user

from astropt_db.database.embedded import EmbeddedServer
from astropt_db.errors import ConfigurationError


def test_socket_directory_is_private(server):
    assert mode(server.home / "socket") == 0o700
    assert mode(server.home / "pgdata") == 0o700
    assert mode(server.home / "postgres.log") == 0o600


def test_plain_user(home, server):
    user = plain_user()
    if user is not None:
        assert server.status().running, "root's first server opened the way to the programs"
        home.mkdir()
        os.chown(home, user, user)
    code = START + (
        "assert psutil.Process(server.status().pid).uids().real == os.geteuid() != 0\n"
        "with psycopg.connect(server.url('postgres')) as connection:\n"
        "    print(connection.execute('SHOW data_directory').fetchone())\n"
        "assert server.stop()"
    )
    assert str(home / "pgdata") in output(client(code, home, user))


@as_root
def test_root_leaves_a_plain_users_server_to_him(home):
    user = plain_user()
    assert user is not None
    home.mkdir()
    os.chown(home, user, user)
    server = EmbeddedServer(home)
    server.start()
    pid = server.status().pid
    assert psutil.Process(pid).uids().real == user
    assert int(output(client(START, home, user))) == pid


@as_root
def test_root_runs_the_server_as_somebody_else_and_keeps_it_to_himself(server):
    pid = server.status().pid
    assert psutil.Process(pid).uids().real != 0
    assert ask(server.url("postgres"), "SELECT rolsuper FROM pg_roles WHERE rolname = 'postgres'")
    stranger = client("psycopg.connect(sys.argv[1])", server.url("postgres"), plain_user())
    assert "Permission denied" in stranger.communicate(timeout=30)[1]
    assert stranger.returncode == 1


@as_root
def test_root_who_may_not_become_another_user(home):
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if shutil.which(drop[0]) is None:
        pytest.skip("needs setpriv")
    process = client(START, home, before=drop)
    complaint = process.communicate(timeout=30)[1]
    assert "ConfigurationError: PostgreSQL refuses to run as root" in complaint
    assert "Run as a plain user" in complaint


@as_root
def test_root_opens_no_parent_for_reading(home, caplog):
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedServer(closed / "home")
    try:
        server.start()
        server.stop()
        server.start()
    finally:
        server.stop()
    assert mode(closed) == 0o701
    told = [record for record in caplog.records if "pass through" in record.getMessage()]
    assert len(told) == 1
    assert str(closed) in told[0].getMessage()


@pytest.fixture
def tcp_server(home) -> EmbeddedServer:
    server = EmbeddedServer(home)
    server.start(free_port())
    server.create_database("astropt")
    return server


def test_tcp_wants_the_password(tcp_server):
    url = tcp_server.url(tcp=True)
    password = tcp_server.password_file.read_text()
    assert mode(tcp_server.password_file) == 0o600
    assert ask(url, "SELECT current_user") == "astropt"
    assert ask(url, "SELECT inet_server_port()") == tcp_server.status().port
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "wrong"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(url.replace(f":{password}", ""))
    assert "***" in tcp_server.url(tcp=True, show_password=False)
    assert password not in tcp_server.status().log.read_text()


def test_tcp_refuses_the_superuser(tcp_server):
    superuser = tcp_server.url(tcp=True).replace("//astropt:", "//postgres:")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(superuser)


def test_tcp_role_reads_everything_and_writes_only_its_own(tcp_server):
    with psycopg.connect(tcp_server.url()) as connection:
        connection.execute("CREATE TABLE public.tile (id int); INSERT INTO public.tile VALUES (7)")
    url = tcp_server.url(tcp=True)
    assert ask(url, "SELECT id FROM public.tile") == 7
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE my_sample (id bigint)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM public.tile")


def test_tcp_port_leaves_known_addresses_good(home):
    server = EmbeddedServer(home)
    server.start()
    url, pid = server.url("postgres"), server.status().pid
    with pytest.raises(ConfigurationError, match=r"does not listen on a TCP port.*--port"):
        server.url(tcp=True)
    port = free_port()
    server.start(port)
    assert server.status().pid != pid
    assert server.status().port == port
    assert server.url("postgres") == url
    assert ask(url, "SELECT 1") == 1
    pid = server.status().pid
    server.start()
    server.start(port)
    assert server.status().pid == pid, "asking again restarts nothing"
    server.stop()
    server.start()
    assert server.status().port is None
    assert ask(url, "SELECT 1") == 1


def test_port_in_use(server):
    pid = server.status().pid
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} .*already in use.*--port N"):
            server.start(port)
    with pytest.raises(ConfigurationError, match="from 1 to 65535"):
        server.start(70_000)
    assert server.status().pid == pid, "the server goes on"
