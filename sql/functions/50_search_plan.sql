-- How a similarity search is carried out: the planner, the candidates, and the check of filters.

CREATE OR REPLACE FUNCTION astropt.as_object_id(object_id bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN object_id;

COMMENT ON FUNCTION astropt.as_object_id IS
    'The number itself; refuses floats and decimals, which cannot hold an object id';

CREATE OR REPLACE FUNCTION astropt.checked_filter(filter text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    body text := rtrim(filter, E'; \t\r\n');
    probe refcursor;
    problem text;
BEGIN
    IF body ~ '^[[:alnum:]_$."]*$' THEN
        IF body = '' OR to_regclass(body) IS NULL THEN
            RAISE EXCEPTION 'the filter % is neither a relation nor a SELECT', quote_literal(filter)
            USING ERRCODE = 'undefined_table',
                HINT = 'Expected a relation with a column object_id, or one SELECT that gives it';
        END IF;
        body := format('SELECT object_id FROM %s', to_regclass(body));
    END IF;
    BEGIN
        -- A cursor takes exactly one statement, of one that gives rows; a function that is not
        -- volatile lets none that writes through. What stands alone as a statement has its
        -- quotes, comments and brackets closed, so inside brackets it remains a sub-query.
        OPEN probe NO SCROLL FOR EXECUTE body;
        CLOSE probe;
        EXECUTE format('SELECT astropt.as_object_id(f.object_id) FROM (%s%s) AS f LIMIT 0',
            body, E'\n');
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT;
        RAISE EXCEPTION 'the filter cannot be used: %', CASE
            WHEN problem LIKE '%f.object_id does not exist%' THEN 'it has no column object_id'
            WHEN problem LIKE 'function astropt.as_object_id(%' THEN format('its object_id is %s, not bigint',
                substring(problem FROM 'as_object_id\(([^)]*)\)'))
            WHEN problem LIKE '%multi-query plan%' THEN 'it is not one statement'
            WHEN problem LIKE '%not allowed in a non-volatile%' THEN 'it does more than read'
            ELSE problem END
        USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Expected a relation with a column object_id, or one SELECT that gives it';
    END;
    RETURN body || E'\n';
END
$$;

COMMENT ON FUNCTION astropt.checked_filter IS
    'A filter as the text of a query that may stand in brackets: a relation''s name, or one SELECT that reads only and gives object_id as an integer; an error says what else it is';

CREATE OR REPLACE FUNCTION astropt.search_plan(
    encoder_id integer,
    k integer,
    OUT method text,
    OUT search_index_id bigint,
    OUT ef_search integer,
    OUT recall real,
    OUT few bigint,
    OUT deep bigint,
    OUT reason text
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    wanted constant real := 0.99;
    large constant bigint := 1000000;
    partition regclass := to_regclass(format('astropt.embedding_%s', search_plan.encoder_id));
    best record;
BEGIN
    SELECT i.id, i.kind, i.visit_us / nullif(i.lookup_us, 0) AS ratio, r.ef_search, r.recall,
        c.reltuples::bigint AS n
    INTO best
    FROM astropt.search_index AS i
    JOIN pg_index AS x ON x.indexrelid = to_regclass(format('astropt.%I', i.index_name))
        AND x.indrelid = partition AND x.indisvalid
    JOIN pg_class AS c ON c.oid = partition
    JOIN astropt.search_recall AS r ON r.search_index_id = i.id
        AND r.filter IS NULL AND r.ef_search IS NOT NULL AND r.k >= search_plan.k
    WHERE i.encoder_id = search_plan.encoder_id
    ORDER BY r.recall >= wanted DESC, r.k, CASE WHEN r.recall >= wanted THEN r.median_ms END,
        r.recall DESC, r.ef_search
    LIMIT 1;

    method := 'exact';
    recall := 1;
    IF best IS NULL THEN
        reason := 'no index of this encoder was measured for so many rows';
    ELSIF best.recall < wanted AND best.n < large THEN
        reason := format('the index reaches a recall of %s only', best.recall);
    ELSE
        method := best.kind;
        search_index_id := best.id;
        ef_search := best.ef_search;
        recall := best.recall;
        few := ceil(sqrt(5 * k::double precision * greatest(best.n, 1) * coalesce(best.ratio, 5)));
        deep := ceil(8 * 1.5 * k::double precision * greatest(best.n, 1) / few);
        reason := format('index %s at ef_search %s', best.kind, best.ef_search);
    END IF;
END
$$;

COMMENT ON FUNCTION astropt.search_plan IS
    'How the k nearest vectors of an encoder are found. '
    'exact: every vector is compared; so it is without an index, for a k larger than any that was measured, and for fewer than a million vectors if no setting of the index reaches a recall of 0.99. '
    'halfvec: HNSW on the vectors. bit: HNSW on the signs about the centre, ef_search candidates re-ranked exactly. '
    'Among the measurements in astropt.search_recall (index build, index recall) the fastest setting with a recall of 0.99 for at least k rows wins. '
    'With a filter: up to "few" allowed objects are compared one by one, where few = sqrt(5 k n v / l) makes the l microseconds of each comparison equal to the v microseconds of each of the 5 k n / few candidates that an index would have to give (1.5 times what chance needs, and 3.3 times that as their number grows fourfold until it is enough); with more, candidates are taken from the index and filtered, four times more until k are left; past "deep" candidates (8 times what chance would need) every allowed vector is compared. v and l were measured when the index was built.';

CREATE OR REPLACE FUNCTION astropt.candidate_query(
    encoder_id integer, search_index_id bigint DEFAULT NULL, filter text DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    partition text := format('astropt.embedding_%s', candidate_query.encoder_id);
    chosen record;
BEGIN
    IF search_index_id IS NULL THEN
        -- Without the cast of the index's expression no vector index can serve it.
        RETURN format(
            'SELECT e.object_id, e.embedding <=> $1 AS distance FROM %s AS e%s '
            'ORDER BY distance LIMIT $2', partition, CASE WHEN filter IS NULL THEN '' ELSE format(
            ' WHERE e.object_id IN (SELECT astropt.as_object_id(f.object_id) FROM (%s) AS f)',
            filter) END);
    END IF;
    SELECT i.kind, i.centre, n.dimension AS d INTO STRICT chosen
    FROM astropt.search_index AS i JOIN astropt.encoder AS n ON n.id = i.encoder_id
    WHERE i.id = candidate_query.search_index_id;
    IF chosen.kind = 'halfvec' THEN
        RETURN format(
            'SELECT e.object_id, e.embedding::halfvec(%s) <=> $1 AS distance FROM %s AS e '
            'ORDER BY distance LIMIT $2', chosen.d, partition);
    END IF;
    RETURN format(
        'SELECT near.object_id, near.embedding <=> $1 AS distance FROM ('
        'SELECT e.object_id, e.embedding FROM %1$s AS e ORDER BY '
        'binary_quantize(e.embedding::halfvec(%2$s) - %3$L::halfvec(%2$s))::bit(%2$s) <~> '
        'binary_quantize($1::halfvec(%2$s) - %3$L::halfvec(%2$s))::bit(%2$s) LIMIT $2) AS near '
        'ORDER BY distance',
        partition, chosen.d, chosen.centre);
END
$$;

COMMENT ON FUNCTION astropt.candidate_query IS
    'Text of the query of object_id and cosine distance of the $2 candidates nearest to the vector $1: exact, with a filter or without, or by an index';

CREATE OR REPLACE FUNCTION astropt.create_candidate_function(search_index_id bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    chosen record;
    name text;
BEGIN
    SELECT i.encoder_id, i.index_name INTO STRICT chosen
    FROM astropt.search_index AS i WHERE i.id = create_candidate_function.search_index_id;
    name := chosen.index_name || '_nearest';
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION astropt.%I(query halfvec, amount integer, excluded bigint[], '
        'OUT ids bigint[], OUT distances double precision[]) LANGUAGE plpgsql STABLE AS %L', name,
        format('BEGIN SELECT array_agg(s.object_id), array_agg(s.distance) INTO ids, distances '
            'FROM (%s) AS s WHERE s.object_id <> ALL(excluded); END',
            astropt.candidate_query(chosen.encoder_id, search_index_id)));
    EXECUTE format('COMMENT ON FUNCTION astropt.%I IS %L', name, format(
        'The candidates of the index %s nearest to a vector, made with the index; see astropt.candidate_query',
        chosen.index_name));
END
$$;

COMMENT ON FUNCTION astropt.create_candidate_function IS
    'Make the function INDEX_nearest of an index: its query of candidates, whose plan is kept for the session. A text would be planned at each search';
