-- Run inline: what run_inline asks of the tables. Everything here looks only at rows that the transaction itself has written, which nobody
-- else sees yet; ids from first_id on, so that what others have pending is not even read.
-- Invariant: nothing that is committed, or anybody else's, is claimed, changed or locked; a task or run counts as the transaction's own only when
-- the row of its run is as well.

-- All unfinished tasks of this transaction.
CREATE FUNCTION underway_internal.own_tasks(first_id uuid) RETURNS SETOF underway_internal.task LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT t.* FROM underway_internal.task t
        WHERE t.id >= first_id AND underway_internal.is_ours(t.xmin)
          AND (t.run_id IS NULL OR EXISTS (SELECT FROM underway_internal.run r WHERE r.id = t.run_id AND underway_internal.is_ours(r.xmin)));
END $$;

-- What is to be run next: as one worker would take it, by priority, due time and id; several at once only when so many are due that they are not
-- looked at for each. blocked: queues that cannot be worked. Nothing due: next_at says when something will be, but while a step of a run waits
-- for an external worker, time stands still. lowest_id: where the next look may begin.
CREATE FUNCTION underway_internal.next_inline(
        first_id uuid, blocked int[], OUT ids uuid[], OUT queue_ids int[], OUT next_at timestamptz, OUT lowest_id uuid)
    LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := underway_internal.clock();
    waits_for_others bool;
BEGIN
    WITH own AS MATERIALIZED (
        SELECT t.id, t.queue_id, t.priority, t.run_at, t.state = 'pending' AS pending, t.run_at <= now AS due, t.run_id IS NOT NULL AS of_run,
            (q.workflow OR q.handler_name IS NOT NULL) AS here,
            q.paused_at IS NULL AND q.dropped_at IS NULL AND q.id <> ALL (blocked) AS open
        FROM underway_internal.own_tasks(first_id) t JOIN underway_internal.queue q ON q.id = t.queue_id),
    due AS (
        SELECT o.id, o.queue_id, row_number() OVER (ORDER BY o.priority, o.run_at, o.id) AS n, count(*) OVER () AS found
        FROM own o WHERE o.pending AND o.due AND o.here AND o.open)
    SELECT array_agg(d.id ORDER BY d.n), array_agg(d.queue_id ORDER BY d.n),
            (SELECT min(o.run_at) FROM own o WHERE o.pending AND o.here AND o.open AND o.run_at < 'infinity'),
            (SELECT o.id FROM own o ORDER BY o.id LIMIT 1),
            coalesce((SELECT bool_or(true) FROM own o WHERE o.pending AND o.due AND o.of_run AND NOT o.here AND o.open), false)
        INTO ids, queue_ids, next_at, lowest_id, waits_for_others
        FROM due d WHERE d.n <= 1 + d.found / 100;
    IF waits_for_others THEN
        next_at := NULL;
    END IF;
END $$;

CREATE FUNCTION underway_internal.claim_inline(task_id uuid, max_attempts int, worker text, boot bigint)
    RETURNS TABLE (id uuid, attempt int, "input" jsonb, headers jsonb, timeout interval, last_attempt bool, run_id uuid, version int,
        step text, item int, phase text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- No slot has this number. It says that the task is worked in the server.
    RETURN QUERY UPDATE underway_internal.task t
        SET state = 'in_progress', attempt = t.attempt + 1, claimed_at = underway_internal.clock(), worker = claim_inline.worker,
            boot = claim_inline.boot, slot = -1, generation = 0
        WHERE t.id = task_id AND t.state = 'pending' AND underway_internal.is_ours(t.xmin)
        RETURNING t.id, t.attempt, t.input, t.headers, t.timeout,
            t.failures + 1 >= coalesce((t.retry ->> 'max_attempts')::int, claim_inline.max_attempts), t.run_id, t.version, t.step, t.item,
            t.phase;
END $$;

-- dequeue() in such a transaction.
CREATE FUNCTION underway_internal.dequeue_inline(queue_id int, first_id uuid, max_tasks int, max_attempts int, worker text)
    RETURNS TABLE (id uuid, attempt int, "input" jsonb, headers jsonb, last_attempt bool, lease uuid, run_id uuid, step text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now timestamptz := underway_internal.clock();
BEGIN
    RETURN QUERY
        WITH taken AS (
            UPDATE underway_internal.task t
            SET state = 'in_progress', attempt = t.attempt + 1, claimed_at = now, worker = dequeue_inline.worker, lease = gen_random_uuid()
            FROM (SELECT o.id FROM underway_internal.own_tasks(first_id) o
                  WHERE o.queue_id = dequeue_inline.queue_id AND o.state = 'pending' AND o.run_at <= now
                  ORDER BY o.priority, o.run_at, o.id LIMIT max_tasks) d
            WHERE t.id = d.id
            RETURNING t.*)
        SELECT t.id, t.attempt, t.input, t.headers,
            t.failures + 1 >= coalesce((t.retry ->> 'max_attempts')::int, dequeue_inline.max_attempts), t.lease, t.run_id, t.step
        FROM taken t ORDER BY t.priority, t.run_at, t.id;
END $$;

-- What the coordinator does for the runs of others. Returns how much there was to do.
CREATE FUNCTION underway_internal.tend_inline(first_id uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    m record;
    n bigint := 0;
BEGIN
    FOR m IN SELECT r AS run, s AS step, t AS task FROM underway_internal.own_tasks(first_id) t
            JOIN underway_internal.run r ON r.id = t.run_id
            JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = t.step
            WHERE t.phase = 'map' LOOP
        n := n + underway_internal.look_at_map((m.run).id, (m.step).name, NULL)::int;
        IF (m.step).concurrency IS NOT NULL AND EXISTS (SELECT FROM underway_internal.task x
                WHERE x.run_id = (m.run).id AND x.step = (m.step).name AND x.item >= 0 AND x.state = 'waiting' AND x.paused_by IS NULL)
                AND (SELECT count(*) FROM underway_internal.task x WHERE x.run_id = (m.run).id AND x.step = (m.step).name AND x.item >= 0
                    AND x.state IN ('pending', 'in_progress')) < (m.step).concurrency THEN
            n := n + underway_internal.fill_places(m.run, m.step, m.task)::int;
        END IF;
    END LOOP;
    RETURN n;
END $$;

-- How the tasks of these ids, which were worked, stand now; where nothing is kept of them, null. Then, without a number, what was not begun.
CREATE FUNCTION underway_internal.report_inline(first_id uuid, ids uuid[])
    RETURNS TABLE (n int, id uuid, queue text, step text, state text, error text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT u.n::int, u.id, NULL::text, NULL::text, coalesce(t.state, a.state),
            CASE WHEN t.id IS NULL THEN a.message ELSE (underway_internal.latest_attempt(u.id)).message END
        FROM unnest(ids) WITH ORDINALITY u(id, n)
        LEFT JOIN LATERAL (SELECT x.id, underway_internal.state_inline(x) AS state FROM underway_internal.task x WHERE x.id = u.id) t ON true
        LEFT JOIN LATERAL underway_internal.last_end(u.id) a ON t.id IS NULL
        ORDER BY u.n;
    RETURN QUERY
        SELECT NULL::int, t.id, q.name, t.step, underway_internal.state_inline(t), NULL::text
        FROM underway_internal.own_tasks(first_id) t JOIN underway_internal.queue q ON q.id = t.queue_id
        WHERE t.id <> ALL (ids) AND (t.run_id IS NULL OR t.step IS NOT NULL) ORDER BY t.id;
END $$;

CREATE FUNCTION underway_internal.state_inline(t underway_internal.task) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN t.state = 'pending' AND t.phase IN ('wait', 'sleep') THEN 'waiting' ELSE t.state END;
END $$;

CREATE FUNCTION underway.run_inline(max_tasks int DEFAULT 10000)
    RETURNS TABLE (id uuid, queue text, step text, state text, error text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_run_inline';
COMMENT ON FUNCTION underway.run_inline IS
'For tests: runs, in this transaction and this session, what it has enqueued and started, with all that follows from it, until nothing is left that can run; then ROLLBACK. Handlers run as their queue''s owner, which the caller must be or be a member of. Delays, retries, sleeps and timeouts take no time: the clock of queues jumps to whatever is due next, for this transaction alone (now() and clock_timestamp() do not). It stands still while a step of a workflow waits for an external worker: dequeue() and complete() that in the same transaction, then call run_inline() again.
max_tasks: at most so many attempts.
Returns a row for each task that was begun, in that order, and then for those that were not: its id, queue and step (of workflows), the state it is in now (pending, waiting, in_progress, succeeded, failed, cancelled), and the error of its last attempt. Errors: 42501 the caller cannot become the owner of a queue, 55000 in a handler, 22023 bad value; and what deferred constraints of the transaction say.';
