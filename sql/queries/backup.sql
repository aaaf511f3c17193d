-- name: backup_has_rows
SELECT EXISTS (SELECT FROM astropt.run) OR EXISTS (SELECT FROM q1.mer_catalogue)

-- name: backup_drop
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS q1, astropt, survey CASCADE;
