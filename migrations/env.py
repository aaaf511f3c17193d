"""Alembic environment: runs on the connection that ``astropt_db.database.migrate`` opened."""

from alembic import context

from astropt_db.database.migrate import apply_comments
from astropt_db.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema="astropt",
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
apply_comments(connection, metadata)
