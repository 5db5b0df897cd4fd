-- How external workers end an attempt. Invariant: the lease is the fence; with a lost one each of these raises, so that the
-- caller's own writes of that transaction are rolled back with it (promise 3).

-- Tasks of one queue; returns those that were these attempts still. steps: some of them are steps of runs.
CREATE FUNCTION underway_internal.complete_leased(queue_id int, ids uuid[], attempts int[], outputs jsonb[], steps bool) RETURNS uuid[]
    LANGUAGE plpgsql AS $$
DECLARE
    one record;
    ended uuid[] := '{}';
    kept bool := (SELECT q.keep = 'all' FROM underway_internal.queue q WHERE q.id = complete_leased.queue_id);
BEGIN
    IF NOT steps THEN
        RETURN underway_internal.complete_tasks(kept, ids, attempts, outputs);
    END IF;
    FOR one IN SELECT u.id, u.attempt, u.output, t.run_id FROM unnest(ids, attempts, outputs) u(id, attempt, output)
            CROSS JOIN LATERAL (SELECT x.run_id FROM underway_internal.task x WHERE x.id = u.id OFFSET 0) t LOOP
        IF one.run_id IS NULL THEN
            ended := ended || underway_internal.complete_tasks(kept, ARRAY[one.id], ARRAY[one.attempt], ARRAY[one.output]);
        ELSIF (SELECT c.held FROM underway_internal.complete_step(one.id, one.attempt, one.output, NULL, 'next', NULL, NULL, NULL,
                NULL, NULL, NULL) c) THEN
            ended := ended || one.id;
        END IF;
    END LOOP;
    RETURN ended;
END $$;

CREATE FUNCTION underway_internal.complete(caller oid, lease uuid, output jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task := underway_internal.leased(caller, lease, true);
BEGIN
    IF underway_internal.complete_leased(t.queue_id, ARRAY[t.id], ARRAY[t.attempt], ARRAY[output], t.run_id IS NOT NULL) = '{}' THEN
        PERFORM underway_internal.leased(caller, lease, true);
    END IF;
    PERFORM underway_internal.place_free(t.queue_id);
    RETURN 'succeeded';
END $$;

CREATE FUNCTION underway.complete(lease uuid, output jsonb DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.complete IS
'Ends the task as succeeded, in the caller''s transaction: what else it wrote commits with it or not at all.
Returns succeeded. Errors: UW001 the lease is lost, UW002 it was completed with this lease before (an answer that was lost on its way), 25001 the dequeue has not committed, 42501 not allowed.';

CREATE FUNCTION underway_internal.complete_many(caller oid, leases uuid[], outputs jsonb[], skip_lost bool)
    RETURNS uuid[] LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    held record;
    ended uuid[];
    done uuid[] := '{}';
    bad uuid;
BEGIN
    IF leases IS NULL OR array_position(leases, NULL) IS NOT NULL OR array_ndims(leases) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'leases must be a list without nulls',
            HINT = 'Give the leases that underway.dequeue() returned.';
    ELSIF outputs IS NOT NULL AND (cardinality(outputs) <> cardinality(leases) OR array_ndims(outputs) > 1) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('outputs must have as many elements as leases (%s)', cardinality(leases)),
            HINT = 'An element may be null: that task has no output.';
    ELSIF (SELECT count(DISTINCT u) FROM unnest(leases) u) <> cardinality(leases) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'leases must not contain one twice', HINT = 'Each task is completed once.';
    END IF;
    -- By queue, each once: the rights, the commit of the dequeue, and its tasks. In the order of their ids, so that two callers with the
    -- same leases cannot deadlock; nothing is locked before, since only what is still in progress as that attempt ends.
    FOR held IN SELECT l.queue_id, array_agg(l.id) AS ids, array_agg(l.attempt) AS attempts, array_agg(l.output) AS outputs,
                array_agg(l.lease) AS leases, (array_agg(l.lease) FILTER (WHERE l.ours))[1] AS ours, bool_or(l.step) AS steps
            FROM (SELECT t.*, o.output, o.lease FROM unnest(leases, outputs) o(lease, output), LATERAL (
                        -- By its lease, each: OFFSET keeps the planner from reading all leases once for all, which seems as cheap to it
                        -- while few are given.
                        SELECT x.queue_id, x.id, x.attempt, underway_internal.is_ours(x.xmin) AS ours, x.run_id IS NOT NULL AS step
                        FROM underway_internal.task x WHERE x.lease = o.lease AND x.state = 'in_progress' OFFSET 0) t
                    ORDER BY t.queue_id, t.id) l
            GROUP BY l.queue_id ORDER BY l.queue_id LOOP
        PERFORM underway_internal.leased(caller, coalesce(held.ours, held.leases[1]), false), underway_internal.place_free(held.queue_id);
        ended := underway_internal.complete_leased(held.queue_id, held.ids, held.attempts, held.outputs, held.steps);
        IF cardinality(ended) = cardinality(held.ids) THEN
            done := done || held.leases;
        ELSE
            done := done || ARRAY(SELECT u.lease FROM unnest(held.ids, held.leases) u(id, lease) WHERE u.id = ANY (ended));
        END IF;
    END LOOP;
    IF NOT coalesce(skip_lost, false) AND cardinality(done) <> cardinality(leases) THEN
        SELECT u INTO bad FROM unnest(leases) u WHERE u <> ALL (done) LIMIT 1;
        PERFORM underway_internal.leased(caller, bad, true);
    END IF;
    RETURN done;
END $$;

CREATE FUNCTION underway.complete_many(leases uuid[], outputs jsonb[] DEFAULT NULL, skip_lost bool DEFAULT false) RETURNS uuid[]
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.complete_many IS
'complete() for many leases at once; outputs has as many elements, or is left out. With skip_lost, lost ones are left out instead of raising; what was done for them must then not be in this transaction.
Returns the leases that were completed. Errors: UW001 and UW002 for the first lease that cannot be, unless skip_lost; 25001, 42501, 22023.';

CREATE FUNCTION underway_internal.fail(caller oid, lease uuid, error text, retryable bool, retry_after interval, details jsonb)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
BEGIN
    IF coalesce(error, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'error must not be empty', HINT = 'Say what went wrong.';
    END IF;
    PERFORM underway_internal.check_interval(retry_after, 'retry_after', '0', '1000 years');
    t := underway_internal.leased(caller, lease, true);
    RETURN underway_internal.fail_task(t.id, t.attempt, coalesce(retryable, true), retry_after,
        CASE WHEN coalesce(retryable, true) THEN 'error' ELSE 'gave up' END, NULL, NULL, left(error, 16384),
        left(details::text, 16384), NULL, NULL, NULL);
END $$;

CREATE FUNCTION underway.fail(
        lease uuid, error text, retryable bool DEFAULT true, retry_after interval DEFAULT NULL, details jsonb DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.fail IS
'Ends the attempt as failed: the task is tried again by its retry policy, or after retry_after while attempts are left, or fails for good (retryable false, or none left). details: kept with the attempt.
Returns the task''s state: pending, failed, or cancelled if it was cancelled meanwhile. Errors: UW001 the lease is lost, UW002, 25001, 42501, 22023.';

-- Pending again with no attempt used.
CREATE FUNCTION underway_internal.put_back(caller oid, lease uuid, delay interval, outcome text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task := underway_internal.leased(caller, lease, true);
    cancelled text := underway_internal.cancel_message(t.id);
    due timestamptz := CASE WHEN delay IS NULL THEN t.run_at ELSE underway_internal.clock() + delay END;
BEGIN
    IF cancelled IS NOT NULL THEN
        RETURN underway_internal.end_cancelled(t, cancelled, NULL);
    END IF;
    PERFORM underway_internal.record_attempt(t, outcome, NULL, NULL, NULL, NULL, NULL, NULL, due);
    IF delay IS NOT NULL THEN
        t.snoozes := t.snoozes + 1;
    END IF;
    PERFORM underway_internal.reopen(t, due);
    RETURN 'pending';
END $$;

CREATE FUNCTION underway_internal.snooze(caller oid, lease uuid, delay interval) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF delay IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'delay must not be null', HINT = 'For example ''10 s''.';
    END IF;
    PERFORM underway_internal.check_interval(delay, 'delay', '0', '1000 years');
    RETURN underway_internal.put_back(caller, lease, delay, 'again');
END $$;

CREATE FUNCTION underway.snooze(lease uuid, delay interval) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.snooze IS
'Puts the task off: pending again, due after delay. Uses no attempt of the retry policy.
Returns pending, or cancelled if it was cancelled meanwhile. Errors: UW001 the lease is lost, UW002, 25001, 42501, 22023.';

CREATE FUNCTION underway_internal.release(caller oid, lease uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.put_back(caller, lease, NULL, 'released');
END $$;

CREATE FUNCTION underway.release(lease uuid) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.release IS
'Gives the task back, for others to take at once: for a worker that shuts down. Uses no attempt of the retry policy.
Returns pending, or cancelled if it was cancelled meanwhile. Errors: UW001 the lease is lost, UW002, 25001, 42501.';

CREATE PROCEDURE underway.wait_for_work(queues text[], timeout interval DEFAULT '30 s', INOUT queue text DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'underway_wait_for_work';
COMMENT ON PROCEDURE underway.wait_for_work IS
'Sleeps until one of the queues (1 to 16) may have a task that is due, at most timeout (and at most a day), and gives that queue''s name, or null. Claims nothing: dequeue then, which may find that another worker was first. Commits before it sleeps, so that it holds neither a snapshot nor a transaction id. Needs the right work.
Errors: 2D000 inside a transaction block or a function; 42704 no such queue, 55000 it has a handler, 42501 not allowed, 22023 bad value.';
