-- name: ingest_lock
SELECT pg_advisory_xact_lock(hashtextextended(%(key)s, 0))

-- name: ingest_same_size
SELECT sha256, product, rows_read, (
    SELECT count(*) FROM astropt.quarantine AS q
    WHERE q.ingest_file_id = f.id AND q.state = 'open'
) AS open_rows
FROM astropt.ingest_file AS f
WHERE size_bytes = %(size_bytes)s AND release = %(release)s AND state = 'done'
    AND (%(product)s::text IS NULL OR product = %(product)s)
ORDER BY id

-- name: ingest_done
SELECT id, rows_read, (
    SELECT count(*) FROM astropt.quarantine AS q
    WHERE q.ingest_file_id = f.id AND q.state = 'open'
) AS open_rows
FROM astropt.ingest_file AS f
WHERE sha256 = %(sha256)s AND product = %(product)s AND release = %(release)s AND state = 'done'

-- name: ingest_tile_done
SELECT id, path FROM astropt.ingest_file
WHERE product = %(product)s AND release = %(release)s AND tile = %(tile)s AND state = 'done'

-- name: ingest_file_insert
INSERT INTO astropt.ingest_file (
    run_id, path, size_bytes, product, release, tile,
    unknown_columns, missing_columns, state
) VALUES (
    %(run_id)s, %(path)s, %(size_bytes)s, %(product)s, %(release)s, %(tile)s,
    %(unknown_columns)s, %(missing_columns)s, 'done'
) RETURNING id

-- name: ingest_file_counts
UPDATE astropt.ingest_file SET
    sha256 = %(sha256)s, rows_read = %(read)s, rows_inserted = %(inserted)s, rows_updated = %(updated)s,
    rows_unchanged = %(unchanged)s, rows_rejected = %(rejected)s, rows_removed = %(removed)s,
    rows_repaired = %(repaired)s, ended_at = clock_timestamp()
WHERE id = %(id)s

-- name: ingest_file_replaced
UPDATE astropt.ingest_file SET state = 'replaced' WHERE id = ANY(%(ids)s)

-- name: ingest_file_failed
INSERT INTO astropt.ingest_file (run_id, path, sha256, size_bytes, release, state, error, ended_at)
VALUES (%(run_id)s, %(path)s, %(sha256)s, %(size_bytes)s, %(release)s, 'failed', %(error)s,
    clock_timestamp())

-- name: quarantine_resolve_files
UPDATE astropt.quarantine SET state = 'resolved', resolved_at = clock_timestamp()
WHERE ingest_file_id = ANY(%(ids)s) AND state = 'open'

-- name: run_insert
INSERT INTO astropt.run (command, arguments, code_version, host, pid, state)
VALUES (%(command)s, %(arguments)s, %(code_version)s, %(host)s, %(pid)s, 'running')
RETURNING id

-- name: run_end
UPDATE astropt.run SET state = %(state)s, counts = %(counts)s, ended_at = clock_timestamp()
WHERE id = %(id)s
