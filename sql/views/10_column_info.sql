-- What every public column holds, read from the comments: description [unit; ucd].

CREATE OR REPLACE VIEW astropt.column_info AS
WITH described AS (
    SELECT
        n.nspname::text AS table_schema,
        c.relname::text AS table_name,
        a.attname::text AS column_name,
        a.attnum::integer AS position,
        format_type(a.atttypid, a.atttypmod) AS data_type,
        col_description(c.oid, a.attnum) AS comment
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p', 'v', 'm')
        AND c.relname <> 'alembic_version'
)
SELECT
    table_schema,
    table_name,
    column_name,
    position,
    data_type,
    nullif(substring(comment FROM '\[([^;\]]*);[^\]]*\]$'), '') AS unit,
    nullif(trim(substring(comment FROM '\[[^;\]]*;([^\]]*)\]$')), '') AS ucd,
    trim(regexp_replace(comment, '\[[^\]]*;[^\]]*\]$', '')) AS description
FROM described;

COMMENT ON VIEW astropt.column_info IS
    'Every column of the schemas q1, astropt and survey with its unit, UCD and description';
COMMENT ON COLUMN astropt.column_info.table_schema IS 'schema of the table or view [; meta.id]';
COMMENT ON COLUMN astropt.column_info.table_name IS 'table or view [; meta.id]';
COMMENT ON COLUMN astropt.column_info.column_name IS 'column [; meta.id;meta.main]';
COMMENT ON COLUMN astropt.column_info.position IS 'place in the table, from 1 [; meta.number]';
COMMENT ON COLUMN astropt.column_info.data_type IS 'PostgreSQL type [; meta.code]';
COMMENT ON COLUMN astropt.column_info.unit IS 'unit; NULL if dimensionless [; meta.unit]';
COMMENT ON COLUMN astropt.column_info.ucd IS 'IVOA unified content descriptor [; meta.ucd]';
COMMENT ON COLUMN astropt.column_info.description IS 'what the column holds [; meta.note]';
