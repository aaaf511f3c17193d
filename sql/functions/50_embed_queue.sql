-- The queue of the embedding workers. The server's clock alone decides about leases, and a worker
-- owns a chunk only while its own uuid stands in the row and the lease has not run out.

CREATE OR REPLACE FUNCTION astropt.split_embed_chunk(chunk_id bigint, reason text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    parent astropt.embed_chunk;
    half integer;
BEGIN
    SELECT * INTO STRICT parent FROM astropt.embed_chunk AS c WHERE c.id = chunk_id FOR UPDATE;
    half := parent.n_sources / 2;
    INSERT INTO astropt.embed_chunk (encoder_id, tile, object_ids, n_sources, parent_id, error)
    SELECT parent.encoder_id, parent.tile, p.ids, cardinality(p.ids), parent.id, reason
    FROM (VALUES (parent.object_ids[:half]), (parent.object_ids[half + 1:])) AS p (ids);
    UPDATE astropt.embed_chunk SET
        state = 'failed', error = reason, object_ids = '{}', lease_until = NULL,
        ended_at = clock_timestamp()
    WHERE id = chunk_id;
END
$$;

COMMENT ON FUNCTION astropt.split_embed_chunk IS
    'Put two halves of a chunk into the queue in its place, to find the source that spoils it';

CREATE OR REPLACE FUNCTION astropt.quarantine_embed_chunk(
    chunk_id bigint, reason text, detail text
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO astropt.embed_problem (object_id, encoder_id, reason, detail, tile, run_id)
    SELECT c.object_ids[1], c.encoder_id, quarantine_embed_chunk.reason,
        quarantine_embed_chunk.detail, c.tile, coalesce(c.run_id, 0)
    FROM astropt.embed_chunk AS c WHERE c.id = chunk_id
    ON CONFLICT DO NOTHING;
    UPDATE astropt.embed_chunk SET
        state = 'done', n_problems = 1, error = quarantine_embed_chunk.detail,
        object_ids = '{}', lease_until = NULL, ended_at = clock_timestamp()
    WHERE id = chunk_id;
END
$$;

COMMENT ON FUNCTION astropt.quarantine_embed_chunk IS
    'End a chunk of one source that cannot be embedded, and keep the source with its reason';

CREATE OR REPLACE FUNCTION astropt.claim_embed_chunk(
    encoder integer, claimant uuid, run bigint, lease interval, max_attempts integer,
    preferred_tile bigint DEFAULT NULL, spread boolean DEFAULT false
) RETURNS SETOF astropt.embed_chunk
LANGUAGE plpgsql AS $$
DECLARE
    found astropt.embed_chunk;
BEGIN
    LOOP
        found := NULL;
        -- The tile that the worker has open already.
        IF preferred_tile IS NOT NULL THEN
            SELECT * INTO found FROM astropt.embed_chunk AS c
            WHERE c.encoder_id = encoder AND c.state = 'pending' AND c.tile = preferred_tile
                AND c.not_before <= clock_timestamp()
            ORDER BY c.id FOR UPDATE SKIP LOCKED LIMIT 1;
        END IF;
        -- A tile that nobody has open: workers that hold whole tiles should hold different ones.
        IF found.id IS NULL AND spread THEN
            SELECT * INTO found FROM astropt.embed_chunk AS c
            WHERE c.encoder_id = encoder AND c.state = 'pending'
                AND c.not_before <= clock_timestamp()
                AND c.tile <> ALL (ARRAY(
                    SELECT r.tile FROM astropt.embed_chunk AS r
                    WHERE r.encoder_id = encoder AND r.state = 'running' AND r.tile IS NOT NULL))
            ORDER BY c.id FOR UPDATE SKIP LOCKED LIMIT 1;
        END IF;
        IF found.id IS NULL THEN
            SELECT * INTO found FROM astropt.embed_chunk AS c
            WHERE c.encoder_id = encoder AND c.state = 'pending'
                AND c.not_before <= clock_timestamp()
            ORDER BY c.id FOR UPDATE SKIP LOCKED LIMIT 1;
        END IF;
        IF found.id IS NULL THEN
            SELECT * INTO found FROM astropt.embed_chunk AS c
            WHERE c.encoder_id = encoder AND c.state = 'running'
                AND c.lease_until < clock_timestamp()
            ORDER BY c.lease_until FOR UPDATE SKIP LOCKED LIMIT 1;
        END IF;
        IF found.id IS NULL THEN
            RETURN;
        END IF;
        EXIT WHEN found.attempts < max_attempts;
        -- Its workers vanished without a word each time: look for the source that kills them.
        IF found.n_sources > 1 THEN
            PERFORM astropt.split_embed_chunk(found.id, 'its workers died');
        ELSE
            PERFORM astropt.quarantine_embed_chunk(found.id, 'worker_died',
                format('%s workers died while they had it', found.attempts));
        END IF;
    END LOOP;
    RETURN QUERY UPDATE astropt.embed_chunk AS c SET
        state = 'running', worker = claimant, run_id = run, attempts = c.attempts + 1,
        lease_until = clock_timestamp() + lease, started_at = clock_timestamp()
    WHERE c.id = found.id RETURNING c.*;
END
$$;

COMMENT ON FUNCTION astropt.claim_embed_chunk IS
    'Give a worker the next chunk: a pending one, or one whose lease ran out; none is no row';

CREATE OR REPLACE FUNCTION astropt.fail_embed_chunk(
    chunk_id bigint, claimant uuid, kind text, reason text, detail text, max_attempts integer
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    found astropt.embed_chunk;
BEGIN
    SELECT * INTO found FROM astropt.embed_chunk AS c
    WHERE c.id = chunk_id AND c.worker = claimant AND c.state = 'running'
        AND c.lease_until > clock_timestamp()
    FOR UPDATE;
    IF found.id IS NULL THEN
        RETURN 'lost';
    END IF;
    IF kind = 'source' AND found.n_sources > 1 THEN
        PERFORM astropt.split_embed_chunk(chunk_id, detail);
        RETURN 'split';
    END IF;
    IF kind = 'source' AND found.attempts >= least(2, max_attempts) THEN
        PERFORM astropt.quarantine_embed_chunk(chunk_id, reason, detail);
        RETURN 'quarantined';
    END IF;
    IF kind = 'tile' AND found.attempts >= max_attempts THEN
        UPDATE astropt.embed_chunk SET
            state = 'dead', error = detail, lease_until = NULL, ended_at = clock_timestamp()
        WHERE id = chunk_id;
        RETURN 'dead';
    END IF;
    UPDATE astropt.embed_chunk SET
        state = 'pending', error = detail, lease_until = NULL, worker = NULL,
        not_before = clock_timestamp()
            + CASE WHEN kind = 'source' THEN interval '0'
                ELSE interval '0.5 s' * 2 ^ least(found.attempts, 7) END
    WHERE id = chunk_id;
    RETURN 'retry';
END
$$;

COMMENT ON FUNCTION astropt.fail_embed_chunk IS
    'End a worker''s failed attempt: split, quarantine, dead, retry later, or lost if it no longer owns the chunk';
