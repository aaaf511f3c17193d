-- name: status_sources
SELECT coalesce(f.release, '') AS release, count(*) AS n_sources,
    count(DISTINCT m.segmentation_map_id / 1000000) AS n_tiles
FROM q1.mer_catalogue AS m
LEFT JOIN astropt.ingest_file AS f ON f.id = m.ingest_file_id
GROUP BY f.release ORDER BY f.release

-- name: status_files
SELECT coalesce(product, '') AS product,
    count(*) FILTER (WHERE state = 'done') AS done,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'replaced') AS replaced,
    coalesce(sum(rows_inserted) FILTER (WHERE state = 'done'), 0)::bigint AS rows_inserted
FROM astropt.ingest_file AS f GROUP BY f.product ORDER BY f.product NULLS LAST

-- name: status_failures
SELECT f.path, f.error, f.started_at
FROM astropt.ingest_file AS f
WHERE f.state = 'failed' AND NOT EXISTS (
    SELECT FROM astropt.ingest_file AS later
    WHERE later.path = f.path AND later.id > f.id AND later.state = 'done')
ORDER BY f.id DESC LIMIT 10

-- name: status_quarantine
SELECT product, reason, count(*) AS n_rows
FROM astropt.quarantine WHERE state = 'open'
GROUP BY product, reason ORDER BY n_rows DESC, product, reason

-- name: status_mosaics
SELECT band, kind, count(*) AS n_mosaics, sum(size)::bigint AS bytes
FROM q1.mosaic GROUP BY band, kind ORDER BY band, kind

-- name: status_embeddings
SELECT n.name AS encoder, n.is_current, n.dimension, count(e.object_id) AS n_vectors,
    round(100.0 * count(e.object_id) / nullif((SELECT count(*) FROM q1.mer_catalogue), 0), 1)::float8
        AS percent_of_sources
FROM astropt.encoder AS n LEFT JOIN astropt.embedding AS e ON e.encoder_id = n.id
GROUP BY n.id ORDER BY n.name

-- name: status_queue
SELECT n.name AS encoder, c.state, count(*) AS chunks, sum(c.n_sources)::bigint AS n_sources,
    count(*) FILTER (WHERE c.state = 'running' AND c.lease_until < now()) AS lease_ran_out,
    min(c.started_at) FILTER (WHERE c.state = 'running') AS oldest_start
FROM astropt.embed_chunk AS c JOIN astropt.encoder AS n ON n.id = c.encoder_id
GROUP BY n.name, c.state ORDER BY n.name, c.state

-- name: status_embed_problems
SELECT n.name AS encoder, p.reason, count(*) AS n_sources
FROM astropt.embed_problem AS p JOIN astropt.encoder AS n ON n.id = p.encoder_id
GROUP BY n.name, p.reason ORDER BY n_sources DESC

-- name: status_predictors
SELECT task, head, features, count(*) AS n_predictors,
    max(id) FILTER (WHERE is_current) AS current_id
FROM astropt.predictor GROUP BY task, head, features ORDER BY task, head, features

-- name: status_outliers
SELECT n.name AS encoder, r.objects, r.is_current, r.created_at
FROM astropt.outlier_run AS r JOIN astropt.encoder AS n ON n.id = r.encoder_id
ORDER BY r.id DESC LIMIT 5

-- name: status_indexes
SELECT n.name AS encoder, s.kind, s.index_name, s.row_count AS rows_at_build,
    coalesce(x.indisvalid, false) AS is_valid,
    (SELECT r.recall FROM astropt.search_recall AS r
        WHERE r.search_index_id = s.id AND r.filter IS NULL
        ORDER BY r.measured_at DESC, r.k LIMIT 1) AS recall,
    CASE WHEN i.oid IS NOT NULL THEN pg_relation_size(i.oid) END AS bytes
FROM astropt.search_index AS s
JOIN astropt.encoder AS n ON n.id = s.encoder_id
LEFT JOIN pg_class AS i
    ON i.relname = s.index_name AND i.relnamespace = 'astropt'::regnamespace
LEFT JOIN pg_index AS x ON x.indexrelid = i.oid
ORDER BY n.name, s.kind

-- name: status_disk
SELECT n.nspname AS schema, sum(pg_table_size(c.oid))::bigint AS table_bytes,
    sum(pg_indexes_size(c.oid))::bigint AS index_bytes
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'm')
GROUP BY n.nspname ORDER BY n.nspname

-- name: status_runs
SELECT id, command, state, started_at, ended_at, host, code_version, counts
FROM astropt.run ORDER BY id DESC LIMIT 10
