-- Finally: runs however a run ends, after what is undone; it is told how; a cancel does not stop it.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE TABLE effect (n int GENERATED ALWAYS AS IDENTITY, what text, got jsonb);
CREATE FUNCTION effects(OUT what text, OUT got jsonb) RETURNS SETOF record LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM effect RETURNING *) SELECT what, got FROM gone ORDER BY n
$$;
CREATE FUNCTION does(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('does', input);
    IF input ->> 'fails' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = 'broken';
    END IF;
    RETURN input || '{"done": true}';
END $$;
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what, got) VALUES ('undoes', input) $$;
CREATE FUNCTION cleans(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('cleans', input);
    IF underway.run_input() ->> 'dirty' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX321', MESSAGE = 'too dirty';
    END IF;
    RETURN '"clean"';
END $$;
CREATE FUNCTION cancels(run uuid, undo bool DEFAULT true) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.cancel(run, undo => undo) $$;

SELECT underway.create_workflow('f', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', input => '"$run"', retry => once()),
    underway.finally('z', 'cleans', retry => once())]);
-- The run's output is that of its last step, not what finally gives.
SELECT underway.start('f', '{"n": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, kind, attempt, outcome, input, output FROM underway.history(:'run');
-- Failed: after the undo.
SELECT underway.create_workflow('g', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', input => '{"fails": "$run"}', retry => once()),
    underway.finally('z', 'cleans', retry => once())]);
SELECT underway.start('g', '{"n": 2}') AS run \gset
SELECT state, output, reason, sqlstate, error FROM test.ends(:'run');
SELECT * FROM effects();
-- Cancelled while it waits; before anything began.
SELECT underway.create_workflow('w', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.wait('b'), underway.finally('z', 'cleans')]);
SELECT underway.start('w', '{"n": 3}') AS run \gset
SELECT test.until(format('(SELECT state = ''waiting'' FROM underway.status(%L))', :'run'));
SELECT cancels(:'run');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.start('w', '{"n": 4}', delay => '1 day') AS run \gset
SELECT cancels(:'run');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
-- One that fails for good: a run that would have succeeded fails with it, and is not undone; one that failed keeps its error.
SELECT underway.start('f', '{"dirty": 5}') AS run \gset
SELECT state, output, reason, sqlstate, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.start('g', '{"dirty": 6}') AS run \gset
SELECT state, output, reason, sqlstate, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, kind, attempt, outcome, sqlstate, error FROM underway.history(:'run');
-- It is retried; on_failure of the workflow is for the other steps.
CREATE FUNCTION cleans_late(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF underway.attempt() < 3 THEN
        RAISE 'not yet';
    END IF;
END $$;
SELECT underway.create_workflow('late', ARRAY[underway.step('a', 'does'), underway.finally('z', 'cleans_late', retry => underway.retry_policy(initial_interval => '0'))], on_failure => 'park');
SELECT underway.start('late', '{"n": 7}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, error FROM underway.history(:'run');
SELECT underway.create_workflow('late', ARRAY[underway.step('a', 'does'), underway.finally('z', 'cleans', retry => once())], on_failure => 'park');
SELECT underway.start('late', '{"dirty": 8}') AS run \gset
SELECT state, error FROM test.ends(:'run');
TRUNCATE effect;
-- finish() leads to it too; it may not say what comes next.
CREATE FUNCTION finishes(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.finish('"early"') $$;
SELECT underway.create_workflow('early', ARRAY[underway.step('a', 'finishes'), underway.step('b', 'does'), underway.finally('z', 'cleans')]);
SELECT underway.start('early', '{"n": 9}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.create_workflow('early', ARRAY[underway.step('a', 'does'), underway.finally('z', 'finishes', retry => once())]);
SELECT underway.start('early', '{"n": 9}') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
TRUNCATE effect;
-- What is in progress counts, also while the run is paused or parked: by this it ends all the same, and knows no error.
CREATE FUNCTION finishes_later(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711); SELECT underway.finish('"late"') $$;
CREATE FUNCTION breaks(input jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
SELECT underway.create_workflow('parked', ARRAY[underway.step('a', 'finishes_later', after => '{}'), underway.step('b', 'breaks', after => '{}', retry => once(), on_failure => 'park'), underway.finally('z', 'cleans')]);
SELECT underway.create_workflow('paused', ARRAY[underway.step('a', 'finishes_later', after => '{}'), underway.sleep('s', '1 day', after => '{}'), underway.finally('z', 'cleans')]);
SELECT pg_advisory_lock(4711);
SELECT underway.start('parked', '{"n": 9}') AS parked, underway.start('paused', '{"n": 9}') AS paused \gset
SELECT test.until('(SELECT count(*) = 2 FROM underway_internal.task WHERE step = ''a'' AND state = ''in_progress'')');
SELECT 'asked' FROM underway.pause(:'paused');
SELECT test.until('(SELECT count(*) = 2 FROM underway_internal.run WHERE state IN (''parked'', ''paused''))');
SELECT pg_advisory_unlock(4711);
SELECT state, sqlstate, error, output FROM test.ends(:'parked') UNION ALL SELECT state, sqlstate, error, output FROM test.ends(:'paused');
SELECT * FROM effects();
-- Branches, with joins, under REPEATABLE READ: once.
SELECT underway.create_workflow('dag', ARRAY[underway.step('a', 'does', after => '{}'), underway.step('b', 'does', after => '{}'), underway.step('c', 'does', after => '{}'),
    underway.finally('z', 'cleans')], settings => '{"default_transaction_isolation": "repeatable read"}');
SELECT underway.start('dag', '{"n": 10}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT what, count(*) FROM effects() GROUP BY what ORDER BY what;
-- Outside; and a cancel while it runs has no effect, with or without undo.
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('external', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.finally('z', queue => 'outside')]);
SELECT underway.start('external', '{"n": 11}') AS run \gset
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND phase = ''finally'')', :'run'));
SELECT state, progress FROM underway.status(:'run');
SELECT lease, input, step FROM underway.dequeue('outside') \gset
SELECT :'step' AS step, :'input' AS input;
SELECT cancels(:'run'), cancels(:'run', false);
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND step IS NULL)', :'run'));
SELECT underway.heartbeat(:'lease');
SELECT underway.complete(:'lease');
SELECT state, output FROM test.ends(:'run');
SELECT * FROM effects();
-- That of a workflow that is dropped is not left to external workers; one that works at it is told.
SELECT underway.create_workflow('dropped', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.finally('z', queue => 'outside')]);
SELECT underway.start('dropped', '{"n": 12}') AS leased, underway.start('dropped', '{"n": 13}') AS pending \gset
SELECT test.until('(SELECT count(*) = 2 FROM underway_internal.task WHERE phase = ''finally'')');
SELECT lease, input -> 'input' AS input FROM underway.dequeue('outside') \gset
SELECT underway.drop_workflow('dropped', true);
SELECT test.until('(SELECT count(*) = 1 FROM underway_internal.run)');
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT underway.release(:'lease');
SELECT state FROM test.ends(:'leased') UNION ALL SELECT state FROM test.ends(:'pending');
SELECT count(*) FROM underway.dequeue('outside', 10);
SELECT count(underway.drop_workflow(name, true)) >= 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
SELECT (SELECT count(*) FROM underway_internal.task) AS tasks, (SELECT count(*) FROM underway_internal.step_result) AS results;
