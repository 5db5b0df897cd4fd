-- Workflows as they are defined: steps, versions, explain, the view, health, dropping.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE SCHEMA app;
SET search_path = app;
CREATE FUNCTION charge(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION refund(jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION ship() RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION lines(jsonb) RETURNS TABLE (sku text, n int) LANGUAGE sql AS $$SELECT 'x', 1$$;
CREATE FUNCTION numbers() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE clean(jsonb) LANGUAGE sql AS 'SELECT';
ALTER ROLE CURRENT_USER IN DATABASE :DBNAME SET search_path = app;
SELECT underway.create_queue('payments'), underway.create_queue('refunds');

-- Constructors: what is left out is not there, intervals are ISO 8601 under every style.
SELECT underway.step('a', 'f');
SET intervalstyle = sql_standard;
SELECT underway.step('a', queue => 'q', input => '{"x": null, "y": "$run"}', after => '{b,c}', run_if => '$run.amount > 100',
    undo => 'u', retry => underway.retry_policy(max_attempts => 3), timeout => '1 day 90 min', priority => 0, on_failure => 'skip');
RESET intervalstyle;
SELECT underway.step('a', 'f', input => 'null', undo_queue => 'q', after => '{}');
SELECT underway.map('a', 'f'), underway.map('a', 'f', over => 'g', concurrency => 5, tolerate => 0);
SELECT underway.map('a', 'f', items => '$.lines[*] ? (@.n > $run.least)');
SELECT underway.wait('a'), underway.wait('a', 'go', '1 mon 2 days', 'continue');
SELECT underway.sleep('a', '0'), underway.sleep('a', '1 year 2 mons', after => '{}', run_if => 'exists($steps.x)');
SELECT underway.child('a', 'w'), underway.child('a', 'w', '"$steps.b"', on_failure => 'park');
SELECT underway.finally('a', 'f'), underway.finally('a', queue => 'q', timeout => '1 ms');

-- Everything in one workflow.
SELECT underway.create_workflow('order', array[
    underway.step('charge', queue => 'payments', undo_queue => 'refunds', retry => underway.retry_policy(max_attempts => 3),
        timeout => '1 hour', input => '{"amount": "$run.amount", "price": "$$5", "all": ["$run", 1, null]}'),
    underway.wait('approve', timeout => '2 days', on_timeout => 'continue'),
    underway.step('ship "it"', 'ship', undo => 'refund', on_failure => 'park', priority => 3,
        input => '{"receipt": "$steps.charge.receipts[0].no"}', run_if => '$steps.approve.ok == true && $run.amount > 100'),
    underway.map('lines', 'charge', over => 'lines', concurrency => 4, tolerate => 1, after => '{charge}'),
    underway.map('numbers', 'clean', items => '$.x[*]', after => '{charge}', run_if => '$.steps.charge.ok'),
    underway.sleep('later', '1 mon 2 days', after => array['ship "it"', 'lines', 'numbers']),
    underway.child('again', 'order', input => '"$steps.\"ship \\\"it\\\"\".x"'),
    underway.finally('bye', 'charge')],
    concurrency => 3, retry => underway.retry_policy(max_attempts => 2), timeout => '5 min', on_failure => 'park', on_change => 'pause',
    keep => 'failed', durability => 'async', settings => '{"search_path": "app"}', run_timeout => '30 days', priority => 2,
    group_concurrency => 1);
SELECT underway.explain_workflow('order');
SELECT underway.explain_workflow('order', 1, 'mermaid');
SELECT jsonb_pretty(steps) FROM underway.workflows WHERE name = 'order';
SELECT name, version, owner = current_user, state, problem, on_change, on_failure, unfinished, paused, undoing, parked, in_progress,
    concurrency, group_concurrency, priority, retry, timeout, run_timeout, keep, durability, settings FROM underway.workflows;
SELECT name, handler, state, workflow FROM underway.queues ORDER BY name;

-- What view says can be given back. The same again is the same version, with whatever settings the call says.
SELECT underway.create_workflow('order', array(SELECT jsonb_array_elements(steps))) FROM underway.workflows WHERE name = 'order';
SELECT version, concurrency, priority, on_failure, on_change, keep, durability, run_timeout, settings FROM underway.workflows;

-- Versions: other content is a new one, an earlier one becomes current again; a function's body counts, how it is named does not.
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
SELECT underway.create_workflow('v', array[underway.step('a', 'app.charge(jsonb)', after => '{}')]);
SELECT underway.create_workflow('v', array[underway.step('a', 'charge'), underway.step('b', 'charge')]);
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
SELECT version, jsonb_array_length(steps) FROM underway.workflows WHERE name = 'v';
CREATE OR REPLACE FUNCTION charge(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1 || $1';
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
ALTER FUNCTION charge(jsonb) SET work_mem = '8MB';
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
CREATE OR REPLACE FUNCTION charge(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
CREATE OR REPLACE FUNCTION charge(x jsonb) RETURNS jsonb LANGUAGE sql RETURN jsonb_build_object('x', 1);
CREATE FUNCTION new_charge(x jsonb) RETURNS jsonb LANGUAGE sql RETURN jsonb_build_object('x', 1);
DROP FUNCTION charge(jsonb);
CREATE FUNCTION charge(x jsonb) RETURNS jsonb LANGUAGE sql RETURN jsonb_build_object('x', 1);
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
SET search_path = pg_catalog;
SELECT underway.create_workflow('v', array[underway.step('a', 'app.charge')]);
SET search_path = app;
SELECT underway.explain_workflow('v', 2);
SELECT underway.explain_workflow('v');

-- A definition that is rolled back leaves nothing.
BEGIN;
SELECT underway.create_workflow('gone', array[underway.sleep('a', '1 s')]);
ROLLBACK;
SELECT count(*) FROM underway.workflows WHERE name = 'gone';

-- 1,000 steps: a chain, and one step after all others.
SELECT underway.create_workflow('long', array(SELECT underway.step('s' || n, 'charge') FROM generate_series(1, 1000) n));
SELECT underway.create_workflow('wide', array(SELECT underway.step('s' || n, 'charge', after => '{}') FROM generate_series(1, 999) n)
    || underway.step('last', 'charge', after => array(SELECT 's' || n FROM generate_series(1, 999) n),
        input => '{"x": "$steps.s1", "y": "$steps.s999"}'));
SELECT q.name, v.linear, count(*), max(cardinality(s.after)), max(cardinality(s.needs))
    FROM underway_internal.queue q JOIN underway_internal.workflow_version v ON v.queue_id = q.id
    JOIN underway_internal.step s ON s.queue_id = q.id AND s.version = v.version
    WHERE q.name IN ('long', 'wide') GROUP BY 1, 2 ORDER BY 1;
SELECT left(underway.explain_workflow('wide', format => 'mermaid'), 60);

-- Linear: each step after the one before, and no map.
SELECT underway.create_workflow('l', array[underway.wait('a'), underway.sleep('b', '1 s'), underway.child('c', 'l'), underway.finally('d', 'ship')]);
SELECT underway.create_workflow('l', array[underway.wait('a'), underway.sleep('b', '1 s', after => '{a}')]);
SELECT underway.create_workflow('l', array[underway.wait('a'), underway.sleep('b', '1 s', after => '{}')]);
SELECT underway.create_workflow('l', array[underway.wait('b', after => '{a}'), underway.sleep('a', '1 s', after => '{}')]);
SELECT underway.create_workflow('l', array[underway.map('a', 'charge')]);
SELECT version, linear FROM underway_internal.workflow_version v JOIN underway_internal.queue q ON q.id = v.queue_id WHERE q.name = 'l' ORDER BY 1;

-- Health: a step that could not run.
SELECT severity, object, problem, hint FROM underway.check_health() WHERE object LIKE 'workflow%';
DROP FUNCTION ship();
CREATE OR REPLACE PROCEDURE refund() LANGUAGE sql AS 'SELECT';
DROP FUNCTION refund(jsonb);
SELECT severity, object, problem, hint FROM underway.check_health() WHERE object LIKE 'workflow%';
SELECT name, state, problem FROM underway.workflows WHERE problem IS NOT NULL ORDER BY 1;
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);

-- The NOTICE about the search_path.
SET search_path = app, pg_catalog;
SELECT underway.create_workflow('n', array[underway.step('a', 'charge')]);
ALTER FUNCTION charge(jsonb) SET search_path = app;
SELECT underway.create_workflow('n', array[underway.step('a', 'charge')]);
SET search_path = app;

-- Dropping: queues and workflows that steps name are in use.
SELECT test.errors($$SELECT underway.drop_queue('payments')$$, $$SELECT underway.drop_queue('order')$$,
    $$SELECT underway.drop_workflow('payments')$$);
SELECT underway.create_workflow('parent', array[underway.child('a', 'v')]);
SELECT test.errors($$SELECT underway.drop_workflow('v')$$);
SELECT underway.drop_workflow('v', true);
SELECT problem FROM underway.workflows WHERE name = 'parent';
SELECT test.errors($$SELECT underway.explain_workflow('v')$$);
SELECT underway.create_workflow('v', array[underway.step('a', 'charge')]);
-- Of another 'v': a new version.
SELECT underway.create_workflow('parent', array[underway.child('a', 'v')]);
SELECT underway.drop_workflow('parent'), underway.drop_workflow('order'), underway.drop_queue('payments');
SET client_min_messages = warning;
SELECT underway.drop_workflow(name) FROM underway.workflows ORDER BY name;
SELECT underway.drop_queue('refunds');
DROP SCHEMA app CASCADE;
ALTER ROLE CURRENT_USER IN DATABASE :DBNAME RESET search_path;
