-- Many: tasks in one statement, tasks that fail at random, queues.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE TABLE effect (task uuid, n int);
CREATE FUNCTION counts(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect
    VALUES (underway.task_id(), (input #>> '{}')::int) $$;

-- 100,000 tasks by one statement.
SELECT underway.create_queue('many', 'counts', batch => 500, durability => 'async');
SELECT underway.pause_queue('many');
CREATE TABLE many AS SELECT id, n FROM unnest(underway.enqueue_many('many', ARRAY(SELECT to_jsonb(n)
    FROM generate_series(1, 100000) n))) WITH ORDINALITY u(id, n);
SELECT pending, pending_exact, due FROM underway.queues WHERE name = 'many';
SELECT count(DISTINCT id) FROM many;
SELECT regexp_replace(underway.why((SELECT id FROM many WHERE n = 100000)), ' by .*', '');
SELECT underway.resume_queue('many');
SELECT test.until('(SELECT pending + in_progress = 0 FROM underway.queues WHERE name = ''many'')', 300);
SELECT count(*), count(DISTINCT e.task), bool_and(m.id IS NOT NULL) AS right_ones FROM effect e LEFT JOIN many m
    ON m.id = e.task AND m.n = e.n;
SELECT state, count(*), max(attempt) FROM underway.tasks WHERE queue = 'many' GROUP BY state;
TRUNCATE effect;

-- 10,000 on 4 workers; a third fails once, some of those twice, a few for good: what succeeded has its effect exactly
-- once.
CREATE FUNCTION flaky(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), (input ->> 'n')::int);
    IF underway.attempt() <= (input ->> 'fails')::int THEN
        RAISE EXCEPTION 'attempt %', underway.attempt();
    END IF;
    RETURN to_jsonb(underway.attempt());
END $$;
SELECT underway.create_queue('dead');
SELECT underway.create_queue('flaky', 'flaky', durability => 'async', dead_letter => 'dead',
    retry => underway.retry_policy(max_attempts => 4, initial_interval => '1 ms', max_interval => '10 ms',
        jitter => 1));
SELECT setseed(0.42);
CREATE TABLE flaky_task AS SELECT n, CASE WHEN random() < 0.33 THEN CASE WHEN random() < 0.9 THEN 1 WHEN random() < 0.9
    THEN 2 ELSE 9 END ELSE 0 END AS fails FROM generate_series(1, 10000) n;
ALTER TABLE flaky_task ADD COLUMN id uuid;
WITH ids AS (SELECT underway.enqueue_many('flaky', ARRAY(SELECT jsonb_build_object('n', n, 'fails', fails)
    FROM flaky_task ORDER BY n)) AS ids)
    UPDATE flaky_task SET id = ids.ids[n] FROM ids;
SELECT count(*) FILTER (WHERE fails > 0) BETWEEN 3000
    AND 3600 AS a_third, count(*) FILTER (WHERE fails = 2) > 100 AS some_twice,
    count(*) FILTER (WHERE fails = 9) > 10 AS a_few_for_good FROM flaky_task;
SELECT test.until('(SELECT pending + in_progress = 0 FROM underway.queues WHERE name = ''flaky'')', 300);
SELECT f.fails, s.state, s.attempt, s.failures, count(*) = (SELECT count(*) FROM flaky_task x
    WHERE x.fails = f.fails) AS all_of_them,
    bool_and(coalesce(e.effects, 0) = CASE s.state WHEN 'succeeded' THEN 1 ELSE 0 END) AS effects_exactly_once
    FROM flaky_task f JOIN underway.tasks s USING (id) LEFT JOIN (SELECT task, count(*) AS effects FROM effect
        GROUP BY task) e ON e.task = f.id
    GROUP BY f.fails, s.state, s.attempt, s.failures ORDER BY f.fails;
SELECT (SELECT count(*) FROM underway.attempts WHERE queue = 'flaky') = (SELECT sum(least(fails + 1, 4))
    FROM flaky_task) AS every_attempt_recorded,
    (SELECT pending FROM underway.queues WHERE name = 'dead') = (SELECT count(*) FROM flaky_task
        WHERE fails = 9) AS every_letter;
SELECT count(DISTINCT worker) > 1 AS several_workers FROM underway.tasks WHERE queue = 'flaky';
TRUNCATE effect;

-- 1,000 queues, of which each gets some; and all but one of them are empty.
SELECT count(underway.create_queue('queue ' || n, 'counts', keep => 'none')) FROM generate_series(1, 1000) n;
SELECT count(underway.enqueue('queue ' || n % 1000 + 1, to_jsonb(n))) FROM generate_series(1, 3000) n;
SELECT test.until('(SELECT count(*) = 3000 FROM effect)', 300);
SELECT count(*), count(DISTINCT task), count(DISTINCT n) FROM effect;
TRUNCATE effect;
SELECT count(underway.enqueue('queue 777', to_jsonb(n))) FROM generate_series(1, 1000) n;
SELECT test.until('(SELECT count(*) = 1000 FROM effect)', 300);
SELECT count(*) FROM underway.queues;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
-- Their places in shared memory are free again.
SELECT underway.create_queue('the last', 'counts');
SELECT underway.enqueue('the last', '1') AS task \gset
SELECT state FROM test.ends(:'task');
