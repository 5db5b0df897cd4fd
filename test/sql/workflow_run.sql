-- Runs of linear workflows: data from step to step, what a step may ask, transitions, failure policies, keys, versions, rights.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION twice() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0) $$;
CREATE TABLE effect (step text, attempt int, run uuid DEFAULT underway.run_id(), task uuid DEFAULT underway.task_id());
CREATE VIEW hist AS SELECT r.id, h.step, h.item, h.kind, h.attempt, h.outcome, h.input, h.output, h.sqlstate, h.error
    FROM underway_internal.run_archive r, underway.history(r.id) h;

-- Each step gets the output before it; one that returns nothing passes its input on.
CREATE FUNCTION add(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    INSERT INTO effect VALUES ('add', underway.attempt());
    SELECT jsonb_build_object('n', (input ->> 'n')::int + 1)
$$;
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect VALUES ('nothing', underway.attempt()) $$;
SELECT underway.create_workflow('three', ARRAY[underway.step('a', 'add'), underway.step('b', 'nothing'), underway.step('c', 'add')]);
SELECT underway.start('three', '{"n": 1}') AS run \gset
SELECT state, output, reason, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, output FROM underway.history(:'run');
SELECT kind, queue, state, progress, input, output, started_at <= finished_at AS times FROM underway.status(:'run');
SELECT step, attempt, run = :'run' AS run, task IN (SELECT h.task_id FROM underway.history(:'run') h) AS task FROM effect;
-- Nothing is left in the hot tables.
SELECT (SELECT count(*) FROM underway_internal.task WHERE run_id = :'run') AS tasks, (SELECT count(*) FROM underway_internal.run WHERE id = :'run') AS runs,
    (SELECT count(*) FROM underway_internal.step_result WHERE run_id = :'run') AS results;

-- Null as input; and all of it rolled back.
SELECT underway.start('three', NULL) AS run \gset
SELECT state, output FROM test.ends(:'run');
BEGIN;
SELECT underway.start('three', '{"n": 5}') AS run \gset
SELECT kind, state, progress FROM underway.status(:'run');
SELECT test.errors(format('SELECT underway.await(%L)', :'run'));
ROLLBACK;
SELECT count(*) FROM underway.status(:'run');

-- What a step may ask. Outside all of it is null.
CREATE FUNCTION asks(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('run', underway.run_id() IS NOT NULL, 'input', underway.run_input(), 'a', underway.step_output('a'),
        'later', underway.step_output('z'), 'all', (SELECT jsonb_agg(to_jsonb(o)) FROM underway.step_outputs('a') o), 'headers', underway.headers(),
        'got', input)
$$;
CREATE FUNCTION asks_wrong(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.step_output('no such') $$;
SELECT underway.create_workflow('asks', ARRAY[underway.step('a', 'add'), underway.step('b', 'asks'), underway.step('z', 'nothing')]);
SELECT underway.start('asks', '{"n": 1}', headers => '{"trace": "abc"}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('asks wrong', ARRAY[underway.step('a', 'asks_wrong', retry => once())]);
SELECT underway.start('asks wrong') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
SELECT underway.run_id(), underway.run_input(), underway.step_output('a'), (SELECT count(*) FROM underway.step_outputs('a')) AS outputs;

-- Transitions.
CREATE FUNCTION jump(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (input ->> 'n', underway.attempt());
    RETURN CASE input ->> 'n'
        WHEN '1' THEN underway.go_to('b', '{"n": 2}')
        WHEN '2' THEN underway.go_to('b', '{"n": 3}')
        WHEN '3' THEN underway.go_to('d', '{"n": 4}')
        WHEN '4' THEN underway.next('{"n": 5}', '10 ms')
        WHEN '5' THEN underway.finish('{"n": "done"}')
        WHEN '6' THEN underway.again('0', '{"n": 5}')
        WHEN '7' THEN underway.give_up('enough', '{"why": "tired"}')
        WHEN '8' THEN underway.go_to('nowhere') END;
END $$;
SELECT underway.create_workflow('jumps', ARRAY[underway.step('a', 'jump'), underway.step('b', 'jump'), underway.step('c', 'nothing'),
    underway.step('d', 'jump'), underway.step('e', 'jump'), underway.step('f', 'nothing')], retry => once());
TRUNCATE effect;
SELECT underway.start('jumps', '{"n": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, outcome, input, output FROM underway.history(:'run');
SELECT step FROM effect;
SELECT underway.start('jumps', '{"n": 6}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, attempt, outcome FROM underway.history(:'run');
SELECT underway.start('jumps', '{"n": 7}') AS run \gset
SELECT state, output, reason, error FROM test.ends(:'run');
SELECT step, attempt, outcome, output, error FROM underway.history(:'run');
SELECT underway.start('jumps', '{"n": 8}') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
SELECT underway.create_queue('plain', 'jump', retry => once());
CREATE TABLE plain AS SELECT n, underway.enqueue('plain', jsonb_build_object('n', n)) AS id FROM (VALUES (1), (4), (5)) v(n);
SELECT p.n, e.sqlstate, e.error FROM plain p, test.ends(p.id) e ORDER BY p.n;
SELECT test.errors('SELECT underway.go_to(NULL)', 'SELECT underway.go_to(''a'', delay => ''-1 s'')', 'SELECT underway.next(delay => ''-1 s'')');

-- A step that fails: nothing of the attempt is left; then the policy.
CREATE FUNCTION breaks(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES ('breaks', underway.attempt());
    IF coalesce((input ->> 'until')::int, 99) > underway.attempt() THEN
        RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = 'broken';
    END IF;
    RETURN '{"mended": true}';
END $$;
SELECT underway.create_workflow('breaks', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'breaks', retry => twice()), underway.step('c', 'nothing')]);
TRUNCATE effect;
SELECT underway.start('breaks', '{"until": 2}') AS run \gset
SELECT state, output, reason, error FROM test.ends(:'run');
SELECT step, attempt, outcome, sqlstate, error FROM underway.history(:'run');
SELECT underway.start('breaks') AS run \gset
SELECT state, output, reason, sqlstate, error FROM test.ends(:'run');
SELECT step, attempt FROM effect;
CREATE FUNCTION gives(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('got', input, 'b', underway.step_output('b')) $$;
SELECT underway.create_workflow('skips', ARRAY[underway.step('a', 'add'), underway.step('b', 'breaks', retry => once(), on_failure => 'skip'),
    underway.step('c', 'gives')]);
SELECT underway.start('skips', '{"n": 1}') AS run \gset
SELECT state, output, error FROM test.ends(:'run');
SELECT step, attempt, outcome FROM underway.history(:'run');
-- Of every attempt, the history has its times and who made it.
SELECT step, attempt, outcome, started_at <= ended_at AS in_time, ended_at - started_at < '1 min' AS brief, worker ~ '^background worker \d+ ' AS by_worker,
    lag(ended_at) OVER (ORDER BY ended_at, attempt) <= ended_at AS in_order FROM underway.history(:'run') ORDER BY ended_at;
-- One that takes too long: by the step's time over the workflow's, for each attempt anew.
CREATE FUNCTION endless(input jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF underway.attempt() = 1 THEN PERFORM pg_sleep(3600); END IF; END $$;
SELECT underway.create_workflow('endless', ARRAY[underway.step('a', 'endless', timeout => '20 ms', retry => underway.retry_policy(max_attempts => 50, initial_interval => '0')), underway.step('b', 'endless', retry => once())], timeout => '30 ms');
SELECT underway.start('endless') AS run \gset
SELECT state, reason, sqlstate, error FROM test.ends(:'run');
SELECT step, attempt, outcome, sqlstate, ended_at - started_at >= CASE step WHEN 'a' THEN interval '20 ms' ELSE '30 ms' END AS in_time
    FROM underway.history(:'run') WHERE outcome = 'failed' AND attempt = 1;

-- A key starts one run; as long as that is kept.
SELECT underway.start('three', '{"n": 1}', key => 'k') AS run \gset
SELECT underway.start('three', '{"n": 2}', key => 'k') = :'run' AS same;
SELECT state, output FROM test.ends(:'run');
SELECT underway.start('three', '{"n": 2}', key => 'k') = :'run' AS same;
SELECT underway.create_workflow('forgets', ARRAY[underway.step('a', 'nothing')], keep => 'none');
SELECT underway.start('forgets', key => 'k') AS run \gset
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.run WHERE id = %L)', :'run'));
SELECT underway.start('forgets', key => 'k') <> :'run' AS another, (SELECT count(*) FROM underway.status(:'run')) AS kept;

-- From a trigger, in the transaction of the statement.
CREATE TABLE orders (id int PRIMARY KEY, run uuid);
CREATE FUNCTION start_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.run := underway.start('three', jsonb_build_object('n', NEW.id));
    RETURN NEW;
END $$;
CREATE TRIGGER start_run BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION start_run();
INSERT INTO orders VALUES (40), (41);
SELECT o.id, e.state, e.output FROM orders o, test.ends(o.run) e ORDER BY o.id;

-- Versions: runs stay on theirs.
SELECT underway.create_workflow('versions', ARRAY[underway.step('a', 'add')]);
SELECT underway.create_workflow('versions', ARRAY[underway.step('a', 'add'), underway.step('b', 'add')]);
SELECT underway.start('versions', '{"n": 1}') AS new, underway.start('versions', '{"n": 1}', version => 1) AS old \gset
SELECT o.output AS old, n.output AS new FROM test.ends(:'old') o, test.ends(:'new') n;

-- A step's function that is gone, or forbidden, is a failure of the attempt.
CREATE FUNCTION goes(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
SELECT underway.create_workflow('goes', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'goes', retry => once())]);
DROP FUNCTION goes(jsonb);
SELECT underway.start('goes') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');

-- Thirty steps in a row, names with quotes, priorities.
SELECT underway.create_workflow('long', (SELECT array_agg(underway.step(format('st"e''p %s', n), 'add', priority => n % 3) ORDER BY n) FROM generate_series(1, 30) n));
SELECT underway.start('long', '{"n": 0}', priority => 2) AS run \gset
SELECT state, output FROM test.ends(:'run');

-- Delays.
SELECT underway.start('three', '{"n": 1}', delay => '1 hour') AS run \gset
SELECT state, progress FROM underway.status(:'run');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL AS moved;
SELECT state, output FROM test.ends(:'run');
SELECT underway.set_clock(NULL) IS NOT NULL AS moved;

-- Errors.
SELECT test.errors(
    'SELECT underway.start(''no such'')', 'SELECT underway.start(NULL)', 'SELECT underway.start(''plain'')', 'SELECT underway.enqueue(''three'')',
    'SELECT underway.start(''three'', version => 9)', 'SELECT underway.start(''three'', priority => 16)', 'SELECT underway.start(''three'', headers => ''[]'')',
    'SELECT underway.start(''three'', key => '''')', 'SELECT underway.start(''three'', timeout => ''-1 s'')',
    'SELECT underway.start(''three'', delay => ''1 s'', run_at => now())', 'SELECT underway.history(NULL)',
    'SELECT underway.history(''00000000-0000-0000-0000-000000000000'')', 'SELECT underway.dequeue(''three'')');

-- Rights: who may start; who may see a run.
CREATE ROLE wf_owner LOGIN;
CREATE ROLE wf_other LOGIN;
GRANT CREATE ON DATABASE :DBNAME TO wf_owner;
SET ROLE wf_owner;
SELECT underway.create_workflow('owned', ARRAY[underway.step('a', 'add', retry => once())]);
RESET ROLE;
SET ROLE wf_other;
SELECT test.errors('SELECT underway.start(''owned'')');
RESET ROLE;
SET ROLE wf_owner;
SELECT underway.grant_queue('owned', 'wf_other');
RESET ROLE;
SET ROLE wf_other;
SELECT underway.start('owned', '{"n": 1}') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
SELECT step, outcome, error FROM underway.history(:'run');
RESET ROLE;
GRANT INSERT ON effect TO wf_owner;
SET ROLE wf_other;
SELECT underway.start('owned', '{"n": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
RESET ROLE;
SET ROLE wf_owner;
SELECT underway.start('owned', '{"n": 1}') AS run \gset
RESET ROLE;
SET ROLE wf_other;
SELECT test.errors(format('SELECT underway.history(%L)', :'run'), format('SELECT underway.await(%L)', :'run'));
SELECT count(*) FROM underway.status(:'run');
RESET ROLE;
SELECT state FROM test.ends(:'run');
SET client_min_messages = warning;
DROP OWNED BY wf_owner, wf_other;
DROP ROLE wf_owner, wf_other;
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
