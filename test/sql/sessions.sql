-- A task finds a session as after DISCARD ALL, plus the settings of its queue; whatever the task before it has left.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
-- One worker of one role does all of it, one after the other.
ALTER SYSTEM SET underway.max_workers_per_database = 1;
SELECT pg_reload_conf();
-- A session reads the configuration anew between two statements; so does the new coordinator.
\set ECHO none
\o /dev/null
SELECT 'SELECT pg_sleep(0.02) WHERE current_setting(''underway.max_workers_per_database'') = ''0'''
    FROM generate_series(1, 1000) \gexec
\o
\set ECHO all
DROP EXTENSION underway;
CREATE EXTENSION underway;
CREATE ROLE regress_session LOGIN;
CREATE ROLE regress_other;
GRANT regress_other TO regress_session;
ALTER ROLE regress_session SET work_mem = '5MB';
GRANT CREATE, USAGE ON SCHEMA public TO regress_session;
CREATE FUNCTION does(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    result jsonb;
BEGIN
    EXECUTE input ->> 'first';
    EXECUTE input ->> 'then' INTO result;
    RETURN result;
EXCEPTION WHEN division_by_zero THEN
    RETURN NULL;
END $$;
SELECT underway.create_queue('q', 'does', run_as => 'regress_session',
    retry => underway.retry_policy(max_attempts => 1));
CREATE SEQUENCE public.seq OWNED BY NONE;
ALTER SEQUENCE public.seq OWNER TO regress_session;

-- What a task does, and what the next one sees: the same as the one before.
CREATE PROCEDURE looks(does text, sees text) LANGUAGE plpgsql AS $$
DECLARE
    one uuid := underway.enqueue('q', jsonb_build_object('first', does, 'then', 'SELECT to_jsonb((' || sees || '))'));
    two uuid := underway.enqueue('q', jsonb_build_object('first', 'SELECT 1', 'then', 'SELECT to_jsonb((' || sees ||
        '))'));
    a record;
    b record;
BEGIN
    COMMIT;
    SELECT * INTO a FROM underway.await(one, '30 s');
    SELECT * INTO b FROM underway.await(two, '30 s');
    RAISE NOTICE '% -> % %', rpad(sees, 40), coalesce(a.output::text, a.error, a.state), CASE WHEN a.worker = b.worker
        THEN 'then ' || coalesce(b.output::text, b.error, b.state) ELSE 'another worker' END;
END $$;
CALL looks('SET work_mem = ''9MB''', 'current_setting(''work_mem'')');
CALL looks('SELECT set_config(''my.setting'', ''x'', false)', 'nullif(current_setting(''my.setting'', true), '''')');
CALL looks('SET search_path = pg_catalog', 'current_setting(''search_path'')');
CALL looks('SET default_transaction_isolation = ''serializable''',
    'current_setting(''default_transaction_isolation'')');
CALL looks('SET default_transaction_read_only = on', 'current_setting(''default_transaction_read_only'')');
CALL looks('SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE',
    'current_setting(''transaction_isolation'')');
CALL looks('SET ROLE regress_other', 'current_user');
CALL looks('SET SESSION AUTHORIZATION regress_session', 'session_user');
CALL looks('SET TIME ZONE ''Asia/Tokyo''', 'current_setting(''timezone'')');
CALL looks('SET statement_timeout = ''1 h''', 'current_setting(''statement_timeout'')');
CALL looks('SET synchronous_commit = off', 'current_setting(''synchronous_commit'')');
CALL looks('SET client_encoding = ''LATIN1''', 'current_setting(''client_encoding'')');
CALL looks('SET session_replication_role = replica', 'current_setting(''session_replication_role'')');
CALL looks('CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1)', 'to_regclass(''pg_temp.t'')');
CALL looks('CREATE TEMP VIEW v AS SELECT 1 AS n', 'to_regclass(''pg_temp.v'')');
CALL looks('CREATE TEMP TABLE t (n int) ON COMMIT DELETE ROWS', 'to_regclass(''pg_temp.t'')');
CALL looks('CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS ''SELECT 1''',
    'SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()');
CALL looks('PREPARE p AS SELECT 1', 'SELECT count(*) FROM pg_prepared_statements WHERE from_sql');
CALL looks('DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SELECT count(*) FROM pg_cursors WHERE is_holdable');
CALL looks('SELECT pg_advisory_lock(1), pg_advisory_lock(2, 3), pg_advisory_lock_shared(4)',
    'SELECT count(*) FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid() AND objsubid IN (1, 2)');
CALL looks('SELECT pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock(1)',
    'SELECT count(*) FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid() AND objsubid IN (1, 2)');
CALL looks('SELECT nextval(''public.seq'')', 'SELECT (test.error(''SELECT currval(''''public.seq'''')'')).code');
CALL looks('LISTEN x', 'SELECT count(*) FROM pg_listening_channels()');
CALL looks('SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off',
    'current_setting(''plan_cache_mode'') || current_setting(''enable_seqscan'')');
CALL looks('SET standard_conforming_strings = off; SET plpgsql.extra_errors = ''all''; SET array_nulls = off; SET transform_null_equals = on', 'current_setting(''standard_conforming_strings'')');
-- The error of the task does not keep it from being cleaned.
CALL looks('SET work_mem = ''9MB''; SELECT pg_advisory_lock(1); SELECT underway.no_such()',
    'SELECT count(*) FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid() AND objsubid IN (1, 2)');
-- In the same task they stand; a procedure keeps them over its commits.
CREATE PROCEDURE over_commits(input jsonb) LANGUAGE plpgsql AS $$
BEGIN
    SET work_mem = '9MB';
    CREATE TEMP TABLE kept (n int);
    COMMIT;
    RAISE NOTICE '% %', current_setting('work_mem'), to_regclass('pg_temp.kept');
END $$;
SELECT underway.create_queue('p', 'over_commits', run_as => 'regress_session');
SELECT underway.enqueue('p') AS one, underway.enqueue('p') AS two \gset
SELECT state FROM test.ends(:'one');
SELECT state FROM test.ends(:'two');
SELECT notices FROM underway.status(:'two');

-- The queue's settings, over the role's; each queue's own, on the same worker; changed from the next task on.
CREATE FUNCTION shows(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(name, current_setting(name, true)) FROM jsonb_array_elements_text(input) name
$$;
SELECT underway.create_queue('set', 'shows', run_as => 'regress_session', settings =>
    '{"work_mem": "7MB", "my.setting": "é''\"", "enable_seqscan": false, "random_page_cost": 1.5, "search_path": "pg_catalog, public", "default_transaction_isolation": "repeatable read", "statement_timeout": 5000}');
SELECT underway.create_queue('unset', 'shows', run_as => 'regress_session');
CREATE VIEW shown AS
    SELECT '["work_mem", "my.setting", "enable_seqscan", "random_page_cost", "search_path", "transaction_isolation", "statement_timeout"]'::jsonb AS input;
SELECT underway.enqueue('set', input) AS one, underway.enqueue('unset', input) AS two FROM shown \gset
SELECT state, output FROM test.ends(:'one');
SELECT state, output || '{"my.setting": null}' FROM test.ends(:'two');
SELECT underway.alter_queue('set', settings => '{"work_mem": "6MB"}');
SELECT underway.enqueue('set', input) AS one FROM shown \gset
SELECT state, output ->> 'work_mem' AS work_mem, output ->> 'enable_seqscan' AS enable_seqscan FROM test.ends(:'one');
-- Read only: the handler may not write, and its end is recorded all the same.
CREATE TABLE effect (n int);
GRANT INSERT ON effect TO regress_session;
CREATE FUNCTION writes(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN INSERT INTO effect
    VALUES (1); RETURN '1'; END $$;
SELECT underway.create_queue('read only', 'writes', run_as => 'regress_session',
    settings => '{"default_transaction_read_only": true}', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('read only') AS task \gset
SELECT state, sqlstate FROM test.ends(:'task');
SELECT underway.alter_queue('read only', handler => 'shows');
SELECT underway.enqueue('read only', '["transaction_read_only"]') AS task \gset
SELECT state, output FROM test.ends(:'task');
-- Serializable, and timeouts for locks: ours do not obey them.
SELECT underway.alter_queue('read only',
    settings =>
    '{"default_transaction_isolation": "serializable", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms"}');
SELECT underway.enqueue_many('read only', array_fill('["transaction_isolation"]'::jsonb, '{50}')) AS ids \gset
SELECT state, output, count(*) FROM unnest(:'ids'::uuid[]) id, test.ends(id) GROUP BY 1, 2;
-- Both at once: the end could not be written. A failure like others, with an end, and nothing of it is left.
SELECT underway.alter_queue('read only', retry => underway.retry_policy(max_attempts => 2, initial_interval => '0 s'),
    settings => '{"default_transaction_isolation": "serializable", "default_transaction_read_only": true}');
SELECT underway.enqueue('read only', '["work_mem"]') AS task \gset
SELECT state, attempt, failures, sqlstate, error FROM test.ends(:'task');
SELECT detail, hint, context FROM underway.status(:'task');
-- A role may have what a queue must not: an error fails the attempt all the same, and does not end the worker.
CREATE ROLE regress_exits LOGIN;
ALTER ROLE regress_exits SET exit_on_error = on;
CREATE FUNCTION divides(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(1 / (input ->> 0)::int)';
SELECT underway.create_queue('exits', 'divides', run_as => 'regress_exits', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('exits', '[0]') AS task \gset
SELECT state, failures, sqlstate, error FROM test.ends(:'task');
SELECT crashes FROM underway.status(:'task');
-- And it may have a role, as in any session.
CREATE ROLE regress_as;
GRANT regress_as TO regress_exits;
ALTER ROLE regress_exits SET role = regress_as;
CREATE FUNCTION who() RETURNS jsonb LANGUAGE sql AS 'SELECT jsonb_build_array(current_user, session_user)';
SELECT underway.alter_queue('exits', handler => 'who');
SELECT underway.enqueue('exits') AS task \gset
SELECT state, output FROM test.ends(:'task');
-- A setting that is refused at run time (its parameter is gone) fails the task and not the worker.
SELECT underway.alter_queue('read only', retry => underway.retry_policy(max_attempts => 1), settings => '{"work_mem": "6MB"}');
UPDATE underway_internal.queue SET settings = '{"no_such_setting": 1}' WHERE name = 'read only';
SELECT underway.alter_queue('read only', priority => 7);
SELECT underway.enqueue('read only', '["work_mem"]') AS task \gset
SELECT state, sqlstate, error FROM test.ends(:'task');
-- A procedure that fails in a loop over which it has committed: the loop's portal is the error's, and not a burden to the next task.
CREATE PROCEDURE breaks(input jsonb) LANGUAGE plpgsql AS $$
DECLARE
    n int;
BEGIN
    FOR n IN SELECT generate_series(1, 3) LOOP
        COMMIT;
        PERFORM 1 / (2 - n);
    END LOOP;
END $$;
SELECT underway.create_queue('breaks', 'breaks', run_as => 'regress_session', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('breaks') AS one, underway.enqueue('breaks') AS two \gset
SELECT state, error FROM test.ends(:'one');
SELECT state, error FROM test.ends(:'two');
SELECT (underway.status(:'one')).worker = (underway.status(:'two')).worker AS one_worker;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
ALTER SYSTEM RESET underway.max_workers_per_database;
SELECT pg_reload_conf();
DROP SEQUENCE public.seq;
REVOKE ALL ON effect FROM regress_session;
REVOKE ALL ON SCHEMA public FROM regress_session;
DROP ROLE regress_session, regress_other, regress_exits, regress_as;
