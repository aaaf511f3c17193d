-- name: encoder_list
SELECT id, name, modalities, dimension, weights_sha256, source, preprocessing, pooling, card,
    is_current
FROM astropt.encoder ORDER BY name

-- name: encoder_insert
INSERT INTO astropt.encoder (
    name, modalities, dimension, weights_sha256, source, preprocessing, pooling, card, run_id
) VALUES (
    %(name)s, %(modalities)s, %(dimension)s, %(weights_sha256)s, %(source)s, %(preprocessing)s,
    %(pooling)s, %(card)s, %(run_id)s
) RETURNING id

-- name: encoder_use_none
UPDATE astropt.encoder SET is_current = false WHERE is_current

-- name: encoder_use
UPDATE astropt.encoder SET is_current = true WHERE id = %(id)s

-- name: encoder_partition
SELECT astropt.create_embedding_partition(%(id)s)

-- name: encoder_lock
LOCK TABLE astropt.encoder IN SHARE ROW EXCLUSIVE MODE

-- name: encoder_move
UPDATE astropt.encoder SET source = %(source)s WHERE id = %(id)s

-- name: encoder_table
SELECT name, modalities, dimension, pooling->>'name' AS pooling,
    (card->>'parameters')::bigint AS parameters, is_current, source
FROM astropt.encoder ORDER BY name

-- name: encoder_vectors
SELECT count(*) FROM astropt.embedding WHERE encoder_id = %(id)s

-- name: cutouts_without_tile
SELECT object_id, right_ascension, declination FROM astropt.image_place
WHERE tile IS NULL AND has_cutout ORDER BY object_id
