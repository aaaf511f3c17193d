"""Other processes, users and questions for the tests of servers."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

IMPORTS = """
import os, sys, time, psutil, psycopg
from pathlib import Path
from astropt_db.database.embedded import EmbeddedServer
"""
START = """
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.status().pid, flush=True)
"""


def client(
    code: str, argument: object, user: int | None = None, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Another Python process with the package, in a process group of its own.

    It changes to ``user`` after its imports: an interpreter in root's folder is closed to others.
    """
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    change = "" if user is None else f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
    return subprocess.Popen(
        [*before, sys.executable, "-c", IMPORTS + change + code, str(argument)],
        cwd="/",
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def output(process: subprocess.Popen[str]) -> str:
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    return said.strip()


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_end(*pids: int) -> None:
    """Wait until processes are gone, or are left as zombies by an init that reaps none."""
    deadline = time.monotonic() + 10
    for pid in pids:
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} goes on"
            time.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def plain_user() -> int | None:
    """Somebody who is not root: nobody when the tests run as root, else oneself."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
