"""PostgreSQL: connections, the embedded server, migrations and bulk COPY. Knows no astronomy."""
