-- name: export_types
SELECT t.oid::bigint, format_type(t.oid, NULL) FROM pg_type AS t WHERE t.oid = ANY(%(oids)s::oid[])

-- name: export_origins
SELECT o.place::integer, i.unit, i.ucd, i.description
FROM unnest(%(tables)s::oid[], %(numbers)s::integer[]) WITH ORDINALITY AS o (rel, number, place)
JOIN pg_class AS c ON c.oid = o.rel
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN astropt.column_info AS i
    ON i.table_schema = n.nspname AND i.table_name = c.relname AND i.position = o.number

-- name: export_namesakes
SELECT column_name, min(unit), min(ucd),
    CASE WHEN count(DISTINCT description) = 1 THEN min(description) END
FROM astropt.column_info
WHERE column_name = ANY(%(names)s)
GROUP BY column_name
HAVING count(DISTINCT coalesce(unit, '')) = 1 AND count(DISTINCT coalesce(ucd, '')) = 1

-- name: export_relations
SELECT DISTINCT table_schema, table_name FROM astropt.column_info ORDER BY 1, 2

-- name: export_comment
SELECT obj_description(to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text)), 'pg_class')

-- name: export_releases
SELECT string_agg(DISTINCT release, ', ' ORDER BY release)
FROM astropt.ingest_file WHERE state = 'done'

-- name: export_encoder
SELECT format('%%s (weights sha256 %%s, run %%s)', name, left(weights_sha256, 16),
    coalesce(run_id::text, 'none'))
FROM astropt.encoder WHERE is_current

-- name: export_predictors
SELECT string_agg(format('%%s: %%s on %%s (predictor %%s, weights sha256 %%s, run %%s)', task, head,
    features, id, left(weights_sha256, 16), coalesce(run_id::text, 'none')), '; ' ORDER BY task)
FROM astropt.predictor_info WHERE is_current

-- name: export_runs
SELECT string_agg(format('%%s %%s', command, id), ', ' ORDER BY id)
FROM (SELECT command, max(id) AS id FROM astropt.run WHERE state = 'done' GROUP BY command) AS last
