-- Readers see only the releases that astropt.release_access names for a role of theirs; workers
-- and the admin see all. Run it as the admin, and again after each upgrade; without it nothing is
-- hidden. To undo: ALTER TABLE … DISABLE ROW LEVEL SECURITY on each.

SELECT astropt.restrict_table(c.oid::regclass)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('q1', 'astropt') AND c.relkind IN ('r', 'p')
ORDER BY c.oid;

-- COPY, with which every command loads rows, refuses tables with row-level security to all but
-- those who are exempt from it. The worker sees and writes all rows anyway.
DO $$
BEGIN
    IF NOT (SELECT rolbypassrls FROM pg_roles WHERE rolname = 'astropt_worker') THEN
        ALTER ROLE astropt_worker BYPASSRLS;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'astropt-db: workers cannot load rows until a superuser has run: '
            'ALTER ROLE astropt_worker BYPASSRLS';
END
$$;
