"""Sharding with Citus: the exact statements for this schema, and what would stand in their way.

Rows of one source lie together: every table with an ``object_id`` in its key is distributed, all
others are reference tables, whole on every node. ``python -m astropt_db.operations.citus`` prints
both for the database at ``ASTROPT_DB_URL``; docs/howto/scale.md tells when to use which.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from astropt_db.database.connect import ADMIN, connect, resolve
from astropt_db.database.resources import named_queries

OBJECT, HEALPIX = "object_id", "healpix3"
"""Distribution columns: the source itself, or its HEALPix cell of order 3 (54 deg² each)."""

_SHARDS = {OBJECT: 128, HEALPIX: 192}
_COARSE = 2 * (29 - 3)
_FIRST = "q1.mer_catalogue"


@dataclass(frozen=True)
class Plan:
    """Where every table goes.

    Attributes
    ----------
    statements
        SQL to run on the coordinator, in this order.
    placed
        For each table its distribution column, ``None`` for a reference table.
    """

    statements: tuple[str, ...]
    placed: Mapping[str, str | None]


def make_plan(connection: psycopg.Connection, column: str = OBJECT) -> Plan:
    """Place every table of the schemas ``q1`` and ``astropt``.

    Parameters
    ----------
    column
        ``object_id``: keys and joins stay as they are. ``healpix3``: cones meet few shards, but
        each distributed table gets the column, and joins must name it.
    """
    statements: list[sql.Composable] = []
    calls: list[tuple[str, sql.Composable]] = []
    placed: dict[str, str | None] = {}
    for row in connection.execute(named_queries()["citus_tables"]):
        schema, table, _, has_object, key, key_name, short_identities = row
        name = f"{schema}.{table}"
        identifier = sql.Identifier(schema, table)
        # Reference tables come first: foreign keys of the others point at them.
        if not (has_object and OBJECT in key):
            placed[name] = None
            for identity in short_identities:
                statements.append(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP IDENTITY").format(
                        identifier, sql.Identifier(identity)
                    )
                )
            statements.append(sql.SQL("SELECT create_reference_table({})").format(name))
            continue
        placed[name] = column
        if column == HEALPIX:
            calls += [(name, one) for one in _with_healpix(identifier, name, key, key_name)]
        together = sql.SQL("" if name == _FIRST else ", colocate_with => {}").format(_FIRST)
        shards = sql.SQL(", shard_count => {}" if name == _FIRST else "").format(_SHARDS[column])
        call = sql.SQL("SELECT create_distributed_table({}, {}{}{})")
        calls.append((name, call.format(name, column, shards, together)))
    # All others are laid beside the catalogue.
    calls.sort(key=lambda pair: pair[0] != _FIRST)
    statements += [statement for _, statement in calls]
    return Plan(tuple(one.as_string(connection) + ";" for one in statements), placed)


def _with_healpix(
    identifier: sql.Identifier, name: str, key: list[str], key_name: str
) -> list[sql.Composable]:
    """Give a table the column of its cell, filled and part of the key."""
    source = "UPDATE {} SET healpix3 = healpix29 >> {}"
    if name != _FIRST:
        source = (
            "UPDATE {} AS t SET healpix3 = m.healpix29 >> {} FROM q1.mer_catalogue AS m "
            "WHERE m.object_id = t.object_id"
        )
    columns = sql.SQL(", ").join(map(sql.Identifier, [HEALPIX, *key]))
    return [
        sql.SQL("ALTER TABLE {} ADD COLUMN healpix3 integer").format(identifier),
        sql.SQL(source).format(identifier, _COARSE),
        sql.SQL(
            "ALTER TABLE {} DROP CONSTRAINT {}, ALTER COLUMN healpix3 SET NOT NULL, "
            "ADD PRIMARY KEY ({})"
        ).format(identifier, sql.Identifier(key_name), columns),
    ]


def violations(
    connection: psycopg.Connection, placed: Mapping[str, str | None]
) -> list[tuple[str, str]]:
    """Table and reason for everything that Citus would refuse in the schema as it is now."""
    values = {name: column or "" for name, column in placed.items()}
    query = named_queries()["citus_violations"]
    return [(row[0], row[1]) for row in connection.execute(query, {"placed": Jsonb(values)})]


def main() -> None:
    """Print the statements for ``object_id`` or for the column that the first argument names."""
    column = sys.argv[1] if len(sys.argv) > 1 else OBJECT
    with connect(resolve(), role=ADMIN) as connection:
        plan = make_plan(connection, column)
        sys.stdout.write("\n".join(plan.statements) + "\n")
        if column == OBJECT:
            for table, reason in violations(connection, plan.placed):
                sys.stdout.write(f"-- {table}: {reason}\n")


if __name__ == "__main__":
    main()
