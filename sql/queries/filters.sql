-- name: condition_relations
SELECT c.relname::text, n.nspname::text
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'object_id' AND NOT a.attisdropped
WHERE n.nspname IN ('astropt', 'survey', 'q1') AND c.relkind IN ('r', 'p', 'v', 'm')
    AND NOT c.relispartition
ORDER BY array_position(ARRAY['q1', 'survey', 'astropt'], n.nspname::text), c.relname

-- name: condition_columns
SELECT a.attname::text, a.attrelid::regclass::text
FROM pg_attribute AS a
WHERE a.attrelid = ANY(%(relations)s::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped

-- name: condition_check
SELECT format('SELECT DISTINCT astropt.as_object_id(f.object_id) FROM (%%s) AS f', astropt.checked_filter(%(query)s))
