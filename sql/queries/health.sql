-- name: health_settings
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')

-- name: health_invalid_indexes
SELECT c.oid::regclass::text
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname IN ('q1', 'astropt', 'survey')

-- name: health_unfinished_runs
SELECT count(*) FROM astropt.run
WHERE state = 'running' AND started_at < now() - interval '1 day'

-- name: health_quarantine
SELECT count(*) FROM astropt.quarantine WHERE state = 'open'

-- name: health_orphans
SELECT 'q1.mer_morphology', count(*) FROM q1.mer_morphology AS t
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = t.object_id)
UNION ALL
SELECT 'q1.phz_photo_z', count(*) FROM q1.phz_photo_z AS t
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = t.object_id)
UNION ALL
SELECT 'q1.phz_classification', count(*) FROM q1.phz_classification AS t
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = t.object_id)
UNION ALL
SELECT 'q1.phz_physical_parameters', count(*) FROM q1.phz_physical_parameters AS t
WHERE NOT EXISTS (SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = t.object_id)
