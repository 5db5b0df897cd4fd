-- await and wait_for: what they wait for, what they refuse, and what an idle waiter holds.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE gate (open bool);
INSERT INTO gate VALUES (false);
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    WHILE input = '"wait"' AND NOT (SELECT open FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN input;
END $$;
SELECT underway.create_queue('q', 'f');
SELECT underway.create_queue('external');

-- The row of status(), whatever the end.
SELECT underway.enqueue('q', '{"n": 1}') AS task \gset
SELECT kind, queue, state, attempt, input, output, finished_at >= started_at AS times FROM underway.await(:'task');
SELECT (a.*) = (s.*) AS same FROM underway.await(:'task') a, underway.status(:'task') s;
CALL underway.wait_for(:'task');
SELECT underway.enqueue('external') AS cancelled \gset
SELECT underway.cancel(:'cancelled');
SELECT state FROM underway.await(:'cancelled');

-- One that does not end within the time is answered as it stands.
SELECT underway.enqueue('external') AS pending \gset
SELECT state FROM underway.await(:'pending', '10 ms');
CALL underway.wait_for(:'pending', '10 ms');
SELECT underway.enqueue('q', '"wait"') AS running \gset
SELECT test.until(format('(SELECT state = ''in_progress'' FROM underway.status(%L))', :'running'));
SELECT state FROM underway.await(:'running', '1 ms');
CALL underway.wait_for(:'running', '1 ms');
UPDATE gate SET open = true;
CALL underway.wait_for(:'running');
SELECT state FROM underway.await(:'running');

-- A task of this very transaction, and of a subtransaction of it.
BEGIN;
SELECT underway.enqueue('q') AS own \gset
SELECT * FROM test.error(format('SELECT underway.await(%L)', :'own'));
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT underway.enqueue('q') AS own \gset
RELEASE a;
SELECT * FROM test.error(format('SELECT underway.await(%L)', :'own'));
SAVEPOINT b;
SELECT * FROM test.error(format('SELECT underway.await(%L)', :'own'));
ROLLBACK;
DO $$
DECLARE own uuid;
BEGIN
    BEGIN
        own := underway.enqueue('q');
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    RAISE NOTICE '%', (SELECT code FROM test.error(format('SELECT underway.await(%L)', own)));
END $$;
-- One that this transaction has not enqueued, while it has done other things.
SELECT underway.enqueue('q') AS task \gset
BEGIN;
SELECT underway.enqueue('q') IS NOT NULL AS other;
SELECT state FROM underway.await(:'task');
COMMIT;

-- A snapshot that never moves could wait for ever.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM test.error(format('SELECT underway.await(%L)', :'task'));
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM test.error(format('SELECT underway.await(%L)', :'task'));
ROLLBACK;
-- Not while something else may be going on.
BEGIN;
CALL underway.wait_for(:'task');
\echo :SQLSTATE
ROLLBACK;
CREATE FUNCTION waits(id uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE state text;
BEGIN
    CALL underway.wait_for(id, '1 s', state);
    RETURN state;
END $$;
SELECT waits(:'task');
\echo :SQLSTATE
-- A block at the top may commit, and so may wait.
DO $$
DECLARE
    task uuid := underway.enqueue('q');
    state text;
BEGIN
    COMMIT;
    CALL underway.wait_for(task, '1 min', state);
    RAISE NOTICE '%', state;
END $$;
-- A timeout of the session's, and a cancel, end it; the place is free again.
SET statement_timeout = '20 ms';
SELECT state FROM underway.await(:'pending');
\echo :SQLSTATE
CALL underway.wait_for(:'pending');
\echo :SQLSTATE
RESET statement_timeout;
SELECT state FROM underway.await(:'pending', '0');

-- Several awaited in one statement; one inside another's handler.
SELECT count(*), min(a.state) FROM unnest(underway.enqueue_many('q', '{1,2,3}')) id, underway.status(id) a;
SELECT underway.enqueue_many('q', '{1,2,3}') AS ids \gset
SELECT a.state, a.output FROM unnest(:'ids'::uuid[]) WITH ORDINALITY u(id, n), underway.await(id) a ORDER BY n;
CREATE FUNCTION parent(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT to_jsonb(a.state) FROM underway.await((input ->> 'child')::uuid) a);
END $$;
SELECT underway.create_queue('parents', 'parent');
SELECT underway.enqueue('parents', jsonb_build_object('child', underway.enqueue('q'))) AS parent \gset
SELECT state, output FROM test.ends(:'parent');

-- In read-only transactions too.
SELECT underway.enqueue('q') AS task \gset
BEGIN READ ONLY;
SELECT state FROM underway.await(:'task');
COMMIT;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
