-- Three roles: readers see, workers write results, the admin owns. Nobody logs in as them; an
-- account is made a member of one (docs/howto/production.md). Servers where we may not create
-- roles keep working with the connecting role alone.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['astropt_reader', 'astropt_worker', 'astropt_admin'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            END IF;
            -- So that the owner's own commands can step down to the least role that serves.
            IF NOT pg_has_role(current_user, role_name, 'MEMBER') THEN
                EXECUTE format('GRANT %I TO %I', role_name, current_user);
            END IF;
        EXCEPTION
            -- Roles belong to the whole server: another database's upgrade may change them now.
            WHEN duplicate_object OR unique_violation OR internal_error THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'astropt-db: no right to create or take on %; using % alone',
                    role_name, current_user;
        END;
    END LOOP;
    IF NOT pg_has_role('astropt_worker', 'astropt_reader', 'MEMBER') THEN
        GRANT astropt_reader TO astropt_worker;
    END IF;
    -- The embedded server's account for TCP clients (TOPCAT) reads every table; with this it may
    -- run the functions in the views, too.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'astropt') THEN
        IF pg_has_role('astropt', 'pg_read_all_data', 'MEMBER')
            AND NOT pg_has_role('astropt', 'astropt_reader', 'MEMBER') THEN
            GRANT astropt_reader TO astropt;
        END IF;
    END IF;
EXCEPTION
    WHEN undefined_object OR unique_violation OR internal_error OR insufficient_privilege THEN NULL;
END
$$;

-- The admin owns every table, view and function, so that any member of it can run the next
-- upgrade and no right hangs on the account that ran the first one.
DO $$
DECLARE
    command text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'astropt_admin')
        OR NOT pg_has_role(current_user, 'astropt_admin', 'MEMBER') THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT CREATE, CONNECT, TEMPORARY ON DATABASE %I TO astropt_admin',
        current_database());
    FOR command IN
        SELECT format('ALTER SCHEMA %I OWNER TO astropt_admin', n.nspname)
        FROM pg_namespace AS n
        WHERE n.nspname IN ('q1', 'astropt', 'survey') AND n.nspowner <> 'astropt_admin'::regrole
        UNION ALL
        SELECT format('ALTER %s %s OWNER TO astropt_admin',
            CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
            c.oid::regclass)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('q1', 'astropt', 'survey') AND c.relkind IN ('r', 'p', 'v', 'm')
            AND c.relowner <> 'astropt_admin'::regrole
        UNION ALL
        SELECT format('ALTER %s %s OWNER TO astropt_admin',
            CASE p.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'ROUTINE' END, p.oid::regprocedure)
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('q1', 'astropt', 'survey')
            AND p.proowner <> 'astropt_admin'::regrole
    LOOP
        EXECUTE command;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'astropt-db: % keeps owning the tables: %', current_user, SQLERRM;
END
$$;

-- A view shows what its reader may see, not what its owner may: row-level security on a table
-- (sql/options/row_security.sql) then holds through every view.
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER VIEW %s SET (security_invoker = true)', c.oid::regclass)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('astropt', 'survey') AND c.relkind = 'v'
            AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;

DO $$
DECLARE
    schema_name text;
    command text;
BEGIN
    IF (SELECT count(*) FROM pg_roles
        WHERE rolname IN ('astropt_reader', 'astropt_worker', 'astropt_admin')) < 3 THEN
        RETURN;
    END IF;
    FOR schema_name IN
        SELECT nspname FROM pg_namespace WHERE nspname IN ('q1', 'astropt', 'survey')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO astropt_reader', schema_name);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO astropt_reader', schema_name);
        EXECUTE format(
            'GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO astropt_worker',
            schema_name);
        -- Numbers that are drawn before their rows are copied in.
        EXECUTE format(
            'GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO astropt_worker', schema_name);
        EXECUTE format('REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', schema_name);
        EXECUTE format(
            'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %I TO astropt_reader', schema_name);
        -- Tables that come later (partitions, surveys), whoever of the two makes them.
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I '
            'GRANT SELECT ON TABLES TO astropt_reader', schema_name);
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I '
            'GRANT INSERT, UPDATE, DELETE ON TABLES TO astropt_worker', schema_name);
        IF pg_has_role(current_user, 'astropt_admin', 'MEMBER') THEN
            EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE astropt_admin IN SCHEMA %I '
                'GRANT SELECT ON TABLES TO astropt_reader', schema_name);
            EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE astropt_admin IN SCHEMA %I '
                'GRANT INSERT, UPDATE, DELETE ON TABLES TO astropt_worker', schema_name);
        END IF;
    END LOOP;
    -- Which schema the code meets, and who may see which release, is the admin's to say.
    FOR command IN
        SELECT format('REVOKE INSERT, UPDATE, DELETE ON %s FROM astropt_worker', c.oid::regclass)
        FROM pg_class AS c
        WHERE c.relnamespace = 'astropt'::regnamespace
            AND c.relname IN ('version', 'alembic_version', 'release_access')
    LOOP
        EXECUTE command;
    END LOOP;
    -- What acts with the owner's rights is for those who write.
    FOR command IN
        SELECT format('REVOKE EXECUTE ON FUNCTION %1$s FROM astropt_reader; '
            'GRANT EXECUTE ON FUNCTION %1$s TO astropt_worker', p.oid::regprocedure)
        FROM pg_proc AS p
        WHERE p.pronamespace = 'astropt'::regnamespace AND p.prosecdef
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
