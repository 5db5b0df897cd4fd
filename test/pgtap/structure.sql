-- The extension as pgTAP sees it: schemas, functions with their results, and what an ordinary role may touch.
\set ECHO none
\set QUIET on
\pset tuples_only on
\pset format unaligned
SELECT plan(34);
SELECT has_extension('underway');
SELECT has_schema('underway');
SELECT has_schema('underway_internal');
SELECT views_are('underway', ARRAY['queues', 'tasks', 'attempts', 'workers', 'workflows', 'runs']);
SELECT tables_are('underway', ARRAY[]::name[]);
SELECT sequences_are('underway', ARRAY[]::name[]);
SELECT types_are('underway', ARRAY['transition']);
SELECT triggers_are('underway_internal', 'queue', ARRAY['guard_rights', 'loaded', 'written', 'emptied']);
SELECT triggers_are('underway_internal', 'queue_grant', ARRAY['guard_rights', 'written', 'emptied']);
SELECT has_pk('underway_internal', t, t || ' has a primary key')
    FROM unnest('{queue,queue_grant,task,task_key,ring_slot}'::text[]) t;
SELECT is_empty($$SELECT d.objid::regclass, a.attname FROM pg_depend d
    JOIN pg_index i ON i.indexrelid = d.objid AND i.indrelid = d.refobjid
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refobjid = 'underway_internal.task'::regclass
      AND a.attname IN ('state', 'attempt', 'slot', 'generation', 'boot', 'claimed_at', 'worker')$$,
    'no index of tasks knows what a claim changes');
SELECT is_empty($$SELECT attrelid::regclass, attname FROM pg_attribute
    WHERE attrelid::regclass::text ~ '^underway_internal.(task|claim|(archive|attempt)(_[0-9]+)?)$' AND attnum > 0
      AND attstattarget IS DISTINCT FROM 10$$, 'ANALYZE reads little of what is large');
SELECT col_type_is('underway', 'tasks', 'id', 'uuid', 'ids are uuids');
SELECT col_type_is('underway', 'tasks', 'state', 'text', 'states are text');
SELECT function_returns('underway', 'enqueue', 'uuid', 'enqueue returns uuid');
SELECT function_returns('underway', 'enqueue_many', 'uuid[]', 'enqueue_many returns uuid[]');
SELECT function_returns('underway', 'create_queue', 'text', 'create_queue returns text');
SELECT isnt_definer('underway', 'enqueue', 'enqueue runs as its caller');
SELECT isnt_strict('underway', 'enqueue', 'enqueue takes nulls');
SELECT volatility_is('underway', 'enqueue', 'volatile', 'enqueue is volatile');
SELECT is_procedure('underway', 'wait_for', 'wait_for is a procedure');

CREATE ROLE regress_tap;
SELECT schema_privs_are('underway', 'regress_tap', ARRAY['USAGE']);
SELECT schema_privs_are('underway_internal', 'regress_tap', ARRAY[]::name[]);
SELECT table_privs_are('underway', 'tasks', 'regress_tap', ARRAY['SELECT']);
SELECT table_privs_are('underway_internal', 'task', 'regress_tap', ARRAY[]::name[]);
SELECT function_privs_are('underway', 'set_clock', ARRAY['timestamptz'], 'regress_tap', ARRAY[]::name[]);
SELECT function_privs_are('underway', 'why', ARRAY['uuid'], 'regress_tap', ARRAY['EXECUTE']);
SET ROLE regress_tap;
SELECT throws_ok('SELECT * FROM underway_internal.task', '42501', NULL, 'the tables are out of reach');
SELECT throws_ok($$SELECT underway.create_queue('mine')$$, '42501', NULL, 'a queue needs CREATE on the database');
SELECT is_empty('SELECT * FROM underway.queues', 'no queues to see');
RESET ROLE;
DROP ROLE regress_tap;
SELECT * FROM finish();
