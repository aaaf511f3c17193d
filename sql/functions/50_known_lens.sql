-- Which sources stand in a lens catalogue that was loaded as a survey.

CREATE OR REPLACE FUNCTION astropt.known_lens()
RETURNS TABLE (object_id bigint, survey text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT c.oid::regclass AS match, regexp_replace(c.relname, '_match$', '') AS name
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'survey'
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'object_id'
        WHERE c.relkind IN ('r', 'm') AND c.relname ILIKE '%lens%match'
        ORDER BY c.relname
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT DISTINCT m.object_id::bigint, %L::text FROM %s AS m', found.name, found.match);
    END LOOP;
END
$$;

COMMENT ON FUNCTION astropt.known_lens IS
    'Sources matched to a survey whose name contains "lens"; see: astropt-db survey';
