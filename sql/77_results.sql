-- What the steps of a run gave, once it has ended: kept with it in the archive, so that it can be retried or forked.
-- Invariant: run_archive.results never gets too large to be written, or the run could not end.

-- Takes the results of a run that ends off the hot table; returns those to keep with it, in the order in which they ended. Of one that did
-- not succeed: all. Of one that did: those of steps that were skipped; the archive of its tasks has the others.
-- Each is {step, item, state, task, at}, and, where there is one: input, output, undo, error, sqlstate. Where 64 MB are full, and of what is over 1 MB,
-- input and output are left out, and `left` is true: the archive of tasks may have it.
CREATE FUNCTION underway_internal.take_results(run_id uuid, succeeded bool) RETURNS jsonb LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    results jsonb;
BEGIN
    WITH gone AS (
        DELETE FROM underway_internal.step_result x WHERE x.run_id = run_id RETURNING x.*),
    kept AS (
        SELECT g.*, underway_internal.large(g.input) OR underway_internal.large(g.output) AS large
        FROM gone g WHERE NOT succeeded OR g.state = 'skipped' AND g.item = -1),
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
