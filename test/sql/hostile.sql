-- Objects made to confuse our SQL, and other ways to get somebody elses rights: none of them runs as anybody but their
-- maker.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE ROLE regress_victim LOGIN;
CREATE ROLE regress_mallory LOGIN;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_victim, regress_mallory', current_database()) \gexec
GRANT CREATE, USAGE ON SCHEMA public TO regress_victim, regress_mallory;
-- Who runs something of mallory's writes here as whom.
CREATE TABLE caught (what text, as_role text DEFAULT current_user, session text DEFAULT session_user);
GRANT INSERT ON caught TO PUBLIC;
SET ROLE regress_victim;
CREATE FUNCTION honest(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT input || '{"by": "victim"}' $$;
SELECT underway.create_queue('victim', 'honest');
SELECT underway.create_queue('victim external');
SELECT underway.grant_queue('victim', 'public', '{enqueue}');
SELECT underway.enqueue('victim external', '{"secret": 1}') AS secret \gset
RESET ROLE;

SET ROLE regress_mallory;
CREATE FUNCTION caught(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO public.caught VALUES ($1)';
-- Operators that come before the real ones in mallory's search_path.
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT DISTINCT o.oprname, l.typname AS l, r.typname AS r, res.typname AS res FROM pg_operator o
        JOIN pg_type l ON l.oid = o.oprleft JOIN pg_type r ON r.oid = o.oprright
            JOIN pg_type res ON res.oid = o.oprresult
            WHERE l.typname IN ('text', 'jsonb', 'uuid', 'timestamptz', 'interval', 'int4', 'int8', 'oid', 'bool',
                'name', 'numeric', 'float8')
                AND res.typname IN ('bool', 'text', 'jsonb', 'interval', 'timestamptz', 'int4', 'int8')
              AND r.typtype = 'b' AND r.typname !~ '^_' LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.op(a pg_catalog.%I, b pg_catalog.%I, c pg_catalog.%I DEFAULT NULL) RETURNS pg_catalog.%I LANGUAGE plpgsql AS %L',
            t.l, t.r, t.res, t.res, format('BEGIN PERFORM public.caught(%L); RETURN a OPERATOR(pg_catalog.%s) b; END',
                'operator ' || t.oprname, t.oprname));
        EXECUTE format('CREATE FUNCTION public.%I(a pg_catalog.%I, b pg_catalog.%I) RETURNS pg_catalog.%I LANGUAGE plpgsql AS %L',
            'op ' || t.oprname, t.l, t.r, t.res,
                format('BEGIN PERFORM public.caught(%L); RETURN a OPERATOR(pg_catalog.%s) b; END', 'operator ' ||
                t.oprname, t.oprname));
        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I, FUNCTION = public.%I)', t.oprname, t.l, t.r, 'op ' || t.oprname);
    END LOOP;
END $$;
DO $$
DECLARE f oid;
BEGIN
    FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = 'op' LOOP
        EXECUTE format('DROP FUNCTION %s', f::regprocedure);
    END LOOP;
END $$;
SELECT count(*) > 200 FROM pg_operator WHERE oprnamespace = 'public'::regnamespace;
-- Functions named like those that our SQL calls, in public and in pg_temp.
DO $$
DECLARE
    schema text;
    f record;
BEGIN
    FOREACH schema IN ARRAY '{public,pg_temp}'::text[] LOOP
        FOR f IN SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, format_type(p.prorettype,
            NULL) AS result FROM pg_proc p
                WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
                    AND p.provariadic = 0
                  AND p.proname IN ('now', 'lower', 'left', 'btrim', 'format', 'coalesce', 'octet_length',
                      'jsonb_typeof', 'quote_ident', 'quote_literal', 'pg_has_role', 'has_schema_privilege',
                      'has_function_privilege', 'has_database_privilege', 'pg_get_userbyid', 'current_setting',
                          'to_jsonb', 'array_position', 'array_remove', 'cardinality', 'date_trunc',
                          'pg_is_in_recovery',
                      'current_database', 'jsonb_strip_nulls', 'isfinite', 'clock_timestamp', 'to_regrole',
                          'make_interval', 'greatest', 'random', 'ln', 'power', 'regexp_replace', 'array_length')
                  AND pg_get_function_identity_arguments(p.oid) !~ 'any' LOOP
            EXECUTE format('CREATE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', schema, f.proname, f.args,
                f.result,
                format('BEGIN PERFORM public.caught(%L); RETURN NULL; END', 'function ' || f.proname));
        END LOOP;
        -- And like ours.
        FOR f IN SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, format_type(p.prorettype,
            NULL) AS result FROM pg_proc p
                WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'underway') AND p.prokind = 'f'
                    AND NOT p.proretset LOOP
            EXECUTE format('CREATE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', schema, f.proname, f.args,
                f.result,
                format('BEGIN PERFORM public.caught(%L); RETURN NULL; END', 'ours ' || f.proname));
        END LOOP;
    END LOOP;
END $$;
-- Tables, views and types with our names and those of the catalog.
CREATE TEMP TABLE queue (name text, owner text);
CREATE TEMP TABLE task (id uuid, queue_id int, state text);
CREATE TEMP TABLE archive (id uuid);
CREATE TEMP TABLE pg_roles (oid oid, rolname name, rolsuper bool);
CREATE TEMP TABLE pg_class (oid oid);
CREATE TEMP TABLE pg_proc (oid oid);
INSERT INTO pg_roles VALUES (1, 'regress_mallory', true);
CREATE DOMAIN pg_temp.jsonb AS int CHECK (VALUE > 0);
CREATE DOMAIN public.jsonb AS int CHECK (VALUE > 0);
CREATE DOMAIN public.interval AS text CHECK (VALUE = 'x');
CREATE DOMAIN public.uuid AS text CHECK (VALUE = 'x');
CREATE TYPE public.transition AS (action text);

-- Everything, with mallory's own search_path.
SET search_path = public, pg_temp, pg_catalog;
SELECT underway.create_queue('mallory', 'honest', priority => 3, retry => underway.retry_policy(max_attempts => 1,
    never => '{23505}'), settings => '{"search_path": "public, pg_temp, pg_catalog"}');
SELECT underway.create_queue('mallory dead');
SELECT underway.alter_queue('mallory', dead_letter => 'mallory dead', ttl => '1 day', keep => 'all',
    reset => '{batch}');
SELECT underway.pause_queue('mallory');
SELECT underway.grant_queue('mallory', 'public', '{enqueue}'), underway.revoke_queue('mallory', 'public', '{enqueue}');
SELECT underway.enqueue('mallory', '{"n": 1}', key => 'k', delay => '1 h', ttl => '1 h', headers => '{}',
    retry => underway.retry_policy(2)) AS task \gset
SELECT pg_catalog.cardinality(underway.enqueue_many('mallory', '{1,2}', keys => '{k,l}', delay => '1 h'));
SELECT state FROM underway.status(:'task');
SELECT underway.pause(:'task'), underway.resume(:'task'), underway.cancel(:'task'), underway.retry(:'task');
SELECT pg_catalog.starts_with(underway.why(:'task'), 'pending');
SELECT underway.redrive('mallory');
SELECT pg_catalog.count(*) FROM underway.check_health();
SELECT pg_catalog.count(*) FROM underway.queues;
SELECT pg_catalog.count(*) FROM underway.tasks;
SELECT pg_catalog.count(*) FROM underway.attempts;
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>=) 0 FROM underway.workers;
SELECT underway.adopt(), underway.version() IS NOT NULL;
SELECT lease FROM underway.dequeue('mallory dead');
SELECT underway.purge_queue('mallory'), underway.resume_queue('mallory');
SELECT underway.enqueue('mallory', '{"n": 1}') AS task \gset
SELECT state, output FROM underway.await(:'task');
SELECT underway.drop_queue('mallory'), underway.drop_queue('mallory dead');
RESET search_path;
DISCARD TEMP;
RESET ROLE;
SELECT what, as_role, session FROM caught WHERE as_role <> 'regress_mallory';
TRUNCATE caught;

-- What mallory's handler can do in a worker, and what runs there of hers besides: casts, default arguments, triggers,
-- operators.
SET ROLE regress_mallory;
CREATE TYPE evil AS (n int);
CREATE FUNCTION evil_to_json(evil) RETURNS json
    LANGUAGE plpgsql AS $$ BEGIN PERFORM public.caught('cast'); RETURN '{"cast": true}'; END $$;
CREATE CAST (evil AS json) WITH FUNCTION evil_to_json(evil);
CREATE DOMAIN evil_domain AS int CHECK (public.caught('domain') IS NULL);
CREATE TYPE evil_word AS ENUM ('x');
CREATE FUNCTION evil_word_to_json(evil_word) RETURNS json
    LANGUAGE plpgsql AS $$ BEGIN PERFORM public.caught('cast of a word'); RETURN '{"cast": true}'; END $$;
CREATE CAST (evil_word AS json) WITH FUNCTION evil_word_to_json(evil_word);
CREATE FUNCTION returns_word(input jsonb) RETURNS evil_word LANGUAGE sql AS $$ SELECT 'x'::evil_word $$;
CREATE FUNCTION returns_evil(input jsonb) RETURNS evil LANGUAGE sql AS 'SELECT ROW(1)::evil';
CREATE FUNCTION returns_domain(input jsonb) RETURNS evil_domain LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION evil_default() RETURNS jsonb LANGUAGE sql AS $$ SELECT public.caught('default'); SELECT '{}'::jsonb $$;
CREATE FUNCTION with_default(input jsonb DEFAULT evil_default()) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE TABLE mallorys (n int);
CREATE FUNCTION at_commit() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN PERFORM public.caught('deferred trigger'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT
    ON mallorys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
CREATE FUNCTION tries(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    answers jsonb := '{}';
BEGIN
    INSERT INTO public.mallorys VALUES (1);
    FOREACH statement IN ARRAY ARRAY['SET ROLE postgres', 'SET ROLE regress_victim',
        'SET SESSION AUTHORIZATION postgres', 'RESET SESSION AUTHORIZATION', 'RESET ROLE', 'SET ROLE none',
            'SELECT * FROM underway_internal.queue', 'UPDATE underway_internal.task SET state = ''x''',
                'SELECT underway_internal.clock()', 'CREATE ROLE regress_more SUPERUSER',
            'SELECT pg_read_file(''postgresql.conf'')', 'ALTER SYSTEM SET work_mem = ''1GB''', 'LOAD ''underway''',
            'SET session_replication_role = replica', 'SET underway.enabled = off',
                'SELECT underway.set_clock(now())'] LOOP
        BEGIN
            EXECUTE statement;
            answers := answers || jsonb_build_object(statement, 'may, as ' || current_user);
        EXCEPTION WHEN OTHERS THEN
            answers := answers || jsonb_build_object(statement, SQLSTATE);
        END;
    END LOOP;
    RETURN answers;
END $$;
SELECT underway.create_queue('m', 'tries', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('m') AS task \gset
SELECT e.state, a.key, a.value FROM test.ends(:'task') e, jsonb_each_text(e.output) a ORDER BY a.key COLLATE "C";
SELECT underway.alter_queue('m', handler => 'returns_evil');
SELECT underway.enqueue('m') AS task \gset
SELECT state, output FROM test.ends(:'task');
SELECT underway.alter_queue('m', handler => 'returns_word');
SELECT underway.enqueue('m') AS task \gset
SELECT state, output FROM test.ends(:'task');
SELECT underway.alter_queue('m', handler => 'returns_domain');
SELECT underway.enqueue('m') AS task \gset
SELECT state, output FROM test.ends(:'task');
SELECT underway.alter_queue('m', handler => 'with_default');
SELECT underway.enqueue('m', NULL) AS task \gset
SELECT state, output FROM test.ends(:'task');
-- A value whose cast is hers, as an argument of hers.
CREATE FUNCTION evil_to_jsonb(evil) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN PERFORM public.caught('cast of an argument'); RETURN '{"cast": true}'; END $$;
CREATE CAST (evil AS jsonb) WITH FUNCTION evil_to_jsonb(evil) AS IMPLICIT;
SELECT underway.enqueue('victim', ROW(1)::evil) AS task \gset
SELECT state, output FROM test.ends(:'task');
RESET ROLE;
SELECT DISTINCT what, as_role, session FROM caught ORDER BY what;
TRUNCATE caught;

-- Another's rights by asking for them.
SET ROLE regress_mallory;
SELECT code, message, hint
    FROM test.error($$SELECT underway.create_queue('as victim', 'tries', run_as => 'regress_victim')$$);
SELECT code FROM test.error($$SELECT underway.create_queue('as postgres', 'tries', run_as => 'postgres')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', run_as => 'regress_victim')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', settings => '{"role": "postgres"}')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', settings => '{"session_authorization": "postgres"}')$$);
SELECT code
    FROM test.error($$SELECT underway.alter_queue('m', settings => '{"session_replication_role": "replica"}')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', settings => '{"session_preload_libraries": "x"}')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', settings => '{"underway.enabled": false}')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('victim', handler => 'tries')$$);
SELECT code FROM test.error($$SELECT underway.alter_queue('m', dead_letter => 'victim external')$$);
SELECT count(*) FROM underway.status(:'secret');
-- A dead letter of mallory's does not let her enqueue where she may not, nor redrive another's tasks.
SELECT underway.create_queue('victims', 'tries', dead_letter => 'm');
SELECT code FROM test.error($$SELECT underway.redrive('victim')$$);
-- A definer function enqueues as its owner; its caller does not see the task.
SET ROLE regress_victim;
CREATE FUNCTION for_all(input jsonb) RETURNS uuid SECURITY DEFINER SET search_path = pg_catalog LANGUAGE sql AS $$
    SELECT underway.enqueue('victim external', input) $$;
SET ROLE regress_mallory;
SELECT for_all('{"from": "mallory"}') AS task \gset
SELECT count(*) FROM underway.status(:'task');
SELECT code FROM test.error(format('SELECT underway.cancel(%L)', :'task'));
SET ROLE regress_victim;
SELECT enqueued_by FROM underway.tasks WHERE id = :'task';
RESET ROLE;

-- The victim's handler is dropped, and mallory makes one of that name: it does not run as the victim.
SET ROLE regress_victim;
DROP FUNCTION honest(jsonb);
SELECT underway.enqueue('victim', '{"trap": 1}') AS task \gset
SET ROLE regress_mallory;
CREATE FUNCTION honest(input jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN PERFORM public.caught('handler'); RETURN '"trapped"'; END $$;
SELECT underway.enqueue('m') AS other \gset
SELECT state FROM test.ends(:'other');
RESET ROLE;
SELECT state, attempt, output FROM underway.await(:'task', '50 ms');
SELECT what, as_role FROM caught WHERE what = 'handler';
SELECT state, problem FROM underway.queues WHERE name = 'victim';
SELECT regexp_replace(underway.why(:'task'), '; .*', '');
SELECT problem, hint FROM underway.check_health() WHERE object = 'queue "victim"';
-- Who says that it is meant, means it.
SELECT underway.alter_queue('victim', handler => 'honest');
SELECT state, attempt, output FROM test.ends(:'task');
SELECT what, as_role FROM caught WHERE what = 'handler';
SELECT state, problem FROM underway.queues WHERE name = 'victim';

-- pg_write_all_data is not all: what runs as whom cannot be written by it.
GRANT pg_write_all_data, pg_read_all_data TO regress_mallory;
SET ROLE regress_mallory;
SELECT code, message, hint FROM test.error($$UPDATE underway_internal.queue SET owner = 'postgres'
    WHERE name = 'm' RETURNING id$$);
SELECT code FROM test.error($$INSERT INTO underway_internal.queue SELECT * FROM underway_internal.queue RETURNING id$$);
SELECT code FROM test.error($$DELETE FROM underway_internal.queue RETURNING id$$);
SELECT code FROM test.error($$INSERT INTO underway_internal.queue_grant SELECT id, 'regress_mallory', 'manage'
    FROM underway_internal.queue RETURNING role$$);
SELECT code FROM test.error($$DELETE FROM underway_internal.queue_grant RETURNING role$$);
RESET ROLE;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
DROP OWNED BY regress_mallory, regress_victim CASCADE;
DROP ROLE regress_mallory, regress_victim;
