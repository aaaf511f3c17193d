"""The one way to reach a database: a DSN, or the embedded server when none is given."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from astropt_db import __version__
from astropt_db.database.resources import latest_revision
from astropt_db.errors import ConfigurationError, DatabaseError

if TYPE_CHECKING:
    from astropt_db.database.embedded import EmbeddedServer

DATABASE = "astropt"
"""Name of the database on the embedded server."""

READER, WORKER, ADMIN = "astropt_reader", "astropt_worker", "astropt_admin"
"""Roles of ``sql/roles.sql``: see, write rows, own the tables."""

_SETTINGS = {
    "application_name": "astropt-db",
    "connect_timeout": "10",
    # Without keepalives a job would wait for hours on a server whose machine has vanished.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}


_COMING_UP = re.compile(r"the database system is (starting up|in recovery mode|not yet accepting)")
_COMING_UP_SECONDS = 30.0


@dataclass(frozen=True)
class Database:
    """Where the data lies.

    Attributes
    ----------
    url
        Connection string for psycopg; may hold a password, so it is never printed.
    embedded
        Our private server, or ``None`` if the user gave a DSN.
    """

    url: str
    embedded: EmbeddedServer | None = None

    @property
    def safe_name(self) -> str:
        """How to name the database to a person: no password in it."""
        return "the embedded database" if self.embedded else hide_password(self.url)


def hide_password(url: str) -> str:
    """The connection string with its password, if any, taken out."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        return "(a connection string that cannot be parsed)"
    if parts.get("password") is not None:
        parts["password"] = "***"
    return make_conninfo("", **parts)


def normalise(url: str) -> str:
    """Accept SQLAlchemy's spelling (``postgresql+psycopg://``) and libpq's.

    Raises
    ------
    ConfigurationError
        If it is not a PostgreSQL connection string.
    """
    plain = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url.strip())
    try:
        conninfo_to_dict(plain)
    except psycopg.Error as error:
        raise ConfigurationError(
            "the database address is not a PostgreSQL connection string. Expected something "
            "like postgresql://user@host:5432/astropt (option --db or ASTROPT_DB_URL)"
        ) from error
    return plain


def resolve(url: str | None = None) -> Database:
    """Find the database: ``url``, else ``ASTROPT_DB_URL``, else the embedded server.

    An address without a password takes it from the file that ``ASTROPT_DB_PASSWORD_FILE`` names,
    if it names one. The embedded server is started if it does not run, and its database made if
    it is new.
    """
    url = url or os.environ.get("ASTROPT_DB_URL")
    if url:
        return Database(_with_password(normalise(url)))
    from astropt_db.database.embedded import EmbeddedServer, default_home

    server = EmbeddedServer(default_home())
    server.start()
    server.create_database(DATABASE)
    return Database(server.url(DATABASE), server)


def _with_password(url: str) -> str:
    """Add the password from ``ASTROPT_DB_PASSWORD_FILE``, as containers get their secrets."""
    path = os.environ.get("ASTROPT_DB_PASSWORD_FILE")
    if not path or conninfo_to_dict(url).get("password") is not None:
        return url
    from astropt_db.database.accounts import read_password

    return make_conninfo(url, password=read_password(Path(path)))


def open_connection(url: str, *, autocommit: bool = False) -> psycopg.Connection:
    """Connect without looking at the schema version; waits for a server that is coming up.

    Raises
    ------
    DatabaseError
        If the server cannot be reached or refuses the role.
    """
    given = conninfo_to_dict(url)
    settings = {key: value for key, value in _SETTINGS.items() if key not in given}
    full = make_conninfo(url, **settings)
    try:
        return _connect_when_up(full, autocommit)
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DatabaseError(
            f"cannot connect to {hide_password(url)}: {reason}. Check that the server runs and "
            "that the address (--db or ASTROPT_DB_URL) and the password are right"
        ) from error


def _connect_when_up(url: str, autocommit: bool) -> psycopg.Connection:
    """Connect; a server that recovers from a crash of one of its processes is back in seconds."""
    end = time.monotonic() + _COMING_UP_SECONDS
    while True:
        try:
            return psycopg.connect(url, autocommit=autocommit)
        except psycopg.OperationalError as error:
            # libpq gives no SQLSTATE for a refused connection, only the server's words.
            if time.monotonic() > end or not _COMING_UP.search(str(error)):
                raise
        time.sleep(0.2)


def connect(
    database: Database, *, autocommit: bool = False, role: str | None = WORKER
) -> psycopg.Connection:
    """Connect, check that the schema is the one that this code knows, and step down to a role.

    Parameters
    ----------
    role
        The least role that serves; ``None`` for the connecting account itself.

    Raises
    ------
    DatabaseError
        If the server cannot be reached, or the schema is missing, older or newer.
    """
    connection = open_connection(database.url, autocommit=autocommit)
    try:
        check_version(connection, database.safe_name)
        if role is not None:
            step_down(connection, role)
        if not autocommit:
            connection.commit()  # a rollback would take back the role
    except BaseException:
        connection.close()
        raise
    return connection


def step_down(connection: psycopg.Connection, role: str, *, local: bool = False) -> bool:
    """Take on a role for the session, or for the transaction with ``local``.

    The connecting account keeps its own rights where it is no member of the role, and where the
    role has none in this database: the roles are the server's, and may be younger than the schema.

    Returns
    -------
    bool
        Whether the role was taken on.
    """
    row = connection.execute(
        "SELECT set_config('role', r.rolname, %(local)s) FROM pg_roles AS r "
        "WHERE r.rolname = %(role)s AND pg_has_role(session_user, r.oid, 'MEMBER') "
        "AND has_schema_privilege(r.oid, 'astropt', %(needed)s)",
        {"role": role, "local": local, "needed": "CREATE" if role == ADMIN else "USAGE"},
    ).fetchone()
    return row is not None


def analyse_table(
    connection: psycopg.Connection[Any], table: sql.Identifier, columns: Sequence[str] | None = None
) -> None:
    """Tell the planner about new rows, of all columns or of some; the tables' owner does it."""
    connection.execute(
        "SELECT astropt.analyse_table(%s::regclass, %s::text[])", [table.as_string(), columns]
    )


def schema_version(connection: psycopg.Connection) -> tuple[str, str] | None:
    """Schema revision and code version stored in the database, ``None`` if there is none."""
    found = connection.execute("SELECT to_regclass('astropt.version')").fetchone()
    if found is None or found[0] is None:
        return None
    row = connection.execute("SELECT schema_revision, code_version FROM astropt.version").fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def check_version(connection: psycopg.Connection, name: str) -> None:
    """Refuse a schema that this code does not know.

    Raises
    ------
    DatabaseError
        Naming both versions and the command that mends it.
    """
    version = schema_version(connection)
    if version is None:
        raise DatabaseError(f"{name} holds no astropt-db schema yet; run: astropt-db init")
    revision, code = version
    expected = latest_revision()
    if revision < expected:
        raise DatabaseError(
            f"{name} has schema {revision} (from astropt-db {code}), this astropt-db "
            f"{__version__} needs {expected}; run: astropt-db init"
        )
    if revision > expected:
        raise DatabaseError(
            f"{name} has schema {revision}, made by astropt-db {code}, which is newer than this "
            f"astropt-db {__version__} (schema {expected}); upgrade the package"
        )
