-- Dequeue: pending -> in_progress, in a short transaction of its own that commits before the work starts (promise 4).
-- Invariant: the caller has registered an active scan of this queue and priority before this statement's snapshot, so the
-- low-water mark cannot pass a row that becomes pending meanwhile.

CREATE FUNCTION underway_internal.claim(
        queue_id int, priority int, from_run_at timestamptz, from_id uuid, max_tasks int, ttl interval, max_attempts int,
        worker text, boot bigint, slot int, generation int)
    RETURNS TABLE (id uuid, attempt int, input jsonb, headers jsonb, timeout interval, run_at timestamptz, last_attempt bool,
        expired bool)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now timestamptz := underway_internal.clock();
BEGIN
    -- The join is by id: by ctid, a row that was changed under us would be locked and not updated.
    RETURN QUERY
        WITH due AS MATERIALIZED (
            SELECT t.id FROM underway_internal.task t
            WHERE t.queue_id = claim.queue_id AND t.priority = claim.priority AND t.state = 'pending'
              AND (t.run_at, t.id) >= (from_run_at, from_id) AND t.run_at <= now
            ORDER BY t.run_at, t.id
            LIMIT max_tasks
            FOR UPDATE SKIP LOCKED),
        claimed AS (
            UPDATE underway_internal.task t
            SET state = 'in_progress', attempt = t.attempt + 1, claimed_at = now,
                worker = claim.worker, boot = claim.boot, slot = claim.slot, generation = claim.generation
            FROM due WHERE t.id = due.id
            RETURNING t.id, t.attempt, t.input, t.headers, t.timeout, t.run_at, t.enqueued_at, t.failures, t.retry, t.expires_at)
        SELECT c.id, c.attempt, c.input, c.headers, c.timeout, c.run_at,
            c.failures + 1 >= coalesce((c.retry ->> 'max_attempts')::int, max_attempts),
            c.attempt = 1 AND coalesce(c.expires_at, greatest(c.run_at, c.enqueued_at) + ttl) <= now
        FROM claimed c ORDER BY c.run_at, c.id;
END $$;

-- When the next pending task of this queue and priority is due: the timer after a claim that found no more. Counted from a
-- moment before that claim's own look at the clock, so that no task falls between the two.
CREATE FUNCTION underway_internal.next_due(queue_id int, priority int, scanned_at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT t.run_at FROM underway_internal.task t
        WHERE t.queue_id = next_due.queue_id AND t.priority = next_due.priority AND t.state = 'pending'
          AND t.run_at > scanned_at
        ORDER BY t.run_at, t.id LIMIT 1);
END $$;

-- Claimed and not begun: handed back as if it had never been claimed.
CREATE FUNCTION underway_internal.give_back(ids uuid[], attempts int[]) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    given bigint;
BEGIN
    WITH back AS (
        UPDATE underway_internal.task t
        SET state = 'pending', attempt = t.attempt - 1, claimed_at = NULL, worker = NULL, boot = NULL, slot = NULL, generation = NULL
        FROM unnest(ids, attempts) u(id, attempt)
        WHERE t.id = u.id AND t.attempt = u.attempt AND t.state = 'in_progress'
        RETURNING underway_internal.note(t.queue_id, t.priority, t.run_at, t.id))
    SELECT count(*) INTO given FROM back;
    RETURN given;
END $$;

-- Where each priority of a queue begins: the coordinator's survey.
CREATE FUNCTION underway_internal.heads(queue_id int) RETURNS TABLE (priority int, run_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT p, (SELECT t.run_at FROM underway_internal.task t
            WHERE t.queue_id = heads.queue_id AND t.priority = p AND t.state = 'pending' ORDER BY t.run_at, t.id LIMIT 1)
        FROM generate_series(0, 15) p;
END $$;
