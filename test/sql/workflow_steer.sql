-- Steering runs: cancel, pause, resume, park and retry, fork, deadlines; what why() says of each; what single steps refuse.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION later() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 3, initial_interval => '1 hour', max_interval => '1 hour', jitter => 0) $$;
-- Effects of steps that committed; faults that a step is to have; gates that hold a step until they are opened.
CREATE TABLE effect (n int GENERATED ALWAYS AS IDENTITY, step text, run uuid DEFAULT underway.run_id());
CREATE TABLE fault (what jsonb);
CREATE FUNCTION acts(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM fault WHERE what = input) THEN
        RAISE EXCEPTION 'a fault';
    END IF;
    INSERT INTO effect (step) VALUES (trim(both '"' FROM input::text));
    RETURN input;
END $$;
CREATE FUNCTION held(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(4712);
    RETURN acts(input);
END $$;
CREATE FUNCTION effects(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(step, ' ' ORDER BY n) FROM effect WHERE effect.run = effects.run $$;
-- Times, ids and processes are not the same each time.
CREATE FUNCTION says(run uuid) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(underway.why(run), '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+\d+', '<time>', 'g'),
        '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<id>', 'g'), '(background worker \d+|external worker) \(pid \d+\)', '<worker>', 'g'), '(\d+ days )?\d+:\d\d:\d\d(\.\d+)?', '<span>', 'g')
$$;
CREATE FUNCTION anonymous(line text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(line, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<id>', 'g') $$;
CREATE FUNCTION state(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT s.state FROM underway.status(run) s $$;
CREATE FUNCTION becomes(run uuid, wanted text) RETURNS text LANGUAGE sql AS $$
    SELECT test.until(format('state(%L) = %L', run, wanted));
    SELECT state(run)
$$;
CREATE FUNCTION at(run uuid, step text, outcome text) RETURNS bool LANGUAGE sql AS $$
    SELECT test.until(format('EXISTS (SELECT FROM underway.history(%L) h WHERE h.step = %L AND h.outcome = %L)', run, step, outcome));
    SELECT true
$$;
CREATE FUNCTION obeyed(run uuid) RETURNS bool LANGUAGE sql AS $$
    SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = %L)', run));
    SELECT true
$$;
CREATE VIEW hot AS SELECT (SELECT count(*) FROM underway_internal.task WHERE step IS NOT NULL) AS tasks, (SELECT count(*) FROM underway_internal.run) AS runs,
    (SELECT count(*) FROM underway_internal.step_result) AS results, (SELECT count(*) FROM underway_internal.run_control) AS asked;
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('waits', ARRAY[underway.step('a', 'acts', input => '"a"'), underway.wait('w', timeout => '1 day'), underway.step('b', 'acts')]);
SELECT underway.create_workflow('held', ARRAY[underway.step('a', 'held', input => '"a"'), underway.step('b', 'acts', input => '"b"', retry => later()), underway.step('c', 'acts', input => '"c"')]);
SELECT underway.create_workflow('out', ARRAY[underway.step('x', queue => 'outside'), underway.step('b', 'acts', input => '"b"')]);

-- Pause: nothing begins; a signal waits too, and comes before a timeout that passed meanwhile.
SELECT underway.start('waits') AS run \gset
SELECT at(:'run', 'w', 'waiting'), says(:'run');
SELECT underway.pause(:'run');
SELECT becomes(:'run', 'paused'), obeyed(:'run'), says(:'run');
SELECT underway.pause(:'run'), underway.signal(:'run', 'w', '"go"');
SELECT underway.set_clock(underway_internal.clock() + interval '2 days') IS NOT NULL;
SELECT state(:'run'), effects(:'run'), (SELECT reason FROM underway.status(:'run'));
SELECT underway.resume(:'run');
SELECT state, output, effects(:'run') FROM test.ends(:'run');
SELECT underway.set_clock(NULL) IS NOT NULL;
-- What is in progress ends, and its output counts. What failed meanwhile is not tried again before.
SELECT pg_advisory_lock(4712);
INSERT INTO fault VALUES ('"r"');
SELECT underway.create_workflow('retried', ARRAY[underway.step('a', 'held', input => '"r"', retry => underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0)), underway.step('b', 'acts', input => '"b"')]);
SELECT underway.start('held') AS run \gset
SELECT underway.start('retried') AS other \gset
SELECT at(:'run', 'a', 'in_progress'), at(:'other', 'a', 'in_progress');
SELECT underway.pause(:'run'), underway.pause(:'other');
SELECT becomes(:'run', 'paused'), becomes(:'other', 'paused'), says(:'run');
SELECT pg_advisory_unlock(4712);
SELECT at(:'run', 'a', 'succeeded'), obeyed(:'run'), effects(:'run'), says(:'run');
SELECT at(:'other', 'a', 'failed'), obeyed(:'other'), says(:'other');
DELETE FROM fault;
-- Last one wins.
BEGIN;
SELECT underway.resume(:'run'), underway.pause(:'run');
COMMIT;
SELECT obeyed(:'run'), state(:'run'), underway.resume(:'run'), underway.resume(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT underway.resume(:'other');
SELECT state, effects(:'other') FROM test.ends(:'other');
SELECT underway.start('waits') AS run \gset
SELECT at(:'run', 'w', 'waiting');
BEGIN;
SELECT underway.pause(:'run'), underway.resume(:'run');
COMMIT;
SELECT obeyed(:'run'), state(:'run'), underway.resume(:'run');
-- An external worker may complete what it holds; what comes next waits.
SELECT underway.start('out') AS ext \gset
SELECT says(:'ext');
SELECT lease FROM underway.dequeue('outside', worker => 'courier') \gset
SELECT underway.pause(:'ext');
SELECT becomes(:'ext', 'paused'), says(:'ext');
SELECT underway.complete(:'lease', '"done"');
SELECT obeyed(:'ext'), effects(:'ext'), state(:'ext');
SELECT underway.resume(:'ext');
SELECT state, effects(:'ext') FROM test.ends(:'ext');
-- A lease that is let go of while the run is paused is not given out again.
SELECT underway.start('out') AS ext \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT underway.pause(:'ext');
SELECT becomes(:'ext', 'paused'), underway.release(:'lease');
SELECT obeyed(:'ext'), (SELECT count(*) FROM underway.dequeue('outside')), underway.resume(:'ext');
SELECT obeyed(:'ext');
SELECT lease FROM underway.dequeue('outside') \gset

-- Cancel: waiting, in progress, with a lease, before its step may run since the queue is paused.
SELECT underway.cancel(:'run', 'no longer needed'), underway.cancel(:'ext');
SELECT state, reason, error, effects(:'run'), says(:'run') FROM test.ends(:'run');
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT says(:'ext');
SELECT underway.fail(:'lease', 'stopped');
SELECT state, error FROM test.ends(:'ext');
SELECT underway.cancel(:'ext'), underway.cancel(:'ext', undo => false);
SELECT pg_advisory_lock(4712);
SELECT underway.start('held') AS run \gset
SELECT at(:'run', 'a', 'in_progress'), underway.cancel(:'run');
SELECT state, error, effects(:'run') FROM test.ends(:'run');
SELECT pg_advisory_unlock(4712);
SELECT underway.pause_queue('waits');
SELECT underway.start('waits') AS run \gset
SELECT says(:'run'), underway.cancel(:'run');
SELECT state, says(:'run') FROM test.ends(:'run');
SELECT underway.resume_queue('waits');
-- Paused, and parked.
INSERT INTO fault VALUES ('"p"');
SELECT underway.create_workflow('parks', ARRAY[underway.step('a', 'acts', input => '"a"'), underway.step('p', 'acts', input => '"p"', retry => once(), on_failure => 'park'), underway.step('z', 'acts', input => '"z"')]);
SELECT underway.start('waits') AS run \gset
SELECT underway.start('parks') AS other \gset
SELECT at(:'run', 'w', 'waiting'), underway.pause(:'run');
SELECT becomes(:'run', 'paused'), becomes(:'other', 'parked');
SELECT says(:'other');
SELECT underway.cancel(:'run'), underway.cancel(:'other');
SELECT state, error FROM test.ends(:'run') UNION ALL SELECT state, error FROM test.ends(:'other');
-- All items of a map; ended otherwise.
SELECT pg_advisory_lock(4712);
SELECT underway.create_workflow('maps', ARRAY[underway.map('m', 'held', concurrency => 2, retry => once()), underway.step('sum', 'acts')]);
SELECT underway.start('maps', '["1", "2", "3", "4"]') AS run \gset
SELECT test.until(format('(SELECT count(*) = 2 FROM underway.history(%L) h WHERE h.outcome = ''in_progress'')', :'run'));
SELECT says(:'run') LIKE 'running: step "m" (item 0) is in progress: %; step "m" (item 1) is in progress: %; map "m" has 4 of 4 items left', underway.cancel(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT pg_advisory_unlock(4712);
-- With all workers busy.
SELECT pg_advisory_lock(4712);
SELECT underway.start('held') AS run \gset
SELECT count(underway.start('held')) FROM generate_series(1, 10);
SELECT at(:'run', 'a', 'in_progress');
SELECT test.until('(SELECT count(*) = 4 FROM underway_internal.workers() WHERE state = ''busy'')');
SELECT underway.start('waits') AS other \gset
SELECT regexp_replace(says(:'other'), '4 of 4 workers( of this database)?', '4 of 4 workers'), underway.cancel(:'other');
SELECT state, effects(:'other') FROM test.ends(:'other');
SELECT underway.drop_workflow('held', force => true);
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.run)');
SELECT pg_advisory_unlock(4712);
SELECT underway.create_workflow('held', ARRAY[underway.step('a', 'held', input => '"a"'), underway.step('b', 'acts', input => '"b"', retry => later()), underway.step('c', 'acts', input => '"c"')]);
SELECT test.until('(SELECT tasks + runs + results + asked = 0 FROM hot)');

-- Retry. A parked run; one that failed, which keeps what it has; one that was cancelled.
SELECT underway.start('parks') AS run \gset
SELECT underway.start('parks') AS other \gset
SELECT becomes(:'run', 'parked'), becomes(:'other', 'parked');
SELECT underway.retry(:'run');
SELECT obeyed(:'run'), becomes(:'run', 'parked');
DELETE FROM fault;
SELECT underway.retry(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT underway.cancel(:'other');
SELECT state FROM test.ends(:'other');
SELECT underway.retry(:'other');
SELECT state, effects(:'other') FROM test.ends(:'other');
SELECT step, outcome, attempt, error FROM underway.history(:'run');
SELECT count(*), string_agg(state, ' ' ORDER BY finished_at) FROM underway_internal.run_archive WHERE id = :'other';
-- With a key: its own, or gone to another.
INSERT INTO fault VALUES ('"b"'), ('"3"');
SELECT underway.create_workflow('fails', ARRAY[underway.step('a', 'acts', input => '"a"'), underway.step('b', 'acts', input => '"b"', retry => once()), underway.step('c', 'acts', input => '"c"')]);
SELECT underway.start('fails', '{"x": 1}', key => 'k', headers => '{"h": 1}', group_key => 'g') AS run \gset
SELECT state, error, says(:'run') FROM test.ends(:'run');
DELETE FROM fault WHERE what = '"b"';
SELECT underway.retry(:'run');
SELECT state, output, effects(:'run') FROM test.ends(:'run');
SELECT underway.start('fails', key => 'k') = :'run', (SELECT input FROM underway.status(:'run'));
SELECT headers, group_key, key FROM underway_internal.run_archive WHERE id = :'run' AND state = 'succeeded';
-- Where only failed runs are kept, one that was retried and has succeeded is known no more.
SELECT underway.create_workflow('failures', ARRAY[underway.step('d', 'acts', input => '"d"', retry => once())], keep => 'failed');
INSERT INTO fault VALUES ('"d"');
SELECT underway.start('failures', key => 'f') AS run \gset
SELECT state FROM test.ends(:'run');
SELECT count(*), min(state), min(id::text) = :'run' FROM underway.runs WHERE workflow = 'failures';
DELETE FROM fault WHERE what = '"d"';
SELECT underway.retry(:'run');
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.run WHERE id = %L)', :'run'));
SELECT test.errors(format('SELECT underway.retry(%L)', :'run'), format('SELECT underway.why(%L)', :'run'), format('SELECT underway.fork(%L, ''d'')', :'run'));
SELECT count(*) FROM underway.status(:'run');
SELECT count(*) FROM underway.runs WHERE workflow = 'failures';
SELECT underway.find_run('failures', 'f') IS NULL;
SELECT effects(:'run');
-- Of a map, only the items that failed.
SELECT underway.create_workflow('one by one', ARRAY[underway.map('m', 'acts', concurrency => 1, retry => once()), underway.step('sum', 'acts')]);
SELECT underway.start('one by one', '["1", "2", "3", "4"]') AS run \gset
SELECT state, error, effects(:'run') FROM test.ends(:'run');
DELETE FROM fault;
SELECT underway.retry(:'run');
SELECT state, output FROM test.ends(:'run');
SELECT step, count(*) FROM effect WHERE run = :'run' GROUP BY step ORDER BY step;
-- A step between two attempts is due now.
INSERT INTO fault VALUES ('"b"');
SELECT underway.start('held') AS run \gset
SELECT test.until(format('underway.why(%L) LIKE ''%%retry after failure%%''', :'run'));
SELECT says(:'run');
DELETE FROM fault;
SELECT underway.retry(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');
-- What was undone begins again, with all that comes after it; what was left does not.
INSERT INTO fault VALUES ('"d"');
CREATE FUNCTION lasts(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (step) VALUES (input ->> 'state') $$;
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (step) VALUES ('-' || trim(both '"' FROM input::text)) $$;
SELECT underway.create_workflow('undone', ARRAY[underway.step('a', 'acts', input => '"a"'), underway.step('b', 'acts', input => '"b"', undo => 'undoes'), underway.step('c', 'acts', input => '"c"'),
    underway.step('d', 'acts', input => '"d"', retry => once()), underway.finally('f', 'lasts')]);
SELECT underway.start('undone') AS run \gset
SELECT state, effects(:'run') FROM test.ends(:'run');
DELETE FROM fault;
SELECT underway.retry(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');

-- Fork: what comes before is taken over; a run that goes on, one that succeeded, one that failed.
SELECT underway.start('waits', '{"x": 1}') AS run \gset
SELECT at(:'run', 'w', 'waiting');
SELECT underway.fork(:'run', 'a', '"other"') AS fork \gset
SELECT at(:'fork', 'w', 'waiting'), underway.signal(:'fork', 'w');
SELECT state, output, effects(:'fork'), effects(:'run') FROM test.ends(:'fork');
SELECT step, outcome, input FROM underway.history(:'fork');
SELECT underway.fork(:'run', 'w') AS fork \gset
SELECT says(:'fork'), underway.signal(:'fork', 'w', '"s"');
SELECT state, output, effects(:'fork') FROM test.ends(:'fork');
SELECT underway.fork(:'fork', 'b') AS again \gset
SELECT state, output, effects(:'again') FROM test.ends(:'again');
SELECT underway.cancel(:'run');
SELECT state FROM test.ends(:'run');
SELECT underway.fork(:'run', 'a') AS fork \gset
SELECT at(:'fork', 'w', 'waiting'), effects(:'fork'), (SELECT input FROM underway.status(:'fork'));
SELECT underway.cancel(:'fork');
SELECT state FROM test.ends(:'fork');
-- Branches: one that had not succeeded begins too, and step_outputs() has the items of a map that was taken over.
INSERT INTO fault VALUES ('"right"');
CREATE FUNCTION counts(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('items', (SELECT count(*) FROM underway.step_outputs('left')), 'right', underway.step_output('right')) $$;
SELECT underway.create_workflow('branches', ARRAY[underway.step('a', 'acts', input => '"a"'), underway.map('left', 'acts', items => '$run.items[*]', after => '{a}'),
    underway.step('right', 'acts', after => '{a}', input => '"right"', retry => once()), underway.step('join', 'counts', after => '{left,right}')]);
SELECT underway.start('branches', '{"items": ["1", "2"]}') AS run \gset
SELECT state, error FROM test.ends(:'run');
DELETE FROM fault;
SELECT underway.fork(:'run', 'right') AS fork \gset
SELECT state, output FROM test.ends(:'fork');
SELECT underway.fork(:'fork', 'join') AS again \gset
SELECT state, output, effects(:'again') FROM test.ends(:'again');
-- What the fork took over is not the fork's to undo.
INSERT INTO fault VALUES ('"d"');
SELECT underway.start('undone') AS run \gset
SELECT state FROM test.ends(:'run');
DELETE FROM fault;
SELECT underway.retry(:'run');
SELECT state FROM test.ends(:'run');
INSERT INTO fault VALUES ('"d"');
SELECT underway.fork(:'run', 'c') AS fork \gset
SELECT state, effects(:'fork') FROM test.ends(:'fork');
DELETE FROM fault;

-- A step asks it of its own run: nothing comes after it, also when that would have been begun in the same commit.
CREATE FUNCTION asks(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM acts(input);
    IF input ->> 'ask' = 'pause' THEN
        RETURN underway.pause(underway.run_id());
    END IF;
    RETURN underway.cancel(underway.run_id());
END $$;
SELECT underway.create_workflow('asks', ARRAY[underway.step('a', 'asks'), underway.step('b', 'acts', input => '"b"'), underway.step('c', 'acts', input => '"c"')]);
SELECT underway.start('asks', '{"ask": "pause"}') AS run \gset
SELECT becomes(:'run', 'paused'), test.until('NOT EXISTS (SELECT FROM underway_internal.run_control)');
SELECT step, outcome, attempt FROM underway.history(:'run');
SELECT underway.resume(:'run');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT underway.start('asks', '{"ask": "cancel"}') AS run \gset
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT step, outcome, attempt FROM underway.history(:'run');

-- Deadlines: of start, of the workflow; a run that is paused is ended, one that is parked is not, and has its time anew.
INSERT INTO fault VALUES ('"p"');
SELECT underway.create_workflow('timed', ARRAY[underway.step('a', 'acts', input => '"a"', undo => 'undoes'), underway.wait('w')], run_timeout => '1 day');
SELECT underway.start('timed') AS run \gset
SELECT underway.start('timed', timeout => '1 hour') AS early \gset
SELECT underway.start('timed', timeout => '3 hours') AS paused \gset
SELECT underway.start('parks', timeout => '3 hours') AS parked \gset
SELECT underway.start('timed', delay => '1 day') AS late \gset
SELECT at(:'run', 'w', 'waiting'), at(:'early', 'w', 'waiting'), at(:'paused', 'w', 'waiting'), underway.pause(:'paused');
SELECT becomes(:'paused', 'paused'), becomes(:'parked', 'parked');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL;
SELECT state, reason, sqlstate, error, effects(:'early') FROM test.ends(:'early');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL;
SELECT state, reason, error, effects(:'paused') FROM test.ends(:'paused');
SELECT state(:'run'), state(:'parked'), state(:'late');
DELETE FROM fault;
SELECT underway.retry(:'early');
SELECT at(:'early', 'w', 'waiting'), effects(:'early');
SELECT underway.retry(:'parked');
SELECT state, effects(:'parked') FROM test.ends(:'parked');
SELECT underway.set_clock(underway_internal.clock() + interval '22 hours') IS NOT NULL;
SELECT state, reason FROM test.ends(:'run') UNION ALL SELECT state, reason FROM test.ends(:'early');
SELECT at(:'late', 'w', 'waiting'), underway.cancel(:'late');
SELECT state FROM test.ends(:'late');
-- A delay is not in the timeout, however often the run is retried.
SELECT underway.start('timed', delay => '5 hours', timeout => '1 hour') AS delayed \gset
SELECT underway.set_clock(underway_internal.clock() + interval '7 hours') IS NOT NULL;
SELECT error FROM test.ends(:'delayed');
SELECT underway.retry(:'delayed');
SELECT at(:'delayed', 'w', 'waiting');
SELECT deadline - underway_internal.clock() BETWEEN '0' AND '1 hour' FROM underway.runs WHERE id = :'delayed';
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL;
SELECT error FROM test.ends(:'delayed');
SELECT underway.retry(:'delayed');
SELECT deadline - underway_internal.clock() BETWEEN '0' AND '1 hour' FROM underway.runs WHERE id = :'delayed';
SELECT underway.cancel(:'delayed') IS NOT NULL;
SELECT state FROM test.ends(:'delayed');
SELECT underway.set_clock(NULL) IS NOT NULL;

-- Single steps: cancelled, their policy applies; the rest is a matter of the run. Emptying and redriving leave them alone.
SELECT underway.create_workflow('skips', ARRAY[underway.step('x', queue => 'outside', on_failure => 'skip'), underway.step('b', 'acts', input => '"b"')]);
SELECT underway.start('skips') AS run \gset
SELECT task_id FROM underway.history(:'run') \gset
SELECT anonymous(test.errors(format('SELECT underway.pause(%L)', :'task_id'), format('SELECT underway.resume(%L)', :'task_id'), format('SELECT underway.retry(%L)', :'task_id')));
SELECT says(:'task_id');
SELECT underway.create_workflow('kinds', ARRAY[underway.wait('w', after => '{}'), underway.sleep('s', '1 day', after => '{}'), underway.map('m', queue => 'outside', input => '[1]', after => '{}'),
    underway.child('c', 'waits', after => '{}')]);
SELECT underway.start('kinds') AS kinds \gset
SELECT at(:'kinds', 'm', 'waiting');
SELECT step, says(task_id) FROM underway.history(:'kinds') ORDER BY step, item;
SELECT right(says(:'kinds'), 15), underway.cancel(:'kinds') IN ('running', 'waiting');
SELECT state FROM test.ends(:'kinds');
SELECT underway.purge_queue('outside'), underway.redrive('outside');
SELECT underway.cancel(:'task_id');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT anonymous(test.errors(format('SELECT underway.retry(%L)', :'task_id')));
SELECT underway.start('skips') AS run \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT underway.fail(:'lease', 'no', retryable => false);
SELECT state FROM test.ends(:'run');
SELECT underway.redrive('outside');
SELECT pg_advisory_lock(4712);
SELECT underway.start('maps', '["1", "2", "3"]') AS run \gset
SELECT test.until(format('(SELECT count(*) = 2 FROM underway.history(%L) h WHERE h.outcome = ''in_progress'')', :'run'));
SELECT task_id FROM underway.history(:'run') WHERE item IS NULL \gset
SELECT underway.cancel(:'task_id'), pg_advisory_unlock(4712);
SELECT state, error FROM test.ends(:'run');

-- A workflow that is dropped: its runs end, whatever they were at.
SELECT underway.start('timed') AS run \gset
SELECT underway.start('timed') AS other \gset
SELECT at(:'run', 'w', 'waiting'), at(:'other', 'w', 'waiting'), underway.pause(:'other');
SELECT becomes(:'other', 'paused');
SELECT anonymous(test.errors('SELECT underway.drop_workflow(''timed'')'));
SELECT underway.drop_workflow('timed', force => true);
SELECT state, error, effects(:'run') FROM test.ends(:'run') UNION ALL SELECT state, error, effects(:'other') FROM test.ends(:'other');
SELECT underway.start('out') AS ext \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT underway.drop_workflow('out', force => true);
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT underway.complete(:'lease');
SELECT state, effects(:'ext') FROM test.ends(:'ext');
SELECT test.until('(SELECT tasks + runs + results + asked = 0 FROM hot)');
-- A run inside a run; a map that is skipped when it is cancelled.
SELECT underway.create_workflow('above', ARRAY[underway.child('c', 'waits')]);
SELECT underway.start('above') AS run \gset
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.run r WHERE r.parent = %L)', :'run'));
SELECT id AS child FROM underway_internal.run WHERE parent = :'run' \gset
SELECT at(:'child', 'w', 'waiting'), says(:'run'), says(:'child');
SELECT task_id FROM underway.history(:'run') \gset
SELECT underway.cancel(:'task_id', 'not that one');
SELECT state, error FROM test.ends(:'run') UNION ALL SELECT state, error FROM test.ends(:'child');
SELECT underway.start('above') AS run \gset
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.run r WHERE r.parent = %L)', :'run'));
SELECT underway.pause_queue('above');
SELECT underway.cancel(:'run');
SELECT state FROM test.ends(:'run');
SELECT underway.resume_queue('above');
SELECT underway.create_workflow('skipped', ARRAY[underway.map('m', queue => 'outside', on_failure => 'skip'), underway.step('b', 'acts', input => '"b"')]);
SELECT underway.start('skipped', '[1, 2]') AS run \gset
SELECT test.until(format('(SELECT count(*) = 2 FROM underway.history(%L) h WHERE h.outcome = ''pending'')', :'run'));
SELECT task_id FROM underway.history(:'run') WHERE item IS NULL \gset
SELECT underway.cancel(:'task_id');
SELECT state, effects(:'run') FROM test.ends(:'run');
SELECT count(*) FROM underway.dequeue('outside', 10);
SELECT test.until('(SELECT tasks + runs + results + asked = 0 FROM hot)');

-- Errors.
INSERT INTO fault VALUES ('"p"');
SELECT underway.start('parks') AS parked \gset
SELECT underway.start('waits') AS waits \gset
SELECT becomes(:'parked', 'parked'), at(:'waits', 'w', 'waiting');
SELECT underway.start('fails') AS good \gset
SELECT state FROM test.ends(:'good');
SELECT anonymous(test.errors(format('SELECT underway.cancel(%L)', :'good'), format('SELECT underway.retry(%L)', :'good'), format('SELECT underway.pause(%L)', :'good'),
    format('SELECT underway.resume(%L)', :'good'), format('SELECT underway.pause(%L)', :'parked'), format('SELECT underway.resume(%L)', :'parked'),
    format('SELECT underway.retry(%L)', :'waits'), format('SELECT underway.retry(%L)', :'ext'), format('SELECT underway.fork(%L, ''x'')', :'ext'),
    format('SELECT underway.fork(%L, ''b'')', :'waits'), format('SELECT underway.fork(%L, ''nothing'')', :'good'), format('SELECT underway.fork(%L, NULL)', :'good'),
    format('SELECT underway.fork(%L, ''f'')', :'run'), 'SELECT underway.fork(NULL, ''a'')', 'SELECT underway.fork(gen_random_uuid(), ''a'')',
    'SELECT underway.cancel(gen_random_uuid())', format('SELECT underway.cancel(%L, repeat(''x'', 9000))', :'waits'), 'SELECT underway.why(gen_random_uuid())'));
-- Rights: who started it, or who has manage; for work anew, enqueue too.
SET client_min_messages = warning;
DROP ROLE IF EXISTS starter, manager, stranger;
RESET client_min_messages;
CREATE ROLE starter;
CREATE ROLE manager;
CREATE ROLE stranger;
SELECT underway.grant_queue('waits', 'starter'), underway.grant_queue('waits', 'manager', '{manage}'), underway.grant_queue('waits', 'stranger', '{see}');
SET ROLE starter;
SELECT underway.start('waits') AS run \gset
SELECT at(:'run', 'w', 'waiting');
SELECT underway.pause(:'run'), underway.resume(:'run');
RESET ROLE;
SELECT obeyed(:'run');
SET ROLE stranger;
SELECT anonymous(test.errors(format('SELECT underway.pause(%L)', :'run'), format('SELECT underway.resume(%L)', :'run'), format('SELECT underway.retry(%L)', :'run'),
    format('SELECT underway.cancel(%L)', :'run'), format('SELECT underway.fork(%L, ''a'')', :'run'), format('SELECT underway.cancel(%L)', :'parked'), format('SELECT underway.why(%L)', :'parked')));
SELECT says(:'run') <> '';
SET ROLE manager;
SELECT underway.cancel(:'run', 'by the manager');
SELECT state, error FROM test.ends(:'run');
RESET ROLE;
SELECT underway.revoke_queue('waits', 'starter');
SET ROLE starter;
SELECT anonymous(test.errors(format('SELECT underway.retry(%L)', :'run')));
RESET ROLE;
SELECT underway.revoke_queue('waits', 'manager', '{manage}'), underway.revoke_queue('waits', 'stranger', '{see}');
DROP ROLE starter, manager, stranger;
