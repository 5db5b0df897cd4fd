-- Child workflows: a step that is a run of another workflow; data both ways, failures, rights, depth, cancels.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE TABLE effect (n int GENERATED ALWAYS AS IDENTITY, what text, got jsonb);
GRANT ALL ON effect TO PUBLIC;
CREATE FUNCTION effects(OUT what text, OUT got jsonb) RETURNS SETOF record LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM effect RETURNING *) SELECT what, got FROM gone ORDER BY n
$$;
CREATE FUNCTION does(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('does', input);
    IF input ->> 'fails' IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = 'broken';
    END IF;
    RETURN jsonb_build_object('done', input, 'trace', underway.headers());
END $$;
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what, got) VALUES ('undoes', input) $$;
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
CREATE FUNCTION cancels(run uuid, undo bool DEFAULT true) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.cancel(run, undo => undo) $$;
CREATE FUNCTION child(parent_run uuid) RETURNS uuid LANGUAGE sql AS $$ SELECT r.id FROM underway_internal.run r WHERE r.parent = parent_run $$;
CREATE FUNCTION state(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT s.state FROM underway.status(run) s $$;

-- Data both ways; the child has what its parent has.
SELECT underway.create_workflow('ships', ARRAY[underway.step('pack', 'does'), underway.step('send', 'does')], priority => 5);
SELECT underway.create_workflow('orders', ARRAY[underway.step('pay', 'does'), underway.child('ship', 'ships', input => '{"of": "$run.n"}'), underway.step('end', 'same')]);
SELECT underway.start('orders', '{"n": 1}', headers => '{"trace": 7}', priority => 9, group_key => 'g') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, output FROM underway.history(:'run');
SELECT a.input, a.headers, a.priority, a.group_key, a.parent = :'run' AS parent, a.parent_step, a.started_by = current_user AS by_owner, a.state, a.output
    FROM underway_internal.run_archive a WHERE a.parent = :'run';
SELECT headers - 'child' AS headers, headers -> 'child' ->> 'state' AS child FROM underway_internal.archive WHERE run_id = :'run' AND step = 'ship';
-- One without output: the step passes its input on. Without template it gets the output before.
SELECT underway.create_workflow('quiet', ARRAY[underway.step('a', 'nothing', input => '{"x": 1}'), underway.wait('never', run_if => '$run.no == 1')]);
SELECT underway.create_workflow('calls quiet', ARRAY[underway.child('c', 'quiet'), underway.step('b', 'same')]);
SELECT underway.start('calls quiet', '{"n": 2}') AS run \gset
SELECT state, output FROM test.ends(:'run');
-- While it goes on the parent waits, and holds nothing.
SELECT underway.create_workflow('waits', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.wait('w'), underway.step('b', 'same', undo => 'undoes')]);
SELECT underway.create_workflow('calls', ARRAY[underway.step('p', 'does', undo => 'undoes'), underway.child('c', 'waits', input => '"to child"'), underway.step('q', 'same')]);
SELECT underway.start('calls', '{"n": 3}') AS run \gset
SELECT test.until(format('(SELECT state(child(%L)) = ''waiting'')', :'run'));
SELECT state, progress FROM underway.status(:'run');
SELECT step, kind, outcome, input, child_run = child(:'run') AS child FROM underway.history(:'run');
SELECT child(:'run') AS child \gset
SELECT underway.signal(:'child', 'w', '"go"');
SELECT state, output FROM test.ends(:'run');
SELECT step, child_run = :'child' AS child FROM underway.history(:'run') WHERE step = 'c';
TRUNCATE effect;

-- A child that fails is a failure of the step, by its policy.
SELECT underway.create_workflow('broken', ARRAY[underway.step('a', 'does', undo => 'undoes', input => '"child"'), underway.step('b', 'does', input => '{"fails": true}', retry => once())]);
SELECT underway.create_workflow('fails', ARRAY[underway.step('a', 'does', undo => 'undoes', input => '"parent"'), underway.child('c', 'broken'), underway.step('z', 'same')]);
SELECT underway.start('fails', '{"n": 4}') AS run \gset
SELECT state, reason, sqlstate, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, sqlstate, error, regexp_replace(detail, '[0-9a-f-]{36}', '<id>') AS detail FROM underway.history(:'run');
-- First the child undid its own, then the parent.
SELECT * FROM effects();
SELECT underway.create_workflow('skips', ARRAY[underway.child('c', 'broken', on_failure => 'skip'), underway.step('z', 'same')]);
SELECT underway.start('skips', '{"n": 5}') AS run \gset
SELECT state, output FROM test.ends(:'run');
-- What a child that succeeded did stays when the parent fails later.
SELECT underway.create_workflow('ok', ARRAY[underway.step('a', 'does', undo => 'undoes')]);
SELECT underway.create_workflow('later', ARRAY[underway.child('c', 'ok', input => '"child"'), underway.step('z', 'does', input => '{"fails": true}', retry => once())]);
TRUNCATE effect;
SELECT underway.start('later', '{"n": 6}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();

-- A cancel of the parent reaches the child; its undo comes first. Without undo, neither.
SELECT underway.start('calls', '{"n": 7}') AS run \gset
SELECT test.until(format('(SELECT state(child(%L)) = ''waiting'')', :'run'));
SELECT child(:'run') AS child \gset
SELECT cancels(:'run');
SELECT state, reason, error FROM test.ends(:'run');
SELECT state, reason, error FROM test.ends(:'child');
SELECT * FROM effects();
SELECT step, kind, outcome, error FROM underway.history(:'run');
SELECT underway.start('calls', '{"n": 8}') AS run \gset
SELECT test.until(format('(SELECT state(child(%L)) = ''waiting'')', :'run'));
SELECT cancels(:'run', false);
SELECT state, reason, error FROM test.ends(:'run');
SELECT * FROM effects();
-- A cancel without undo, while the child undoes, reaches it too.
CREATE FUNCTION undoes_held(input jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711); INSERT INTO effect (what, got) VALUES ('undoes held', input) $$;
SELECT underway.create_workflow('held', ARRAY[underway.step('a', 'does', undo => 'undoes_held'), underway.wait('w')]);
SELECT underway.create_workflow('calls held', ARRAY[underway.step('p', 'does', undo => 'undoes'), underway.child('c', 'held', input => '"to child"')]);
SELECT underway.start('calls held', '{"n": 9}') AS run \gset
SELECT test.until(format('(SELECT state(child(%L)) = ''waiting'')', :'run'));
SELECT pg_advisory_lock(4711);
SELECT cancels(:'run');
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = child(%L) AND phase = ''undo'' AND state = ''in_progress'')', :'run'));
SELECT child(:'run') AS child \gset
SELECT cancels(:'run', false);
SELECT state, reason, error FROM test.ends(:'run');
SELECT state, reason, error FROM test.ends(:'child');
SELECT pg_advisory_unlock(4711);
SELECT step, kind, outcome FROM underway.history(:'child');
SELECT * FROM effects();
-- A child that is cancelled for itself is a step that failed.
SELECT underway.start('calls', '{"n": 10}') AS run \gset
SELECT test.until(format('(SELECT state(child(%L)) = ''waiting'')', :'run'));
SELECT cancels(child(:'run'));
SELECT state, reason, error FROM test.ends(:'run');
SELECT * FROM effects();

-- Two branches, each with a child; under REPEATABLE READ; of external steps, completed by a client.
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('external', ARRAY[underway.step('a', queue => 'outside')]);
SELECT underway.create_workflow('both', ARRAY[underway.child('c', 'external', input => '"c"', after => '{}'), underway.child('d', 'ok', input => '"d"', after => '{}'), underway.step('z', 'same', after => '{c,d}')],
    settings => '{"default_transaction_isolation": "repeatable read"}');
SELECT underway.start('both') AS run \gset
SELECT test.until('(SELECT due > 0 FROM underway.queues WHERE name = ''outside'')');
SELECT lease, input FROM underway.dequeue('outside') \gset
SELECT underway.complete(:'lease', '"from outside"');
SELECT state, output FROM test.ends(:'run');
-- A parent that is dropped waits for the end of its child, which is told to stop.
SELECT underway.create_workflow('dropped', ARRAY[underway.child('c', 'external'), underway.step('z', 'same')]);
SELECT underway.start('dropped') AS run \gset
SELECT test.until('(SELECT due > 0 FROM underway.queues WHERE name = ''outside'')');
SELECT child(:'run') AS child, lease FROM underway.dequeue('outside') \gset
SELECT underway.drop_workflow('dropped', true);
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT step, outcome FROM underway.history(:'run');
SELECT underway.release(:'lease');
SELECT state, error FROM test.ends(:'child') UNION ALL SELECT state, error FROM test.ends(:'run');
TRUNCATE effect;
-- Itself, so many times, also as the first step; and for ever.
SELECT underway.create_workflow('down', ARRAY[underway.step('a', 'same', input => '{"n": "$run.n"}'), underway.child('c', 'down', input => '{"n": "$run.next", "next": "$run.last"}', run_if => '$run.n != null')]);
SELECT underway.start('down', '{"n": 2, "next": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT count(*) FROM underway_internal.run_archive a JOIN underway_internal.queue q ON q.id = a.queue_id WHERE q.name = 'down';
SELECT underway.create_workflow('endless', ARRAY[underway.child('c', 'endless')]);
SELECT underway.start('endless') AS run \gset
SELECT state, sqlstate, left(error, 80) AS error, right(error, 70) AS ends FROM test.ends(:'run');
SELECT count(*), count(*) FILTER (WHERE a.state = 'failed') AS failed FROM underway_internal.run_archive a JOIN underway_internal.queue q ON q.id = a.queue_id WHERE q.name = 'endless';

-- The current version, when it begins.
SELECT underway.create_workflow('versioned', ARRAY[underway.step('a', 'same', input => '1')]);
SELECT underway.create_workflow('calls versioned', ARRAY[underway.wait('w'), underway.child('c', 'versioned')]);
SELECT underway.start('calls versioned') AS run \gset
SELECT underway.create_workflow('versioned', ARRAY[underway.step('a', 'same', input => '2')]);
SELECT underway.signal(:'run', 'w');
SELECT state, output FROM test.ends(:'run');

-- Rights are the owner's, now and then: revoked, or the other workflow dropped, the step fails.
CREATE ROLE wf_parent LOGIN;
CREATE ROLE wf_starter LOGIN;
GRANT CREATE ON DATABASE :DBNAME TO wf_parent;
SET ROLE wf_parent;
SELECT test.errors('SELECT underway.create_workflow(''mine'', ARRAY[underway.child(''c'', ''ok'')])');
RESET ROLE;
SELECT underway.grant_queue('ok', 'wf_parent');
SET ROLE wf_parent;
SELECT underway.create_workflow('mine', ARRAY[underway.child('c', 'ok', input => '"mine"')]);
SELECT underway.grant_queue('mine', 'wf_starter');
SET ROLE wf_starter;
SELECT underway.start('mine') AS run \gset
SELECT state, output FROM test.ends(:'run');
RESET ROLE;
SELECT a.started_by FROM underway_internal.run_archive a WHERE a.parent = :'run';
SELECT underway.revoke_queue('ok', 'wf_parent');
SET ROLE wf_starter;
SELECT underway.start('mine') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, sqlstate, error FROM underway.history(:'run');
RESET ROLE;
SELECT underway.grant_queue('ok', 'wf_parent');
SELECT underway.drop_workflow('ok', true);
SET ROLE wf_starter;
SELECT underway.start('mine') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
RESET ROLE;
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
SET client_min_messages = warning;
DROP OWNED BY wf_parent, wf_starter;
DROP ROLE wf_parent, wf_starter;
SELECT (SELECT count(*) FROM underway_internal.run) AS runs, (SELECT count(*) FROM underway_internal.task) AS tasks, (SELECT count(*) FROM underway_internal.step_result) AS results;
