-- Await: waiting for a task's end. C functions that sleep on a latch, and the look that they take each time.

-- The state of a task that the caller may see, and whether it was enqueued by this very transaction.
CREATE FUNCTION underway_internal.state_for(caller oid, id uuid) RETURNS TABLE (state text, ours bool) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT t.state, underway_internal.is_ours(t.xmin) AND t.state = 'pending'
        FROM underway_internal.task t
        WHERE t.id = state_for.id AND underway_internal.may_see_task(caller, t.queue_id, t.enqueued_by);
    IF NOT FOUND THEN
        RETURN QUERY SELECT a.state, false FROM underway_internal.last_end(state_for.id) a
            WHERE a.id IS NOT NULL AND underway_internal.may_see_task(caller, a.queue_id, a.enqueued_by);
    END IF;
    IF NOT FOUND THEN
        RETURN QUERY SELECT r.state, underway_internal.is_ours(r.xmin) FROM underway_internal.run r
            WHERE r.id = state_for.id AND underway_internal.may_see_task(caller, r.queue_id, r.started_by);
    END IF;
    IF NOT FOUND THEN
        RETURN QUERY SELECT r.state, false FROM underway_internal.ended_run(state_for.id) r
            WHERE r.id IS NOT NULL AND underway_internal.may_see_task(caller, r.queue_id, r.started_by);
    END IF;
END $$;

CREATE FUNCTION underway.await(id uuid, timeout interval DEFAULT '10 s')
    RETURNS TABLE (kind text, queue text, state text, attempt int, failures int, crashes int, losses int, enqueued_at timestamptz,
        run_at timestamptz, started_at timestamptz, finished_at timestamptz, worker text, last_heartbeat timestamptz,
        progress jsonb, input jsonb, output jsonb, reason text, sqlstate text, error text, detail text, hint text, context text,
        notices text)
    LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'underway_await';
COMMENT ON FUNCTION underway.await IS
'Waits until the task has ended, at most timeout (and at most 60 s: a function holds a snapshot), and returns its status() then, ended or not: no row when it has ended meanwhile and nothing is kept of it.
Errors: P0002 no such task, or the caller may not see it; 25001 at once for a task of this very transaction, or in a REPEATABLE READ or SERIALIZABLE transaction; 22023 null id or negative timeout.';

CREATE PROCEDURE underway.wait_for(id uuid, timeout interval DEFAULT '1 min', INOUT state text DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'underway_wait_for';
COMMENT ON PROCEDURE underway.wait_for IS
'Waits until the task has ended, at most timeout (and at most a day), and gives its state then: null when it has ended meanwhile and nothing is kept of it. Commits before it sleeps, so that it holds neither a snapshot nor a transaction id: for long waits.
Errors: 2D000 inside a transaction block or a function; P0002 no such task, or the caller may not see it; 22023 null id or negative timeout.';
