-- Readers see only the releases that astropt.release_access names for a role of theirs; workers
-- and the admin see all. Run it as the admin, and again after each upgrade; without it nothing is
-- hidden. To undo: ALTER TABLE … DISABLE ROW LEVEL SECURITY on each.

SELECT astropt.restrict_table(c.oid::regclass)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('q1', 'astropt') AND c.relkind IN ('r', 'p')
ORDER BY c.oid;
