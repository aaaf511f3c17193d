"""Encoders as the database knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from astropt_db.database.resources import named_queries
from astropt_db.errors import ConfigurationError


@dataclass(frozen=True)
class EncoderRecord:
    """A row of ``astropt.encoder``.

    Attributes
    ----------
    id, name
        Number and unique name.
    modalities
        ``vis``, ``vis_nisp``, ``vis_nisp_sed``.
    dimension
        Length of a vector.
    weights_sha256
        Of the weights' file.
    source
        Bundled name, path or ``hf://`` address of the weights.
    preprocessing, pooling, card
        As stored by ``astropt-db encoder add``.
    is_current
        Whether it is the default one.
    """

    id: int
    name: str
    modalities: str
    dimension: int
    weights_sha256: str
    source: str
    preprocessing: dict[str, Any]
    pooling: dict[str, Any]
    card: dict[str, Any]
    is_current: bool

    @property
    def partition(self) -> sql.Identifier:
        """The partition of ``astropt.embedding`` that holds its vectors."""
        return sql.Identifier("astropt", f"embedding_{self.id}")


def list_encoders(connection: psycopg.Connection[Any]) -> list[EncoderRecord]:
    """All encoders, by name."""
    with connection.cursor(row_factory=class_row(EncoderRecord)) as cursor:
        return cursor.execute(named_queries()["encoder_list"]).fetchall()


def find_encoder(connection: psycopg.Connection[Any], name: str | None = None) -> EncoderRecord:
    """An encoder by its name, or the current one.

    Raises
    ------
    ConfigurationError
        If there is none such; the message lists those that exist.
    """
    known = list_encoders(connection)
    for one in known:
        if one.is_current if name is None else one.name == name:
            return one
    names = ", ".join(one.name for one in known)
    if name is None:
        raise ConfigurationError(
            "no encoder is current; "
            + (f"choose one of {names}: astropt-db encoder use NAME" if known else _NONE)
        )
    raise ConfigurationError(
        f"no encoder {name!r} in the database; " + (f"there are: {names}" if known else _NONE)
    )


_NONE = "there are none yet; add one: astropt-db encoder add NAME"
