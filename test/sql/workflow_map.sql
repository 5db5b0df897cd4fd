-- Maps: items from a function or a path, bounded concurrency, order, failures, external children.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION twice() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0) $$;
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION double(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(2 * input::text::int) $$;
CREATE FUNCTION numbers(input jsonb) RETURNS SETOF int LANGUAGE sql AS $$ SELECT generate_series(1, ($1 ->> 'n')::int) $$;
CREATE FUNCTION lines() RETURNS TABLE (nr int, line text) LANGUAGE sql AS $$ VALUES (1, 'one'), (2, NULL) $$;

SELECT underway.create_workflow('over', ARRAY[underway.map('m', 'double', over => 'numbers'), underway.step('z', 'same')]);
SELECT underway.start('over', '{"n": 3}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, item, kind, attempt, outcome, input, output FROM underway.history(:'run') ORDER BY step, item;
SELECT underway.create_workflow('rows', ARRAY[underway.map('m', 'same', over => 'lines')]);
SELECT underway.start('rows') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('items', ARRAY[underway.map('m', 'double'), underway.map('n', 'double', items => '$[*] ? (@ > 2)')]);
SELECT underway.start('items', '[1, 2, 3]') AS run \gset
SELECT state, output FROM test.ends(:'run');
-- Nothing, null, and what is no array.
SELECT underway.start('over', '{"n": 0}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.start('items', '[]') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.start('items', 'null') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('no array', ARRAY[underway.map('m', 'double', retry => once())]);
SELECT underway.start('no array', '{"x": 1}') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
-- Children that give nothing; nulls among the items; what later steps see.
CREATE FUNCTION sees(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('input', input, 'output', underway.step_output('m'), 'outputs', (SELECT jsonb_agg(to_jsonb(o)) FROM underway.step_outputs('m') o))
$$;
SELECT underway.create_workflow('voids', ARRAY[underway.map('m', 'nothing'), underway.step('z', 'sees')]);
SELECT underway.start('voids', '[1, null]') AS run \gset
SELECT state, output FROM test.ends(:'run');

-- No more at once than said, and each once.
CREATE TABLE at_work (item int, pid int);
CREATE TABLE most (n bigint);
CREATE FUNCTION works(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO most SELECT count(*) FROM underway_internal.task WHERE run_id = underway.run_id() AND item >= 0 AND state IN ('pending', 'in_progress');
    RETURN input;
END $$;
SELECT underway.create_workflow('bounded', ARRAY[underway.map('m', 'works', over => 'numbers', concurrency => 2), underway.step('z', 'same')]);
SELECT underway.start('bounded', '{"n": 100}') AS run \gset
SELECT state, output = (SELECT jsonb_agg(n) FROM generate_series(1, 100) n) AS in_order FROM test.ends(:'run');
SELECT max(n), count(*) FROM most;
TRUNCATE most;
SELECT underway.create_workflow('bounded s', ARRAY[underway.map('m', 'works', over => 'numbers', concurrency => 2), underway.step('z', 'same')],
    settings => '{"default_transaction_isolation": "serializable"}');
SELECT underway.start('bounded s', '{"n": 20}') AS run \gset
SELECT state, output = (SELECT jsonb_agg(n) FROM generate_series(1, 20) n) AS in_order FROM test.ends(:'run');
SELECT max(n) <= 2 AS most, count(*) FROM most;

-- Failures: retried; tolerated; too many, which stops the others.
CREATE FUNCTION odd(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input::text::int % 2 = 0 AND underway.attempt() = 1 THEN
        RAISE EXCEPTION 'even: %', input;
    END IF;
    RETURN input;
END $$;
SELECT underway.create_workflow('retried', ARRAY[underway.map('m', 'odd', over => 'numbers', retry => twice())]);
SELECT underway.start('retried', '{"n": 4}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('tolerated', ARRAY[underway.map('m', 'odd', over => 'numbers', retry => once(), tolerate => 2), underway.step('z', 'sees')]);
SELECT underway.start('tolerated', '{"n": 5}') AS run \gset
SELECT state, output -> 'input' AS input, jsonb_path_query_array(output, '$.outputs[*].state') AS states FROM test.ends(:'run');
SELECT underway.start('tolerated', '{"n": 6}') AS run \gset
SELECT state, regexp_replace(error, 'item \d: even: \d', 'item ...') AS error FROM test.ends(:'run');
SELECT underway.create_workflow('stopped', ARRAY[underway.map('m', 'odd', over => 'numbers', retry => once(), concurrency => 1)]);
SELECT underway.start('stopped', '{"n": 50}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT outcome, count(*) FROM underway.history(:'run') WHERE item IS NOT NULL AND item <> 2 GROUP BY 1 ORDER BY 1;
SELECT underway.create_workflow('skipped', ARRAY[underway.map('m', 'odd', over => 'numbers', retry => once(), on_failure => 'skip'), underway.step('z', 'same')]);
SELECT underway.start('skipped', '{"n": 2}') AS run \gset
SELECT state, output FROM test.ends(:'run');
-- The function that gives the items fails.
CREATE FUNCTION no_items(input jsonb) RETURNS SETOF jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no items'; END $$;
SELECT underway.create_workflow('no items', ARRAY[underway.map('m', 'same', over => 'no_items', retry => once())]);
SELECT underway.start('no items') AS run \gset
SELECT state, error FROM test.ends(:'run');
-- A child may not say what comes next.
CREATE FUNCTION jumps(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to('z') $$;
SELECT underway.create_workflow('jumps', ARRAY[underway.map('m', 'jumps', retry => once()), underway.step('z', 'same')]);
SELECT underway.start('jumps', '[1]') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');

-- External workers, all at once and bounded, and the branches beside.
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('outer', ARRAY[underway.map('m', queue => 'outside', over => 'numbers', concurrency => 2), underway.step('z', 'same')]);
SELECT underway.start('outer', '{"n": 5}') AS run \gset
CREATE FUNCTION turn(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.until(format('(SELECT count(*) = %s FROM underway.tasks WHERE queue = ''outside'' AND state = ''pending'')', n));
    RETURN (SELECT count(*) FROM underway.dequeue('outside', 100));
END $$;
CREATE FUNCTION done() RETURNS bigint LANGUAGE sql AS $$ SELECT count(underway.complete(t.lease, t.input)) FROM underway_internal.task t WHERE t.lease IS NOT NULL $$;
SELECT turn(2);
SELECT done();
SELECT turn(2);
SELECT done();
SELECT turn(1);
SELECT done();
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('outer all', ARRAY[underway.map('m', queue => 'outside', over => 'numbers'), underway.step('z', 'same')]);
SELECT underway.start('outer all', '{"n": 50}') AS run \gset
SELECT turn(50);
SELECT done();
SELECT state, jsonb_array_length(output) AS items FROM test.ends(:'run');
-- A map that is cancelled ends after the last of its items, also when somebody completes that one all the same.
SELECT underway.create_workflow('outer skip', ARRAY[underway.map('m', queue => 'outside', over => 'numbers', on_failure => 'skip', tolerate => 9), underway.step('z', 'nothing')]);
SELECT underway.create_workflow('outer fail', ARRAY[underway.map('m', queue => 'outside', over => 'numbers'), underway.step('z', 'nothing')]);
CREATE FUNCTION cancels(run uuid) RETURNS text LANGUAGE sql AS $$
    SELECT underway.cancel(h.task_id, 'enough') FROM underway.history(run) h WHERE h.kind = 'map' AND h.item IS NULL AND h.outcome = 'waiting' $$;
SELECT underway.start('outer skip', '{"n": 3}') AS skip \gset
SELECT test.until('(SELECT count(*) = 3 FROM underway.tasks WHERE queue = ''outside'' AND state = ''pending'')');
SELECT underway.start('outer fail', '{"n": 3}') AS fail \gset
SELECT test.until('(SELECT count(*) = 6 FROM underway.tasks WHERE queue = ''outside'' AND state = ''pending'')');
SELECT count(*) FROM underway.dequeue('outside', 4);
SELECT cancels(:'skip'), cancels(:'fail');
SELECT test.until('(SELECT bool_and(underway.heartbeat(t.lease) = ''cancel'') AND count(*) = 4 FROM underway_internal.task t WHERE t.lease IS NOT NULL)');
SELECT cancels(:'fail'), (SELECT count(*) FROM underway.dequeue('outside', 4)) AS left_pending;
SELECT done();
SELECT state, output, error FROM test.ends(:'skip') UNION ALL SELECT state, output, error FROM test.ends(:'fail');
SELECT step, item, outcome, error FROM underway.history(:'skip') ORDER BY step, item;
SELECT underway.retry(:'fail');
SELECT turn(3 - (SELECT count(*)::int FROM underway.history(:'fail') WHERE item IS NOT NULL AND outcome = 'succeeded'));
SELECT cancels(:'fail') = 'waiting' AS cancelled, (SELECT bool_and(underway.release(t.lease) = 'cancelled') FROM underway_internal.task t WHERE t.lease IS NOT NULL) AS released;
SELECT state, error FROM test.ends(:'fail');
-- One item alone, which was begun before: the others go on, and it is undone like them.
SELECT underway.create_queue('undoing');
SELECT underway.create_workflow('outer one', ARRAY[underway.map('m', queue => 'outside', over => 'numbers', undo_queue => 'undoing')]);
SELECT underway.start('outer one', '{"n": 2}') AS run \gset
SELECT turn(2);
SELECT underway.release(t.lease) FROM underway_internal.task t WHERE t.lease IS NOT NULL;
SELECT underway.cancel(task_id) FROM underway.history(:'run') WHERE item = 0 AND outcome = 'pending';
SELECT state, undo FROM underway_internal.step_result WHERE run_id = :'run' AND item = 0;
SELECT test.until('(SELECT count(*) = 1 FROM underway.tasks WHERE queue = ''undoing'' AND state = ''pending'')');
SELECT underway.cancel(:'run', undo => false) IS NOT NULL;
SELECT state, error FROM test.ends(:'run');
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.cancel_request)');

-- Many, one in a hundred of which fails once.
CREATE FUNCTION hundredth(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input::text::int % 100 = 0 AND underway.attempt() = 1 THEN
        RAISE EXCEPTION 'once';
    END IF;
    RETURN input;
END $$;
SELECT underway.create_workflow('many', ARRAY[underway.map('m', 'hundredth', over => 'numbers', retry => twice()), underway.step('z', 'same')]);
SELECT underway.create_workflow('many bounded', ARRAY[underway.map('m', 'hundredth', over => 'numbers', retry => twice(), concurrency => 3), underway.step('z', 'same')]);
SELECT underway.start('many', '{"n": 10000}') AS run, underway.start('many bounded', '{"n": 2000}') AS bounded \gset
SELECT state, output = (SELECT jsonb_agg(n) FROM generate_series(1, 10000) n) AS in_order FROM test.ends(:'run');
SELECT state, output = (SELECT jsonb_agg(n) FROM generate_series(1, 2000) n) AS in_order FROM test.ends(:'bounded');
SELECT outcome, count(*) FROM underway.history(:'run') WHERE item IS NOT NULL GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM underway_internal.task WHERE run_id IN (:'run', :'bounded');
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
