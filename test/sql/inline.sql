-- run_inline: what a transaction has enqueued and started, worked in it, for tests.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE effect (what text, who text DEFAULT current_user, at timestamptz DEFAULT now());
GRANT INSERT, SELECT ON effect TO PUBLIC;
CREATE FUNCTION notes(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (input #>> '{}');
    RETURN input;
END $$;
-- Fails as often as its input says.
CREATE FUNCTION fails(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (format('attempt %s', underway.attempt()));
    IF underway.attempt() <= input::int THEN
        RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = format('broken %s', underway.attempt()), HINT = 'Mend it.';
    END IF;
    RETURN to_jsonb(underway.attempt());
END $$;
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
SELECT underway.create_queue('q', 'notes'), underway.create_queue('fails', 'fails', retry => underway.retry_policy(max_attempts => 3, initial_interval => '1 hour', max_interval => '1 day')),
    underway.create_queue('external');

-- Tasks: in the order of priority and due time; retries and delays take no time. Then nothing of it is left.
SELECT test.digest() AS before \gset
BEGIN;
SELECT underway.enqueue('q', '"later"', delay => '1 year'), underway.enqueue('q', '"second"'), underway.enqueue('q', '"first"', priority => 1),
    underway.enqueue('fails', '2') AS mends, underway.enqueue('fails', '3') AS fails, underway.enqueue('external') AS outside \gset
SELECT r.queue, t.input, r.step, r.state, r.error, r.id = t.id AS id FROM underway.run_inline() WITH ORDINALITY r
    JOIN underway.tasks t ON t.id = r.id ORDER BY r.ordinality;
SELECT what FROM effect;
SELECT attempt, outcome, sqlstate, error, hint, worker LIKE 'run_inline (pid %)' AS worker, round(extract(epoch FROM retry_at - ended_at) / 3600) BETWEEN 0 AND 3 AS later
    FROM underway.attempts WHERE task_id = :'fails' ORDER BY attempt;
SELECT state, failures, output, finished_at - enqueued_at > '10 min' AS later FROM underway.status(:'mends');
SELECT count(*) FROM underway.run_inline();
ROLLBACK;
SELECT test.digest() = :'before' AS nothing_left, (SELECT count(*) FROM effect) AS effects,
    underway_internal.clock() - clock_timestamp() < '1 s' AS time_is_back;

-- What a handler finds: its context, its owner and its queue's settings; its session settings and errors end with it.
CREATE ROLE inline_owner LOGIN;
CREATE ROLE inline_member IN ROLE inline_owner;
CREATE ROLE inline_other;
CREATE SCHEMA theirs AUTHORIZATION inline_owner;
GRANT CREATE ON DATABASE :DBNAME TO inline_owner;
SET ROLE inline_owner;
CREATE FUNCTION theirs.tells(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    SET work_mem = '3MB';
    PERFORM set_config('my.own', 'left behind', false);
    CREATE TEMP TABLE leftover (n int) ON COMMIT DROP;
    DROP TABLE leftover;
    PERFORM underway.progress('{"half": true}');
    RETURN jsonb_build_object('user', current_user, 'task', underway.task_id() IS NOT NULL, 'attempt', underway.attempt(), 'last', underway.last_attempt(),
        'headers', underway.headers(), 'maintenance_work_mem', current_setting('maintenance_work_mem'), 'run', underway.run_id());
END $$;
CREATE FUNCTION theirs.climbs(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET ROLE %I', input #>> '{}');
    RETURN to_jsonb(current_user);
END $$;
CREATE FUNCTION theirs.resets() RETURNS void LANGUAGE plpgsql AS 'BEGIN RESET SESSION AUTHORIZATION; END';
SELECT underway.create_queue('tells', 'theirs.tells', settings => '{"maintenance_work_mem": "17MB"}', retry => public.once());
SELECT underway.create_queue('climbs', 'theirs.climbs', retry => public.once()), underway.create_queue('resets', 'theirs.resets', retry => public.once());
SELECT underway.grant_queue('tells', 'inline_other');
RESET ROLE;
BEGIN;
SELECT underway.enqueue('tells', headers => '{"h": 1}') AS task \gset
SELECT underway.enqueue('climbs', '"postgres"'), underway.enqueue('climbs', '"inline_owner"'), underway.enqueue('resets') \gset ignored_
SELECT queue, state, error FROM underway.run_inline();
SELECT output FROM underway.status(:'task');
SELECT current_user, current_setting('work_mem'), current_setting('maintenance_work_mem') <> '17MB' AS own_settings, current_setting('my.own', true), underway.task_id();
ROLLBACK;
SET ROLE inline_member;
BEGIN;
SELECT underway.enqueue('tells') AS task \gset
SELECT queue, state FROM underway.run_inline();
SELECT output -> 'user' AS who FROM underway.status(:'task');
ROLLBACK;
RESET ROLE;
SET ROLE inline_other;
BEGIN;
SELECT underway.enqueue('tells') \gset ignored_
SELECT test.errors('SELECT underway.run_inline()');
-- A refusal changes nothing: the task is as it was.
SELECT state, attempt FROM underway.tasks;
ROLLBACK;
RESET ROLE;

-- Only what is this transaction's own is worked, however late it gets.
SELECT underway.pause_queue('q');
SELECT underway.enqueue('q', '"paused"') AS paused \gset

SELECT underway.enqueue('fails', '0', delay => '1 hour') AS committed \gset
BEGIN;
SELECT underway.enqueue('q', '"own"'), underway.enqueue('fails', '0', delay => '2 hours') \gset ignored_
SELECT queue, state, error FROM underway.run_inline();
SELECT state, attempt FROM underway.status(:'committed');
ROLLBACK;
SELECT underway.cancel(:'paused'), underway.cancel(:'committed');
SELECT underway.resume_queue('q');

-- Committed after all, what was not run is work for the workers; nothing stays in progress.
BEGIN;
SELECT underway.enqueue('q', '"inline"') AS first \gset
SELECT underway.enqueue('q', '"worker"') AS second \gset
SELECT queue, state FROM underway.run_inline(max_tasks => 1);
COMMIT;
SELECT id = :'first' AS first, state FROM (VALUES (:'first'::uuid), (:'second')) v(id), test.ends(v.id);
SELECT t.input, t.worker LIKE 'run_inline%' AS inline FROM underway.tasks t WHERE id IN (:'first', :'second') ORDER BY id;
TRUNCATE effect;

-- Decisions; errors that are not retried; queues that keep nothing.
CREATE FUNCTION decides(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN input = '"up"' THEN underway.give_up('enough')
        WHEN input = '"ever"' THEN underway.again('1 day') WHEN input::int < 3 THEN underway.again('1 day', to_jsonb(input::int + 1))
        WHEN input = '3' THEN underway.next('"done"') END;
END $$;
CREATE FUNCTION raises(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = input #>> '{}', MESSAGE = 'raised';
END $$;
SELECT underway.create_queue('decides', 'decides', retry => once()), underway.create_queue('raises', 'raises'), underway.create_queue('forgets', 'fails', keep => 'none', retry => once());
BEGIN;
SELECT underway.enqueue('decides', '1'), underway.enqueue('decides', '"up"'), underway.enqueue('decides', '3'), underway.enqueue('raises', '"UW010"'),
    underway.enqueue('forgets', '0'), underway.enqueue('forgets', '1') \gset ignored_
SELECT queue, state, error FROM underway.run_inline();
SELECT underway.enqueue('decides', '"ever"') AS ever \gset
SELECT queue, state, error FROM underway.run_inline(50);
SELECT snoozes FROM underway.tasks WHERE id = :'ever';
ROLLBACK;

-- Procedures run, as far as they commit nothing.
CREATE PROCEDURE works(input jsonb) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO effect VALUES ('procedure'); END $$;
CREATE PROCEDURE commits(input jsonb) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO effect VALUES ('committed'); COMMIT; END $$;
SELECT underway.create_queue('works', 'works'), underway.create_queue('commits', 'commits', retry => once());
BEGIN;
SELECT underway.enqueue('works') AS works, underway.enqueue('commits') AS commits \gset
SELECT queue, state, error FROM underway.run_inline();
SELECT hint FROM underway.status(:'commits');
SELECT what FROM effect;
ROLLBACK;

-- Deferred constraints: a handler's are its failure, the caller's are checked first, as at the commit before a worker sees the tasks; and
-- both may be broken for a while.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, checked int REFERENCES parent DEFERRABLE);
CREATE FUNCTION inserts(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO child VALUES (input::int);
    IF input::int < 10 THEN
        INSERT INTO parent VALUES (input::int);
    END IF;
END $$;
SELECT underway.create_queue('inserts', 'inserts', retry => once());
BEGIN;
INSERT INTO child VALUES (5);
SELECT underway.enqueue('inserts', '1'), underway.enqueue('inserts', '11'), underway.enqueue('inserts', '2') \gset ignored_
SAVEPOINT s;
SELECT queue, state FROM underway.run_inline();
ROLLBACK TO s;
INSERT INTO parent VALUES (5);
SELECT queue, state, error FROM underway.run_inline();
INSERT INTO child VALUES (6);
INSERT INTO parent VALUES (6);
SELECT array_agg(id ORDER BY id) FROM child;
INSERT INTO child (checked) VALUES (7);
ROLLBACK;

-- Workflows, from beginning to end: data, retries, sleeps, maps, conditions, joins; what a step may ask.
CREATE FUNCTION add(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(input::int + 1) $$;
CREATE FUNCTION items(input jsonb) RETURNS SETOF int LANGUAGE sql AS $$ SELECT generate_series(1, input::int) $$;
CREATE FUNCTION asks(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('got', input, 'run', underway.run_id() IS NOT NULL, 'input', underway.run_input(), 'a', underway.step_output('a'),
        'children', (SELECT sum(o.output::int) FROM underway.step_outputs('m') o)) $$;
SELECT underway.create_workflow('all', ARRAY[underway.step('a', 'add'), underway.sleep('night', '8 hours'), underway.step('b', 'fails'),
    underway.map('m', 'add', over => 'items', concurrency => 2), underway.step('never', 'add', run_if => '$.run > 100'),
    underway.step('left', 'notes', input => '"left"', after => '{m}'), underway.step('right', 'notes', input => '"right"', after => '{m}'),
    underway.step('join', 'asks', after => '{left,right}')]);
BEGIN;
SELECT underway.start('all', '1', key => 'k') AS run \gset
SELECT step, state, count(*), error FROM underway.run_inline() WITH ORDINALITY GROUP BY step, state, error ORDER BY min(ordinality);
SELECT state, output, finished_at - started_at > '8 hours' AS slept, extract(epoch FROM finished_at - clock_timestamp()) > 28000 AS ahead FROM underway.status(:'run');
SELECT step, item, kind, attempt, outcome FROM underway.history(:'run');
SELECT state FROM underway.runs WHERE id = underway.find_run('all', 'k');
ROLLBACK;
-- The same in the other isolation levels, behind a cursor, and in a function.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT underway.start('all', '1') AS run \gset
SELECT state, count(*) FROM underway.run_inline() GROUP BY state;
SELECT state, output FROM underway.status(:'run');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT underway.start('all', '1') AS run \gset
DECLARE c CURSOR FOR SELECT state FROM underway.run_inline();
FETCH 3 c;
SELECT state, output FROM underway.status(:'run');
ROLLBACK;
DO $$
DECLARE
    run uuid;
    n int;
BEGIN
    run := underway.start('all', '1');
    SELECT count(*) INTO n FROM underway.run_inline();
    RAISE NOTICE '% tasks, %', n, (SELECT state FROM underway.status(run));
    RAISE EXCEPTION 'all of it is undone';
EXCEPTION WHEN raise_exception THEN
    RAISE NOTICE '%, ahead: %, runs: %', SQLERRM, underway_internal.clock() - clock_timestamp() > '1 min', (SELECT count(*) FROM underway.runs);
END $$;

-- Signals: one that was sent is taken; without one the time passes, if there is a limit; else it waits.
SELECT underway.create_workflow('waits', ARRAY[underway.wait('approval', timeout => '3 days', on_timeout => 'continue'), underway.wait('payment'), underway.step('end', 'notes')]);
BEGIN;
SELECT underway.start('waits', '"w"') AS run \gset
SELECT step, state FROM underway.run_inline();
SELECT state, progress -> 'under_way' AS step FROM underway.status(:'run');
SELECT underway.signal(:'run', 'payment', '{"paid": 20}');
SELECT step, state FROM underway.run_inline();
SELECT state, output FROM underway.status(:'run');
SELECT underway.start('waits', '"w"') AS run \gset
SELECT underway.signal(:'run', 'approval', '"yes"'), underway.signal(:'run', 'payment', '"much"');
SELECT step, state FROM underway.run_inline();
SELECT output, finished_at - started_at < '1 min' AS at_once FROM underway.status(:'run');
ROLLBACK;

-- Not of a run that is committed: that one's workers take it, once this commits.
SELECT underway.start('waits', '"w"') AS run \gset
SELECT test.until(format('(SELECT state = ''waiting'' FROM underway.status(%L))', :'run'));
BEGIN;
SELECT underway.signal(:'run', 'approval');
SELECT step, state FROM underway.run_inline();
ROLLBACK;
SELECT underway.cancel(:'run');
SELECT state FROM test.ends(:'run');

-- External steps: the test is the worker. Time stands still until it has done its part.
CREATE FUNCTION asks_not(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
SELECT underway.create_workflow('outside', ARRAY[underway.step('pay', queue => 'external', undo_queue => 'external'), underway.wait('late', timeout => '1 hour', on_timeout => 'continue', after => '{}'),
    underway.map('mails', queue => 'external', items => '$[*]', concurrency => 1, after => '{pay}'), underway.step('end', 'asks_not', after => '{mails}')]);
BEGIN;
SELECT underway.start('outside', '"order"') AS run \gset
SELECT queue, step, state FROM underway.run_inline();
SELECT lease, step, input, attempt, last_attempt FROM underway.dequeue('external', 5, 'the test') \gset
SELECT :'step' AS step, :'input' AS input, underway.heartbeat(:'lease'), underway.lock_task(:'lease');
SELECT underway.fail(:'lease', 'no connection');
SELECT count(*) FROM underway.dequeue('external');
SELECT queue, step, state, error FROM underway.run_inline();
SELECT lease FROM underway.dequeue('external') \gset
SELECT underway.complete(:'lease', '["ann", "bob"]');
SELECT queue, step, state FROM underway.run_inline();
SELECT underway.complete(lease, input) FROM underway.dequeue('external', 5);
SELECT queue, step, state FROM underway.run_inline();
SELECT underway.complete_many(array_agg(lease), array_agg(input)) IS NOT NULL AS completed FROM underway.dequeue('external', 5);
SELECT queue, step, state FROM underway.run_inline();
SELECT state, output FROM underway.status(:'run');
SELECT test.errors(format('SELECT underway.complete(%L)', :'lease'));
ROLLBACK;
-- Without run_inline a lease still cannot be used in the transaction that took it; and with it, nothing that is committed can be had.
SELECT underway.enqueue('external', '"committed"') AS task \gset
BEGIN;
SELECT lease FROM underway.dequeue('external') \gset
SELECT test.errors(format('SELECT underway.complete(%L)', :'lease'));
ROLLBACK;
BEGIN;
SELECT count(*) FROM underway.run_inline();
SELECT count(*) FROM underway.dequeue('external');
ROLLBACK;
SELECT underway.cancel(:'task');

-- What ends runs: cancel, timeouts, undo, finally, child workflows, parking and retry.
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect VALUES ('undone ' || (input #>> '{}')) $$;
CREATE FUNCTION last(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect VALUES ('last ' || (input ->> 'state')) $$;
SELECT underway.create_workflow('ends', ARRAY[underway.step('a', 'notes', input => '"first"', undo => 'undoes'), underway.sleep('s', '1 day'),
    underway.step('b', 'fails', input => '"$run"', retry => once()), underway.finally('f', 'last')]);
SELECT underway.create_workflow('parent', ARRAY[underway.child('c', 'ends'), underway.step('end', 'notes')]);
SELECT underway.create_workflow('parks', ARRAY[underway.step('a', 'fails', retry => once(), on_failure => 'park')]);
BEGIN;
SELECT underway.start('ends', '1') AS run \gset
SELECT queue, step, state, error FROM underway.run_inline();
SELECT what FROM effect;
SELECT state, error FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.start('ends', '0', timeout => '1 hour') AS run \gset
SELECT queue, step, state FROM underway.run_inline();
SELECT what FROM effect;
SELECT state, reason, error FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.start('ends', '0', delay => '1 hour') AS run \gset
SELECT step, state FROM underway.run_inline(1);
SELECT underway.cancel(:'run', 'enough');
SELECT step, state FROM underway.run_inline();
SELECT what FROM effect;
SELECT state, error FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.start('ends', '0') AS run \gset
SELECT underway.pause(:'run');
SELECT step, state FROM underway.run_inline();
SELECT state FROM underway.status(:'run');
SELECT underway.resume(:'run');
SELECT step, state FROM underway.run_inline();
SELECT state FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.start('parent', '0') AS run \gset
SELECT queue, step, state FROM underway.run_inline();
SELECT state, output FROM underway.status(:'run');
SELECT underway.start('parent', '1') AS run \gset
SELECT queue, step, state, error FROM underway.run_inline();
SELECT state, error FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.start('parks', '1') AS run \gset
SELECT step, state, error FROM underway.run_inline();
SELECT state FROM underway.status(:'run');
SELECT underway.retry(:'run');
SELECT step, state, error FROM underway.run_inline();
SELECT state FROM underway.status(:'run');
ROLLBACK;

-- Savepoints: a rollback takes the tasks back, and the clock.
BEGIN;
SELECT underway.enqueue('q', '"first"', delay => '1 day') \gset ignored_
SELECT state FROM underway.run_inline();
SAVEPOINT s;
SELECT underway.enqueue('q', '"second"', delay => '10 days') \gset ignored_
SELECT state FROM underway.run_inline();
SELECT round(extract(epoch FROM underway_internal.clock() - clock_timestamp()) / 86400) AS days;
ROLLBACK TO s;
SELECT round(extract(epoch FROM underway_internal.clock() - clock_timestamp()) / 86400) AS days, array_agg(what) FROM effect;
ROLLBACK;

-- A definition that was rolled back is not taken for the one that gets its number.
SELECT underway.create_workflow('changes', ARRAY[underway.step('a', 'notes')]);
BEGIN;
SELECT underway.create_workflow('changes', ARRAY[underway.step('a', 'add')]);
SELECT underway.start('changes', '1') AS run \gset
SELECT state FROM underway.run_inline();
SELECT output FROM underway.status(:'run');
ROLLBACK;
BEGIN;
SELECT underway.create_workflow('changes', ARRAY[underway.step('a', 'asks_not')]);
SELECT underway.start('changes', '1') AS run \gset
SELECT state FROM underway.run_inline();
SELECT output FROM underway.status(:'run');
ROLLBACK;

-- What cannot run is left, and said.
CREATE FUNCTION goes(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
SELECT underway.create_queue('goes', 'goes');
BEGIN;
SELECT underway.enqueue('goes'), underway.enqueue('q', '"runs"') \gset ignored_
DROP FUNCTION goes(jsonb);
SELECT queue, state, error FROM underway.run_inline();
ROLLBACK;

-- A cancel of the statement ends it all, and is no failure of the task.
CREATE FUNCTION sleeps() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
SELECT underway.create_queue('sleeps', 'sleeps');
BEGIN;
SELECT underway.enqueue('sleeps') AS task \gset
SET LOCAL statement_timeout = '50 ms';
SAVEPOINT s;
SELECT underway.run_inline();
ROLLBACK TO s;
SET LOCAL statement_timeout = 0;
SELECT state, attempt, failures FROM underway.status(:'task');
ROLLBACK;

-- Not in a handler; arguments.
CREATE FUNCTION nests() RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(count(*)) FROM underway.run_inline()';
SELECT underway.create_queue('nests', 'nests', retry => once());
BEGIN;
SELECT underway.enqueue('nests') AS task \gset
SELECT state, error FROM underway.run_inline();
ROLLBACK;
SELECT underway.enqueue('nests') AS task \gset
SELECT state, sqlstate, error FROM test.ends(:'task');
SELECT test.errors('SELECT underway.run_inline(0)', 'SELECT underway.run_inline(NULL)');
SELECT count(*) FROM underway.run_inline();
DROP OWNED BY inline_owner, inline_member, inline_other CASCADE;
DROP ROLE inline_owner, inline_member, inline_other;
