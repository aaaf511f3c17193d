-- For the operator of a shared server, and what workers may have the owner do.

CREATE OR REPLACE FUNCTION astropt.analyse_table(relation regclass, columns text[] DEFAULT NULL)
RETURNS void
-- With the owner's rights: nobody else may, before PostgreSQL 17.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class AS c
        WHERE c.oid = relation AND c.relnamespace::regnamespace::text IN ('q1', 'astropt'))
    THEN
        RAISE EXCEPTION '% is no table of ours', relation USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ANALYZE %s %s', relation,
        '(' || (SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) AS c) || ')');
END
$$;

COMMENT ON FUNCTION astropt.analyse_table IS
    'Collect the planner''s statistics of one of our tables, for all columns or those named; for workers, who own no table';

CREATE OR REPLACE FUNCTION astropt.cancel_long_queries(older_than interval)
RETURNS TABLE (pid integer, role_name name, running interval) LANGUAGE sql VOLATILE AS $$
    -- Materialised: the conditions must be met before anything is cancelled.
    WITH long AS MATERIALIZED (
        SELECT a.pid, a.usename, clock_timestamp() - a.query_start AS running
        FROM pg_stat_activity AS a
        WHERE a.datname = current_database() AND a.state = 'active' AND a.pid <> pg_backend_pid()
            AND clock_timestamp() - a.query_start > older_than
            AND EXISTS (SELECT FROM pg_roles AS r
                WHERE r.rolname = 'astropt_reader' AND pg_has_role(a.usesysid, r.oid, 'MEMBER'))
            AND NOT EXISTS (SELECT FROM pg_roles AS r
                WHERE r.rolname = 'astropt_worker' AND pg_has_role(a.usesysid, r.oid, 'MEMBER'))
    )
    SELECT long.pid, long.usename, long.running FROM long WHERE pg_cancel_backend(long.pid)
$$;

COMMENT ON FUNCTION astropt.cancel_long_queries IS
    'Cancel statements of readers that run longer than an interval; needs pg_signal_backend; every role may lift its own statement_timeout, so a shared server calls this from cron';
