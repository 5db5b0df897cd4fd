-- Nonsense in definitions: an error that says which step and which argument, with SQLSTATE and hint, and nothing changed.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE SCHEMA flow;
SET search_path = flow;
CREATE FUNCTION f(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION a_set(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION of_text(text) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION records() RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, 2';
CREATE FUNCTION a_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
SELECT underway.create_queue('q');
SELECT underway.create_workflow('w', array[underway.step('a', 'f')]);
SELECT test.digest() AS before \gset

-- Constructors.
SELECT test.errors(VARIADIC ARRAY(SELECT 'SELECT underway.' || c FROM unnest(ARRAY[
    'step(NULL, $$f$$)', 'step($$$$, $$f$$)', 'step($$a$$ || chr(10), $$f$$)', 'step(repeat($$x$$, 129), $$f$$)',
    'step($$a$$)', 'step($$a$$, $$f$$, $$q$$)', 'step($$a$$, $$$$)', 'step($$a$$, queue => $$$$)',
    'step($$a$$, $$f$$, undo => $$u$$, undo_queue => $$q$$)', 'step($$a$$, $$f$$, undo => $$$$)',
    'step($$a$$, $$f$$, after => $${a}$$)', 'step($$a$$, $$f$$, after => $${b,b}$$)', 'step($$a$$, $$f$$, after => $${NULL}$$)',
    'step($$a$$, $$f$$, after => $${""}$$)', 'step($$a$$, $$f$$, after => $${{b,c}}$$)',
    'step($$a$$, $$f$$, retry => $$[]$$)', 'step($$a$$, $$f$$, retry => $${"max": 1}$$)',
    'step($$a$$, $$f$$, timeout => $$0$$)', 'step($$a$$, $$f$$, timeout => $$25 days$$)', 'step($$a$$, $$f$$, timeout => $$-1 s$$)',
    'step($$a$$, $$f$$, priority => 16)', 'step($$a$$, $$f$$, priority => -1)', 'step($$a$$, $$f$$, on_failure => $$stop$$)',
    'step($$a$$, $$f$$, on_failure => $$$$)', 'step($$a$$, $$f$$, run_if => $$$x > 1$$)', 'step($$a$$, $$f$$, run_if => $$$.x > 1$$)',
    'map($$a$$)', 'map($$a$$, $$f$$, over => $$g$$, items => $$$[*]$$)', 'map($$a$$, $$f$$, concurrency => 0)',
    'map($$a$$, $$f$$, tolerate => -1)', 'map($$a$$, $$f$$, items => $$$.x[*] ? (@ == $runs)$$)',
    'wait(NULL)', 'wait($$a$$, $$$$)', 'wait($$a$$, chr(10))', 'wait($$a$$, timeout => $$0$$)', 'wait($$a$$, on_timeout => $$fail$$)',
    'wait($$a$$, timeout => $$1 s$$, on_timeout => $$skip$$)', 'wait($$a$$, timeout => $$1001 years$$)',
    'sleep($$a$$, NULL)', 'sleep($$a$$, $$-1 s$$)', 'sleep($$a$$, $$1001 years$$)',
    'child($$a$$, NULL)', 'child($$a$$, $$$$)', 'finally($$a$$)', 'finally($$a$$, $$f$$, $$q$$)', 'finally(NULL, $$f$$)']) c));

-- Templates.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.step(%L, %L, input => %L)', 'a', 'f', t) FROM unnest(ARRAY[
    '"$"', '"$5"', '"$Run"', '"$runs"', '"$run."', '"$run..x"', '"$run.a b"', '"$run.x[a]"', '"$run[1"', '"$run x"', '"$steps"',
    '"$steps."', '"$steps[0]"', '"$step.x"', '["$steps.\"a"]', '{"x": {"y": ["$steps.\"a\\q\""]}}', '"$run.x - 1"', '"$.run"']) t));

-- Steps written by hand.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.create_workflow(%L, array[%L]::jsonb[])', 'new', s) FROM unnest(ARRAY[
    'null', '[]', '1', '{}', '{"kind": 1}', '{"kind": "loop", "name": "a"}', '{"kind": "step"}', '{"kind": "step", "name": 1, "handler": "f"}',
    '{"kind": "step", "name": null, "handler": "f"}', '{"kind": "step", "name": "a", "handler": "f", "over": "g"}',
    '{"kind": "step", "name": "a", "handler": ["f"]}', '{"kind": "step", "name": "a", "handler": "f", "priority": 1.5}',
    '{"kind": "step", "name": "a", "handler": "f", "priority": 1e20}', '{"kind": "step", "name": "a", "handler": "f", "priority": "1"}',
    '{"kind": "step", "name": "a", "handler": "f", "timeout": "x"}', '{"kind": "step", "name": "a", "handler": "f", "timeout": 5}',
    '{"kind": "step", "name": "a", "handler": "f", "timeout": "99999999999 years"}',
    '{"kind": "step", "name": "a", "handler": "f", "run_if": "$run >"}', '{"kind": "step", "name": "a", "handler": "f", "after": "b"}',
    '{"kind": "step", "name": "a", "handler": "f", "after": [1]}', '{"kind": "finally", "name": "a", "handler": "f", "after": []}',
    '{"kind": "sleep", "name": "a", "duration": "-"}', '{"kind": "map", "name": "a", "handler": "f", "items": "$["}']) s));

-- The workflow as a whole.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.create_workflow(%s)', w) FROM unnest(ARRAY[
    'NULL, array[underway.sleep($$a$$, $$1 s$$)]', '$$$$, array[underway.sleep($$a$$, $$1 s$$)]', '$$q$$, array[underway.sleep($$a$$, $$1 s$$)]',
    '$$new$$, NULL', '$$new$$, $${}$$', '$$new$$, array[NULL]::jsonb[]', '$$new$$, array[[underway.sleep($$a$$, $$1 s$$)]]',
    '$$new$$, array(SELECT underway.sleep($$s$$ || n, $$1 s$$) FROM generate_series(1, 1001) n)',
    '$$new$$, array[underway.finally($$a$$, $$f$$)]',
    '$$new$$, array[underway.finally($$a$$, $$f$$), underway.sleep($$b$$, $$1 s$$)]',
    '$$new$$, array[underway.sleep($$b$$, $$1 s$$), underway.finally($$a$$, $$f$$), underway.finally($$c$$, $$f$$)]',
    '$$new$$, array[underway.sleep($$a$$, $$1 s$$), underway.wait($$b$$), underway.wait($$a$$)]',
    '$$new$$, array[underway.sleep($$a$$, $$1 s$$, after => $${c}$$)]',
    '$$new$$, array[underway.sleep($$a$$, $$1 s$$, after => $${end}$$), underway.finally($$end$$, $$f$$)]',
    '$$new$$, array[underway.wait($$a$$, after => $${b}$$), underway.wait($$b$$)]',
    '$$new$$, array[underway.wait($$s$$), underway.wait($$a$$, after => $${c}$$), underway.wait($$b$$), underway.wait($$c$$), underway.wait($$d$$)]',
    '$$new$$, array(SELECT underway.wait($$s$$ || n, after => array[$$s$$ || n % 1000 + 1]) FROM generate_series(1, 1000) n)',
    '$$new$$, array[underway.step($$a$$, $$no_such$$)]', '$$new$$, array[underway.step($$a$$, $$a_set$$)]',
    '$$new$$, array[underway.wait($$x$$), underway.step($$a$$, $$f$$, undo => $$a_trigger$$)]',
    '$$new$$, array[underway.step($$a$$, $$f()$$)]', '$$new$$, array[underway.step($$a$$, $$f($$)]',
    '$$new$$, array[underway.map($$a$$, $$f$$, over => $$f$$)]', '$$new$$, array[underway.map($$a$$, $$f$$, over => $$no_such$$)]',
    '$$new$$, array[underway.map($$a$$, $$f$$, over => $$of_text(text)$$)]', '$$new$$, array[underway.map($$a$$, $$f$$, over => $$records$$)]',
    '$$new$$, array[underway.step($$a$$, queue => $$no such$$)]', '$$new$$, array[underway.step($$a$$, queue => $$w$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$, undo_queue => $$no such$$)]', '$$new$$, array[underway.child($$a$$, $$no such$$)]',
    '$$new$$, array[underway.child($$a$$, $$q$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$, input => $$"$steps.b"$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$, input => $$"$steps.a"$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$), underway.step($$b$$, $$f$$, input => $$["$steps.c"]$$), underway.step($$c$$, $$f$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$), underway.step($$b$$, $$f$$, after => $${}$$, input => $${"x": "$steps.a.y"}$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$, run_if => $$$steps.b == 1$$)]',
    '$$new$$, array[underway.step($$a$$, $$f$$, run_if => $$$.steps."b" == 1$$)]',
    '$$new$$, array[underway.map($$a$$, $$f$$, items => $$$.x ? (@ == $steps."no step"[0])$$)]',
    '$$new$$, array[underway.wait($$a$$)], concurrency => 0', '$$new$$, array[underway.wait($$a$$)], priority => 16',
    '$$new$$, array[underway.wait($$a$$)], on_failure => $$x$$', '$$new$$, array[underway.wait($$a$$)], on_change => $$x$$',
    '$$new$$, array[underway.wait($$a$$)], keep => $$x$$', '$$new$$, array[underway.wait($$a$$)], durability => $$x$$',
    '$$new$$, array[underway.wait($$a$$)], timeout => $$0$$', '$$new$$, array[underway.wait($$a$$)], run_timeout => $$0$$',
    '$$new$$, array[underway.wait($$a$$)], retry => $$1$$', '$$new$$, array[underway.wait($$a$$)], settings => $${"no_such": 1}$$',
    '$$new$$, array[underway.wait($$a$$)], run_as => $$no such$$']) w));

-- A workflow is no queue, and a queue no workflow.
SELECT test.errors(
    $$SELECT underway.create_queue('w')$$, $$SELECT underway.create_queue('w', or_replace => true)$$,
    $$SELECT underway.alter_queue('w', concurrency => 1)$$, $$SELECT underway.drop_queue('w', true)$$,
    $$SELECT underway.enqueue('w')$$, $$SELECT underway.enqueue_many('w', '{"{}"}')$$, $$SELECT underway.dequeue('w')$$,
    $$SELECT underway.purge_queue('w')$$, $$SELECT underway.redrive('w')$$, $$SELECT underway.create_queue('x', dead_letter => 'w')$$,
    $$SELECT underway.drop_workflow('q')$$, $$SELECT underway.explain_workflow('q')$$);
SELECT test.errors(
    $$SELECT underway.drop_workflow(NULL)$$, $$SELECT underway.drop_workflow('')$$, $$SELECT underway.drop_workflow('W')$$,
    $$SELECT underway.drop_workflow('no such', true)$$, $$SELECT underway.explain_workflow(NULL)$$,
    $$SELECT underway.explain_workflow('w', 2)$$, $$SELECT underway.explain_workflow('w', -1)$$,
    $$SELECT underway.explain_workflow('w', format => 'svg')$$, $$SELECT underway.explain_workflow('w', format => NULL)$$);

-- Rights.
CREATE ROLE flow_owner LOGIN;
CREATE ROLE flow_other LOGIN;
CREATE ROLE flow_manager LOGIN;
GRANT CREATE ON DATABASE :DBNAME TO flow_owner;
SET ROLE flow_other;
SELECT test.errors($$SELECT underway.create_workflow('new', array[underway.wait('a')])$$, $$SELECT underway.drop_workflow('w')$$,
    $$SELECT underway.explain_workflow('w')$$, $$SELECT underway.create_workflow('w', array[underway.wait('a')])$$);
SELECT count(*) FROM underway.workflows;
SET ROLE flow_owner;
SELECT test.errors(
    $$SELECT underway.create_workflow('new', array[underway.step('a', queue => 'q')])$$,
    $$SELECT underway.create_workflow('new', array[underway.child('a', 'w')])$$,
    $$SELECT underway.create_workflow('new', array[underway.wait('a')], run_as => 'flow_other')$$);
RESET ROLE;
-- Who defines it may enqueue there, but the role that it runs as may not.
SELECT test.errors($$SELECT underway.create_workflow('new', array[underway.step('a', queue => 'q')], run_as => 'flow_owner')$$);
SELECT test.errors($$SELECT underway.create_workflow('new', array[underway.wait('x'), underway.step('a', 'f')], run_as => 'flow_owner')$$);
GRANT USAGE ON SCHEMA flow TO flow_owner;
REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;
SELECT test.errors($$SELECT underway.create_workflow('new', array[underway.wait('x'), underway.step('a', 'f')], run_as => 'flow_owner')$$);
GRANT EXECUTE ON FUNCTION f TO PUBLIC;
SELECT test.digest() = :'before' AS unchanged;
SELECT underway.grant_queue('q', 'flow_owner');
SET ROLE flow_owner;
SELECT underway.create_workflow('owned', array[underway.step('a', queue => 'q')]);
SELECT underway.grant_queue('owned', 'flow_other', '{enqueue}'), underway.grant_queue('owned', 'flow_manager', '{manage}');
SET ROLE flow_other;
SELECT name, steps, settings FROM underway.workflows;
SELECT test.errors($$SELECT underway.explain_workflow('owned')$$, $$SELECT underway.create_workflow('owned', array[underway.wait('a')])$$);
SET ROLE flow_manager;
SELECT underway.explain_workflow('owned');
SELECT test.errors($$SELECT underway.create_workflow('owned', array[underway.wait('a')])$$,
    $$SELECT underway.create_workflow('owned', array(SELECT jsonb_array_elements(steps))) FROM underway.workflows$$,
    $$SELECT underway.drop_workflow('owned', true)$$);
RESET ROLE;
SELECT underway.grant_queue('q', 'flow_manager');
SET ROLE flow_manager;
-- The same steps with other numbers need manage alone; settings decide what runs as the owner.
SELECT underway.create_workflow('owned', array(SELECT jsonb_array_elements(steps)), concurrency => 2) FROM underway.workflows;
SELECT test.errors($$SELECT underway.create_workflow('owned', array(SELECT jsonb_array_elements(steps)), settings => '{"work_mem": "8MB"}')
    FROM underway.workflows$$);
RESET ROLE;
SELECT underway.drop_workflow('owned');
REVOKE ALL ON DATABASE :DBNAME FROM flow_owner;
SELECT underway.revoke_queue('q', 'flow_owner'), underway.revoke_queue('q', 'flow_manager');
SELECT underway.drop_workflow('w'), underway.drop_queue('q');
SET client_min_messages = warning;
DROP SCHEMA flow CASCADE;
DROP ROLE flow_owner, flow_other, flow_manager;
