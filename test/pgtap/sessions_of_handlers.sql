-- What a handler can rely on: its own role, its context functions, a clean session; and nothing of that outside.
\set ECHO none
\set QUIET on
\pset tuples_only on
\pset format unaligned
SELECT plan(10);
CREATE SCHEMA handlers;
CREATE ROLE regress_handler LOGIN;
GRANT USAGE ON SCHEMA handlers TO regress_handler;
CREATE FUNCTION handlers.tells(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE leftover (n int);
    RETURN jsonb_build_object('user', current_user, 'session', session_user, 'task', underway.task_id(), 'attempt',
        underway.attempt(), 'last', underway.last_attempt(),
        'headers', underway.headers(), 'work_mem', current_setting('work_mem'), 'input', input);
END $$;
SELECT underway.create_queue('tells', 'handlers.tells', run_as => 'regress_handler',
    settings => '{"work_mem": "17MB"}', retry => underway.retry_policy(max_attempts => 1)) \gset ignored_
SELECT underway.enqueue('tells', '{"a": 1}', headers => '{"h": 2}') AS task \gset
SELECT (SELECT output FROM underway.await(:'task')) AS told \gset
SELECT is(:'told'::jsonb ->> 'user', 'regress_handler', 'it runs as the queue''s owner');
SELECT is(:'told'::jsonb ->> 'session', 'regress_handler', 'in a session of that role');
SELECT is((:'told'::jsonb ->> 'task')::uuid, :'task'::uuid, 'task_id()');
SELECT is(:'told'::jsonb -> 'attempt', '1', 'attempt()');
SELECT is(:'told'::jsonb -> 'last', 'true', 'last_attempt()');
SELECT is(:'told'::jsonb -> 'headers', '{"h": 2}', 'headers()');
SELECT is(:'told'::jsonb ->> 'work_mem', '17MB', 'with the queue''s settings');
SELECT is(:'told'::jsonb -> 'input', '{"a": 1}', 'and the input');
SELECT results_eq($$SELECT DISTINCT a.state FROM unnest(ARRAY(SELECT underway.enqueue('tells')
    FROM generate_series(1, 20))) id, underway.status(id) a$$, $$VALUES ('pending')$$, '20 more');
SELECT results_eq($$SELECT a.state, count(*) FROM underway.tasks t, underway.await(t.id) a WHERE t.queue = 'tells'
    GROUP BY a.state$$, $$VALUES ('succeeded', 21::bigint)$$,
    'each finds a session without the temporary table of the one before');
SELECT underway.drop_queue('tells') \gset ignored_
-- The worker drops what the last one left a moment after that has ended.
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM pg_class WHERE relname = 'leftover') LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT * FROM finish();
SET client_min_messages = warning;
DROP SCHEMA handlers CASCADE;
DROP ROLE regress_handler;
