"""``astropt-db db`` against a real server."""

from __future__ import annotations

import json
import socket

import psycopg
import pytest
from click.testing import CliRunner

from astropt_db.cli.main import cli
from astropt_db.errors import ConfigurationError


@pytest.fixture
def run(home, monkeypatch):
    monkeypatch.setenv("ASTROPT_DB_HOME", str(home))

    def invoke(*arguments):
        result = CliRunner().invoke(cli, ["db", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_from_start_to_stop(run, home):
    assert json.loads(run("status", "--json").stdout)["running"] is False
    started = run("start")
    url = started.stdout.strip()
    with psycopg.connect(url) as connection:
        assert connection.info.dbname == "astropt"
    assert f"PostgreSQL 18.4 runs in {home}" in started.stderr
    assert run("url").stdout.strip() == url

    status = json.loads(run("status", "--json").stdout)
    assert status["running"] is True
    assert status["url"] == url
    assert status["data_directory"] == str(home / "pgdata")
    assert "running" in run("status").stdout

    stopped = run("stop")
    assert stopped.stdout == ""
    assert "stopped" in stopped.stderr
    assert "no server runs" in run("stop").stderr
    assert "stopped" in run("status").stdout
    assert "db start" in run("url").stderr


def test_password_is_shown_only_when_asked_for(run, home):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = run("start", "--port", port)
    password = (home / "password").read_text()
    hidden = run("url", "--tcp")
    shown = run("url", "--tcp", "--show-password")
    assert f"***@127.0.0.1:{port}/astropt" in hidden.stdout
    assert str(home / "password") in hidden.stderr
    for result in (started, hidden, run("status"), run("status", "--json")):
        assert password not in result.output
    with psycopg.connect(shown.stdout.strip()) as connection:
        assert connection.info.user == "astropt"


def test_tcp_address_of_a_server_without_a_port(run):
    run("start")
    with pytest.raises(ConfigurationError, match="--port"):
        run("url", "--tcp")
