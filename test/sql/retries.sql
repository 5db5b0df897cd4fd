-- Retries by policy: waits, counts, never, only_on, task over queue over default; the test clock makes waits exact.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION fails(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF underway.attempt() <= coalesce((input ->> 'times')::int, 1000) THEN
        RAISE EXCEPTION 'attempt %, last: %', underway.attempt(),
            underway.last_attempt() USING ERRCODE = coalesce(input ->> 'code', 'P0001');
    END IF;
    RETURN to_jsonb(underway.attempt());
END $$;
-- The wait that each failure leads to, in seconds; jitter is 0 wherever it is shown.
CREATE FUNCTION waits(id uuid) RETURNS TABLE (attempt int, outcome text, error text, wait numeric) LANGUAGE sql AS $$
    SELECT attempt, outcome, error, round(extract(epoch FROM retry_at - ended_at)::numeric, 1) FROM underway.attempts
        WHERE task_id = $1 ORDER BY attempt
$$;
-- Moves the clock to where the task is due, again and again, until it has ended.
CREATE FUNCTION live_through(id uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s record;
BEGIN
    LOOP
        PERFORM test.until(format('(SELECT state IN (''succeeded'', ''failed'') OR state = ''pending'' AND run_at > underway_internal.clock()'
            ' FROM underway.status(%L))', id));
        SELECT * INTO s FROM underway.status(id);
        EXIT WHEN s.state IN ('succeeded', 'failed');
        IF s.state = 'pending' THEN
            PERFORM underway.set_clock(s.run_at);
        END IF;
    END LOOP;
    RETURN format('%s after %s attempts and %s failures', s.state, s.attempt, s.failures);
END $$;
SELECT underway.create_queue('default', 'fails');
SELECT underway.create_queue('q', 'fails', retry => underway.retry_policy(max_attempts => 6, initial_interval => '1 h',
    max_interval => '10 h', backoff => 3, jitter => 0));

-- The default: 5 attempts; 1 s, doubled, each half chance.
SELECT underway.enqueue('default') AS task \gset
SELECT live_through(:'task');
SELECT attempt, outcome, error, wait BETWEEN 0.5 * (1 << attempt - 1) AND 1.5 * (1 << attempt - 1) AS in_range
    FROM waits(:'task');

-- The queue's.
SELECT underway.enqueue('q') AS task \gset
SELECT live_through(:'task');
SELECT * FROM waits(:'task');
SELECT underway.why(:'task');
-- One that succeeds in the end.
SELECT underway.enqueue('q', '{"times": 3}') AS task \gset
SELECT live_through(:'task');
SELECT * FROM waits(:'task');
SELECT state, attempt, failures, output, error FROM underway.status(:'task');
-- The task's over the queue's, one by one: each alone, since the clock is everybody's.
SELECT underway.enqueue('q', retry => underway.retry_policy(max_attempts => 3)) AS attempts \gset
SELECT live_through(:'attempts');
SELECT attempt, wait FROM waits(:'attempts');
SELECT underway.enqueue('q', retry => underway.retry_policy(max_interval => '1 h')) AS longest \gset
SELECT live_through(:'longest');
SELECT attempt, wait FROM waits(:'longest');
SELECT underway.enqueue('q', retry => underway.retry_policy(initial_interval => '0')) AS zero \gset
SELECT live_through(:'zero');
SELECT attempt, wait FROM waits(:'zero');
SELECT underway.enqueue('q', retry => underway.retry_policy(max_attempts => 4, initial_interval => '2 days')) AS initial_over_longest \gset
SELECT live_through(:'initial_over_longest');
SELECT attempt, wait FROM waits(:'initial_over_longest');
SELECT underway.enqueue('q', retry => '{"max_attempts": 2, "initial_interval": 0.5, "backoff": 1}') AS by_hand \gset
SELECT live_through(:'by_hand');
SELECT attempt, wait FROM waits(:'by_hand');
-- Many failures do not overflow, and a policy that changes counts from then on.
SELECT underway.enqueue('q', retry => underway.retry_policy(max_attempts => 1000000, initial_interval => '365 days',
    max_interval => '365 days', backoff => 1000)) AS task \gset
SELECT test.failed_attempts(:'task', 1);
UPDATE underway_internal.task SET failures = 999998 WHERE id = :'task';
SELECT underway.retry(:'task');
SELECT test.failed_attempts(:'task', 999999);
SELECT * FROM waits(:'task');
SELECT underway.cancel(:'task');
SELECT underway.enqueue('q') AS task \gset
SELECT test.failed_attempts(:'task', 1);
SELECT underway.alter_queue('q', retry => underway.retry_policy(max_attempts => 2, jitter => 0));
SELECT live_through(:'task');
SELECT * FROM waits(:'task');

-- never and only_on: SQLSTATEs and classes.
SELECT underway.alter_queue('q', retry => underway.retry_policy(max_attempts => 2, initial_interval => '0',
    jitter => 0, never => '{23,P0001}'));
CREATE TABLE coded (n serial, code text, retry jsonb, task uuid);
INSERT INTO coded (code, retry)
    VALUES ('23505', NULL), ('23000', NULL), ('P0001', NULL), ('P0002', NULL), ('22012', NULL), ('UW010', NULL),
    ('P0001', '{"never": []}'), ('23505', '{"never": ["22"]}'), ('22012', '{"never": ["22"]}'),
    ('22012', '{"only_on": ["22"]}'), ('22012', '{"only_on": ["22012"]}'), ('22013', '{"only_on": ["22012"]}'),
        ('23505', '{"only_on": ["23"]}'),
    ('23505', '{"only_on": ["23"], "never": []}'), ('UW010', '{"only_on": ["UW010"]}');
UPDATE coded SET task = underway.enqueue('q', jsonb_build_object('code', code), retry => retry);
SELECT c.code, c.retry, e.state, e.attempt, e.sqlstate, regexp_replace(underway.why(task), ' \d+ of .*', '') AS why
    FROM coded c, test.ends(c.task) e ORDER BY n;

-- Deadlocks and serialization failures are tried again at once, and use no attempt; not for ever.
CREATE SEQUENCE tries;
CREATE FUNCTION serialization(input jsonb) RETURNS int LANGUAGE plpgsql AS $$
DECLARE n int := nextval('tries');
BEGIN
    IF n <= (input ->> 'times')::int THEN
        RAISE EXCEPTION 'try %', n USING ERRCODE = input ->> 'code';
    END IF;
    RETURN underway.attempt();
END $$;
SELECT underway.create_queue('transient', 'serialization', retry => underway.retry_policy(max_attempts => 2,
    initial_interval => '0'));
SELECT underway.enqueue('transient', '{"times": 3, "code": "40001"}') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT setval('tries', 1, false);
SELECT underway.enqueue('transient', '{"times": 5, "code": "40P01"}') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT setval('tries', 1, false);
SELECT underway.enqueue('transient', '{"times": 1000000, "code": "40001"}') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT last_value < 1000 AS bounded FROM tries;

-- A wait between attempts can be cut short, or ended by cancel, and is not held up by a pause of the queue.
SELECT underway.alter_queue('q', retry => underway.retry_policy(initial_interval => '1 h', jitter => 0));
SELECT underway.enqueue('q', '{"times": 1}') AS task, underway.enqueue('q') AS other \gset
SELECT test.failed_attempts(:'task', 1);
SELECT regexp_replace(underway.why(:'task'), 'due in .* \(', 'due in <time> (');
SELECT state, attempt, failures, sqlstate, error, started_at IS NOT NULL AS started, finished_at
    FROM underway.status(:'task');
SELECT underway.retry(:'task');
SELECT state, attempt, failures, output FROM test.ends(:'task');
SELECT test.failed_attempts(:'other', 1);
SELECT underway.cancel(:'other', 'enough');
SELECT * FROM test.ends(:'other');
SELECT underway.why(:'other');
SELECT underway.retry(:'other');
SELECT test.failed_attempts(:'other', 1);
SELECT attempt, outcome, error FROM waits(:'other');
SELECT underway.set_clock(NULL) IS NOT NULL AS real;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
