-- Time without waiting: a reminder for tomorrow, retries with their waits, a letter about what failed. The clock is
-- moved.
\set ECHO none
\set QUIET on
\pset tuples_only on
\pset format unaligned
SELECT plan(16);
CREATE SCHEMA reminders;
CREATE TABLE reminders.sent (task uuid, attempt int, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE reminders.mailbox (open bool);
CREATE FUNCTION reminders.remind(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO reminders.sent VALUES (underway.task_id(), underway.attempt());
    IF NOT EXISTS (SELECT FROM reminders.mailbox WHERE open) THEN
        RAISE EXCEPTION 'the mailbox is closed' USING HINT = 'Try again later.';
    END IF;
    RETURN 'sent';
END $$;
-- Until a condition is true, for at most a minute.
CREATE FUNCTION reminders.until(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    met bool;
BEGIN
    FOR n IN 1..6000 LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        IF met THEN
            RETURN pass(condition);
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN fail(condition);
END $$;
SELECT underway.create_queue('undelivered') \gset ignored_
SELECT underway.create_queue('reminders', 'reminders.remind', dead_letter => 'undelivered',
    retry => underway.retry_policy(max_attempts => 3, initial_interval => '1 h', backoff => 2, max_interval => '1 day',
        jitter => 0)) \gset ignored_

INSERT INTO reminders.mailbox VALUES (true);
SELECT underway.enqueue('reminders', delay => '1 day') AS task \gset
SELECT results_eq(format('SELECT state, attempt FROM underway.await(%L, ''0'')', :'task'), $$VALUES ('pending', 0)$$,
    'due tomorrow, it waits');
SELECT matches(underway.why(:'task'), '^pending: due in ', 'and says so');
SELECT ok(underway.set_clock(clock_timestamp() + '25 h') > clock_timestamp() + '24 h', 'a day passes');
SELECT results_eq(format('SELECT state, output FROM underway.await(%L)', :'task'), $$VALUES ('succeeded',
    '"sent"'::jsonb)$$, 'it is sent');
SELECT ok((SELECT started_at >= run_at FROM underway.status(:'task')), 'not before its time');

UPDATE reminders.mailbox SET open = false;
SELECT underway.enqueue('reminders', '{"to": "Ada"}', headers => '{"trace": "t1"}') AS task \gset
SELECT reminders.until(format('(SELECT failures = 1 AND state = ''pending'' FROM underway.status(%L))', :'task'));
SELECT results_eq(format('SELECT error, hint FROM underway.status(%L)', :'task'), $$VALUES ('the mailbox is closed',
    'Try again later.')$$, 'the last error is shown while it waits');
SELECT underway.set_clock((SELECT run_at FROM underway.status(:'task'))) \gset ignored_
SELECT reminders.until(format('(SELECT failures = 2 AND state = ''pending'' FROM underway.status(%L))', :'task'));
SELECT results_eq(format('SELECT round(extract(epoch FROM retry_at - ended_at) / 3600) FROM underway.attempts WHERE task_id = %L ORDER BY attempt', :'task'), 'VALUES (1::numeric), (2)', 'the waits double');
SELECT underway.set_clock((SELECT run_at FROM underway.status(:'task'))) \gset ignored_
SELECT results_eq(format('SELECT state, attempt, failures, reason FROM underway.await(%L)', :'task'),
    $$VALUES ('failed', 3, 3, 'error')$$, 'after three attempts it has failed');
SELECT is((SELECT count(*) FROM reminders.sent WHERE task = :'task'), 0::bigint, 'no attempt left a trace of its own');
SELECT results_eq($$SELECT input, headers ->> 'trace', headers -> 'dead_letter' ->> 'message' FROM underway.tasks
    WHERE queue = 'undelivered'$$,
    $$VALUES ('{"to": "Ada"}'::jsonb, 't1', 'the mailbox is closed')$$, 'a letter about it is on the other queue');
SELECT results_eq($$SELECT severity, object
    FROM underway.check_health()$$, $$VALUES ('warning', 'queue "undelivered"')$$,
    'check_health() knows of the letter');

UPDATE reminders.mailbox SET open = true;
SELECT is(underway.redrive('undelivered'), 1::bigint, 'redriven');
SELECT results_eq(format('SELECT state, attempt FROM underway.await(%L)', :'task'), $$VALUES ('succeeded', 4)$$,
    'it succeeds under its own id');
SELECT is((SELECT count(*) FROM underway.check_health()), 0::bigint, 'and all is well');
SELECT underway.set_clock(NULL) \gset ignored_
SELECT underway.drop_queue('reminders'), underway.drop_queue('undelivered') \gset ignored_
SELECT * FROM finish();
SET client_min_messages = warning;
DROP SCHEMA reminders CASCADE;
