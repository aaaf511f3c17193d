"""Everything ``astropt-db doctor`` looks at: the database, this machine, and the weights."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

import psycopg

from astropt_db.database.connect import Database, check_version, open_connection
from astropt_db.database.health import Finding, examine
from astropt_db.database.resources import named_queries
from astropt_db.errors import AstroptDbError, DatabaseError

_OLDEST_TORCH = (2, 6)
"""Before 2.6, ``torch.load`` runs code from a file even with ``weights_only`` (CVE-2025-32434)."""


def diagnose(database: Database) -> list[Finding]:
    """Findings about database, machine and weights; see :class:`Finding`."""
    return [*examine(database), *_torch(), *_weights(database)]


def _torch() -> Iterator[Finding]:
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("wrong", "torch", "not installed", "pip install 'torch>=2.6'")
        return
    version = tuple(int(part) for part in installed.split("+")[0].split(".")[:2])
    if version < _OLDEST_TORCH:
        yield Finding(
            "wrong",
            "torch",
            f"{installed}: loading a checkpoint can run code from it",
            "pip install 'torch>=2.6'",
        )
        return
    import torch

    yield Finding("ok", "torch", installed)
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding("ok", "gpu", f"{torch.cuda.device_count()}: {', '.join(sorted(names))}")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "gpu", "Apple GPU")
    else:
        built_for = f"torch is built for {torch.version.cuda or 'the CPU only'}"
        yield Finding("ok", "gpu", f"none ({built_for}): embedding runs on the CPU")


def _weights(database: Database) -> Iterator[Finding]:
    """Whether the weights of every encoder are where they were, and the same."""
    try:
        with open_connection(database.url) as connection:
            check_version(connection, database.safe_name)
            rows = connection.execute(named_queries()["health_encoders"]).fetchall()
    except (DatabaseError, psycopg.Error):
        return
    for name, source, sha256, _ in rows:
        yield _one_encoder(name, source, sha256)
    if rows and not any(is_current for *_, is_current in rows):
        yield Finding("note", "encoder", "none is current", "astropt-db encoder use NAME")


def _one_encoder(name: str, source: str, sha256: str) -> Finding:
    from astropt_db.astropt.encoder import load_encoder

    check = f"weights of {name}"
    if source.startswith("hf://"):
        return Finding("ok", check, f"at {source}: looked at when they are used")
    try:
        found = load_encoder(source, device="cpu").sha256
    except (AstroptDbError, OSError) as error:
        return Finding(
            "note",
            check,
            f"cannot be read here: {str(error).splitlines()[0]}",
            f"astropt-db encoder add PATH --name {name}",
        )
    if found != sha256:
        return Finding(
            "wrong",
            check,
            f"{source} has changed since the encoder was added (SHA-256 {found[:12]}…, was "
            f"{sha256[:12]}…): new vectors would not fit the old ones",
            "put the old file back, or add the new one under another name",
        )
    return Finding("ok", check, f"{sha256[:12]}…, as when it was added")
