-- Comments of views that repeat the columns of another view or table.

CREATE OR REPLACE FUNCTION astropt.copy_comments(target regclass, source regclass) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    repeated record;
BEGIN
    FOR repeated IN
        SELECT t.attname AS name, col_description(source, s.attnum) AS comment
        FROM pg_attribute AS t
        JOIN pg_attribute AS s ON s.attrelid = source AND s.attname = t.attname
        WHERE t.attrelid = target AND t.attnum > 0 AND s.attnum > 0
            AND NOT t.attisdropped AND NOT s.attisdropped
    LOOP
        EXECUTE format(
            'COMMENT ON COLUMN %s.%I IS %L', target, repeated.name, repeated.comment
        );
    END LOOP;
END
$$;

COMMENT ON FUNCTION astropt.copy_comments IS
    'Give each column of a view the comment of the column with its name in another view or table';
