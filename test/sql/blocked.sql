-- A queue whose handler or owner is missing or unfit: blocked, no attempt is used, and it goes on by itself.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE ROLE regress_owner LOGIN;
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION g(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 2';
SELECT underway.create_queue('q', 'f');
SELECT underway.create_queue('theirs', 'g', run_as => 'regress_owner');
-- What there is to see of a queue that cannot run, and of a task on it: once no worker has it in hand, to which it may have been handed.
CREATE FUNCTION looks(queue text, task uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT test.until('NOT EXISTS (SELECT FROM underway.workers WHERE tasks > 0)');
    SELECT format('%s: %s, %s pending', q.name, q.state, q.pending) FROM underway.queues q WHERE q.name = queue
    UNION ALL SELECT 'problem: ' || problem FROM underway.queues WHERE name = queue
    UNION ALL SELECT 'why: ' || regexp_replace(underway.why(task), ', at .*', '')
    UNION ALL SELECT format('health: %s, %s, %s / %s', h.severity, h.object, h.problem, h.hint)
        FROM underway.check_health() h
    UNION ALL SELECT format('task: %s, attempt %s, failures %s', state, attempt, failures) FROM underway.status(task)
$$;

-- Dropped; made again.
DROP FUNCTION f(jsonb);
SELECT underway.enqueue('q') AS task \gset
SELECT looks('q', :'task');
-- Other settings of it can be changed all the same.
SELECT underway.alter_queue('q', priority => 7), underway.pause_queue('q'), underway.resume_queue('q');
SELECT * FROM test.error($$SELECT underway.alter_queue('q', handler => 'f')$$);
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT state, attempt, failures, output FROM test.ends(:'task');
SELECT looks('q', :'task');
-- In one transaction there is no moment without it.
BEGIN;
DROP FUNCTION f(jsonb);
SELECT underway.enqueue('q') AS task \gset
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 3';
COMMIT;
SELECT state, attempt, output FROM test.ends(:'task');
-- Between the claim and the call: a worker is held there. Made anew, the new one runs; renamed, none does.
CREATE FUNCTION at_waitpoint() RETURNS text LANGUAGE sql AS $$
    SELECT $q$EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7867 AND objid = 2 AND NOT granted)$q$
$$;
-- Not flushed, so that nothing is handed over with a commit: a worker claims it.
SET synchronous_commit = off;
SELECT pg_advisory_lock(7867, 2), underway_internal.arm_waitpoints(1 << 2);
SELECT underway.enqueue('q') AS task \gset
SELECT test.until(at_waitpoint());
BEGIN;
DROP FUNCTION f(jsonb);
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 7';
COMMIT;
SELECT pg_advisory_unlock(7867, 2);
SELECT state, attempt, failures, output FROM test.ends(:'task');
SELECT pg_advisory_lock(7867, 2);
SELECT underway.enqueue('q') AS task \gset
SELECT test.until(at_waitpoint());
ALTER FUNCTION f(jsonb) RENAME TO f_moved;
SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock(7867, 2);
SELECT test.until('NOT EXISTS (SELECT FROM underway.workers WHERE state = ''busy'')');
SELECT looks('q', :'task');
ALTER FUNCTION f_moved(jsonb) RENAME TO f;
SELECT state, attempt, failures, output FROM test.ends(:'task');
RESET synchronous_commit;
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 3';
-- Renamed, moved to another schema, and back.
ALTER FUNCTION f(jsonb) RENAME TO f_moved;
SELECT underway.enqueue('q') AS task \gset
SELECT state FROM underway.await(:'task', '20 ms');
ALTER FUNCTION f_moved(jsonb) RENAME TO f;
SELECT state, attempt, output FROM test.ends(:'task');
CREATE SCHEMA other;
ALTER FUNCTION f(jsonb) SET SCHEMA other;
SELECT underway.enqueue('q') AS task \gset
SELECT looks('q', :'task');
ALTER SCHEMA other RENAME TO another;
SELECT underway.alter_queue('q', handler => 'another.f');
SELECT state, attempt, output FROM test.ends(:'task');
ALTER SCHEMA another RENAME TO other;
SELECT underway.enqueue('q') AS task \gset
SELECT looks('q', :'task');
ALTER SCHEMA other RENAME TO another;
SELECT state, attempt, output FROM test.ends(:'task');
DROP SCHEMA another CASCADE;
SELECT underway.enqueue('q') AS task \gset
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 4';
SELECT state FROM underway.await(:'task', '20 ms');
SELECT underway.alter_queue('q', handler => 'f');
SELECT state, attempt, output FROM test.ends(:'task');
-- Made again as something that cannot be one.
DROP FUNCTION f(jsonb);
CREATE FUNCTION f(input jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 5';
SELECT underway.enqueue('q') AS task \gset
SELECT looks('q', :'task');
DROP FUNCTION f(jsonb);
CREATE AGGREGATE f(jsonb) (sfunc = jsonb_concat, stype = jsonb);
SELECT looks('q', :'task');
DROP AGGREGATE f(jsonb);
CREATE FUNCTION f(input jsonb) RETURNS int LANGUAGE sql AS 'SELECT 6';
SELECT state, attempt, output FROM test.ends(:'task');

-- The owner loses what it needs, and gets it back.
REVOKE EXECUTE ON FUNCTION g(jsonb) FROM PUBLIC;
SELECT underway.enqueue('theirs') AS task \gset
SELECT looks('theirs', :'task');
GRANT EXECUTE ON FUNCTION g(jsonb) TO regress_owner;
SELECT state, attempt, output FROM test.ends(:'task');
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
SELECT underway.enqueue('theirs') AS task \gset
SELECT looks('theirs', :'task');
GRANT USAGE ON SCHEMA public TO PUBLIC;
SELECT state, attempt, output FROM test.ends(:'task');
ALTER ROLE regress_owner NOLOGIN;
SELECT underway.enqueue('theirs') AS task \gset
SELECT state FROM underway.await(:'task', '20 ms');
SELECT underway.pause_queue('theirs'), underway.resume_queue('theirs');
SELECT looks('theirs', :'task');
ALTER ROLE regress_owner LOGIN;
SELECT state, attempt, failures, output FROM test.ends(:'task');
-- Renamed, back; dropped, made again.
ALTER ROLE regress_owner RENAME TO regress_renamed;
SELECT underway.enqueue('theirs') AS task \gset
SELECT looks('theirs', :'task');
ALTER ROLE regress_renamed RENAME TO regress_owner;
SELECT state, attempt, failures, output FROM test.ends(:'task');
DROP OWNED BY regress_owner;
DROP ROLE regress_owner;
SELECT underway.enqueue('theirs') AS task, underway.enqueue('q') AS other \gset
SELECT state FROM test.ends(:'other');
SELECT looks('theirs', :'task');
CREATE ROLE regress_owner LOGIN;
GRANT EXECUTE ON FUNCTION g(jsonb) TO regress_owner;
SELECT state, attempt, failures, output FROM test.ends(:'task');
DROP OWNED BY regress_owner;
DROP ROLE regress_owner;
SELECT underway.enqueue('theirs') AS task \gset
SELECT underway.alter_queue('theirs', run_as => current_user);
SELECT state, attempt, failures, output FROM test.ends(:'task');

-- Queues of superusers can be forbidden.
ALTER SYSTEM SET underway.superuser_queues = off;
SELECT pg_reload_conf();
-- A session reads the configuration anew between two statements.
\set ECHO none
\o /dev/null
SELECT 'SELECT pg_sleep(0.02) WHERE current_setting(''underway.superuser_queues'') = ''on'''
    FROM generate_series(1, 1000) \gexec
\o
\set ECHO all
SELECT underway.enqueue('q') AS task \gset
SELECT looks('q', :'task');
SELECT * FROM test.error($$SELECT underway.create_queue('new', 'f')$$);
ALTER SYSTEM RESET underway.superuser_queues;
SELECT pg_reload_conf();
SELECT state, attempt, output FROM test.ends(:'task');
-- Held: by the setting, for this database.
SELECT format('ALTER DATABASE %I SET underway.enabled = off', current_database()) \gexec
-- Only new processes have it; those there are leave.
SELECT test.until('NOT EXISTS (SELECT FROM underway.workers WHERE database = current_database())');
SELECT underway.enqueue('q') AS task \gset
-- This session has the value that it began with, and goes by the one that holds.
SELECT test.until($$EXISTS (SELECT FROM underway.queues WHERE name = 'q' AND state = 'held')$$);
SHOW underway.enabled;
SELECT looks('q', :'task');
SELECT underway.create_queue('out'), cardinality(underway.enqueue_many('out', '{1}'));
SELECT count(*) FROM underway.dequeue('out');
SELECT underway.drop_queue('out', true);
\c
SELECT looks('q', :'task');
SELECT state FROM underway.await(:'task', '20 ms');
SELECT format('ALTER DATABASE %I RESET underway.enabled', current_database()) \gexec
SELECT state, attempt, output FROM test.ends(:'task');
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
