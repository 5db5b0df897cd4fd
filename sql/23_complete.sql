-- Complete: the last statement of the executing transaction, and its fence. The handler's effects, the outputs and the ends
-- of the tasks commit together or not at all (promise 2).

CREATE FUNCTION underway_internal.complete_tasks(queue_id int, ids uuid[], attempts int[], outputs jsonb[], notices text[])
    RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now timestamptz := underway_internal.clock();
    ended bigint;
BEGIN
    IF (SELECT q.keep = 'all' FROM underway_internal.queue q WHERE q.id = complete_tasks.queue_id) THEN
        WITH done AS (
            DELETE FROM underway_internal.task t USING unnest(ids, attempts, outputs, notices) u(id, attempt, output, notices)
            WHERE t.id = u.id AND t.attempt = u.attempt AND t.state = 'in_progress'
            RETURNING t.*, u.output, u.notices)
        INSERT INTO underway_internal.archive (slot, id, queue_id, state, priority, run_at, attempt, failures, crashes, losses, snoozes,
                enqueued_at, started_at, finished_at, enqueued_by, worker, lease, input, output, headers, key, group_key, timeout,
                heartbeat, retry, source, notices)
            SELECT underway_internal.ring_current('succeeded', 0), d.id, d.queue_id, 'succeeded', d.priority, d.run_at, d.attempt,
                d.failures, d.crashes, d.losses, d.snoozes, d.enqueued_at, d.claimed_at, now, d.enqueued_by, d.worker, d.lease, d.input,
                d.output, d.headers, d.key, d.group_key, d.timeout, d.heartbeat, d.retry, d.source, d.notices
            FROM done d;
        GET DIAGNOSTICS ended = ROW_COUNT;
    ELSE
        WITH done AS (
            DELETE FROM underway_internal.task t USING unnest(ids, attempts) u(id, attempt)
            WHERE t.id = u.id AND t.attempt = u.attempt AND t.state = 'in_progress'
            RETURNING t.id, t.queue_id, t.key),
        keys AS (
            DELETE FROM underway_internal.task_key k USING done d
            WHERE k.queue_id = d.queue_id AND k.key = d.key AND k.task_id = d.id)
        SELECT count(*) INTO ended FROM done;
    END IF;
    PERFORM underway_internal.finished(VARIADIC ids);
    RETURN ended;
END $$;
