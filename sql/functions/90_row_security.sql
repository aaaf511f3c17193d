-- Row-level security for releases that are not for everybody: an option, docs/howto/production.md.

CREATE OR REPLACE FUNCTION astropt.visible_releases() RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(DISTINCT a.release), '{}') FROM astropt.release_access AS a
    WHERE EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = a.role_name
        AND pg_has_role(current_user, r.oid, 'MEMBER'))
$$;

COMMENT ON FUNCTION astropt.visible_releases IS
    'Releases that the current role may see where row-level security is on, from astropt.release_access';

CREATE OR REPLACE FUNCTION astropt.restrict_table(target regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    condition text;
    columns text[] := (SELECT array_agg(a.attname::text) FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped);
BEGIN
    -- The inner SELECT makes the list of releases once for each query, not for each row.
    condition := CASE
        WHEN target = 'astropt.ingest_file'::regclass THEN
            'release = ANY ((SELECT astropt.visible_releases())::text[])'
        WHEN 'ingest_file_id' = ANY (columns) THEN
            'ingest_file_id IN (SELECT f.id FROM astropt.ingest_file AS f)'
        WHEN 'object_id' = ANY (columns) THEN format(
            'EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = %s.object_id)',
            (SELECT quote_ident(c.relname) FROM pg_class AS c WHERE c.oid = target))
    END;
    IF condition IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS visible_release ON %s', target);
    EXECUTE format('DROP POLICY IF EXISTS worker_writes ON %s', target);
    EXECUTE format('CREATE POLICY visible_release ON %s FOR SELECT TO astropt_reader USING (%s)',
        target, condition);
    EXECUTE format('CREATE POLICY worker_writes ON %s TO astropt_worker USING (true) '
        'WITH CHECK (true)', target);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
END
$$;

COMMENT ON FUNCTION astropt.restrict_table IS
    'Let readers see only the rows of a table that belong to releases they may see; safe to repeat';
