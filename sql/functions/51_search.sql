-- The nearest vectors. SECURITY INVOKER: a filter can do no more than its author.

CREATE OR REPLACE FUNCTION astropt.nearest_exact(
    encoder_id integer, query halfvec, k integer, excluded bigint[], filter text, allowed bigint[]
) RETURNS TABLE (object_id bigint, distance double precision)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
#variable_conflict use_column
DECLARE
    candidates text := astropt.candidate_query(encoder_id, NULL, filter);
BEGIN
    IF allowed IS NOT NULL THEN
        -- Behind a sub-query the planner does not look at thousands of ids one by one.
        candidates := format('SELECT e.object_id, e.embedding <=> $1 AS distance '
            'FROM astropt.embedding_%s AS e WHERE e.object_id = ANY((SELECT $4)::bigint[]) '
            'ORDER BY distance LIMIT $2', encoder_id);
    END IF;
    -- The excluded ones are few: so many rows more cost less than a condition on every row.
    RETURN QUERY EXECUTE format('SELECT c.object_id, c.distance FROM (%s) AS c '
        'WHERE c.object_id <> ALL($3) ORDER BY c.distance, c.object_id LIMIT $5', candidates)
    USING query, k + cardinality(excluded), excluded, allowed, k;
END
$$;

COMMENT ON FUNCTION astropt.nearest_exact IS
    'The k vectors of an encoder nearest to a vector by cosine distance, without those excluded: of all, of those that a checked filter gives, or of those named';

CREATE OR REPLACE FUNCTION astropt.nearest_indexed(
    encoder_id integer,
    query halfvec,
    k integer,
    excluded bigint[],
    filter text,
    search_index_id bigint,
    ef_search integer,
    depth integer,
    enough integer
) RETURNS TABLE (object_id bigint, distance double precision)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
#variable_conflict use_column
DECLARE
    names constant text[] := ARRAY['hnsw.ef_search', 'hnsw.iterative_scan',
        'hnsw.max_scan_tuples', 'enable_seqscan', 'plan_cache_mode'];
    -- The subtraction loads pgvector, which knows its settings only from then on.
    ignored double precision := query <=> query;
    before text[];
    ids bigint[];
    distances double precision[];
    candidates text;
    kept regprocedure;
    one text;
BEGIN
    before := ARRAY[current_setting(names[1]), current_setting(names[2]),
        current_setting(names[3]), current_setting(names[4]), current_setting(names[5])];
    one := set_config(names[1], least(1000, greatest(ef_search, depth))::text, true);
    one := set_config(names[2], 'strict_order', true);
    one := set_config(names[3], greatest(20000, 2 * depth)::text, true);
    one := set_config(names[4], 'off', true);
    one := set_config(names[5], 'force_generic_plan', true);
    IF filter IS NULL THEN
        kept := to_regprocedure(format('astropt.%I(halfvec,integer,bigint[])', (
            SELECT i.index_name || '_nearest' FROM astropt.search_index AS i
            WHERE i.id = nearest_indexed.search_index_id)));
    END IF;
    IF kept IS NOT NULL THEN
        EXECUTE format('SELECT n.ids, n.distances FROM %s($1, $2, $3) AS n', kept::regproc)
        INTO ids, distances USING query, depth, excluded;
    ELSE
        candidates := astropt.candidate_query(encoder_id, search_index_id);
        IF filter IS NOT NULL THEN
            candidates := format(
                'WITH c AS MATERIALIZED (%s) '
                'SELECT c.object_id, c.distance FROM c WHERE c.object_id IN ('
                'SELECT astropt.as_object_id(f.object_id) FROM (%s) AS f '
                'WHERE f.object_id = ANY(ARRAY(SELECT object_id FROM c))) ORDER BY c.distance',
                candidates, filter);
        END IF;
        -- Candidates come nearest first.
        EXECUTE format('SELECT array_agg(s.object_id), array_agg(s.distance) FROM (%s) AS s '
            'WHERE s.object_id <> ALL($3)', candidates)
        INTO ids, distances USING query, depth, excluded;
    END IF;
    one := set_config(names[1], before[1], true);
    one := set_config(names[2], before[2], true);
    one := set_config(names[3], before[3], true);
    one := set_config(names[4], before[4], true);
    one := set_config(names[5], before[5], true);
    IF cardinality(ids) >= enough THEN
        RETURN QUERY SELECT ids[i], distances[i] FROM generate_series(1, k) AS i;
    END IF;
END
$$;

COMMENT ON FUNCTION astropt.nearest_indexed IS
    'The k vectors nearest to a vector among "depth" candidates of an index, without those excluded and those that a checked filter does not give; no row if fewer than "enough" are left';

CREATE OR REPLACE FUNCTION astropt.nearest_vectors(
    encoder_id integer,
    query halfvec,
    k integer,
    excluded bigint[] DEFAULT '{}',
    filter text DEFAULT NULL,
    exact boolean DEFAULT false
) RETURNS TABLE (object_id bigint, similarity double precision, method text, recall real)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
#variable_conflict use_column
DECLARE
    allowed bigint[];
    plan record;
    indexed boolean;
    depth bigint;
    found bigint := 0;
BEGIN
    IF k IS NULL OR k < 1 OR k > 1000000 THEN
        RAISE EXCEPTION 'k is %; expected 1 to 1000000', coalesce(k::text, 'NULL')
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    filter := CASE WHEN filter IS NOT NULL THEN astropt.checked_filter(filter) END;
    plan := astropt.search_plan(encoder_id, k);
    indexed := plan.method <> 'exact' AND NOT coalesce(exact, false);
    IF indexed AND filter IS NOT NULL THEN
        EXECUTE format('SELECT coalesce(array_agg(s.id), ''{}'') FROM ('
            'SELECT astropt.as_object_id(f.object_id) AS id FROM (%s) AS f '
            'WHERE f.object_id IS NOT NULL LIMIT $1) AS s', filter)
        INTO allowed USING plan.few + 1;
        indexed := cardinality(allowed) > plan.few;
        allowed := CASE WHEN NOT indexed THEN allowed END;
    END IF;
    IF indexed THEN
        depth := CASE WHEN filter IS NULL AND plan.method = 'halfvec' THEN 0
            WHEN filter IS NULL THEN plan.ef_search ELSE greatest(plan.ef_search, 4 * k) END;
        depth := greatest(depth, k + cardinality(excluded));
        LOOP
            RETURN QUERY
            SELECT n.object_id, 1 - n.distance, plan.method, plan.recall
            FROM astropt.nearest_indexed(encoder_id, query, k, excluded, filter,
                plan.search_index_id, plan.ef_search, depth::integer,
                -- Ranks by signs are coarse: the best k are among the first ef_search.
                CASE WHEN plan.method = 'bit' AND filter IS NOT NULL
                    THEN greatest(k, plan.ef_search) ELSE k END) AS n;
            GET DIAGNOSTICS found = ROW_COUNT;
            depth := 4 * depth;
            EXIT WHEN found > 0 OR filter IS NULL OR depth > plan.deep;
        END LOOP;
    END IF;
    IF found = 0 THEN
        RETURN QUERY
        SELECT n.object_id, 1 - n.distance, 'exact'::text, 1::real
        FROM astropt.nearest_exact(encoder_id, query, k, excluded, filter, allowed) AS n;
        GET DIAGNOSTICS found = ROW_COUNT;
    END IF;
    IF found < k THEN
        RAISE NOTICE 'only % of % rows exist%', found, k, CASE WHEN filter IS NOT NULL
            THEN ': the filter allows no other object with a vector of this encoder' ELSE '' END;
    END IF;
END
$$;

COMMENT ON FUNCTION astropt.nearest_vectors IS
    'The k objects whose vectors of an encoder have the highest cosine similarity to a vector; always k if so many exist. Carried out as astropt.search_plan says; "recall" is the measured one of the method';

CREATE OR REPLACE FUNCTION astropt.stored_vector(object_id bigint, encoder_id integer)
RETURNS halfvec
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    found halfvec;
    name text;
    known boolean;
    near text;
BEGIN
    SELECT e.embedding INTO found FROM astropt.embedding AS e
    WHERE e.object_id = stored_vector.object_id AND e.encoder_id = stored_vector.encoder_id;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    SELECT n.name INTO name FROM astropt.encoder AS n WHERE n.id = stored_vector.encoder_id;
    known := EXISTS (
        SELECT FROM q1.mer_catalogue AS m WHERE m.object_id = stored_vector.object_id
        UNION ALL
        SELECT FROM astropt.embedding AS e WHERE e.object_id = stored_vector.object_id);
    SELECT string_agg(s.object_id::text, ', ') INTO near FROM (
        SELECT b.object_id FROM (
            (SELECT e.object_id FROM astropt.embedding AS e
            WHERE e.encoder_id = stored_vector.encoder_id
                AND e.object_id > stored_vector.object_id ORDER BY e.object_id LIMIT 3)
            UNION ALL
            (SELECT e.object_id FROM astropt.embedding AS e
            WHERE e.encoder_id = stored_vector.encoder_id
                AND e.object_id < stored_vector.object_id ORDER BY e.object_id DESC LIMIT 3)
        ) AS b ORDER BY abs(b.object_id::numeric - stored_vector.object_id) LIMIT 3
    ) AS s;
    RAISE EXCEPTION '%', CASE
        WHEN stored_vector.object_id IS NULL THEN 'the object id is NULL'
        WHEN known THEN format('object %s has no embedding of encoder %s',
            stored_vector.object_id, name)
        ELSE format('there is no object %s', stored_vector.object_id) END
    USING ERRCODE = 'no_data_found', HINT = CASE
        WHEN near IS NULL
            THEN format('Encoder %s has no embeddings yet; make them: astropt-db embed', name)
        ELSE format('The nearest ids with an embedding of encoder %s are %s', name, near) END;
END
$$;

COMMENT ON FUNCTION astropt.stored_vector IS
    'The vector of an object; an error tells an unknown object from one without an embedding, and names the nearest ids';

CREATE OR REPLACE FUNCTION astropt.similar_rows(
    encoder_id integer, query halfvec, k integer, excluded bigint[], filter text, exact boolean
) RETURNS TABLE (
    rank integer,
    object_id bigint,
    similarity double precision,
    right_ascension double precision,
    declination double precision,
    field text,
    mag_vis double precision,
    morphology_class text,
    z_median double precision,
    log_mass double precision,
    is_outlier boolean,
    method text,
    recall real
)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
#variable_conflict use_column
DECLARE
    ids bigint[];
    similarities double precision[];
    way text;
    its_recall real;
BEGIN
    SELECT array_agg(n.object_id), array_agg(n.similarity), min(n.method), min(n.recall)
    INTO ids, similarities, way, its_recall
    FROM astropt.nearest_vectors(encoder_id, query, k, excluded, filter, exact) AS n;
    RETURN QUERY
    SELECT
        t.rank::integer, t.object_id, t.similarity, s.right_ascension, s.declination, s.field,
        s.mag_vis,
        -- Sub-queries look up one object each, however the planner would join the views, and
        -- cost half of what astropt.catalogue does.
        (SELECT m.morphology_class::text FROM astropt.morphology AS m
            WHERE m.object_id = t.object_id),
        (SELECT z.z_median::double precision FROM astropt.photoz AS z
            WHERE z.object_id = t.object_id),
        (SELECT l.log_mass::double precision FROM astropt.stellar_mass AS l
            WHERE l.object_id = t.object_id),
        -- As astropt.outliers has it.
        (SELECT o.is_outlier FROM astropt.outlier_score AS o
            WHERE o.object_id = t.object_id AND o.outlier_run_id = (
                SELECT n.id FROM astropt.outlier_run AS n
                JOIN astropt.encoder AS e ON e.id = n.encoder_id AND e.is_current
                WHERE n.is_current)),
        way, its_recall
    FROM unnest(ids, similarities) WITH ORDINALITY AS t (object_id, similarity, rank)
    LEFT JOIN LATERAL (
        SELECT c.right_ascension, c.declination, c.field, c.mag_vis
        FROM astropt.source AS c WHERE c.object_id = t.object_id OFFSET 0
    ) AS s ON true;
END
$$;

COMMENT ON FUNCTION astropt.similar_rows IS
    'Answer of astropt.nearest_vectors with rank, position and catalogue columns';

CREATE OR REPLACE FUNCTION astropt.similar(
    query_id bigint,
    k integer DEFAULT 10,
    encoder text DEFAULT NULL,
    filter text DEFAULT NULL,
    exact boolean DEFAULT false
) RETURNS TABLE (
    rank integer,
    object_id bigint,
    similarity double precision,
    right_ascension double precision,
    declination double precision,
    field text,
    mag_vis double precision,
    morphology_class text,
    z_median double precision,
    log_mass double precision,
    is_outlier boolean,
    method text,
    recall real
)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    number integer := astropt.encoder_id(encoder);
BEGIN
    RETURN QUERY SELECT r.* FROM astropt.similar_rows(number,
        astropt.stored_vector(query_id, number), k, ARRAY[query_id], filter, exact) AS r;
END
$$;

COMMENT ON FUNCTION astropt.similar IS
    'The k objects most similar to one object by the cosine of their embeddings (the current encoder by default), best first, without the object itself. filter: a relation with a column object_id, or the text of one SELECT that gives it; always k rows if so many exist. exact: compare every vector. method and recall say how the answer was found';

CREATE OR REPLACE FUNCTION astropt.similar_to(
    vector real[],
    k integer DEFAULT 10,
    encoder text DEFAULT NULL,
    filter text DEFAULT NULL,
    exact boolean DEFAULT false,
    excluded bigint[] DEFAULT '{}'
) RETURNS TABLE (
    rank integer,
    object_id bigint,
    similarity double precision,
    right_ascension double precision,
    declination double precision,
    field text,
    mag_vis double precision,
    morphology_class text,
    z_median double precision,
    log_mass double precision,
    is_outlier boolean,
    method text,
    recall real
)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    number integer := astropt.encoder_id(encoder);
    dimension integer := (SELECT n.dimension FROM astropt.encoder AS n WHERE n.id = number);
    longest real := (SELECT max(abs(v)) FROM unnest(vector) AS v);
BEGIN
    IF vector IS NULL OR cardinality(vector) <> dimension OR array_ndims(vector) <> 1 THEN
        RAISE EXCEPTION 'the vector has % numbers; encoder % has vectors of %',
            coalesce(cardinality(vector)::text, 'no'),
            (SELECT n.name FROM astropt.encoder AS n WHERE n.id = number), dimension
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF array_position(vector, NULL) IS NOT NULL OR longest = 0
        OR longest IN (real 'NaN', real 'Infinity') THEN
        RAISE EXCEPTION 'the vector is zero, or holds a number that is NULL, NaN or infinite'
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Its length does not matter; scaled, it fits half precision.
    RETURN QUERY SELECT r.* FROM astropt.similar_rows(number,
        (SELECT array_agg(v / longest ORDER BY i) FROM unnest(vector) WITH ORDINALITY AS u (v, i)
        )::real[]::halfvec, k, coalesce(excluded, '{}'), filter, exact) AS r;
END
$$;

COMMENT ON FUNCTION astropt.similar_to IS
    'The k objects most similar to a vector, given as an array of numbers; see astropt.similar';

CREATE OR REPLACE FUNCTION astropt.similar_to_sets(
    likes bigint[],
    dislikes bigint[] DEFAULT '{}',
    k integer DEFAULT 10,
    encoder text DEFAULT NULL,
    filter text DEFAULT NULL,
    exact boolean DEFAULT false,
    dislike_weight real DEFAULT 0.5
) RETURNS TABLE (
    rank integer,
    object_id bigint,
    similarity double precision,
    right_ascension double precision,
    declination double precision,
    field text,
    mag_vis double precision,
    morphology_class text,
    z_median double precision,
    log_mass double precision,
    is_outlier boolean,
    method text,
    recall real
)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    number integer := astropt.encoder_id(encoder);
    dimension integer := (SELECT n.dimension FROM astropt.encoder AS n WHERE n.id = number);
    unwanted bigint[] := coalesce(dislikes, '{}');
    contrary bigint[] := ARRAY(SELECT unnest(likes) INTERSECT SELECT unnest(dislikes));
    query vector;
BEGIN
    IF coalesce(cardinality(likes), 0) = 0 OR cardinality(contrary) > 0 THEN
        RAISE EXCEPTION '%', CASE WHEN cardinality(contrary) > 0
            THEN format('objects are both liked and disliked: %s', array_to_string(contrary, ', '))
            ELSE 'no object is liked; expected one or more' END
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT avg(l2_normalize(astropt.stored_vector(id, number)::vector)) INTO query
    FROM (SELECT DISTINCT unnest(likes) AS id) AS l;
    IF cardinality(unwanted) > 0 THEN
        SELECT query - avg(l2_normalize(astropt.stored_vector(id, number)::vector))
            * array_fill(dislike_weight, ARRAY[dimension])::vector INTO query
        FROM (SELECT DISTINCT unnest(unwanted) AS id) AS d;
    END IF;
    IF vector_norm(query) < 1e-6 THEN
        RAISE EXCEPTION 'likes and dislikes cancel each other'
        USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY SELECT r.* FROM astropt.similar_rows(number, l2_normalize(query)::halfvec, k,
        likes || unwanted, filter, exact) AS r;
END
$$;

COMMENT ON FUNCTION astropt.similar_to_sets IS
    'The k objects most similar to some and unlike others: to the mean of the liked unit vectors less dislike_weight times that of the disliked (Rocchio); see astropt.similar';
