"""Encoders in the database: added once by name, found again with the very same weights.

A row of ``astropt.encoder`` fixes everything that decides a vector: the weights by their SHA-256,
the preprocessing and the pooling. Another pooling of the same weights is another encoder. The
weights themselves stay where they are; a name whose weights have changed is refused when it is
loaded, because its vectors would no longer belong together.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from astropt_db.astropt.encoder import Encoder, Mode, bundled_encoders, load_encoder
from astropt_db.astropt.hub import PREFIX, parse
from astropt_db.astropt.pooling import POOLINGS, Pooling, resolve
from astropt_db.database.connect import Database, connect
from astropt_db.database.encoders import EncoderRecord, find_encoder, list_encoders
from astropt_db.database.provenance import recorded_run
from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_MAX_DIMENSION = 4000  # of pgvector's halfvec


@dataclass(frozen=True)
class Added:
    """What :func:`add_encoder` did.

    Attributes
    ----------
    record
        The encoder.
    state
        ``added``; ``unchanged`` if it was there; ``moved`` if it was there and its weights are
        now read from another place.
    """

    record: EncoderRecord
    state: str


def add_encoder(
    database: Database,
    source: str,
    name: str | None = None,
    pooling: str = "paper",
    make_current: bool = False,
) -> Added:
    """Add an encoder, or find that it is there.

    Parameters
    ----------
    database
        Where.
    source
        A bundled encoder's name, a path, or ``hf://owner/repo@revision/path``.
    name
        How to call it; by default after its source, and after its pooling if not ``paper``.
    pooling
        ``paper``, ``middle``, ``mean`` or ``last``.
    make_current
        Take it by default from now on. The first one added is taken anyway.

    Raises
    ------
    ConfigurationError
        If there is no such source or pooling, if the name cannot be used, or if the name stands
        for another encoder.
    FileError, DownloadError
        If the weights are refused or cannot be fetched.
    """
    how = resolve(pooling)
    name = name or default_name(source, pooling)
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name an encoder: up to 63 letters, digits and _ . - are allowed"
        )
    address = _lasting(source)
    values = _describe(load_encoder(address, device="cpu", mode="reference"), pooling, how)
    arguments = {"source": address, "name": name, "pooling": pooling}
    with recorded_run(database, "encoder add", arguments) as run:
        with connect(database) as connection:
            connection.execute(named_queries()["encoder_lock"])
            known = {one.name: one for one in list_encoders(connection)}
            if name in known:
                state = _same(connection, known[name], values, address)
            else:
                state = "added"
                _insert(connection, values | {"name": name, "source": address, "run_id": run.id})
            if make_current or not known:
                _make_current(connection, find_encoder(connection, name))
            record = find_encoder(connection, name)
        run.counts = {"added": int(state == "added")}
    return Added(record, state)


def use_encoder(database: Database, name: str) -> EncoderRecord:
    """Make an encoder the default one; ConfigurationError lists those there are."""
    with connect(database) as connection:
        connection.execute(named_queries()["encoder_lock"])
        _make_current(connection, find_encoder(connection, name))
        return find_encoder(connection, name)


def open_encoder(
    record: EncoderRecord,
    device: str | torch.device | None = None,
    mode: Mode = "fast",
    batch_size: int | None = None,
) -> Encoder:
    """Load the weights of an encoder of the database.

    Parameters
    ----------
    record
        Its row.
    device, mode, batch_size
        As for :class:`~astropt_db.astropt.encoder.Encoder`.

    Raises
    ------
    ConfigurationError
        If the weights are not where they were, or are not the same.
    """
    try:
        encoder = load_encoder(record.source, device, mode, batch_size)
    except ConfigurationError as error:
        if device is not None and "device" in str(error):
            raise
        raise ConfigurationError(
            f"the weights of the encoder {record.name!r} are not at {record.source}. If you have "
            f"them elsewhere: astropt-db encoder add PATH --name {record.name} "
            f"--pooling {record.pooling.get('name', 'paper')}"
        ) from error
    if encoder.sha256 != record.weights_sha256:
        raise ConfigurationError(
            f"{record.source} has other weights (SHA-256 {encoder.sha256}) than the encoder "
            f"{record.name!r} was added with ({record.weights_sha256}), so vectors of the two "
            "could not be compared. Add it under another name: astropt-db encoder add "
            f"{record.source} --name NAME"
        )
    return encoder


def pooling_of(record: EncoderRecord) -> Pooling:
    """Return the pooling of an encoder of the database."""
    return Pooling(**{key: value for key, value in record.pooling.items() if key != "name"})


def default_name(source: str, pooling: str = "paper") -> str:
    """Name of an encoder after its source, and its pooling unless that is the paper's."""
    if source.startswith(PREFIX):
        stem = parse(source)[0].partition("/")[2]
    else:
        stem = source if source in bundled_encoders() else Path(source).stem
    return stem if pooling == "paper" else f"{stem}-{pooling}"


def pooling_names() -> tuple[str, ...]:
    """Names of the poolings that an encoder can be added with."""
    return tuple(POOLINGS)


def _lasting(source: str) -> str:
    """The source as it can be found again from any working directory."""
    if source.startswith(PREFIX) or source in bundled_encoders():
        return source
    return str(Path(source).expanduser().absolute())


def _describe(encoder: Encoder, name: str, pooling: Pooling) -> dict[str, Any]:
    """Columns of ``astropt.encoder`` that follow from the weights and the pooling."""
    checkpoint = encoder.checkpoint
    if encoder.dim > _MAX_DIMENSION:
        raise ConfigurationError(
            f"its vectors have {encoder.dim:,} numbers; {_MAX_DIMENSION:,} can be stored"
        )
    pooling.block_of(checkpoint.model.n_layer)
    card = {
        "architecture": checkpoint.model.to_dict(),
        "parameters": encoder.model.n_parameters(),
        "bands": list(encoder.bands),
        "takes_sed": encoder.takes_sed,
        "layout": checkpoint.layout,
        **checkpoint.notes,
    }
    return {
        "modalities": encoder.modalities,
        "dimension": encoder.dim,
        "weights_sha256": encoder.sha256,
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "pooling": {"name": name, **asdict(pooling)},
        "card": card,
    }


def _same(
    connection: psycopg.Connection[Any], known: EncoderRecord, values: dict[str, Any], address: str
) -> str:
    """Say what becomes of an encoder whose name is taken; refuse another one."""
    for column, what in (("weights_sha256", "weights"), ("pooling", "pooling")):
        found = getattr(known, column)
        if found != values[column]:
            raise ConfigurationError(
                f"the encoder {known.name!r} is there with another {what} ({found}; here "
                f"{values[column]}). Vectors of the two cannot be compared: give this one "
                "another name with --name"
            )
    if known.source == address:
        return "unchanged"
    connection.execute(named_queries()["encoder_move"], {"id": known.id, "source": address})
    return "moved"


def _insert(connection: psycopg.Connection[Any], values: dict[str, Any]) -> None:
    queries = named_queries()
    json_columns = {key: Jsonb(values[key]) for key in ("preprocessing", "pooling", "card")}
    row = connection.execute(queries["encoder_insert"], values | json_columns).fetchone()
    assert row is not None
    connection.execute(queries["encoder_partition"], {"id": row[0]})


def _make_current(connection: psycopg.Connection[Any], record: EncoderRecord) -> None:
    connection.execute(named_queries()["encoder_use_none"])
    connection.execute(named_queries()["encoder_use"], {"id": record.id})
