-- name: search_similar
SELECT * FROM astropt.similar(%(object_id)s, %(k)s, %(encoder)s, %(filter)s, %(exact)s)

-- name: search_similar_to
SELECT * FROM astropt.similar_to(%(vector)s::real[], %(k)s, %(encoder)s, %(filter)s, %(exact)s)

-- name: search_similar_to_sets
SELECT * FROM astropt.similar_to_sets(
    %(likes)s::bigint[], %(dislikes)s::bigint[], %(k)s, %(encoder)s, %(filter)s, %(exact)s
)

-- name: search_index_insert
INSERT INTO astropt.search_index (
    encoder_id, kind, index_name, m, ef_construction, centre, row_count, size_bytes,
    build_seconds, memory_bytes, workers, run_id
) VALUES (
    %(encoder_id)s, %(kind)s, %(index_name)s, %(m)s, %(ef_construction)s, %(centre)s::halfvec,
    %(row_count)s, pg_relation_size(format('astropt.%%I', %(index_name)s::text)::regclass),
    %(build_seconds)s, %(memory_bytes)s, %(workers)s, %(run_id)s
) RETURNING id

-- name: search_candidate_function
SELECT astropt.create_candidate_function(%(id)s)

-- name: search_index_find
SELECT i.id, i.kind, i.index_name
FROM astropt.search_index AS i
WHERE i.encoder_id = %(encoder_id)s AND (%(kind)s::text IS NULL OR i.kind = %(kind)s)
ORDER BY i.kind

-- name: search_index_list
SELECT
    e.name AS encoder,
    i.kind,
    coalesce(x.indisvalid, false) AS valid,
    i.row_count AS rows_at_build,
    round(i.size_bytes / 1e6, 1)::double precision AS size_mb,
    i.build_seconds,
    i.memory_bytes / 1048576 AS memory_mb,
    i.workers,
    r.k,
    r.ef_search,
    r.recall,
    r.median_ms,
    coalesce(r.filter, 'none') AS filter,
    r.fraction,
    r.fewest_rows,
    r.queries,
    r.measured_at
FROM astropt.search_index AS i
JOIN astropt.encoder AS e ON e.id = i.encoder_id
LEFT JOIN pg_index AS x ON x.indexrelid = to_regclass(format('astropt.%%I', i.index_name))
LEFT JOIN astropt.search_recall AS r ON r.search_index_id = i.id
    -- Of each ladder the last rung is the one that reached the goal, or came nearest.
    AND (%(all)s OR r.ef_search IS NULL OR r.ef_search = (
        SELECT max(l.ef_search) FROM astropt.search_recall AS l
        WHERE l.search_index_id = i.id AND l.k = r.k))
WHERE %(encoder)s::text IS NULL OR e.name = %(encoder)s
ORDER BY e.name, i.kind, r.k, r.fraction DESC, r.ef_search, r.measured_at

-- name: search_index_delete
DELETE FROM astropt.search_index WHERE id = %(id)s

-- name: search_index_costs
UPDATE astropt.search_index SET lookup_us = %(lookup_us)s, visit_us = %(visit_us)s
WHERE id = %(id)s

-- name: search_recall_insert
INSERT INTO astropt.search_recall (
    search_index_id, k, ef_search, filter, fraction, queries, recall, fewest_rows, median_ms,
    row_count, run_id
) VALUES (
    %(search_index_id)s, %(k)s, %(ef_search)s, %(filter)s, %(fraction)s, %(queries)s, %(recall)s,
    %(fewest_rows)s, %(median_ms)s, %(row_count)s, %(run_id)s
)

-- name: search_recall_forget
DELETE FROM astropt.search_recall
WHERE search_index_id = %(search_index_id)s AND ef_search IS NOT NULL

-- name: search_nearest_indexed
SELECT object_id, 1 - distance FROM astropt.nearest_indexed(
    %(encoder_id)s, %(vector)s::halfvec, %(k)s, ARRAY[%(object_id)s::bigint], NULL,
    %(search_index_id)s, %(ef_search)s, %(depth)s, 1)

-- name: search_nearest_vectors
SELECT object_id, similarity FROM astropt.nearest_vectors(
    %(encoder_id)s, %(vector)s::halfvec, %(k)s, ARRAY[%(object_id)s::bigint], %(filter)s)

-- name: search_nearest_named
SELECT object_id, 1 - distance FROM astropt.nearest_exact(
    %(encoder_id)s, %(vector)s::halfvec, 10, '{}', NULL, ARRAY(SELECT object_id FROM looked_up))

-- name: search_at
SELECT
    s.object_id,
    3600 * astropt.angular_separation(
        s.right_ascension, s.declination, %(ra)s, %(dec)s) AS separation,
    EXISTS (
        SELECT FROM astropt.embedding AS e
        WHERE e.object_id = s.object_id AND e.encoder_id = astropt.encoder_id(%(encoder)s)
    ) AS has_embedding
FROM unnest(%(cells)s::bigint[]) AS c (cell)
CROSS JOIN LATERAL (
    SELECT m.object_id, m.right_ascension, m.declination FROM q1.mer_catalogue AS m
    WHERE m.healpix29 BETWEEN c.cell << %(shift)s::integer
        AND ((c.cell + 1) << %(shift)s::integer) - 1
    OFFSET 0
) AS s
ORDER BY separation

-- name: search_zero_points
SELECT band, percentile_disc(0.5) WITHIN GROUP (ORDER BY magzero) FROM q1.mosaic
WHERE kind = 'BGSUB' AND magzero <> 'NaN' GROUP BY band

-- name: search_evaluation_insert
INSERT INTO astropt.search_evaluation (
    encoder_id, label_set, class, k, objects, members, precision_at_k, precision_error,
    random_precision, enrichment, run_id
) VALUES (
    %(encoder_id)s, %(label_set)s, %(class)s, %(k)s, %(objects)s, %(members)s, %(precision)s,
    %(error)s, %(chance)s, %(enrichment)s, %(run_id)s
)
