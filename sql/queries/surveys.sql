
-- name: survey_find
SELECT name, sha256, n_read, n_rows, n_without_position, n_cut, n_duplicates, id_column, radius,
    match_radius, match_kind, n_pairs, n_matched, n_chance
FROM astropt.survey WHERE name = %(name)s

-- name: survey_list
SELECT name, recipe, n_rows, id_column, match_radius, match_kind, n_pairs, n_matched, n_chance,
    created_at
FROM astropt.survey ORDER BY name

-- name: survey_delete
DELETE FROM astropt.survey WHERE name = %(name)s RETURNING name

-- name: survey_insert
INSERT INTO astropt.survey (
    name, run_id, recipe, paths, sha256, id_column, radius, n_read, n_rows, n_without_position,
    n_cut, n_duplicates
) VALUES (
    %(name)s, %(run_id)s, %(recipe)s, %(paths)s, %(sha256)s, %(id_column)s, %(radius)s,
    %(n_read)s, %(n_rows)s, %(n_without_position)s, %(n_cut)s, %(n_duplicates)s
)

-- name: survey_matched
UPDATE astropt.survey SET match_radius = %(radius)s, match_kind = %(kind)s, n_pairs = %(pairs)s,
    n_matched = %(matched)s, n_chance = %(chance)s, matched_at = now()
WHERE name = %(name)s
