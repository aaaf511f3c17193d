-- name: embed_wanted_create
CREATE TEMPORARY TABLE embed_wanted (object_id bigint) ON COMMIT DROP

-- name: embed_plan_lock
SELECT pg_advisory_xact_lock(hashtextextended('astropt-db embed plan', %(encoder_id)s))

-- name: embed_plan
WITH queued AS MATERIALIZED (
    SELECT unnest(c.object_ids) AS object_id FROM astropt.embed_chunk AS c
    WHERE c.encoder_id = %(encoder_id)s AND c.state IN ('pending', 'running', 'dead')
), missing AS (
    SELECT p.object_id, p.tile, p.declination
    FROM astropt.image_place AS p
    WHERE (p.tile IS NOT NULL OR p.has_cutout)
        AND NOT EXISTS (
            SELECT FROM astropt.embedding AS e
            WHERE e.encoder_id = %(encoder_id)s AND e.object_id = p.object_id)
        AND NOT EXISTS (
            SELECT FROM astropt.embed_problem AS q
            WHERE q.encoder_id = %(encoder_id)s AND q.object_id = p.object_id)
        AND NOT EXISTS (SELECT FROM queued AS q WHERE q.object_id = p.object_id)
        AND (NOT %(restricted)s
            OR p.object_id IN (SELECT w.object_id FROM pg_temp.embed_wanted AS w))
), numbered AS (
    SELECT m.*, (row_number() OVER (
        PARTITION BY m.tile ORDER BY m.declination, m.object_id) - 1) / %(size)s AS part
    FROM missing AS m
), planned AS (
    INSERT INTO astropt.embed_chunk (encoder_id, tile, object_ids, n_sources)
    SELECT %(encoder_id)s, n.tile, array_agg(n.object_id ORDER BY n.declination, n.object_id),
        count(*)
    FROM numbered AS n GROUP BY n.tile, n.part ORDER BY n.tile NULLS LAST, n.part
    RETURNING n_sources
)
SELECT count(*), coalesce(sum(n_sources), 0)::bigint FROM planned

-- name: embed_no_image
SELECT count(*) FROM astropt.image_place AS p
WHERE p.tile IS NULL AND NOT p.has_cutout
    AND (NOT %(restricted)s OR p.object_id IN (SELECT w.object_id FROM pg_temp.embed_wanted AS w))

-- name: embed_claim
SELECT id, tile, object_ids, attempts
FROM astropt.claim_embed_chunk(
    %(encoder_id)s::integer, %(worker)s, %(run_id)s::bigint, %(lease)s,
    %(max_attempts)s::integer, %(preferred_tile)s::bigint, %(spread)s)

-- name: embed_heartbeat
UPDATE astropt.embed_chunk SET lease_until = clock_timestamp() + %(lease)s
WHERE encoder_id = %(encoder_id)s AND worker = %(worker)s AND state = 'running'
    AND lease_until > clock_timestamp()
RETURNING id

-- name: embed_finish
UPDATE astropt.embed_chunk SET
    state = 'done', n_embedded = %(n_embedded)s, n_problems = %(n_problems)s, error = NULL,
    object_ids = '{}', lease_until = NULL, ended_at = clock_timestamp()
WHERE id = %(id)s AND worker = %(worker)s AND state = 'running'
    AND lease_until > clock_timestamp()

-- name: embed_problem_insert
INSERT INTO astropt.embed_problem (object_id, encoder_id, reason, detail, tile, run_id)
VALUES (%(object_id)s, %(encoder_id)s, %(reason)s, %(detail)s, %(tile)s, %(run_id)s)
ON CONFLICT DO NOTHING

-- name: embed_fail
SELECT astropt.fail_embed_chunk(
    %(id)s::bigint, %(worker)s, %(kind)s, %(reason)s, %(detail)s, %(max_attempts)s::integer)

-- name: embed_release
UPDATE astropt.embed_chunk SET
    state = 'pending', worker = NULL, lease_until = NULL, attempts = attempts - 1
WHERE encoder_id = %(encoder_id)s AND worker = %(worker)s AND state = 'running'

-- name: embed_open
SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'running')
FROM astropt.embed_chunk
WHERE encoder_id = %(encoder_id)s AND state IN ('pending', 'running')

-- name: embed_existing
SELECT object_id FROM astropt.embedding
WHERE encoder_id = %(encoder_id)s AND object_id = ANY(%(ids)s)

-- name: embed_positions
SELECT object_id, right_ascension, declination FROM q1.mer_catalogue WHERE object_id = ANY(%(ids)s)

-- name: embed_seds
SELECT object_id, flux, flux_error FROM q1.sed WHERE object_id = ANY(%(ids)s)

-- name: embed_progress
SELECT
    coalesce(sum(n_embedded), 0)::bigint AS embedded,
    coalesce(sum(n_problems), 0)::bigint AS problems,
    coalesce(sum(n_sources) FILTER (WHERE state IN ('pending', 'running')), 0)::bigint AS waiting,
    coalesce(sum(n_sources) FILTER (WHERE state = 'dead'), 0)::bigint AS dead,
    count(DISTINCT worker) FILTER (
        WHERE state = 'running' AND lease_until > clock_timestamp()) AS workers
FROM astropt.embed_chunk WHERE encoder_id = %(encoder_id)s

-- name: embed_status
SELECT
    n.name AS encoder,
    c.state,
    count(*) AS chunks,
    sum(c.n_sources)::bigint AS sources,
    sum(c.n_embedded)::bigint AS embedded,
    sum(c.n_problems)::bigint AS problems,
    count(DISTINCT c.worker) FILTER (WHERE c.state = 'running') AS workers,
    max(c.attempts) AS attempts,
    max(c.error) AS last_error
FROM astropt.embed_chunk AS c
JOIN astropt.encoder AS n ON n.id = c.encoder_id
WHERE %(encoder)s::text IS NULL OR n.name = %(encoder)s
GROUP BY n.name, c.state
ORDER BY n.name, array_position(
    ARRAY['pending', 'running', 'done', 'failed', 'dead'], c.state)

-- name: embed_problems_by_reason
SELECT n.name AS encoder, p.reason, count(*) AS sources, min(p.detail) AS example
FROM astropt.embed_problem AS p
JOIN astropt.encoder AS n ON n.id = p.encoder_id
WHERE %(encoder)s::text IS NULL OR n.name = %(encoder)s
GROUP BY n.name, p.reason ORDER BY n.name, sources DESC

-- name: embed_retry_chunks
UPDATE astropt.embed_chunk SET
    state = 'pending', attempts = 0, not_before = clock_timestamp(), worker = NULL,
    ended_at = NULL
WHERE state = 'dead' AND (%(encoder_id)s::integer IS NULL OR encoder_id = %(encoder_id)s)
RETURNING n_sources

-- name: embed_retry_problems
DELETE FROM astropt.embed_problem
WHERE (%(encoder_id)s::integer IS NULL OR encoder_id = %(encoder_id)s)
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)

-- name: embed_cancel
DELETE FROM astropt.embed_chunk
WHERE state IN ('pending', 'running', 'dead')
    AND (%(encoder_id)s::integer IS NULL OR encoder_id = %(encoder_id)s)
RETURNING n_sources

-- name: embed_link
SELECT set_config('application_name', 'astropt-db embed', false),
    set_config('idle_in_transaction_session_timeout', %(limit)s, false)

-- name: embed_end_frozen
SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.usename = session_user
    AND a.application_name = 'astropt-db embed' AND a.pid <> pg_backend_pid()
    AND a.wait_event_type = 'Client' AND a.xact_start < clock_timestamp() - %(lease)s::interval
