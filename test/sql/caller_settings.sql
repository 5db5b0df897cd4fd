-- Whatever settings the session of a caller has, the functions do the same.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION 'assessment   of success is less than a success';
    END IF;
    RETURN input;
END $$;
-- What the functions answer, in one text. Times and ids are left out.
CREATE PROCEDURE answers(INOUT all_of_it text) LANGUAGE plpgsql AS $$
DECLARE
    good uuid;
    bad uuid;
    waits uuid;
    many uuid[];
    waiting uuid;
    ended text;
BEGIN
    PERFORM underway.drop_queue(name, true) FROM underway.queues;
    COMMIT;
    all_of_it := concat_ws(' ', underway.create_queue('d'),
        underway.create_queue('q', 'public.f', ttl => '1 day', retry => underway.retry_policy(max_attempts => 1,
            never => '{23505,40}'), settings => '{"search_path": "public, pg_catalog"}'),
        underway.alter_queue('q', dead_letter => 'd', reset => '{batch}'), underway.pause_queue('q'),
            underway.resume_queue('q'),
        underway.grant_queue('q', 'public', '{see,enqueue}'), underway.revoke_queue('q', 'public', '{see}'));
    COMMIT;
    good := underway.enqueue('q', '{"a": "b''c"}', key => 'k', headers => '{"h": 1}');
    bad := underway.enqueue('q', '"fails"');
    waits := underway.enqueue('q', delay => '1 h', ttl => '1 h', retry => underway.retry_policy(2));
    many := underway.enqueue_many('q', ARRAY['1', NULL, '3']::jsonb[], keys => ARRAY['x', NULL, 'k']);
    COMMIT;
    FOREACH waiting IN ARRAY ARRAY[good, bad] || many LOOP
        CALL underway.wait_for(waiting, '1 min', ended);
    END LOOP;
    all_of_it := concat_ws(' ', all_of_it, many[3] = good,
        (SELECT string_agg(concat_ws(' ', a.state, a.output, a.error, a.reason), ' / ' ORDER BY n)
            FROM unnest(ARRAY[good, bad] || many) WITH ORDINALITY u(task, n), underway.status(task) a),
        underway.why(bad), left(underway.why(waits), 15), underway.pause(waits), underway.resume(waits),
            underway.cancel(waits, 'why not'), underway.why(waits), underway.retry(waits));
    COMMIT;
    CALL underway.wait_for(waits, '1 min', ended);
    all_of_it := concat_ws(' ', all_of_it, (SELECT string_agg(concat_ws(' ', key, state, headers), ' / '
        ORDER BY enqueued_at, key) FROM underway.tasks WHERE id = ANY (ARRAY[good, bad, waits] || many)),
        (SELECT string_agg(h.severity || h.object, ' / ')
            FROM underway.check_health() h), (SELECT string_agg(concat_ws(' ', name, handler, state, pending,
            settings), ' / ' ORDER BY name) FROM underway.queues),
        underway.redrive('d'));
    COMMIT;
    CALL underway.wait_for(bad, '1 min', ended);
    all_of_it := concat_ws(' ', all_of_it, underway.purge_queue('q'), underway.drop_queue('q', true),
        underway.drop_queue('d', true), underway.adopt());
    COMMIT;
END $$;
CALL answers(NULL) \gset plain_
\echo :plain_all_of_it

-- Each in a session of its own: functions are compiled with the settings of the session that calls them first.
\set same 'SELECT CASE WHEN :\'now_all_of_it\' = :\'plain_all_of_it\' THEN \'the same\' ELSE :\'now_all_of_it\' END'
\c
SET client_min_messages = error;
SET jit = off;
SET standard_conforming_strings = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET backslash_quote = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET array_nulls = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET transform_null_equals = 'on';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET plpgsql.extra_errors = 'all';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET plpgsql.variable_conflict = 'use_column';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET plpgsql.check_asserts = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET default_transaction_isolation = 'repeatable read';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET default_transaction_isolation = 'serializable';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET intervalstyle = 'sql_standard';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET intervalstyle = 'iso_8601';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET datestyle = 'SQL, DMY';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET datestyle = 'German';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET timezone = 'Asia/Tokyo';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET extra_float_digits = '-15';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET client_encoding = 'LATIN1';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET search_path = '';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET search_path = 'underway_internal, underway';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit_above_cost = '0';
SET jit_inline_above_cost = -1;
SET jit_optimize_above_cost = -1;
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET :parallel = 'regress';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET plan_cache_mode = 'force_custom_plan';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET enable_indexscan = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET enable_nestloop = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET enable_sort = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET join_collapse_limit = '1';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET cursor_tuple_fraction = '0';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET work_mem = '64kB';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET synchronous_commit = 'off';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET session_replication_role = 'replica';
CALL public.answers(NULL) \gset now_
:same;
\c
SET client_min_messages = error;
SET jit = off;
SET log_statement_stats = 'on';
CALL public.answers(NULL) \gset now_
:same;
