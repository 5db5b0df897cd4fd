-- History: every attempt of every step of a run.

CREATE FUNCTION underway_internal.run_for(caller oid, run uuid) RETURNS underway_internal.run LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run;
    a underway_internal.run_archive;
BEGIN
    IF run IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'run must not be null', HINT = 'Give the id that underway.start() returned.';
    END IF;
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = run_for.run;
    IF NOT FOUND THEN
        a := underway_internal.ended_run(run);
        r.id := a.id;
        r.queue_id := a.queue_id;
        r.version := a.version;
        r.started_by := a.started_by;
        r.started_at := a.started_at;
    END IF;
    IF r.id IS NULL OR NOT underway_internal.may_see_task(caller, r.queue_id, r.started_by) THEN
        RAISE EXCEPTION USING ERRCODE = 'P0002', MESSAGE = format('run %s does not exist', run),
            HINT = 'Its transaction may not have committed, it may be kept no longer, or you may not have the right to see it.';
    END IF;
    RETURN r;
END $$;

-- How a run that is not unfinished ended last; raises where that is not kept.
CREATE FUNCTION underway_internal.kept_run(caller oid, run uuid) RETURNS underway_internal.run_archive LANGUAGE plpgsql AS $$
DECLARE
    a underway_internal.run_archive := underway_internal.ended_run(run);
BEGIN
    IF a.id IS NULL THEN
        PERFORM underway_internal.run_for(caller, run);
    END IF;
    RETURN a;
END $$;

CREATE FUNCTION underway_internal.history(caller oid, run uuid)
    RETURNS TABLE (step text, item int, kind text, attempt int, outcome text, due_at timestamptz, started_at timestamptz,
        ended_at timestamptz, worker text, input jsonb, output jsonb, sqlstate text, error text, detail text, hint text, context text,
        notices text, task_id uuid, child_run uuid)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r underway_internal.run := underway_internal.run_for(caller, run);
BEGIN
    RETURN QUERY
    WITH done AS MATERIALIZED (
        SELECT a.* FROM underway_internal.archive a WHERE a.run_id = r.id AND a.step IS NOT NULL),
    going_on AS MATERIALIZED (
        SELECT t.* FROM underway_internal.task t WHERE t.run_id = r.id AND t.step IS NOT NULL),
    ids AS (
        SELECT d.id, d.step, d.item, d.phase FROM done d UNION SELECT g.id, g.step, g.item, g.phase FROM going_on g)
    SELECT h.step, CASE WHEN h.item >= 0 THEN h.item END, CASE WHEN h.phase = 'undo' THEN 'undo' ELSE s.kind END, h.attempt, h.outcome, h.due_at,
        h.started_at, h.ended_at, h.worker, h.input, h.output, h.sqlstate, h.error, h.detail, h.hint, h.context, h.notices, h.task_id,
        CASE s.kind WHEN 'child' THEN (h.headers #>> '{child,run}')::uuid END
    FROM (
        SELECT d.step, d.item, d.phase, d.attempt, d.state AS outcome, d.run_at AS due_at, d.started_at, d.finished_at AS ended_at,
            d.worker, d.input, d.output, d.sqlstate, d.message AS error, d.detail, d.hint, d.context, d.notices, d.id AS task_id,
            d.headers
        FROM done d
        UNION ALL
        SELECT i.step, i.item, i.phase, a.attempt, a.outcome, NULL, a.started_at, a.ended_at,
            a.worker, NULL, NULL, a.sqlstate, a.message, a.detail, a.hint, a.context, a.notices, i.id, NULL
        FROM ids i JOIN underway_internal.attempt a ON a.task_id = i.id
        UNION ALL
        SELECT g.step, g.item, g.phase, g.attempt,
            CASE WHEN g.state = 'pending' AND g.phase IN ('wait', 'sleep') THEN 'waiting' ELSE g.state END,
            nullif(g.run_at, 'infinity'), g.claimed_at, NULL,
            g.worker, g.input, NULL, NULL, NULL, NULL, NULL, NULL, NULL, g.id, g.headers
        FROM going_on g) h
    JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = h.step
    ORDER BY coalesce(h.ended_at, 'infinity'), s.position, h.item, h.attempt;
END $$;

CREATE FUNCTION underway.history(run uuid)
    RETURNS TABLE (step text, item int, kind text, attempt int, outcome text, due_at timestamptz, started_at timestamptz,
        ended_at timestamptz, worker text, input jsonb, output jsonb, sqlstate text, error text, detail text, hint text, context text,
        notices text, task_id uuid, child_run uuid)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.history IS
'Every attempt of every step of a run that is kept, in the order in which they ended; what is under way comes last.
step: its name. item: of a map''s children, from 0. kind: step, map, wait, sleep, child, finally, or undo of a step. outcome: pending, waiting, in_progress, succeeded, failed, cancelled, lost (its worker went away), again (it asked to go on later), released. sqlstate, error and so on: of the attempt. task_id: of the step''s task. child_run: the run that a step of the kind child began.
Errors: P0002 no such run, or the caller may not see it.';
