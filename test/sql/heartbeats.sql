-- Heartbeats of external workers: their interval, when silence is too long, what is told of it, and what finding it costs.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION clock_after(i interval) RETURNS bool LANGUAGE sql AS $$
    SELECT underway.set_clock(clock_timestamp() + i) IS NOT NULL $$;
-- Of a task's attempts, with times to the minute.
CREATE FUNCTION attempts(id uuid, OUT attempt int, OUT outcome text, OUT worker text, OUT sqlstate text, OUT error text)
    RETURNS SETOF record LANGUAGE sql AS $$
    SELECT a.attempt, a.outcome, a.worker, a.sqlstate, regexp_replace(a.error, '(\d\d:\d\d):\d\d\.\d+', '\1')
    FROM underway.attempts a WHERE a.task_id = id ORDER BY a.attempt $$;

-- The interval of the queue, and that of a task; the first heartbeat is the dequeue.
SELECT underway.create_queue('q', heartbeat => '10 min', timeout => '10 h');
SELECT underway.enqueue('q', '"queue"') AS one, underway.enqueue('q', '"task"', heartbeat => '1 h') AS two \gset
SELECT lease AS lease_one FROM underway.dequeue('q', worker => 'ann') \gset
SELECT lease AS lease_two FROM underway.dequeue('q', worker => 'bob') \gset
SELECT state, worker, last_heartbeat = started_at AS begun, progress FROM underway.status(:'one');
SELECT clock_after('7 min');
SELECT underway.heartbeat(:'lease_one', '{"half": true}');
SELECT state, date_trunc('minute', last_heartbeat - started_at) AS beat, progress FROM underway.status(:'one');
SELECT input, date_trunc('minute', last_heartbeat - started_at) AS beat FROM underway.tasks ORDER BY id;
-- A late one is nothing.
SELECT clock_after('35 min');
SELECT count(*) FROM underway.dequeue('q');
SELECT underway.heartbeat(:'lease_one');
-- Silent for three intervals it is lost, with who held it and how long it was silent; it used no attempt.
SELECT clock_after('66 min');
SELECT test.until(format('(SELECT state = ''pending'' FROM underway.status(%L))', :'one'));
SELECT * FROM attempts(:'one');
SELECT state, attempt, failures, losses FROM underway.status(:'one');
SELECT underway.heartbeat(:'lease_one');
SELECT state FROM underway.status(:'two');
SELECT clock_after('181 min');
SELECT test.until(format('(SELECT state = ''pending'' FROM underway.status(%L))', :'two'));
SELECT * FROM attempts(:'two');
SELECT underway.cancel(:'one'), underway.cancel(:'two');
-- Too long to run is another thing, and a failure.
SELECT underway.enqueue('q', '"time"', timeout => '5 min', retry => underway.retry_policy(max_attempts => 1)) AS three \gset
SELECT lease FROM underway.dequeue('q', worker => 'eve') \gset
SELECT clock_after('185 min');
SELECT underway.heartbeat(:'lease');
SELECT clock_after('187 min');
SELECT state, attempt, failures, reason, sqlstate, error FROM test.ends(:'three');
SELECT clock_after('0');

-- Nobody looks for work, and nobody moves the clock: the coordinator knows when silence will be too long.
SELECT underway.create_queue('short', heartbeat => '30 ms');
SELECT underway.enqueue('short') AS task \gset
SELECT count(*) FROM underway.dequeue('short');
SELECT test.until(format('(SELECT state = ''pending'' FROM underway.status(%L))', :'task'));
SELECT attempt, outcome FROM attempts(:'task');

-- The lock on a task is of a class of its own: an application's have objsubid 1 or 2.
SELECT underway.enqueue('q') AS task \gset
SELECT lease FROM underway.dequeue('q') \gset
BEGIN;
SELECT underway.lock_task(:'lease');
SELECT l.objsubid, l.mode, l.granted FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'advisory';
SELECT underway.complete(:'lease');
COMMIT;

-- A dequeue that finds nothing else takes a few that are stale, by an index, whatever there is; the coordinator (held meanwhile) all.
SELECT underway.create_queue('many', heartbeat => '10 min', timeout => '10 h');
SELECT cardinality(underway.enqueue_many('many', array_fill('1'::jsonb, '{2500}')));
SELECT count(*) FROM underway.dequeue('many', 2500);
SELECT pg_advisory_lock(7867, 4), underway_internal.arm_waitpoints(16);
SELECT clock_after('31 min');
BEGIN;
SELECT count(*) FROM underway.dequeue('many');
SELECT state, attempt, count(*) FROM underway.tasks WHERE queue = 'many' GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK;
CREATE VIEW scans AS SELECT sum(seq_scan) AS n FROM pg_stat_xact_all_tables
    WHERE schemaname = 'underway_internal' AND relname IN ('task', 'heartbeat');
BEGIN;
SELECT n AS before FROM scans \gset
SELECT count(*) FROM underway.dequeue('many', 100);
SELECT n - :before AS scans FROM scans;
ROLLBACK;
SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock(7867, 4);
SELECT test.until('(SELECT pending = 2500 FROM underway.queues WHERE name = ''many'')');
SELECT clock_after('0');

-- In the server nothing beats and nothing is written while a handler runs: the views show what its worker says.
CREATE TABLE gate (open bool);
CREATE FUNCTION reports(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..2 LOOP
        PERFORM underway.progress(to_jsonb(n));
        WHILE (SELECT count(*) FROM gate) < n LOOP
            PERFORM pg_sleep(0.01);
        END LOOP;
    END LOOP;
END $$;
SELECT underway.create_queue('inside', 'reports');
SELECT underway.enqueue('inside') AS task \gset
SELECT test.until(format('(SELECT progress = ''1'' FROM underway.status(%L))', :'task'));
SELECT concat(ctid, xmin, xmax) AS row FROM underway_internal.task WHERE id = :'task' \gset
INSERT INTO gate VALUES (true);
SELECT test.until(format('(SELECT progress = ''2'' FROM underway.status(%L))', :'task'));
SELECT concat(ctid, xmin, xmax) = :'row' AS untouched FROM underway_internal.task WHERE id = :'task';
SELECT count(*) FROM underway_internal.heartbeat WHERE task_id = :'task';
SELECT s.last_heartbeat, w.state, w.attempt, w.task_started_at IS NOT NULL AS started
    FROM underway.status(:'task') s, underway.workers w WHERE w.task_id = :'task';
INSERT INTO gate VALUES (true);
SELECT state, attempt FROM test.ends(:'task');
SELECT underway.set_clock(NULL) IS NOT NULL AS real;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
