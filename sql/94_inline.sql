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
    -- What was asked of runs comes first, as it does by the coordinator.
    PERFORM underway_internal.steer_inline(underway_internal.steered_inline(false));
    WITH own AS MATERIALIZED (
        SELECT t.id, t.queue_id, t.priority, t.run_at, t.state = 'pending' AS pending, t.run_at <= now AS due, t.run_id IS NOT NULL AS of_run
        FROM underway_internal.own_tasks(first_id) t),
    -- Few queues, and perhaps many tasks.
    queues AS (
        SELECT coalesce(array_agg(q.id) FILTER (WHERE q.workflow OR q.handler_name IS NOT NULL), '{}') AS here,
            coalesce(array_agg(q.id) FILTER (WHERE NOT q.workflow AND q.handler_name IS NULL), '{}') AS outside
        FROM (SELECT DISTINCT o.queue_id FROM own o) d JOIN underway_internal.queue q ON q.id = d.queue_id
        WHERE q.paused_at IS NULL AND q.dropped_at IS NULL AND q.id <> ALL (blocked)),
    due AS (
        SELECT o.id, o.queue_id, row_number() OVER (ORDER BY o.priority, o.run_at, o.id) AS n, count(*) OVER () AS found
        FROM own o WHERE o.pending AND o.due AND o.queue_id = ANY ((SELECT u.here FROM queues u)::int[]))
    SELECT array_agg(d.id ORDER BY d.n), array_agg(d.queue_id ORDER BY d.n),
            (SELECT min(o.run_at) FROM own o
                WHERE o.pending AND NOT o.due AND o.run_at < 'infinity'
                  AND o.queue_id = ANY ((SELECT u.here || u.outside FROM queues u)::int[])),
            (SELECT o.id FROM own o ORDER BY o.id LIMIT 1),
            EXISTS (SELECT FROM own o
                WHERE o.pending AND o.due AND o.of_run AND o.queue_id = ANY ((SELECT u.outside FROM queues u)::int[]))
        INTO ids, queue_ids, next_at, lowest_id, waits_for_others
        FROM due d WHERE d.n <= 1 + d.found / 20;
    IF ids IS NULL THEN
        next_at := least(next_at, (SELECT min(r.deadline) FROM underway_internal.run r
            WHERE r.id >= first_id AND r.deadline > now AND r.ending IS NULL AND r.state <> 'parked' AND underway_internal.is_ours(r.xmin)));
    END IF;
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
    RETURNS TABLE (id uuid, attempt int, "input" jsonb, headers jsonb, last_attempt bool, lease uuid, run_id uuid, step text,
        claimed_at timestamptz, heartbeat interval, timeout interval)
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
            t.failures + 1 >= coalesce((t.retry ->> 'max_attempts')::int, dequeue_inline.max_attempts), t.lease, t.run_id, t.step,
            t.claimed_at, t.heartbeat, t.timeout
        FROM taken t ORDER BY t.priority, t.run_at, t.id;
END $$;

-- What the coordinator does for other runs, once nothing is due: deadlines, what was asked and is not settled, maps whose last child ended
-- outside. True: something has moved.
CREATE FUNCTION underway_internal.tend_inline(first_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    m record;
    before text;
    steered uuid[] := underway_internal.steered_inline(true);
BEGIN
    IF steered = '{}' AND NOT EXISTS (SELECT FROM underway_internal.own_tasks(first_id) t WHERE t.phase = 'map') THEN
        RETURN false;
    END IF;
    before := underway_internal.digest_inline(first_id);
    PERFORM underway_internal.steer_inline(steered);
    FOR m IN SELECT x AS run, s AS step, t AS task FROM underway_internal.own_tasks(first_id) t
            JOIN underway_internal.run x ON x.id = t.run_id
            JOIN underway_internal.step s ON s.queue_id = x.queue_id AND s.version = x.version AND s.name = t.step
            WHERE t.phase = 'map' LOOP
        PERFORM underway_internal.fill_places(m.run, m.step, m.task);
        PERFORM underway_internal.look_at_map((m.run).id, (m.step).name, NULL);
    END LOOP;
    RETURN before IS DISTINCT FROM underway_internal.digest_inline(first_id);
END $$;

-- Own runs of which something was asked that nobody has obeyed; also: those where it is not settled yet, and those whose time is over.
CREATE FUNCTION underway_internal.steered_inline(also bool) RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        SELECT r.id FROM underway_internal.run_control c JOIN underway_internal.run r ON r.id = c.run_id
            WHERE (also OR NOT c.seen) AND underway_internal.is_ours(c.xmin) AND underway_internal.is_ours(r.xmin)
        UNION SELECT r.id FROM underway_internal.run r
            WHERE also AND r.deadline <= underway_internal.clock() AND r.ending IS NULL AND r.state <> 'parked'
              AND underway_internal.is_ours(r.xmin)
        ORDER BY 1);
END $$;

CREATE FUNCTION underway_internal.steer_inline(runs uuid[]) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    one uuid;
BEGIN
    FOREACH one IN ARRAY runs LOOP
        IF underway_internal.obey(one) THEN
            PERFORM underway_internal.settle(one);
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- Of all that can move.
CREATE FUNCTION underway_internal.digest_inline(first_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT md5(string_agg(concat_ws(' ', t.id, t.state, t.run_at, t.phase), ',' ORDER BY t.id))
        FROM underway_internal.own_tasks(first_id) t)
        || (SELECT md5(coalesce(string_agg(concat_ws(' ', r.id, r.state, r.ending), ',' ORDER BY r.id), ''))
            FROM underway_internal.run r WHERE r.id >= first_id AND underway_internal.is_ours(r.xmin));
END $$;

-- How the tasks of these ids, which were worked, stand now; where nothing is kept of them, null. Then, without a number, what was not begun.
CREATE FUNCTION underway_internal.report_inline(first_id uuid, ids uuid[])
    RETURNS TABLE (n int, id uuid, queue text, step text, state text, error text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT u.n::int, u.id, NULL::text, NULL::text, coalesce(t.state, a.state),
            CASE WHEN t.id IS NULL THEN underway_internal.error_inline(a.sqlstate, a.message, a.hint)
                ELSE (SELECT underway_internal.error_inline(l.sqlstate, l.message, l.hint) FROM underway_internal.latest_attempt(u.id) l) END
        FROM unnest(ids) WITH ORDINALITY u(id, n)
        LEFT JOIN LATERAL (SELECT x.id, underway_internal.state_inline(x) AS state FROM underway_internal.task x WHERE x.id = u.id) t ON true
        LEFT JOIN LATERAL underway_internal.last_end(u.id) a ON t.id IS NULL
        ORDER BY u.n;
    RETURN QUERY
        SELECT NULL::int, t.id, q.name, t.step, underway_internal.state_inline(t), CASE WHEN t.state = 'pending' THEN 'blocked: ' || f.problem END
        FROM underway_internal.own_tasks(first_id) t JOIN underway_internal.queue q ON q.id = t.queue_id
        LEFT JOIN LATERAL (SELECT x.problem FROM underway_internal.fitness x WHERE x.queue_id = q.id) f ON true
        WHERE t.id <> ALL (ids) AND (t.run_id IS NULL OR t.step IS NOT NULL) ORDER BY t.id;
END $$;

-- A procedure that commits: what the server says of that does not explain it.
CREATE FUNCTION underway_internal.error_inline(sqlstate text, message text, hint text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN message || CASE WHEN sqlstate = '2D000' THEN format(' (%s)', hint) ELSE '' END;
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
Returns a row for each task that was begun, in that order, and then for those that were not: its id, queue and step (of workflows), the state it is in now (pending, waiting, in_progress, succeeded, failed, cancelled), and the error of its last attempt, or what blocks its queue. Errors: 42501 the caller cannot become the owner of a queue, 55000 in a handler, 22023 bad value; and what deferred constraints of the transaction say.';
