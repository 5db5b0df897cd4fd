-- How attempts end: errors with all their fields, notices, again, give_up, UW010, errors at the commit, timeouts.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE effect (task uuid, attempt int, what text);
CREATE FUNCTION effect(what text) RETURNS void
    LANGUAGE sql AS 'INSERT INTO effect VALUES (underway.task_id(), underway.attempt(), $1)';
CREATE VIEW fields AS
    SELECT id, state, attempt, failures, snoozes, reason, sqlstate, error, detail, hint, context, notices, output
    FROM underway.tasks;
CREATE FUNCTION q(name text) RETURNS text LANGUAGE sql AS $$
    SELECT underway.create_queue(name, name, retry => underway.retry_policy(max_attempts => 2, initial_interval => '0',
        jitter => 0))
$$;

-- An error with everything; nothing of the attempt is left but what is recorded; retried, then failed.
CREATE FUNCTION raises(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM effect('raises');
    RAISE NOTICE 'attempt % of task with é', underway.attempt();
    RAISE WARNING USING MESSAGE = 'a warning', DETAIL = 'not shown', HINT = 'not shown';
    RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = 'the message', DETAIL = 'the detail', HINT = 'the hint',
        TABLE = 'effect', COLUMN = 'x';
END $$;
SELECT q('raises');
SELECT underway.enqueue('raises') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT state, attempt, failures, reason, sqlstate, error, detail, hint, context, notices, output FROM fields
    WHERE id = :'task';
SELECT attempt, outcome, sqlstate, error, detail, hint, context, notices, ended_at >= started_at AS times,
    retry_at IS NOT NULL AS goes_on
    FROM underway.attempts WHERE task_id = :'task' ORDER BY attempt;
SELECT underway.why(:'task');
SELECT count(*) FROM effect WHERE task = :'task';

-- Errors of the server itself.
CREATE FUNCTION breaks(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN EXECUTE input #>> '{}'; RETURN NULL;
    END $$;
SELECT underway.create_queue('breaks', 'breaks', retry => underway.retry_policy(max_attempts => 1));
CREATE TABLE unique_one (n int PRIMARY KEY, m int CHECK (m > 0));
INSERT INTO unique_one VALUES (1, 1);
CREATE TABLE statement (n serial, sql text, task uuid);
INSERT INTO statement (sql)
    VALUES ('SELECT 1/0'), ('INSERT INTO unique_one VALUES (1, 1)'), ('INSERT INTO unique_one VALUES (2, -1)'),
    ('SELECT no_such()'),
    ('SELEC'), ('COMMIT'), ('ROLLBACK'), ('SAVEPOINT x'), ('BEGIN'), ('VACUUM'), ('SELECT ''x''::int'),
        ('SELECT repeat(''x'', 2000000000)'),
    ('DO $d$ DECLARE n int; BEGIN SELECT m INTO STRICT n FROM unique_one WHERE n = 5; END $d$'),
        ('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE'),
    ('COPY unique_one TO STDOUT'), ('COPY unique_one FROM STDIN'), ('DO $d$ BEGIN ASSERT false, ''asserted''; END $d$'),
    ('SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(10)'),
        ('SELECT set_config(''no_such_setting'', ''x'', false)'), ('SET work_mem = ''x'''),
    ('LISTEN x; NOTIFY x'), ('SELECT count(*) FROM generate_series(1, 100000)'), ('SELECT underway.create_queue('''')'),
    ('WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT 1/(n-1) FROM r) SELECT count(*) FROM r');
UPDATE statement SET task = underway.enqueue('breaks', to_jsonb(sql));
SELECT s.sql, e.state, e.sqlstate, left(e.error, 200) AS error FROM statement s, test.ends(s.task) e ORDER BY n;

-- UW010: undo the effects, do not retry.
CREATE FUNCTION refuses(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM effect('refuses');
    RAISE EXCEPTION 'never' USING ERRCODE = 'UW010', HINT = 'Do not try again.';
END $$;
SELECT q('refuses');
SELECT underway.enqueue('refuses') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT hint FROM fields WHERE id = :'task';
SELECT underway.why(:'task');
SELECT count(*) FROM effect WHERE task = :'task';

-- give_up: effects and output are kept, no retry.
CREATE FUNCTION gives_up(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    PERFORM effect('gives up');
    RAISE NOTICE 'giving up';
    RETURN underway.give_up('no such customer', '{"done": "in part"}');
END $$;
SELECT q('gives_up');
SELECT underway.enqueue('gives_up') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT underway.why(:'task');
SELECT state, attempt, failures, reason, sqlstate, error, notices, output FROM fields WHERE id = :'task';
SELECT attempt, outcome, error FROM underway.attempts WHERE task_id = :'task';
SELECT count(*) FROM effect WHERE task = :'task';

-- again: effects are kept; no attempt is used up; the input changes when one is given.
CREATE FUNCTION polls(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    PERFORM effect(input ->> 'left' || CASE WHEN underway.last_attempt() THEN ' last' ELSE '' END);
    IF (input ->> 'left')::int > 0 THEN
        RETURN underway.again('0', jsonb_build_object('left', (input ->> 'left')::int - 1));
    END IF;
    RETURN NULL;
END $$;
SELECT q('polls');
SELECT underway.enqueue('polls', '{"left": 4}') AS task \gset
SELECT state, attempt, failures, reason, output FROM test.ends(:'task');
SELECT snoozes FROM fields WHERE id = :'task';
SELECT attempt, outcome, retry_at IS NOT NULL AS goes_on FROM underway.attempts WHERE task_id = :'task'
    ORDER BY attempt;
SELECT attempt, what FROM effect WHERE task = :'task' ORDER BY attempt;
-- At the time it says, by the clock.
CREATE FUNCTION polls_later(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    SELECT CASE WHEN underway.attempt() < 2 THEN underway.again('1 day') END
$$;
SELECT q('polls_later');
SELECT underway.enqueue('polls_later', '{"same": 1}') AS task \gset
SELECT test.until(format('(SELECT attempt = 1 AND state = ''pending'' FROM underway.status(%L))', :'task'));
SELECT run_at - started_at >= '1 day' AS waits, input FROM underway.status(:'task');
SELECT underway.set_clock(clock_timestamp() + '24 hours 1 minute') IS NOT NULL AS set;
SELECT state, attempt FROM test.ends(:'task');
SELECT underway.set_clock(NULL) IS NOT NULL AS set;

-- Transitions that are made by hand.
CREATE FUNCTION by_hand(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
DECLARE t underway.transition;
BEGIN
    IF underway.attempt() > 1 THEN RETURN NULL; END IF;
    RETURN jsonb_populate_record(t, input);
END $$;
SELECT underway.create_queue('by_hand', 'by_hand', retry => underway.retry_policy(max_attempts => 1));
CREATE TABLE transition (n serial, input jsonb, task uuid);
INSERT INTO transition (input)
    SELECT unnest(ARRAY['{}', '{"action": null}', '{"action": "x"}', '{"action": "again"}',
    '{"action": "again", "delay": "-1 day"}',
    '{"action": "again", "delay": "-178000000 years"}', '{"action": "again", "delay": "178000000 years"}',
        '{"action": "give_up"}',
    '{"action": "give_up", "error": ""}', '{"action": "AGAIN"}', '{"action": ""}', '{"output": 5}']::jsonb[]);
UPDATE transition SET task = underway.enqueue('by_hand', input);
SELECT t.input, e.* FROM transition t, test.ends(t.task) e ORDER BY n;
SELECT count(underway.drop_queue(name)) FROM underway.queues;
