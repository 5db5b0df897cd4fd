-- What the steps of a run gave, once it has ended: kept with it in the archive, so that it can be retried or forked.
-- Invariant: run_archive.results never gets too large to be written, or the run could not end.

-- Takes the results of a run that ends off the hot table; returns those to keep with it, in the order in which they ended. archived:
-- it succeeded, and the archive has the tasks of all of its steps but of those that were skipped; only these are kept then.
-- Each is {step, item, state, task, at}, and, where there is one: input, output, undo, error, sqlstate. Where 64 MB are full, and of what is over 1 MB,
-- input and output are left out, and `left` is true: the archive of tasks may have it.
CREATE FUNCTION underway_internal.take_results(run_id uuid, archived bool) RETURNS jsonb LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    results jsonb;
BEGIN
    WITH gone AS (
        DELETE FROM underway_internal.step_result x WHERE x.run_id = run_id RETURNING x.*),
    kept AS (
        SELECT g.*, underway_internal.large(g.input) OR underway_internal.large(g.output) AS large
        FROM gone g WHERE NOT archived OR g.state = 'skipped' AND g.item = -1),
    fitting AS (
        SELECT k.*, k.large OR sum(CASE WHEN k.large THEN 0 ELSE pg_column_size(jsonb_build_array(k.input, k.output)) END)
            OVER (ORDER BY k.seq) > 64000000 AS is_left
        FROM kept k)
    SELECT jsonb_agg(jsonb_build_object('step', f.step, 'item', f.item, 'state', f.state, 'task', f.task_id, 'at', f.ended_at)
            || CASE WHEN f.is_left THEN '{"left": true}' ELSE '{}'::jsonb END
            || CASE WHEN f.is_left OR f.input IS NULL THEN '{}' ELSE jsonb_build_object('input', f.input) END
            || CASE WHEN f.is_left OR f.output IS NULL THEN '{}' ELSE jsonb_build_object('output', f.output) END
            || CASE WHEN f.error IS NULL THEN '{}' ELSE jsonb_build_object('error', left(f.error, 8192)) END
            || CASE WHEN f.undo IS NULL THEN '{}' ELSE jsonb_build_object('undo', f.undo) END
            || CASE WHEN f.sqlstate IS NULL THEN '{}' ELSE jsonb_build_object('sqlstate', f.sqlstate) END
        ORDER BY f.seq)
        INTO results FROM fitting f;
    RETURN results;
END $$;

-- Stored size first: what is too long for a jsonb array of one must not be put into one.
CREATE FUNCTION underway_internal.large(v jsonb) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN v IS NULL THEN false WHEN pg_column_size(v) > 1000000 THEN true
        ELSE pg_column_size(jsonb_build_array(v)) > 1000000 END;
END $$;

-- Failures of steps that are to be tried once more. What they may have left behind is still to be undone: it stays, under a number of its own.
CREATE FUNCTION underway_internal.forget_failures(run_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    WITH lowest AS (
        SELECT x.step, least(min(x.item), -1) AS item FROM underway_internal.step_result x WHERE x.run_id = run_id GROUP BY x.step),
    moved AS (
        SELECT x.step, x.item, l.item - row_number() OVER (PARTITION BY x.step ORDER BY x.seq) AS new_item
        FROM underway_internal.step_result x JOIN lowest l ON l.step = x.step
        WHERE x.run_id = run_id AND x.item >= -1 AND x.state IN ('failed', 'cancelled') AND x.undo IS NOT NULL)
    UPDATE underway_internal.step_result x SET item = m.new_item FROM moved m
        WHERE x.run_id = run_id AND x.step = m.step AND x.item = m.item;
    DELETE FROM underway_internal.step_result x WHERE x.run_id = run_id AND x.item >= -1 AND x.state IN ('failed', 'cancelled');
    RETURN true;
END $$;

-- Of a map that begins once more: what its items gave stays where the items are the same.
CREATE FUNCTION underway_internal.keep_items(run_id uuid, step text, items jsonb[]) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    lowest int := (SELECT least(min(x.item), -1) FROM underway_internal.step_result x WHERE x.run_id = run_id AND x.step = step);
BEGIN
    WITH other AS (
        SELECT x.item, lowest - row_number() OVER (ORDER BY x.seq) AS new_item FROM underway_internal.step_result x
        WHERE x.run_id = run_id AND x.step = step AND x.item >= 0 AND x.undo IS NOT NULL
          AND (x.state <> 'succeeded' OR x.item >= cardinality(items) OR x.input <> items[x.item + 1]))
    UPDATE underway_internal.step_result x SET item = o.new_item FROM other o
        WHERE x.run_id = run_id AND x.step = step AND x.item = o.item;
    DELETE FROM underway_internal.step_result x
        WHERE x.run_id = run_id AND x.step = step AND x.item >= 0
          AND (x.state <> 'succeeded' OR x.item >= cardinality(items) OR x.input <> items[x.item + 1]);
    RETURN true;
END $$;

-- What take_results() left out, from the archive of tasks; null when it is kept no longer.
CREATE FUNCTION underway_internal.archived_result(task_id uuid, passed_on bool) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT CASE WHEN passed_on THEN coalesce(a.output, a.input) ELSE a.output END FROM underway_internal.archive a
        WHERE a.id = task_id ORDER BY a.finished_at DESC LIMIT 1);
END $$;

-- Puts results kept with a run that has ended back into the hot table, as those of `run_id`. copied: there is nothing to undo of them. Raises when
-- one of them is kept no longer.
CREATE FUNCTION underway_internal.restore_results(run_id uuid, results jsonb, copied bool) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    missing text;
BEGIN
    INSERT INTO underway_internal.step_result AS x (run_id, step, item, state, input, output, error, sqlstate, task_id, ended_at, undo)
        SELECT run_id, e ->> 'step', (e ->> 'item')::int, e ->> 'state', e -> 'input',
            CASE WHEN e -> 'left' IS NULL THEN e -> 'output'
                 ELSE underway_internal.archived_result((e ->> 'task')::uuid, (e ->> 'item')::int < 0) END,
            e ->> 'error', e ->> 'sqlstate', (e ->> 'task')::uuid, (e ->> 'at')::timestamptz,
            CASE WHEN NOT copied THEN e ->> 'undo' END
        FROM jsonb_array_elements(results) WITH ORDINALITY a(e, n)
        -- One without a task was skipped, which costs nothing to find out once more.
        WHERE e -> 'left' IS NULL OR e ->> 'task' IS NOT NULL
        ORDER BY a.n
        ON CONFLICT DO NOTHING;
    SELECT e ->> 'step' INTO missing FROM jsonb_array_elements(results) e
        WHERE e -> 'left' IS NOT NULL AND e ->> 'state' = 'succeeded' AND (e ->> 'item')::int = -1
          AND NOT EXISTS (SELECT FROM underway_internal.archive a WHERE a.id = (e ->> 'task')::uuid) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('the output of step "%s" is kept no longer', missing),
            DETAIL = 'Outputs of more than 1 MB are kept with the tasks only.',
            HINT = 'Start a new run.';
    END IF;
    RETURN true;
END $$;
