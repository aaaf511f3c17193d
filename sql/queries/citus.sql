-- name: citus_tables
-- Tables that are placed: their key, and whether they hold a row per source.
SELECT n.nspname AS schema_name, c.relname AS table_name,
    c.relkind = 'p' AS is_partitioned,
    EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid
        AND a.attname = 'object_id' AND NOT a.attisdropped) AS has_object,
    coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM pg_constraint AS p
        CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE p.conrelid = c.oid AND p.contype = 'p'), '{}') AS key_columns,
    (SELECT p.conname FROM pg_constraint AS p
        WHERE p.conrelid = c.oid AND p.contype = 'p') AS key_name,
    coalesce((SELECT array_agg(a.attname::text) FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attidentity <> '' AND a.atttypid <> 'bigint'::regtype),
        '{}') AS short_identities
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('q1', 'astropt') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relname NOT IN ('alembic_version', 'version')
ORDER BY n.nspname, c.relname

-- name: citus_violations
-- What Citus does not allow, by its manual: https://docs.citusdata.com (constraints; FAQ).
-- %(placed)s: for each table its distribution column, NULL for a reference table.
WITH placed AS (
    SELECT (e.key)::regclass AS oid, nullif(e.value, '') AS distribution
    FROM jsonb_each_text(%(placed)s) AS e
)
SELECT p.oid::text, format('unique or exclusion constraint %%s without %%s', i.relname,
    p.distribution)
FROM placed AS p
JOIN pg_index AS x ON x.indrelid = p.oid AND (x.indisunique OR x.indisexclusion)
JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE p.distribution IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = p.oid AND a.attname = p.distribution
        AND a.attnum = ANY (x.indkey))
UNION ALL
SELECT p.oid::text, format('foreign key %%s from a reference table to a distributed one', f.conname)
FROM placed AS p JOIN pg_constraint AS f ON f.conrelid = p.oid AND f.contype = 'f'
JOIN placed AS target ON target.oid = f.confrelid
WHERE p.distribution IS NULL AND target.distribution IS NOT NULL
UNION ALL
SELECT p.oid::text, format('foreign key %%s to a table that is not placed', f.conname)
FROM placed AS p JOIN pg_constraint AS f ON f.conrelid = p.oid AND f.contype = 'f'
WHERE NOT EXISTS (SELECT FROM placed AS target WHERE target.oid = f.confrelid)
UNION ALL
SELECT p.oid::text, format('foreign key %%s between distributed tables without the distribution '
    'column', f.conname)
FROM placed AS p JOIN pg_constraint AS f ON f.conrelid = p.oid AND f.contype = 'f'
JOIN placed AS target ON target.oid = f.confrelid
WHERE p.distribution IS NOT NULL AND target.distribution IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = p.oid AND a.attname = p.distribution
        AND a.attnum = ANY (f.conkey))
UNION ALL
SELECT p.oid::text, format('trigger %%s', t.tgname)
FROM placed AS p JOIN pg_trigger AS t ON t.tgrelid = p.oid AND NOT t.tgisinternal
UNION ALL
SELECT p.oid::text, format('rule %%s', r.rulename)
FROM placed AS p JOIN pg_rewrite AS r ON r.ev_class = p.oid
UNION ALL
SELECT p.oid::text, format('identity column %%s is not bigint', a.attname)
FROM placed AS p JOIN pg_attribute AS a ON a.attrelid = p.oid AND a.attidentity <> ''
WHERE a.atttypid <> 'bigint'::regtype
UNION ALL
SELECT p.oid::text, format('distribution column %%s is generated or missing', p.distribution)
FROM placed AS p
WHERE p.distribution IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = p.oid AND a.attname = p.distribution
        AND a.attgenerated = '' AND NOT a.attisdropped)
UNION ALL
SELECT p.oid::text, 'inherits from another table'
FROM placed AS p JOIN pg_inherits AS h ON h.inhrelid = p.oid
UNION ALL
SELECT p.oid::text, 'its partitions are partitioned themselves'
FROM placed AS p
WHERE EXISTS (SELECT FROM pg_partition_tree(p.oid) AS t WHERE t.level = 1 AND NOT t.isleaf)
UNION ALL
SELECT p.oid::text, 'a reference table cannot be partitioned'
FROM placed AS p JOIN pg_class AS c ON c.oid = p.oid AND c.relkind = 'p'
WHERE p.distribution IS NULL
UNION ALL
SELECT p.oid::text, 'temporary table' FROM placed AS p JOIN pg_class AS c ON c.oid = p.oid
WHERE c.relpersistence = 't'
ORDER BY 1, 2
