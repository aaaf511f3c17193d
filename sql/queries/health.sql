-- name: health_settings
SELECT name, setting, pg_size_bytes(current_setting(name)) AS bytes
FROM pg_settings
WHERE name IN ('shared_buffers', 'maintenance_work_mem')
UNION ALL
SELECT name, setting, NULL FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'data_checksums', 'password_encryption', 'ssl')

-- name: health_extension_update
SELECT default_version FROM pg_available_extensions
WHERE name = 'vector' AND default_version <> installed_version

-- name: health_invalid_indexes
SELECT c.oid::regclass::text
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname IN ('q1', 'astropt', 'survey')

-- name: health_missing_roles
SELECT role_name FROM unnest(ARRAY['astropt_reader', 'astropt_worker', 'astropt_admin'])
    AS role_name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name)

-- name: health_not_readable
SELECT c.oid::regclass::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_roles AS r ON r.rolname = 'astropt_reader'
WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p', 'v', 'm')
    AND NOT has_table_privilege(r.oid, c.oid, 'SELECT')
ORDER BY 1

-- name: health_writable_by_all
SELECT c.oid::regclass::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_roles AS r ON r.rolname = 'astropt_reader'
WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p', 'm')
    AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
ORDER BY 1

-- name: health_unfinished_runs
SELECT count(*) FROM astropt.run
WHERE state = 'running' AND started_at < now() - interval '1 day'

-- name: health_failed_files
SELECT count(*) FROM astropt.ingest_file AS f
WHERE f.state = 'failed' AND NOT EXISTS (
    SELECT FROM astropt.ingest_file AS later
    WHERE later.path = f.path AND later.id > f.id AND later.state = 'done')

-- name: health_quarantine
SELECT count(*) FROM astropt.quarantine WHERE state = 'open'

-- name: health_object_tables
SELECT n.nspname AS schema_name, c.relname AS table_name,
    bool_or(a.attname = 'ingest_file_id') AS has_file
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
WHERE n.nspname IN ('q1', 'astropt') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relname NOT IN ('quarantine', 'embed_problem', 'cutout')
GROUP BY n.nspname, c.relname
HAVING bool_or(a.attname = 'object_id')
ORDER BY 1, 2

-- name: health_orphans
SELECT count(*) FROM {} AS t
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = t.object_id)

-- name: health_without_file
SELECT count(*) FROM {} AS t WHERE NOT EXISTS (
    SELECT FROM astropt.ingest_file AS f WHERE f.id = t.ingest_file_id AND f.state = 'done')

-- name: health_vectors
SELECT n.name, count(*) FROM astropt.embedding AS e
JOIN astropt.encoder AS n ON n.id = e.encoder_id
WHERE NOT (l2_norm(e.embedding) > 0 AND l2_norm(e.embedding) < 'Infinity'::float8)
    OR vector_dims(e.embedding) <> n.dimension
GROUP BY n.name ORDER BY n.name

-- name: health_encoders
SELECT name, source, weights_sha256, is_current FROM astropt.encoder ORDER BY name

-- name: health_partitions
SELECT n.name FROM astropt.encoder AS n
WHERE to_regclass(format('astropt.embedding_%s', n.id)) IS NULL ORDER BY n.name

-- name: health_stray_partitions
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'astropt.embedding'::regclass AND NOT EXISTS (
    SELECT FROM astropt.encoder AS e WHERE format('embedding_%s', e.id) = c.relname)
ORDER BY c.relname

-- name: health_queue
SELECT count(*) FILTER (WHERE state = 'running' AND lease_until < now()) AS ran_out,
    count(*) FILTER (WHERE state = 'dead') AS dead
FROM astropt.embed_chunk

-- name: health_index_tables
SELECT s.index_name FROM astropt.search_index AS s
WHERE NOT EXISTS (SELECT FROM pg_class AS c
    WHERE c.relname = s.index_name AND c.relnamespace = 'astropt'::regnamespace)
