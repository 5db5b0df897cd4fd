-- Time to live: who never started in time ends failed, whoever looks first; by the clock.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE gate (open bool);
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' AND underway.attempt() < 2 THEN
        RAISE EXCEPTION 'once';
    ELSIF input = '"again"' AND underway.attempt() < 2 THEN
        RETURN NULL;
    END IF;
    WHILE input = '"waits"' AND NOT EXISTS (SELECT FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN to_jsonb(underway.attempt());
END $$;
CREATE FUNCTION clock_after(i interval) RETURNS bool LANGUAGE sql AS $$
    SELECT underway.set_clock(clock_timestamp() + i) IS NOT NULL $$;
SELECT underway.create_queue('q', 'f', retry => underway.retry_policy(initial_interval => '30 days',
    max_interval => '30 days', jitter => 0));
SELECT underway.create_queue('hour', 'f', ttl => '1 h');
SELECT underway.create_queue('external', ttl => '1 h');
SELECT underway.pause_queue('q'), underway.pause_queue('hour');

-- The task's over the queue's over the default of 14 days; counted from when it is due.
SELECT underway.enqueue('q', '"task"', ttl => '1 min') AS task, underway.enqueue('hour', '"queue"') AS queue,
    underway.enqueue('hour', '"long"', ttl => '2 days') AS long,
    underway.enqueue('hour', '"later"', delay => '1 day') AS later, underway.enqueue('external',
        '"external"') AS external, underway.enqueue('q', '"default"') AS default \gset
CREATE VIEW tasks AS SELECT t.input, t.state, t.attempt, t.reason, t.error FROM underway.tasks t
    WHERE input IN ('"task"', '"queue"', '"long"', '"later"', '"external"', '"default"') ORDER BY t.input;
SELECT clock_after('30 s');
SELECT state FROM underway.await(:'task', '50 ms');
SELECT clock_after('61 s');
SELECT * FROM test.ends(:'task');
SELECT started_at, worker, expires_at - run_at AS ttl FROM underway.status(:'task'), LATERAL (SELECT expires_at
    FROM underway.tasks WHERE id = :'task') t;
SELECT underway.why(:'task');
SELECT clock_after('61 min');
SELECT state, attempt, reason, error FROM test.ends(:'queue');
SELECT state, attempt, reason, error FROM test.ends(:'external');
SELECT * FROM tasks;
SELECT clock_after('24 h 30 min');
SELECT state FROM underway.await(:'later', '0');
SELECT clock_after('25 h 1 min');
SELECT state, reason FROM test.ends(:'later');
SELECT clock_after('13 days 23 h');
SELECT state, reason FROM test.ends(:'long');
SELECT state FROM underway.await(:'default', '0');
SELECT clock_after('14 days 2 h');
SELECT state, reason, error FROM test.ends(:'default');
SELECT clock_after('0');

-- Found too late by a worker: it does not run it.
SELECT underway.enqueue('hour', '"queue"') AS queue, underway.enqueue('hour', '"mine"', ttl => '1 min') AS mine,
    underway.enqueue('hour', '"runs"', ttl => '1 day') AS runs \gset
BEGIN;
SELECT clock_after('2 h');
SELECT underway.resume_queue('hour');
COMMIT;
SELECT state, attempt, reason FROM test.ends(:'queue');
SELECT state, attempt, reason FROM test.ends(:'mine');
SELECT state, attempt, reason FROM test.ends(:'runs');
SELECT clock_after('0');

-- What has begun, waits for a retry or is paused by a person is left alone.
SELECT underway.resume_queue('q');
SELECT underway.enqueue('q', '"fails"', ttl => '1 min') AS retried, underway.enqueue('q', '"waits"',
    ttl => '1 min') AS running \gset
SELECT test.failed_attempts(:'retried', 1);
SELECT test.until(format('(SELECT state = ''in_progress'' FROM underway.status(%L))', :'running'));
SELECT underway.pause_queue('q');
SELECT underway.enqueue('q', '"paused"', ttl => '1 min') AS paused, underway.enqueue('q', '"witness"',
    ttl => '1 min') AS witness \gset
SELECT underway.pause(:'paused');
SELECT clock_after('29 days');
SELECT state FROM test.ends(:'witness');
SELECT state, reason FROM underway.status(:'paused');
SELECT state FROM underway.status(:'retried');
SELECT state FROM underway.status(:'running');
INSERT INTO gate VALUES (true);
SELECT state, output FROM test.ends(:'running');
SELECT clock_after('31 days');
SELECT underway.resume_queue('q');
SELECT state, attempt, output FROM test.ends(:'retried');
-- Resumed too late, it ends.
SELECT underway.resume(:'paused');
SELECT state, attempt, reason FROM test.ends(:'paused');
-- Re-opened, it has its time anew.
SELECT underway.retry(:'witness');
SELECT state, attempt, output FROM test.ends(:'witness');
SELECT clock_after('0');

-- A time in the past is not a reason to expire at once.
SELECT underway.enqueue('hour', '"epoch"', run_at => '1970-01-01') AS past, underway.enqueue('hour', '"epoch"',
    run_at => '1970-01-01', ttl => '1 min') AS with_ttl \gset
SELECT state FROM test.ends(:'past');
SELECT state FROM test.ends(:'with_ttl');
SELECT underway.pause_queue('hour');
SELECT underway.enqueue('hour', '"epoch"', run_at => '1970-01-01') AS past, underway.enqueue('hour', '"epoch"',
    run_at => '1970-01-01', ttl => '1 min') AS with_ttl \gset
SELECT clock_after('2 min');
SELECT state, reason, error FROM test.ends(:'with_ttl');
SELECT state FROM underway.status(:'past');
SELECT clock_after('61 min');
SELECT state, reason, error FROM test.ends(:'past');

-- By its own timer, where nobody claims: an external queue, and a paused one, whenever it was paused.
SELECT clock_after('0');
SELECT underway.create_queue('short external', ttl => '50 ms'), underway.create_queue('short', 'f', ttl => '50 ms');
SELECT underway.enqueue('short external') AS one, (underway.enqueue_many('short external', '{1,2}'))[2] AS two,
    underway.enqueue('short external', delay => '100 ms') AS three \gset
SELECT e.state, e.reason FROM unnest(ARRAY[:'one', :'two', :'three']::uuid[]) id, test.ends(id) e;
SELECT underway.enqueue('short', delay => '100 ms') AS early \gset
SELECT underway.pause_queue('short');
SELECT underway.enqueue('short') AS late \gset
SELECT state, reason FROM test.ends(:'late');
SELECT state, reason FROM test.ends(:'early');
SELECT underway.create_queue('without');
SELECT underway.enqueue('without') AS one \gset
SELECT underway.alter_queue('without', ttl => '50 ms');
SELECT state, reason FROM test.ends(:'one');

-- And one that is blocked: what it has, and what comes.
CREATE FUNCTION g(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
SELECT underway.create_queue('blocked', 'g', ttl => '50 ms');
BEGIN;
SELECT underway.enqueue('blocked') AS early \gset
DROP FUNCTION g(jsonb);
COMMIT;
SELECT state, reason FROM test.ends(:'early');
SELECT underway.enqueue('blocked') AS late \gset
SELECT state, reason FROM test.ends(:'late');

-- Many at once.
SELECT cardinality(underway.enqueue_many('hour', array_fill('"many"'::jsonb, '{2500}'))),
    cardinality(underway.enqueue_many('hour', array_fill('"many"'::jsonb, '{1500}'), ttl => '1 min'));
SELECT clock_after('4 h');
SELECT test.until('(SELECT pending = 0 FROM underway.queues WHERE name = ''hour'')');
SELECT state, reason, count(*) FROM underway.tasks WHERE input = '"many"' GROUP BY 1, 2;
SELECT underway.set_clock(NULL) IS NOT NULL AS real;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
