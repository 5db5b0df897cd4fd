-- Fork: a new run that begins in the middle, with what the steps of another one gave.
-- Invariant: the other run is only read, in one snapshot; nothing of it is locked. What its steps did is its own to undo: results that are copied
-- say that there is nothing to undo.

-- Copies the results of the steps that are not among `later`, without what is to be undone of them: that is the other run's. False: the run has ended.
CREATE FUNCTION underway_internal.copy_results(from_run uuid, to_run uuid, later text[]) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    found_it bool;
BEGIN
    WITH unfinished AS MATERIALIZED (
        SELECT FROM underway_internal.run r WHERE r.id = from_run),
    copied AS (
        INSERT INTO underway_internal.step_result (run_id, step, item, state, input, output, task_id, ended_at)
        SELECT to_run, x.step, x.item, x.state, x.input, x.output, x.task_id, x.ended_at
        FROM underway_internal.step_result x
        WHERE x.run_id = from_run AND x.item >= -1 AND x.state IN ('succeeded', 'skipped') AND x.step <> ALL (later)
        ORDER BY x.seq)
    SELECT count(*) > 0 INTO found_it FROM unfinished;
    RETURN found_it;
END $$;

-- The same for a run that has ended: what was kept with it, and, where it succeeded, what its tasks in the archive gave. (Where those results
-- were taken over from another run, all are kept with it.)
CREATE FUNCTION underway_internal.copy_archived_results(a underway_internal.run_archive, to_run uuid, later text[]) RETURNS bool
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM underway_internal.restore_results(to_run, (SELECT jsonb_agg(e ORDER BY n) FROM jsonb_array_elements(a.results) WITH ORDINALITY r(e, n)
        WHERE (e ->> 'item')::int >= -1 AND e ->> 'state' IN ('succeeded', 'skipped') AND e ->> 'step' <> ALL (later)), true);
    IF a.state = 'succeeded' THEN
        INSERT INTO underway_internal.step_result (run_id, step, item, state, input, output, task_id, ended_at)
            SELECT to_run, l.step, l.item, 'succeeded', CASE WHEN l.item >= 0 THEN l.input END,
                CASE WHEN l.item < 0 THEN coalesce(l.output, l.input) ELSE l.output END, l.id, l.finished_at
            FROM (SELECT DISTINCT ON (x.step, x.item) x.* FROM underway_internal.archive x
                JOIN underway_internal.step s ON s.queue_id = a.queue_id AND s.version = a.version AND s.name = x.step
                WHERE x.run_id = a.id AND x.phase IS DISTINCT FROM 'undo' AND s.kind <> 'finally' AND x.step <> ALL (later)
                ORDER BY x.step, x.item, x.finished_at DESC) l
            WHERE l.state = 'succeeded' ORDER BY l.finished_at
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.fork(caller oid, run uuid, from_step text, input jsonb) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    old underway_internal.run := underway_internal.run_for(caller, run);
    a underway_internal.run_archive;
    q underway_internal.queue;
    s underway_internal.step;
    r underway_internal.run;
    later text[];
    missing text;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = old.queue_id;
    IF q.dropped_at IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('run %s cannot be forked: its workflow "%s" was dropped', run, q.name),
            HINT = 'Start a run of another workflow.';
    END IF;
    PERFORM underway_internal.workflow_for(caller, q.name, 'enqueue');
    SELECT x.* INTO s FROM underway_internal.step x
        WHERE x.queue_id = old.queue_id AND x.version = old.version AND x.name = from_step AND x.kind <> 'finally';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = CASE WHEN from_step IS NULL THEN 'from_step must not be null'
                ELSE format('from_step: there is no step "%s" in version %s of workflow "%s"', left(from_step, 200), old.version, q.name) END,
            HINT = (SELECT format('Its steps: %s.', left(string_agg(x.name, ', ' ORDER BY x."position"), 500)) FROM underway_internal.step x
                WHERE x.queue_id = old.queue_id AND x.version = old.version AND x.kind <> 'finally');
    END IF;
    later := underway_internal.from_here_on(old.queue_id, old.version, from_step);
    r.id := underway_internal.new_id();
    IF NOT underway_internal.copy_results(run, r.id, later) THEN
        a := underway_internal.kept_run(caller, run);
        PERFORM underway_internal.copy_archived_results(a, r.id, later);
        old.input := a.input;
        old.headers := a.headers;
        old.priority := a.priority;
        old.group_key := a.group_key;
        old.timeout := a.timeout;
        -- Else what has been done once would be done again, unasked.
        SELECT x.name INTO missing FROM underway_internal.step x
            JOIN underway_internal.queue t ON t.id = coalesce(x.target_queue, q.id)
            WHERE a.state = 'succeeded' AND t.keep <> 'all' AND x.queue_id = q.id AND x.version = old.version AND x.kind <> 'finally'
              AND x.name <> ALL (later)
              AND NOT EXISTS (SELECT FROM underway_internal.step_result y WHERE y.run_id = r.id AND y.step = x.name AND y.item = -1)
            ORDER BY x."position" LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('run %s cannot be forked from "%s": what step "%s" gave is not kept', run, from_step, missing),
                HINT = 'Fork from an earlier step, or have the queue keep all tasks.';
        END IF;
    END IF;
    SELECT n INTO missing FROM unnest(s.after) n
        WHERE NOT EXISTS (SELECT FROM underway_internal.step_result x WHERE x.run_id = r.id AND x.step = n AND x.item = -1) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('run %s cannot be forked from "%s": step "%s" before it has not succeeded', run, from_step, missing),
            HINT = format('Fork from "%s", or from a step before it.', missing);
    END IF;
    r.queue_id := old.queue_id;
    r.version := old.version;
    r.state := 'running';
    r.undo := true;
    r.input := old.input;
    r.headers := old.headers;
    r.priority := old.priority;
    r.group_key := old.group_key;
    r.started_by := pg_get_userbyid(caller);
    r.started_at := underway_internal.clock();
    r.timeout := old.timeout;
    r.deadline := r.started_at + r.timeout;
    r.forked_from := run;
    INSERT INTO underway_internal.run SELECT r.*;
    PERFORM underway_internal.note_deadline(r.deadline);
    s.run_if := NULL;
    IF input IS NOT NULL THEN
        s.input := NULL;
        s.after := ARRAY[from_step];
    END IF;
    PERFORM underway_internal.begin_step(r, s, input, r.started_at, NULL);
    PERFORM underway_internal.advance(r, NULL, NULL, r.started_at, NULL);
    RETURN r.id;
END $$;

CREATE FUNCTION underway.fork(run uuid, from_step text, input jsonb DEFAULT NULL) RETURNS uuid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.fork IS
'Starts a new run of the same workflow and version, in the caller''s transaction, that begins with a step in the middle of another run, which may have ended and goes on as it was. What the steps gave that are neither that step nor after it is taken from the other run; those of them that have not succeeded there begin too. Input, headers, priority and group_key are the other run''s, the timeout counts anew; it has no key. What was taken over is not undone should the new run fail: the other run has done it. Needs the right enqueue on the workflow, and to see the other run.
from_step: its name. input: given to it instead of what it would get.
Returns the new run''s id. Errors: P0002 no such run, 22023 no such step, 55000 a step before it has not succeeded or what it gave is not kept, or the workflow was dropped, 42501 not allowed.';
