-- The views: rows for every state that a task can be in, and what they cost to nobody.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE gate (open bool);
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION 'failed' USING DETAIL = 'd', HINT = 'h';
    END IF;
    WHILE input = '"waits"' AND NOT EXISTS (SELECT FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN input;
END $$;
SELECT underway.create_queue('q', 'f', concurrency => 5, retry => underway.retry_policy(max_attempts => 2,
    initial_interval => '1 h', max_interval => '1 h'));
SELECT underway.create_queue('external');
SELECT underway.enqueue('q', '"succeeds"', key => 'key', group_key => 'group', headers => '{"h": 1}', priority => 2,
    timeout => '1 min', heartbeat => '1 s', retry => underway.retry_policy(4)) AS succeeded,
    underway.enqueue('q', '"fails"') AS retried, underway.enqueue('q', '"fails"',
        retry => underway.retry_policy(max_attempts => 1)) AS failed, underway.enqueue('q', '"waits"') AS running \gset
SELECT underway.enqueue('q', '"later"', delay => '1 h', ttl => '1 h') AS later, underway.enqueue('external',
    '"pending"') AS pending, underway.enqueue('external', '"paused"') AS paused,
    underway.enqueue('external', '"cancelled"') AS cancelled \gset
SELECT state FROM test.ends(:'succeeded');
SELECT state FROM test.ends(:'failed');
SELECT test.failed_attempts(:'retried', 1);
SELECT underway.pause(:'paused'), underway.cancel(:'cancelled', 'no need');
SELECT test.until(format('(SELECT state = ''in_progress'' FROM underway.status(%L))', :'running'));
\x on
SELECT input, queue, state, priority, attempt, failures, crashes, losses, snoozes, run_at > enqueued_at AS later,
    expires_at - run_at AS ttl, started_at IS NOT NULL AS started, finished_at IS NOT NULL AS finished,
    finished_at >= started_at AS times, enqueued_by, worker IS NOT NULL AS has_worker, key, group_key, headers, output,
        reason, sqlstate, error, detail, hint, context, notices, timeout, heartbeat, retry, source, paused_by
    FROM underway.tasks ORDER BY enqueued_at, id;
\x off
-- status() and the view agree but for the errors of an attempt that is to be followed by another.
SELECT t.input, (t.state, t.attempt, t.failures, t.started_at, t.finished_at, t.worker, t.output,
    t.reason) IS NOT DISTINCT
    FROM (s.state, s.attempt, s.failures, s.started_at, s.finished_at, s.worker, s.output, s.reason) AS same,
    s.error IS NOT DISTINCT FROM t.error AS same_error FROM underway.tasks t, underway.status(t.id) s
        ORDER BY t.enqueued_at, t.id;
SELECT t.input, a.attempt, a.outcome, a.started_at IS NOT NULL AS started, a.ended_at IS NOT NULL AS ended, a.sqlstate,
    a.error, a.detail, a.hint, a.retry_at - a.ended_at > '20 min' AS again
    FROM underway.attempts a JOIN underway.tasks t ON t.id = a.task_id ORDER BY t.enqueued_at, t.id, a.attempt;
SELECT name, state, pending, pending_exact, due, in_progress, waiting, oldest_due IS NOT NULL AS has_oldest
    FROM underway.queues ORDER BY name;
SELECT state, database = current_database() AS here, role, queue, task_id = :'running' AS ours, attempt, tasks,
    task_started_at IS NOT NULL AS started FROM underway.workers WHERE queue IS NOT NULL;
-- After a retry the task stands there once, as it is now.
SELECT underway.retry(:'failed');
SELECT count(*) FROM underway.tasks WHERE id = :'failed';
SELECT state, attempt, failures FROM test.ends(:'failed');
SELECT state, attempt, failures FROM underway.tasks WHERE id = :'failed';
SELECT attempt, outcome FROM underway.attempts WHERE task_id = :'failed' ORDER BY attempt;
INSERT INTO gate VALUES (true);
SELECT state FROM test.ends(:'running');

-- One task, one queue: by index, whatever there is besides.
INSERT INTO underway_internal.archive SELECT r.* FROM (SELECT * FROM underway_internal.archive
    WHERE slot = 0 LIMIT 1) a, generate_series(1, 20000) n,
    LATERAL (SELECT n, gen_random_uuid() AS id OFFSET 0) i,
        LATERAL jsonb_populate_record(NULL::underway_internal.archive, to_jsonb(a) || jsonb_build_object('id', i.id,
        'key', NULL)) r;
SELECT cardinality(underway.enqueue_many('external', array_fill('1'::jsonb, '{5000}')));
ANALYZE underway_internal.archive, underway_internal.task;
CREATE FUNCTION reads(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF line ~ 'Seq Scan on (archive_0|task) ' THEN
            RETURN NEXT btrim(line);
        END IF;
    END LOOP;
END $$;
SELECT * FROM reads(format('SELECT * FROM underway.tasks WHERE id = %L', :'running'));
SELECT DISTINCT * FROM reads(format('SELECT count(*) FROM underway.attempts WHERE task_id = %L', :'running'));
-- The same for a role that has only enqueued it.
CREATE ROLE regress_enqueuer;
SELECT underway.grant_queue('q', 'regress_enqueuer');
SET ROLE regress_enqueuer;
SELECT underway.enqueue('q', '"mine"') AS mine \gset
SELECT state FROM test.ends(:'mine');
SELECT count(*) FROM underway.attempts WHERE task_id = :'mine';
SELECT * FROM reads(format('SELECT * FROM underway.tasks WHERE id = %L', :'mine'));
SELECT DISTINCT * FROM reads(format('SELECT count(*) FROM underway.attempts WHERE task_id = %L', :'mine'));
RESET ROLE;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
DROP ROLE regress_enqueuer;
