-- Dequeue: pending -> in_progress, in a short transaction of its own that commits before the work starts (promise 4).
-- Invariant: the caller has registered an active scan of this queue and priority before this statement's snapshot, so the
-- low-water mark cannot pass a row that becomes pending meanwhile.

-- found: how many rows were locked. More than what is returned: a suspect is among them (its crashes are counted), and a suspect is
-- claimed alone, so that the next crash is its own (promise 8). most_crashes: suspects that had more cannot run now. slot null: for an external worker, with a lease.
CREATE FUNCTION underway_internal.claim(
        queue_id int, priority int, from_run_at timestamptz, from_id uuid, max_tasks int, ttl interval, max_attempts int,
        worker text, boot bigint, slot int, generation int, most_crashes int)
    RETURNS TABLE (id uuid, attempt int, input jsonb, headers jsonb, timeout interval, run_at timestamptz, last_attempt bool,
        expired bool, crashes int, lease uuid, found bigint, run_id uuid, version int, step text, item int, phase text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now timestamptz := underway_internal.clock();
BEGIN
    -- The join is by id: by ctid, a row that was changed under us would be locked and not updated.
    RETURN QUERY
        WITH locked AS MATERIALIZED (
            SELECT t.id, t.run_at, t.crashes FROM underway_internal.task t
            WHERE t.queue_id = claim.queue_id AND t.priority = claim.priority AND t.state = 'pending'
              AND (t.run_at, t.id) >= (from_run_at, from_id) AND t.run_at <= now AND t.crashes <= most_crashes
            ORDER BY t.run_at, t.id
            LIMIT max_tasks
            FOR UPDATE SKIP LOCKED),
        due AS (
            SELECT l.id, l.found FROM (
                SELECT l.id, count(*) OVER () AS found, row_number() OVER w AS n, count(*) FILTER (WHERE l.crashes > 0) OVER w AS suspects
                FROM locked l WINDOW w AS (ORDER BY l.run_at, l.id ROWS UNBOUNDED PRECEDING)) l
            WHERE l.suspects = 0 OR l.n = 1),
        claimed AS (
            UPDATE underway_internal.task t
            SET state = 'in_progress', attempt = t.attempt + 1, claimed_at = now,
                worker = claim.worker, boot = claim.boot, slot = claim.slot, generation = claim.generation,
                lease = CASE WHEN claim.slot IS NULL THEN gen_random_uuid() END
            FROM due WHERE t.id = due.id
            RETURNING t.id, t.attempt, t.input, t.headers, t.timeout, t.run_at, t.enqueued_at, t.failures, t.retry, t.expires_at,
                t.crashes, t.lease, due.found, t.run_id, t.version, t.step, t.item, t.phase)
        SELECT c.id, c.attempt, c.input, c.headers, c.timeout, c.run_at,
            c.failures + 1 >= coalesce((c.retry ->> 'max_attempts')::int, max_attempts),
            c.attempt = 1 AND c.run_id IS NULL AND coalesce(c.expires_at, greatest(c.run_at, c.enqueued_at) + ttl) <= now, c.crashes, c.lease, c.found,
            c.run_id, c.version, c.step, c.item, c.phase
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
    t underway_internal.task;
    cancelled text;
    given bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x, unnest(ids, attempts) u(id, attempt)
            WHERE x.id = u.id AND x.attempt = u.attempt AND x.state = 'in_progress' FOR UPDATE OF x LOOP
        cancelled := underway_internal.cancel_message(t.id);
        IF cancelled IS NOT NULL THEN
            PERFORM underway_internal.end_cancelled(t, cancelled, NULL);
        ELSE
            PERFORM underway_internal.reopen(t, t.run_at);
            UPDATE underway_internal.task x SET attempt = t.attempt - 1 WHERE x.id = t.id;
        END IF;
        given := given + 1;
    END LOOP;
    RETURN given;
END $$;

-- Where each priority of a queue begins: the coordinator's survey.
CREATE FUNCTION underway_internal.heads(queue_id int) RETURNS TABLE (priority int, run_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT p, (SELECT t.run_at FROM underway_internal.task t
            WHERE t.queue_id = heads.queue_id AND t.priority = p AND t.state = 'pending' ORDER BY t.run_at, t.id LIMIT 1)
        FROM generate_series(0, 15) p;
END $$;
