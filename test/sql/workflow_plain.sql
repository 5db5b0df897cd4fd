-- A plain step ends without a statement (plain_step.cpp), any other by finish_step(): what they leave behind is the same, row by row. The steps of
-- the second workflow are not plain, since its on_change asks for more.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION gives(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'gives'; RETURN jsonb_build_object('from', input); END $$;
CREATE FUNCTION passes(input jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION fails_once(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    IF underway.attempt() = 1 THEN
        RAISE EXCEPTION 'once';
    END IF;
    RETURN underway.next('"tried twice"', '0 s');
END $$;
CREATE FUNCTION held(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711); SELECT to_jsonb(repeat('x', 100000)) $$;
-- Each kind of what a plain step can have.
CREATE FUNCTION make(name text, on_change text, keep text) RETURNS int LANGUAGE sql AS $$
    SELECT underway.create_workflow(name, ARRAY[
        underway.step('a', 'gives', undo => 'undoes', priority => 3),
        underway.step('b', 'passes', input => '{"run": "$run.n", "a": "$steps.a.from", "literal": [1, "x"]}', timeout => '5 min', retry => underway.retry_policy(max_attempts => 7)),
        underway.step('c', 'fails_once', retry => underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0)),
        underway.step('d', 'held', priority => 9)], on_change => on_change, priority => 5, keep => keep)
$$;
SELECT make('plain', 'continue', 'all'), make('by statement', 'pause', 'all');
-- What differs by nature is left out.
CREATE FUNCTION comparable(r anyelement, more text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
    SELECT (to_jsonb(r) - more - '{id,task_id,run_id,queue_id,seq,run_at,enqueued_at,claimed_at,started_at,finished_at,ended_at,deadline,retry_at,worker,generation}'::text[]
        || jsonb_build_object('times', (SELECT jsonb_object_agg(t.key, true) FROM jsonb_each(to_jsonb(r)) t
            WHERE t.key IN ('run_at', 'enqueued_at', 'claimed_at', 'started_at', 'finished_at', 'ended_at', 'worker', 'generation', 'slot', 'deadline') AND t.value <> 'null')))::text
$$;
CREATE FUNCTION rows_of(run uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT 'task ' || comparable(x, '{slot}') FROM underway_internal.task x WHERE run_id = run
    UNION ALL SELECT 'archive ' || comparable(x) FROM underway_internal.archive x WHERE run_id = run
    UNION ALL SELECT 'result ' || comparable(x) FROM underway_internal.step_result x WHERE run_id = run
    UNION ALL SELECT 'attempt ' || comparable(x) FROM underway_internal.attempt x WHERE task_id IN (SELECT task_id FROM underway.history(run))
    UNION ALL SELECT 'run ' || comparable(x) FROM underway_internal.run x WHERE id = run
    UNION ALL SELECT 'run_archive ' || comparable(x) FROM underway_internal.run_archive x WHERE id = run
    UNION ALL SELECT 'key ' || key FROM underway_internal.task_key WHERE task_id = run
$$;
CREATE FUNCTION differences(one uuid, other uuid) RETURNS SETOF text LANGUAGE sql AS $$
    (SELECT 'plain: ' || left(x, 2000) FROM (SELECT rows_of(one) EXCEPT ALL SELECT rows_of(other)) y(x))
    UNION ALL (SELECT 'by statement: ' || left(x, 2000) FROM (SELECT rows_of(other) EXCEPT ALL SELECT rows_of(one)) y(x))
$$;

-- While their last step is held, and when they have ended.
SELECT pg_advisory_lock(4711);
SELECT underway.start('plain', '{"n": 1}', key => 'k', group_key => 'g', headers => '{"h": 1}', timeout => '1 h') AS plain,
    underway.start('by statement', '{"n": 1}', key => 'k', group_key => 'g', headers => '{"h": 1}', timeout => '1 h') AS other \gset
SELECT test.until('(SELECT count(*) FROM underway_internal.task WHERE step = ''d'' AND state = ''in_progress'') = 2');
SELECT differences(:'plain', :'other');
SELECT split_part(x, ' ', 1) AS table, count(*) FROM rows_of(:'plain') x GROUP BY 1 ORDER BY 1;
SELECT pg_advisory_unlock(4711);
SELECT state, left(output::text, 5) FROM test.ends(:'plain');
SELECT state, left(output::text, 5) FROM test.ends(:'other');
SELECT differences(:'plain', :'other');
SELECT split_part(x, ' ', 1) AS table, count(*) FROM rows_of(:'plain') x GROUP BY 1 ORDER BY 1;

-- The same where nothing is kept, with a key and without.
SELECT make('plain', 'continue', 'failed'), make('by statement', 'pause', 'failed');
SELECT count(underway.start(w, key => k)) FROM unnest('{plain,by statement}'::text[]) w, unnest('{j,NULL}'::text[]) k;
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.run)');
SELECT count(*) FROM underway_internal.task_key WHERE key = 'j';
SELECT (SELECT count(*) FROM underway_internal.archive) AS tasks, (SELECT count(*) FROM underway_internal.run_archive) AS runs,
    (SELECT count(*) FROM underway_internal.step_result) AS results, (SELECT count(*) FROM underway_internal.task) AS left;

-- Signals that nobody waited for go with the run.
CREATE FUNCTION gets_signal(input jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711) $$;
SELECT underway.create_workflow('signalled', ARRAY[underway.step('a', 'gets_signal')]);
SELECT pg_advisory_lock(4711);
SELECT underway.start('signalled') AS run \gset
SELECT underway.signal(:'run', 'w', '1'), underway.signal(:'run', 'w', '2', key => 'once');
SELECT pg_advisory_unlock(4711);
SELECT state, output FROM test.ends(:'run');
SELECT count(*) FROM underway_internal.signal;

-- No statement indeed: there is none to call.
SELECT make('plain', 'continue', 'all');
ALTER FUNCTION underway_internal.complete_step RENAME TO complete_step_elsewhere;
SELECT underway.start('plain') AS run \gset
SELECT state FROM test.ends(:'run');
