-- cancel, retry, pause, resume and why, by the state that a task is in.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE gate (open bool);
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION E'first line\nsecond line  %', repeat('x', 300);
    END IF;
    WHILE input = '"waits"' AND NOT EXISTS (SELECT FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN input;
END $$;
SELECT underway.create_queue('q', 'f', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.create_queue('external');
-- Times and numbers of processes are left out.
CREATE FUNCTION why(id uuid) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(underway.why(id), 'worker \d+ \(pid \d+\)', 'worker <n>', 'g'),
        '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00', '<time>', 'g'), '\(?\d\d:\d\d:[\d.]+\)?', '<span>', 'g')
$$;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';

-- Pending.
SELECT underway.enqueue('external', '1') AS one, underway.enqueue('external', '2') AS two, underway.enqueue('external',
    '3', delay => '1 h') AS later \gset
SELECT why(:'one');
SELECT why(:'two');
SELECT why(:'later');
SELECT underway.pause(:'one');
SELECT state, reason, started_at FROM underway.status(:'one');
SELECT why(:'one');
SELECT underway.pause(:'one');
SELECT * FROM test.errors(format('SELECT underway.retry(%L)', :'one'), format('SELECT underway.retry(%L)', :'two'));
SELECT underway.resume(:'one');
SELECT underway.resume(:'one');
SELECT state, reason FROM underway.status(:'one');
SELECT underway.cancel(:'one', '');
SELECT underway.cancel(:'one', 'once more');
SELECT state, reason, error, finished_at IS NOT NULL AS finished FROM underway.status(:'one');
SELECT why(:'one');
SELECT underway.pause(:'two');
SELECT underway.cancel(:'two', E'a reason\nof two lines');
SELECT state, error FROM underway.status(:'two');
SELECT why(:'two');
SELECT * FROM test.errors(format('SELECT underway.pause(%L)', :'one'), format('SELECT underway.resume(%L)', :'one'));
SELECT underway.retry(:'one');
SELECT state, attempt, reason FROM underway.status(:'one');
SELECT underway.cancel(:'later');

-- Running.
SELECT underway.enqueue('q', '"waits"') AS running \gset
SELECT test.until(format('(SELECT started_at IS NOT NULL FROM underway.status(%L))', :'running'));
SELECT test.until(format('underway.why(%L) LIKE ''%%since%%''', :'running'));
SELECT why(:'running');
SELECT * FROM test.errors(format('SELECT underway.retry(%L)', :'running'), format('SELECT underway.pause(%L)',
    :'running'), format('SELECT underway.resume(%L)', :'running'));
SELECT underway.alter_queue('q', concurrency => 1);
SELECT underway.enqueue('q', '"behind"') AS behind, underway.enqueue('q', '"behind"') AS third \gset
SELECT test.until(format('underway.why(%L) LIKE ''%%concurrency%%''', :'behind'));
SELECT why(:'behind');
SELECT why(:'third');
SELECT underway.pause_queue('q');
SELECT why(:'third');
SELECT underway.resume_queue('q');
INSERT INTO gate VALUES (true);
SELECT state FROM test.ends(:'third');
SELECT why(:'third');
SELECT * FROM test.errors(format('SELECT underway.cancel(%L)', :'third'), format('SELECT underway.retry(%L)',
    :'third'));

-- Failed.
SELECT underway.enqueue('q', '"fails"') AS failed \gset
SELECT state FROM test.ends(:'failed');
SELECT why(:'failed');
SELECT * FROM test.errors(format('SELECT underway.cancel(%L)', :'failed'), format('SELECT underway.pause(%L)',
    :'failed'));
SELECT underway.retry(:'failed');
SELECT state, attempt, failures FROM test.ends(:'failed');
SELECT count(*), min(attempt), max(attempt) FROM underway.attempts WHERE task_id = :'failed';
SELECT count(*) FROM underway.tasks WHERE id = :'failed';
-- Its queue dropped.
SELECT underway.create_queue('dropped', 'f', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('dropped', '"fails"') AS failed \gset
SELECT state FROM test.ends(:'failed');
SELECT underway.drop_queue('dropped', true);
SELECT * FROM test.errors(format('SELECT underway.retry(%L)', :'failed'));

-- All in the caller's transaction.
SELECT underway.enqueue('external', '5', delay => '1 h') AS task \gset
BEGIN;
SELECT underway.cancel(:'task');
SELECT state FROM underway.status(:'task');
ROLLBACK;
SELECT state FROM underway.status(:'task');
BEGIN;
SELECT underway.cancel(:'task');
SELECT underway.retry(:'task');
SELECT underway.pause(:'task');
COMMIT;
SELECT state FROM underway.status(:'task');
-- A task that is cancelled in its own transaction never runs; one enqueued and purged neither.
BEGIN;
SELECT underway.enqueue('q', '"never"') AS never \gset
SELECT underway.cancel(:'never');
SELECT underway.enqueue('q', '"purged"') AS purged \gset
SELECT underway.purge_queue('q');
COMMIT;
SELECT state, attempt FROM underway.status(:'never');
SELECT count(*) FROM underway.status(:'purged');
-- A handler may do it to others, and not to itself.
CREATE FUNCTION meddles(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM underway.cancel((input #>> '{}')::uuid);
    RETURN to_jsonb(ARRAY(SELECT *
        FROM test.errors(format('SELECT underway.pause(%L)', underway.task_id()), format('SELECT underway.retry(%L)',
        underway.task_id()))));
END $$;
SELECT underway.create_queue('meddles', 'meddles');
SELECT underway.enqueue('meddles', to_jsonb(:'task'::text)) AS meddler \gset
SELECT state, jsonb_pretty(output) FROM test.ends(:'meddler');
SELECT state FROM underway.status(:'task');
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
