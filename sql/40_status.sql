-- Status: what there is to know about one task, wherever it stands.
-- Invariant: an id that the caller may not see gives exactly what an id that does not exist gives.

CREATE FUNCTION underway_internal.no_task(id uuid) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'id must not be null',
            HINT = 'Give the id that underway.enqueue() returned.';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'P0002', MESSAGE = format('task %s does not exist', id),
        HINT = 'Its transaction may not have committed, it may be kept no longer, or you may not have the right to see it.';
END $$;

-- The last attempt that ended, from the attempts of a task that goes on.
CREATE FUNCTION underway_internal.latest_attempt(task_id uuid) RETURNS underway_internal.attempt LANGUAGE plpgsql AS $$
DECLARE
    a underway_internal.attempt;
BEGIN
    SELECT x.* INTO a FROM underway_internal.attempt x WHERE x.task_id = latest_attempt.task_id
        ORDER BY x.attempt DESC, x.ended_at DESC LIMIT 1;
    RETURN a;
END $$;

-- What a handler that runs in the server said last with underway.progress().
CREATE FUNCTION underway_internal.progress_of(task_id uuid, attempt int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT w.progress FROM underway_internal.workers() w
        WHERE w.task_id = progress_of.task_id AND w.attempt = progress_of.attempt LIMIT 1);
END $$;

CREATE FUNCTION underway_internal.status(caller oid, id uuid)
    RETURNS TABLE (kind text, queue text, state text, attempt int, failures int, crashes int, losses int, enqueued_at timestamptz,
        run_at timestamptz, started_at timestamptz, finished_at timestamptz, worker text, last_heartbeat timestamptz,
        progress jsonb, input jsonb, output jsonb, reason text, sqlstate text, error text, detail text, hint text, context text,
        notices text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
    last underway_internal.attempt;
    beat underway_internal.heartbeat;
BEGIN
    -- In this order: a task that moves to the archive between the two is found there.
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = status.id;
    IF FOUND THEN
        IF underway_internal.may_see_task(caller, t.queue_id, t.enqueued_by) THEN
            last := underway_internal.latest_attempt(status.id);
            SELECT x.* INTO beat FROM underway_internal.heartbeat x WHERE x.lease = t.lease;
            RETURN QUERY SELECT 'task', q.name, t.state, t.attempt, t.failures, t.crashes, t.losses, t.enqueued_at,
                    t.run_at, coalesce(t.claimed_at, last.started_at), NULL::timestamptz, coalesce(t.worker, last.worker),
                    beat.beat_at, coalesce(beat.progress, underway_internal.progress_of(t.id, t.attempt)), t.input, NULL::jsonb, CASE WHEN t.paused_by IS NOT NULL THEN 'paused' END,
                    last.sqlstate, last.message, last.detail, last.hint, last.context, last.notices
                FROM underway_internal.queue q WHERE q.id = t.queue_id;
        END IF;
        RETURN;
    END IF;
    a := underway_internal.last_end(status.id);
    IF a.id IS NULL THEN
        RETURN QUERY SELECT r.* FROM underway_internal.run_status(caller, status.id) r;
    ELSIF underway_internal.may_see_task(caller, a.queue_id, a.enqueued_by) THEN
        RETURN QUERY SELECT 'task', q.name, a.state, a.attempt, a.failures, a.crashes, a.losses, a.enqueued_at,
                a.run_at, a.started_at, a.finished_at, a.worker,
                NULL::timestamptz, NULL::jsonb, a.input, a.output, a.reason,
                a.sqlstate, a.message, a.detail, a.hint, a.context, a.notices
            FROM underway_internal.queue q WHERE q.id = a.queue_id;
    END IF;
END $$;

CREATE FUNCTION underway.status(id uuid)
    RETURNS TABLE (kind text, queue text, state text, attempt int, failures int, crashes int, losses int, enqueued_at timestamptz,
        run_at timestamptz, started_at timestamptz, finished_at timestamptz, worker text, last_heartbeat timestamptz,
        progress jsonb, input jsonb, output jsonb, reason text, sqlstate text, error text, detail text, hint text, context text,
        notices text)
    LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.status IS
'What there is to know about a task or a run: one row, or none when there is none of that id or the caller may not see it (who enqueued or started it may, and who has the right see on the queue).
kind: task or run. Of a run: queue is its workflow, state running, waiting, paused, undoing, parked, succeeded, failed or cancelled, progress its steps in progress and how many of them have ended. Of a task: state: pending, in_progress, waiting, succeeded, failed, cancelled. attempt: attempts begun. failures, crashes, losses: attempts that ended so since the task was enqueued or re-opened (losses: ever). run_at: when it is or was due. started_at, worker: of the last attempt. reason: why it failed or was cancelled, or paused. sqlstate, error, detail, hint, context, notices: of the last attempt that ended.';
