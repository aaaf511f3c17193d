-- Three roles: readers see, workers write results, the admin owns. Servers where we may not
-- create roles keep working with the connecting role alone.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['astropt_reader', 'astropt_worker', 'astropt_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        END IF;
    END LOOP;
    -- So that the owner's own `query` can step down to the reader.
    IF NOT pg_has_role(current_user, 'astropt_reader', 'MEMBER') THEN
        GRANT astropt_reader TO current_user;
    END IF;
EXCEPTION
    -- Roles belong to the whole server: another database's upgrade may create them now.
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'astropt-db: no right to create roles; using % alone', current_user;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'astropt_reader') THEN
        GRANT USAGE ON SCHEMA q1, astropt TO astropt_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA q1, astropt TO astropt_reader;
    END IF;
END
$$;
