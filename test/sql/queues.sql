-- Queues: what create_queue, alter_queue, drop_queue, pause_queue, resume_queue and purge_queue return and store.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION one(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE PROCEDURE three(input jsonb) LANGUAGE sql AS 'SELECT 3';
CREATE SCHEMA "My ""schema""";
CREATE FUNCTION "My ""schema"""."odd.name(x)"(jsonb) RETURNS void LANGUAGE sql AS '';
CREATE VIEW settings AS
    SELECT name, owner, handler, state, concurrency, priority, retry, timeout, heartbeat, ttl, dead_letter, keep, batch,
    durability, group_concurrency, settings FROM underway.queues;

-- Two positional arguments are enough.
SELECT underway.create_queue('plain', 'one');
SELECT underway.create_queue('external');
SELECT underway.create_queue(name => 'all', handler => 'public.one(jsonb)', concurrency => 3, priority => 0,
    retry => underway.retry_policy(max_attempts => 2), timeout => '1 min', heartbeat => '5 s', ttl => '1 day',
        dead_letter => 'external',
    keep => 'failed', batch => 10, durability => 'async', group_concurrency => 1, settings => '{"work_mem": "8MB"}',
    run_as => current_user);
SELECT * FROM settings ORDER BY name;
SELECT name, pending, pending_exact, due, in_progress, waiting, oldest_due, problem, paused_at, paused_by,
    created_at <= now() AS made
    FROM underway.queues ORDER BY name;

-- f finds f(jsonb), then f(); with arguments it is exact; names may be quoted; the search_path of the caller is what
-- counts.
SELECT underway.create_queue('h1', 'two');
SELECT underway.create_queue('h2', 'two()');
SELECT underway.create_queue('h3', 'three');
SELECT underway.create_queue('h4', '"My ""schema"""."odd.name(x)"(jsonb)');
CREATE FUNCTION "My ""schema""".only_here() RETURNS void LANGUAGE sql AS '';
SET search_path = "My ""schema""", public;
\set VERBOSITY terse
SELECT underway.create_queue('h5', 'only_here');
\set VERBOSITY default
RESET search_path;
CREATE FUNCTION twice(jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION twice() RETURNS void LANGUAGE sql AS '';
SELECT underway.create_queue('h6', 'twice');
SELECT underway.create_queue('h7', 'twice()');
SELECT underway.create_queue('h8', '  PUBLIC.Twice ( jsonb ) ');
SELECT underway.create_queue('h9', '"My ""schema"""."odd.name(x)"');
SELECT name, handler FROM underway.queues WHERE name LIKE 'h_' ORDER BY name;
SELECT handler FROM underway.queues WHERE name = 'h4' \gset
SELECT underway.alter_queue('h1', handler => :'handler');
SELECT count(underway.drop_queue(name)) FROM underway.queues WHERE name LIKE 'h_';

-- Names: anything of 1 to 128 bytes without control characters, with quotes and all.
SELECT underway.create_queue('My "queue"; drop table x; --''%s\n', 'one');
SELECT underway.create_queue(repeat('é', 64));
SELECT underway.pause_queue('My "queue"; drop table x; --''%s\n');
SELECT name, state FROM underway.queues WHERE name LIKE 'My%';
SELECT underway.drop_queue('My "queue"; drop table x; --''%s\n');
SELECT underway.drop_queue(repeat('é', 64));

-- alter_queue: null leaves alone, reset goes back to the default.
SELECT underway.alter_queue('all', concurrency => 4, ttl => '2 days');
SELECT * FROM settings WHERE name = 'all';
SELECT underway.alter_queue('all', keep => 'none', reset => '{concurrency,ttl}');
SELECT * FROM settings WHERE name = 'all';
SELECT underway.alter_queue('all');
SELECT underway.alter_queue('all', reset => '{}');
SELECT underway.alter_queue('all',
    reset => '{handler,concurrency,priority,retry,timeout,heartbeat,ttl,dead_letter,keep,batch,durability,group_concurrency,settings}');
SELECT * FROM settings WHERE name = 'all';
SELECT underway.alter_queue('all', 'two');
SELECT * FROM settings WHERE name = 'all';

-- or_replace: exactly what this call says.
SELECT underway.create_queue('all', 'one', priority => 3, or_replace => true);
SELECT * FROM settings WHERE name = 'all';
SELECT underway.pause_queue('all');
SELECT underway.enqueue('all') IS NOT NULL AS enqueued;
SELECT underway.create_queue('all', concurrency => 1, or_replace => true);
SELECT name, handler, concurrency, priority, state, pending FROM underway.queues WHERE name = 'all';
SELECT underway.create_queue('new', or_replace => true);

-- Pause and resume.
SELECT underway.pause_queue('plain');
SELECT underway.pause_queue('plain');
SELECT state, paused_at IS NOT NULL AS paused, paused_by FROM underway.queues WHERE name = 'plain';
SELECT underway.enqueue('plain', '{"n": 1}') AS task \gset
SELECT state, pending, due, oldest_due IS NOT NULL AS has_oldest FROM underway.queues WHERE name = 'plain';
SELECT underway.resume_queue('plain');
SELECT underway.resume_queue('plain');
SELECT * FROM test.ends(:'task');
SELECT state, pending, due, paused_at, paused_by FROM underway.queues WHERE name = 'plain';

-- purge_queue: deletes what has not begun, and their keys are free.
SELECT count(underway.enqueue('external', to_jsonb(n), key => 'k' || n, delay => n * interval '1 hour', priority => n))
    FROM generate_series(1, 5) n;
SELECT underway.enqueue('external', key => 'paused') AS task \gset
SELECT underway.pause(:'task');
SELECT pending, waiting FROM underway.queues WHERE name = 'external';
SELECT underway.purge_queue('external');
SELECT underway.purge_queue('external');
SELECT count(*) FROM underway.status(:'task');
SELECT underway.enqueue('external', key => 'paused') <> :'task' AS free;

-- drop_queue: refused while it holds unfinished tasks or is a dead letter queue, unless forced.
SELECT * FROM test.error($$SELECT underway.drop_queue('external')$$);
SELECT underway.enqueue('external', key => 'other') AS waiting \gset
SELECT underway.pause(:'waiting');
SELECT id AS pending FROM underway.tasks WHERE queue = 'external' AND state = 'pending' \gset
SELECT * FROM test.error($$SELECT underway.drop_queue('external', false)$$);
SELECT underway.drop_queue('external', force => true);
SELECT * FROM test.ends(:'pending');
SELECT * FROM test.ends(:'waiting');
SELECT queue, state, reason FROM underway.tasks WHERE id IN (:'pending', :'waiting');
SELECT underway.create_queue('external');
SELECT underway.enqueue('external', key => 'other') <> :'waiting' AS free;
SELECT underway.purge_queue('external');
SELECT underway.alter_queue('plain', dead_letter => 'external');
SELECT * FROM test.error($$SELECT underway.drop_queue('external')$$);
SELECT underway.drop_queue('external', true);
SELECT dead_letter FROM underway.queues WHERE name = 'plain';

-- All of it is of the caller's transaction.
BEGIN;
SELECT underway.create_queue('rolled back', 'one');
SELECT underway.enqueue('rolled back') AS task \gset
ROLLBACK;
SELECT count(*) FROM underway.queues WHERE name = 'rolled back';
SELECT count(*) FROM underway.status(:'task');
BEGIN;
SELECT underway.create_queue('committed', 'one');
SELECT underway.enqueue('committed', '[7]') AS task \gset
COMMIT;
SELECT * FROM test.ends(:'task');

-- The view counts by index, whatever the planner thinks of a table that was filled a moment ago.
BEGIN;
SELECT count(underway.enqueue_many('all', array_fill('1'::jsonb, '{2000}')));
SELECT seq_scan AS before FROM pg_stat_xact_all_tables WHERE relid = 'underway_internal.task'::regclass \gset
SELECT pending, pending_exact, due, in_progress, waiting FROM underway.queues WHERE name = 'all';
SELECT count(oldest_due) FROM underway.queues;
SELECT seq_scan - :before AS whole_scans FROM pg_stat_xact_all_tables WHERE relid = 'underway_internal.task'::regclass;
-- So does why(): the tasks of other queues are not read.
SELECT underway.enqueue('committed') AS task \gset
SELECT seq_tup_read + idx_tup_fetch AS before FROM pg_stat_xact_all_tables WHERE relid = 'underway_internal.task'::regclass \gset
SELECT underway.why(:'task') IS NOT NULL AS why;
SELECT seq_tup_read + idx_tup_fetch - :before < 100 AS few FROM pg_stat_xact_all_tables WHERE relid = 'underway_internal.task'::regclass;
ROLLBACK;

SELECT underway.purge_queue('all');
SELECT count(underway.drop_queue(name)) FROM underway.queues;
SELECT count(*) FROM underway.queues;
