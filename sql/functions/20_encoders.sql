-- Encoders by name, and their partitions of astropt.embedding.

CREATE OR REPLACE FUNCTION astropt.encoder_id(encoder text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    found integer;
BEGIN
    SELECT e.id INTO found FROM astropt.encoder AS e
    WHERE CASE WHEN encoder IS NULL THEN e.is_current ELSE e.name = encoder END;
    IF found IS NULL THEN
        RAISE EXCEPTION '%', CASE
            WHEN encoder IS NULL THEN 'no encoder is current'
            ELSE format('there is no encoder %L', encoder) END
        USING ERRCODE = 'no_data_found', HINT = format(
            'There are: %s. See: astropt-db encoder list',
            coalesce((SELECT string_agg(e.name, ', ' ORDER BY e.name) FROM astropt.encoder AS e),
                'none'));
    END IF;
    RETURN found;
END
$$;

COMMENT ON FUNCTION astropt.encoder_id IS
    'Number of an encoder by its name; of the current one without a name; an error lists the names there are';

CREATE OR REPLACE FUNCTION astropt.create_embedding_partition(encoder_id integer) RETURNS void
-- With the owner's rights: a partition is the one table that a worker may make.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dimension integer;
    partition text := format('embedding_%s', encoder_id);
    vectors text := (SELECT n.nspname FROM pg_extension AS x
        JOIN pg_namespace AS n ON n.oid = x.extnamespace WHERE x.extname = 'vector');
BEGIN
    SELECT e.dimension INTO STRICT dimension FROM astropt.encoder AS e WHERE e.id = encoder_id;
    IF to_regclass(format('astropt.%I', partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE astropt.%I PARTITION OF astropt.embedding '
        '(CONSTRAINT %I CHECK (%I.vector_dims(embedding) = %s)) FOR VALUES IN (%s)',
        partition, partition || '_dimension_check', vectors, dimension, encoder_id);
    EXECUTE format('COMMENT ON TABLE astropt.%I IS %L', partition,
        format('Vectors of the encoder number %s, see astropt.encoder', encoder_id));
    PERFORM astropt.copy_comments(format('astropt.%I', partition)::regclass,
        'astropt.embedding'::regclass);
    IF (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = 'astropt.embedding'::regclass) THEN
        PERFORM astropt.restrict_table(format('astropt.%I', partition)::regclass);
    END IF;
END
$$;

COMMENT ON FUNCTION astropt.create_embedding_partition IS
    'Make the partition of astropt.embedding that holds an encoder''s vectors; safe to repeat';
