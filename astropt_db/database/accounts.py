"""Accounts: roles that log in, each a member of one of ours."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import psycopg
from psycopg import sql

from astropt_db.database.connect import Database, connect
from astropt_db.errors import ConfigurationError, DatabaseError

RIGHTS = {"reader": "astropt_reader", "worker": "astropt_worker", "admin": "astropt_admin"}
"""What an account may do, and the role that stands for it."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_READER_LIMITS = {"statement_timeout": "15min", "idle_in_transaction_session_timeout": "10min"}


def set_account(database: Database, name: str, right: str, password: str) -> bool:
    """Make an account, or give it this password and this right alone.

    The password reaches the server hashed, so neither its log nor its statistics know it.

    Returns
    -------
    Whether the account is new.

    Raises
    ------
    ConfigurationError
        If the name is one of ours or no plain name, or the password is empty.
    DatabaseError
        If the connecting role may not make accounts, or the name is a superuser's.
    """
    if not _NAME.fullmatch(name) or name.startswith(("pg_", "astropt_")):
        raise ConfigurationError(
            f"{name!r} cannot name an account: small letters, digits and _ are allowed, and "
            "neither pg_ nor astropt_ at the start"
        )
    if not password:
        raise ConfigurationError(f"the password of {name!r} is empty")
    with connect(database, role=None) as connection:
        try:
            return _set(connection, name, right, password)
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"no right to make the account {name!r}: {str(error).splitlines()[0]}. Connect as "
                "a role with CREATEROLE that is a member of astropt_admin"
            ) from error


def _set(connection: psycopg.Connection, name: str, right: str, password: str) -> bool:
    known = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [name])
    row = known.fetchone()
    if row is not None and row[0]:
        raise DatabaseError(f"{name!r} is a superuser, whose rights cannot be limited")
    role = sql.Identifier(name)
    if row is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    verifier = connection.pgconn.encrypt_password(
        password.encode(), name.encode(), b"scram-sha-256"
    )
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, verifier.decode()))
    for one, group in RIGHTS.items():
        command = "GRANT {} TO {}" if one == right else "REVOKE {} FROM {}"
        connection.execute(sql.SQL(command).format(sql.Identifier(group), role))
    for setting, value in _READER_LIMITS.items():
        change = sql.SQL("SET {} = {}").format(sql.Identifier(setting), value)
        if right != "reader":
            change = sql.SQL("RESET {}").format(sql.Identifier(setting))
        connection.execute(sql.SQL("ALTER ROLE {} {}").format(role, change))
    return row is None


def read_password(path: Path) -> str:
    """First line of a file; what a text editor or ``docker secret`` leaves behind it is cut off."""
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].rstrip("\r")
    except IndexError:
        raise ConfigurationError(f"{path}: expected a password, found an empty file") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: the password cannot be read: {error.strerror}"
        ) from error


def new_password() -> str:
    """A password that nobody guesses."""
    return secrets.token_urlsafe(24)
