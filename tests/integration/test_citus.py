"""The statements for Citus are right for PostgreSQL, and the schema holds nothing it forbids.

Citus itself is absent: its two functions are replaced by ones that check what they are given.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from vector_database import add_encoder

from astropt_db.database.connect import Database
from astropt_db.operations.citus import HEALPIX, OBJECT, make_plan, violations

STAND_INS = """
CREATE TABLE public.placed (name regclass PRIMARY KEY, distribution text, together regclass);
CREATE FUNCTION public.create_reference_table(table_name regclass) RETURNS void LANGUAGE sql AS
    'INSERT INTO public.placed VALUES (table_name, NULL, NULL)';
CREATE FUNCTION public.create_distributed_table(
    table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
    colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL) RETURNS void LANGUAGE sql AS
    $$INSERT INTO public.placed VALUES (table_name, distribution_column,
        nullif(colocate_with, 'default')::regclass)$$;
"""


@pytest.fixture
def connection(ready_database: Database):
    add_encoder(ready_database, "vis", 8)
    with psycopg.connect(ready_database.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO q1.mer_catalogue (object_id, healpix29, ingest_file_id) "
            "SELECT i, i::bigint << 50, 1 FROM generate_series(1, 100) AS i"
        )
        connection.execute(
            "INSERT INTO q1.mer_morphology (object_id, ingest_file_id) "
            "SELECT i, 1 FROM generate_series(1, 100) AS i"
        )
        connection.execute(STAND_INS)
        yield connection


@pytest.mark.parametrize("column", [OBJECT, HEALPIX])
def test_the_statements_run_and_leave_nothing_that_citus_forbids(connection, column: str) -> None:
    plan = make_plan(connection, column)
    for statement in plan.statements:
        connection.execute(statement)
    rows = connection.execute(
        "SELECT name::text, distribution, together::text FROM placed"
    ).fetchall()
    assert {name: distribution for name, distribution, _ in rows} == dict(plan.placed)
    assert {together for _, distribution, together in rows if distribution} == {
        None,
        "q1.mer_catalogue",
    }
    assert violations(connection, plan.placed) == []
    assert plan.placed["q1.mer_catalogue"] == plan.placed["astropt.embedding"] == column
    assert plan.placed["astropt.encoder"] is None


def test_healpix_3_is_that_of_the_source(connection) -> None:
    for statement in make_plan(connection, HEALPIX).statements:
        connection.execute(statement)
    rows = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE m.healpix3 = s.healpix3), "
        "count(*) FILTER (WHERE s.healpix3 = s.healpix29 >> 52) "
        "FROM q1.mer_catalogue AS s JOIN q1.mer_morphology AS m USING (object_id)"
    ).fetchone()
    assert rows == (100, 100, 100)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ALTER TABLE q1.mer_catalogue ADD UNIQUE (healpix29)", "unique or exclusion constraint"),
        (
            "CREATE TRIGGER t BEFORE UPDATE ON q1.mer_catalogue FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger t",
        ),
        (
            "CREATE RULE r AS ON DELETE TO q1.mer_catalogue DO INSTEAD NOTHING",
            "rule r",
        ),
        (
            "ALTER TABLE astropt.run ADD COLUMN o bigint REFERENCES q1.mer_catalogue",
            "from a reference table to a distributed one",
        ),
        (
            "ALTER TABLE q1.mer_catalogue ADD COLUMN n int GENERATED ALWAYS AS IDENTITY",
            "identity column n is not bigint",
        ),
        (
            "CREATE TABLE public.other (i int PRIMARY KEY); "
            "ALTER TABLE astropt.run ADD COLUMN i int REFERENCES public.other",
            "to a table that is not placed",
        ),
        (
            "ALTER TABLE q1.mer_morphology ADD COLUMN o bigint REFERENCES q1.mer_catalogue",
            "between distributed tables without the distribution column",
        ),
    ],
)
def test_the_checker_sees_what_citus_forbids(connection, statement: str, reason: str) -> None:
    connection.execute(sql.SQL(statement))
    plan = make_plan(connection)
    found = violations(connection, plan.placed)
    assert any(reason in text for _, text in found), found
