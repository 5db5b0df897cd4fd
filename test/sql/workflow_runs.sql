-- Runs found again: by key, in the view, and what a listing of many costs.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION works(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION 'failed';
    END IF;
    RETURN input;
END $$;
SELECT underway.create_workflow('orders', ARRAY[underway.step('a', 'works', retry => underway.retry_policy(max_attempts => 1)),
    underway.wait('approval'), underway.step('b', 'works')]);
SELECT underway.create_queue('plain', 'works');
SELECT underway.start('orders', '"waits"', key => 'order-1', group_key => 'g', headers => '{"h": 1}', timeout => '1 day') AS waits,
    underway.start('orders', '"fails"', key => 'order-2') AS fails, underway.start('orders', '"ends"', key => 'order-3') AS ends \gset
SELECT underway.signal(:'ends', 'approval', '"yes"');
SELECT state FROM test.ends(:'ends');
SELECT state FROM test.ends(:'fails');
SELECT test.until(format('(SELECT state = ''waiting'' FROM underway.status(%L))', :'waits'));
\x on
SELECT workflow, version, state, key, group_key, started_by, started_at IS NOT NULL AS started, finished_at > started_at AS finished,
    round(extract(epoch FROM deadline - started_at) / 3600) AS deadline, steps, parent, parent_step, priority, input, output, headers, reason, sqlstate, error, paused_by
    FROM underway.runs ORDER BY key;
\x off
-- The same as status() says.
SELECT count(*) FROM underway.runs r, underway.status(r.id) s
    WHERE r.state = s.state AND r.workflow = s.queue AND r.input = s.input AND r.output IS NOT DISTINCT FROM s.output
      AND r.finished_at IS NOT DISTINCT FROM s.finished_at AND r.error IS NOT DISTINCT FROM s.error;
-- The tasks that are steps; what the runs leave for themselves to look at is not shown.
SELECT t.queue, t.step, t.item, t.state, r.key FROM underway.tasks t JOIN underway.runs r ON r.id = t.run_id ORDER BY r.key, t.enqueued_at;

SELECT underway.find_run('orders', 'order-1') = :'waits' AS unfinished, underway.find_run('orders', 'order-2') = :'fails' AS ended,
    underway.find_run('orders', 'order-4') AS no_such_key, underway.find_run('orders', '') AS empty;
BEGIN;
SELECT underway.start('orders', key => 'order-5') AS here \gset
SELECT underway.find_run('orders', 'order-5') = :'here' AS of_this_transaction;
ROLLBACK;
SELECT underway.find_run('orders', 'order-5') AS rolled_back;
SELECT test.errors('SELECT underway.find_run(''nowhere'', ''k'')', 'SELECT underway.find_run(''plain'', ''k'')', 'SELECT underway.find_run(NULL, ''k'')',
    'SELECT underway.find_run('''', ''k'')', 'SELECT underway.find_run(''orders'', NULL)');

-- Who may see it: who started it, and who has the right.
CREATE ROLE runs_starter;
CREATE ROLE runs_seer;
CREATE ROLE runs_nobody;
SELECT underway.grant_queue('orders', 'runs_starter'), underway.grant_queue('orders', 'runs_seer', '{see}');
SET ROLE runs_starter;
SELECT underway.start('orders', key => 'order-6') AS own \gset
SELECT key FROM underway.runs ORDER BY key;
SELECT underway.find_run('orders', 'order-6') = :'own' AS own, underway.find_run('orders', 'order-1') AS of_others;
SET ROLE runs_seer;
SELECT key FROM underway.runs ORDER BY key;
SELECT underway.find_run('orders', 'order-6') = :'own' AS own, underway.find_run('orders', 'order-1') = :'waits' AS of_others;
SET ROLE runs_nobody;
SELECT key FROM underway.runs ORDER BY key;
SELECT underway.find_run('orders', 'order-6') AS own;
RESET ROLE;

-- A listing by workflow, and in it by state, key or time, reads about as many rows as it shows, of 200,000.
SELECT underway.create_workflow(format('w%s', n), ARRAY[underway.step('a', 'works')]) FROM generate_series(1, 3) n;
INSERT INTO underway_internal.run (id, queue_id, version, state, input, priority, key, started_by, started_at, paused_by)
    SELECT underway_internal.new_id(), q.id, 1, CASE n % 1000 WHEN 0 THEN 'parked' WHEN 1 THEN 'paused' ELSE 'running' END, '{}', 8,
        format('u%s', n), 'postgres', now() - n * interval '1 min', CASE n % 1000 WHEN 1 THEN 'postgres' END
    FROM underway_internal.queue q, generate_series(1, 20000) n WHERE q.name IN ('w1', 'w2');
INSERT INTO underway_internal.run_archive (slot, id, queue_id, version, state, input, priority, key, started_by, started_at, finished_at)
    SELECT CASE WHEN n % 10 = 0 THEN 8 + n / 10 % 8 ELSE n % 8 END, underway_internal.new_id(), q.id, 1,
        CASE WHEN n % 20 = 0 THEN 'cancelled' WHEN n % 10 = 0 THEN 'failed' ELSE 'succeeded' END, '{}', 8, format('a%s', n), 'postgres',
        now() - n * interval '1 min', now() - n * interval '1 min' + interval '1 s'
    FROM underway_internal.queue q, generate_series(1, 80000) n WHERE q.name IN ('w1', 'w2');
ANALYZE underway_internal.run, underway_internal.run_archive, underway_internal.task, underway_internal.queue;
CREATE FUNCTION reads(query text, OUT shown bigint, OUT read bigint) LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, TIMING off, FORMAT json) ' || query INTO plan;
    shown := (plan -> 0 -> 'Plan' ->> 'Actual Rows')::bigint;
    SELECT sum(((n ->> 'Actual Rows')::numeric + coalesce((n ->> 'Rows Removed by Filter')::numeric, 0)) * (n ->> 'Actual Loops')::numeric)
        INTO read FROM jsonb_path_query(plan, 'strict $.** ? (@."Relation Name" like_regex "^run")') n;
END $$;
SELECT w, r.shown, r.shown > 0 AND r.read <= 3 * r.shown + 5 AS few, CASE WHEN r.read > 3 * r.shown + 5 THEN r.read END AS too_many
    FROM unnest(ARRAY['state = ''parked''', 'state = ''paused'' AND started_at > now() - interval ''1 week''', 'key = ''u77''', 'key = ''a80''', 'key = ''a81''',
        'state = ''failed'' AND finished_at > now() - interval ''600 min''', 'state = ''succeeded'' AND finished_at > now() - interval ''30 min''',
        'started_at > now() - interval ''30 min''', 'started_at BETWEEN now() - interval ''900 min'' AND now() - interval ''800 min''',
        'state = ''cancelled'' AND started_at > now() - interval ''600 min'' AND key IS NOT NULL',
        'state = ''waiting'' AND started_at > now() - interval ''30 min''']) w,
    reads(format('SELECT id, error FROM underway.runs WHERE workflow = ''w1'' AND %s', w)) r;
-- By id alone, in all workflows.
SELECT shown, read < 10 AS few FROM reads((SELECT format('SELECT key FROM underway.runs WHERE id = %L', a.id)
    FROM underway_internal.run_archive a WHERE a.key = 'a4321' LIMIT 1));
DROP OWNED BY runs_starter, runs_seer, runs_nobody;
DROP ROLE runs_starter, runs_seer, runs_nobody;
