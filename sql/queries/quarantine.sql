-- name: quarantine_list
SELECT q.id, f.path, q.row_number, q.object_id, q.reason, q.detail
FROM astropt.quarantine AS q JOIN astropt.ingest_file AS f ON f.id = q.ingest_file_id
WHERE q.state = 'open' AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
ORDER BY q.id LIMIT %(limit)s

-- name: quarantine_by_reason
SELECT q.reason, q.product, f.path, count(*) AS n_rows
FROM astropt.quarantine AS q JOIN astropt.ingest_file AS f ON f.id = q.ingest_file_id
WHERE q.state = 'open' AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
GROUP BY q.reason, q.product, f.path ORDER BY n_rows DESC, q.reason, f.path LIMIT %(limit)s

-- name: quarantine_show
SELECT q.id, f.path, q.product, q.row_number, q.object_id, q.reason, q.detail, q.state,
    q.created_at, q.row
FROM astropt.quarantine AS q JOIN astropt.ingest_file AS f ON f.id = q.ingest_file_id
WHERE q.id = %(id)s

-- name: quarantine_groups
SELECT q.ingest_file_id, q.product, f.path, count(*)
FROM astropt.quarantine AS q JOIN astropt.ingest_file AS f ON f.id = q.ingest_file_id
WHERE q.state = 'open' AND (%(reason)s::text IS NULL OR q.reason = %(reason)s)
GROUP BY q.ingest_file_id, q.product, f.path ORDER BY q.ingest_file_id, q.product

-- name: quarantine_rows
SELECT id, row_number FROM astropt.quarantine
WHERE ingest_file_id = %(file)s AND product = %(product)s AND state = 'open'
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)
ORDER BY id FOR UPDATE

-- name: quarantine_keys
SELECT key FROM astropt.quarantine AS q, jsonb_object_keys(q.row) AS key
WHERE q.id = ANY(%(ids)s) GROUP BY key ORDER BY key

-- name: quarantine_resolve
UPDATE astropt.quarantine SET state = 'resolved', resolved_at = clock_timestamp()
WHERE id = ANY(%(ids)s)

-- name: quarantine_reject_again
UPDATE astropt.quarantine AS q SET reason = n.reason, detail = n.detail
FROM unnest(%(ids)s::bigint[], %(reasons)s::text[], %(details)s::text[]) AS n (id, reason, detail)
WHERE q.id = n.id

-- name: quarantine_recount
UPDATE astropt.ingest_file SET
    rows_inserted = rows_inserted + %(inserted)s, rows_updated = rows_updated + %(updated)s,
    rows_unchanged = rows_unchanged + %(unchanged)s, rows_repaired = rows_repaired + %(repaired)s,
    rows_rejected = rows_rejected - %(resolved)s
WHERE id = %(id)s
