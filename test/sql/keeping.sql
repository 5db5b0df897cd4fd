-- What is kept of finished tasks: by queue (all, failed, none) and by time, with the clock.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION 'failed';
    END IF;
    RETURN input;
END $$;
CREATE FUNCTION clock_after(i interval) RETURNS bool LANGUAGE sql AS $$
    SELECT underway.set_clock(clock_timestamp() + i) IS NOT NULL $$;
SELECT underway.create_queue(keep, 'f', keep => keep, retry => underway.retry_policy(max_attempts => 2,
    initial_interval => '0')) FROM unnest('{all,failed,none}'::text[]) keep;
CREATE TABLE task (queue text, what text, id uuid, done bool DEFAULT false);
-- One of each kind on each queue, with a key; all have ended when it returns.
CREATE PROCEDURE run_each(suffix text) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE task;
    INSERT INTO task SELECT q, w, underway.enqueue(q, to_jsonb(w), key => w || suffix, delay => CASE w WHEN 'cancelled'
        THEN interval '1 hour' END)
        FROM unnest('{all,failed,none}'::text[]) q, unnest('{works,fails,cancelled}'::text[]) w;
    PERFORM underway.cancel(id) FROM task WHERE what = 'cancelled';
    COMMIT;
    PERFORM test.until(format('NOT EXISTS (SELECT FROM underway_internal.task WHERE id = %L)', id)) FROM task;
END $$;
CREATE VIEW kept AS SELECT t.queue, t.what, s.state, s.attempt, (SELECT count(*) FROM underway.attempts a
    WHERE a.task_id = t.id) AS attempts,
        EXISTS (SELECT FROM underway_internal.task_key k WHERE k.task_id = t.id) AS key_taken
    FROM task t LEFT JOIN LATERAL underway.status(t.id) s ON true ORDER BY t.queue, t.what;
SELECT underway.create_workflow('runs', ARRAY[underway.step('s', 'f', retry => underway.retry_policy(max_attempts => 1))]);
CALL run_each('1');
SELECT * FROM kept;
-- await answers for what is not kept as for what never was, whoever waits.
SELECT code, message FROM test.error((SELECT format('SELECT state FROM underway.await(%L)', id) FROM task
    WHERE queue = 'none' AND what = 'works'));
SELECT test.error((SELECT format('SELECT underway.why(%L)', id) FROM task WHERE queue = 'none' AND what = 'works'));
-- Awaited while it runs: the same at once when it ends, not at the timeout.
CREATE FUNCTION slow(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(pg_sleep(0.1)::text)';
SELECT underway.create_queue('slow', 'slow', keep => 'none');
SELECT underway.enqueue('slow') AS task \gset
SELECT count(*) FROM test.error(format('SELECT state FROM underway.await(%L, ''60 s'')', :'task'));
-- A setting that changes counts for what ends from then on.
SELECT underway.alter_queue('none', keep => 'all');
SELECT underway.alter_queue('all', keep => 'failed');
CALL run_each('2');
SELECT * FROM kept WHERE queue <> 'failed';
SELECT underway.alter_queue('none', keep => 'none'), underway.alter_queue('all', keep => 'all');

-- By time: 14 days, and up to a seventh more; by whole tables, attempts and keys with them.
CREATE TABLE first_run AS SELECT * FROM task;
CALL run_each('3');
DELETE FROM first_run;
INSERT INTO first_run SELECT * FROM task;
SELECT count(*) FROM first_run, underway.status(id);
SELECT underway.enqueue('failed', '"fails"', key => 'again') AS again \gset
SELECT underway.start('runs', '"fails"', key => 'again') AS run \gset
SELECT state FROM test.ends(:'again');
SELECT state FROM test.ends(:'run');
SELECT clock_after('2 days 1 h');
SELECT test.until('(SELECT count(*) = 3 FROM underway_internal.ring_slot WHERE closed_at IS NOT NULL)');
CALL run_each('4');
-- One that fails once more two days later is kept from then on, and its key with it.
SELECT underway.retry(:'again');
SELECT state, attempt FROM test.ends(:'again');
SELECT underway.retry(:'run');
SELECT state FROM test.ends(:'run');
SELECT count(*) AS first FROM first_run, underway.status(id);
-- The clock goes on in steps of a table each.
CREATE PROCEDURE days(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
    FOR d IN first .. last BY 2 LOOP
        PERFORM clock_after(d * interval '1 day' + '2 h');
        COMMIT;
        PERFORM test.until(format('(SELECT count(*) = 3 FROM underway_internal.ring_slot WHERE closed_at IS NULL AND opened_at > clock_timestamp() + interval ''%s days 1 h'')', d));
        COMMIT;
    END LOOP;
END $$;
CALL days(4, 14);
SELECT count(*) AS first FROM first_run, underway.status(id);
SELECT count(*) AS second FROM task, underway.status(id);
CALL days(16, 16);
SELECT count(*) AS first, (SELECT count(*) FROM underway.attempts a JOIN first_run f ON f.id = a.task_id) AS attempts,
    (SELECT count(*) FROM underway_internal.task_key k JOIN first_run f ON f.id = k.task_id) AS keys
        FROM first_run, underway.status(id);
SELECT count(*) AS second, (SELECT count(*) FROM underway_internal.task_key k JOIN task f ON f.id = k.task_id) AS keys
    FROM task, underway.status(id);
SELECT underway.enqueue('all', key => 'works3') <> (SELECT id FROM first_run WHERE queue = 'all'
    AND what = 'works') AS key_is_free;
SELECT state, underway.enqueue('failed', key => 'again') = :'again' AS key_is_taken FROM underway.status(:'again');
SELECT state, underway.find_run('runs', 'again') = :'run' AS key_is_taken FROM underway.status(:'run');
CALL days(18, 18);
SELECT count(*) AS second FROM task, underway.status(id);
SELECT count(*) FROM underway.tasks;
SELECT underway.set_clock(NULL) IS NOT NULL AS real;
