-- Dequeue by external workers: any client takes tasks of a queue, each with a lease, a random uuid that stands for the attempt.
-- Invariant: a lease can be used only after the transaction that took it has committed, so that a crash has been counted.

-- The queue, if caller may work it from outside; raises otherwise.
CREATE FUNCTION underway_internal.external_queue(caller oid, queue text) RETURNS underway_internal.queue LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'work');
BEGIN
    IF q.workflow THEN
        PERFORM underway_internal.refuse_workflow(q, 'Its steps run in the server; external workers take from the queues that steps name.');
    ELSIF q.handler_name IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('queue "%s" has a handler, so the server works it', q.name),
            HINT = format('For external workers make a queue without handler, or take this one''s away: select underway.alter_queue(%L, reset => ''{handler}'');', q.name);
    END IF;
    RETURN q;
END $$;

-- Stable: sees what its caller sees, which is underway_internal.leases_now(), and that looks at what is committed now: in a transaction
-- with one snapshot for all of it, leases that were given since would not be counted.
CREATE FUNCTION underway_internal.count_leases(queue_id int) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM underway_internal.task t
        WHERE t.queue_id = count_leases.queue_id AND num_nonnulls(t.lease) = 1 AND t.state = 'in_progress');
END $$;

-- What a dequeue needs to know of the queue; places: how many more tasks may be in progress (null: any number).
CREATE FUNCTION underway_internal.dequeue_from(
        caller oid, queue text, max_tasks int, worker text,
        OUT queue_id int, OUT ttl interval, OUT max_attempts int, OUT places int)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.external_queue(caller, queue);
BEGIN
    IF max_tasks IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'max_tasks must not be null', HINT = 'Leave it out to get one task.';
    END IF;
    PERFORM underway_internal.check_int(max_tasks, 'max_tasks', 1, 10000);
    IF worker IS NOT NULL THEN
        PERFORM underway_internal.check_name(worker, 'worker');
    END IF;
    queue_id := q.id;
    ttl := coalesce(q.ttl, interval '14 days');
    max_attempts := coalesce((q.retry ->> 'max_attempts')::int, 5);
    IF q.paused_at IS NOT NULL OR q.home_system <> underway_internal.system_identifier()
            OR q.home_database <> (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())
            OR NOT underway_internal.is_enabled() THEN
        places := 0;
    ELSIF q.concurrency IS NOT NULL THEN
        PERFORM underway_internal.lock_places(q.id);
        places := greatest(0, q.concurrency - underway_internal.leases_now(q.id));
    END IF;
END $$;

-- The first heartbeats of leases that were just given, one row for each, in their order.
CREATE FUNCTION underway_internal.begin_leases(
        queue_id int, leases uuid[], tasks uuid[], attempts int[], claimed_at timestamptz[], heartbeats interval[], timeouts interval[])
    RETURNS TABLE (ends_at timestamptz, stale_at timestamptz) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    every interval;
    longest interval;
BEGIN
    SELECT coalesce(q.heartbeat, '30 s'), coalesce(q.timeout, current_setting('underway.default_timeout')::interval)
        INTO every, longest FROM underway_internal.queue q WHERE q.id = begin_leases.queue_id;
    RETURN QUERY
        INSERT INTO underway_internal.heartbeat AS h (lease, task_id, queue_id, attempt, every, beat_at, stale_at, ends_at)
        SELECT u.lease, u.task, begin_leases.queue_id, u.attempt, coalesce(u.heartbeat, every), u.claimed_at,
            least(u.claimed_at + 3 * coalesce(u.heartbeat, every), u.claimed_at + coalesce(u.timeout, longest)),
            u.claimed_at + coalesce(u.timeout, longest)
        FROM unnest(leases, tasks, attempts, claimed_at, heartbeats, timeouts) u(lease, task, attempt, claimed_at, heartbeat, timeout)
        RETURNING h.ends_at, h.stale_at;
END $$;

CREATE FUNCTION underway.dequeue(queue text, max_tasks int DEFAULT 1, worker text DEFAULT NULL)
    RETURNS TABLE (id uuid, attempt int, lease uuid, input jsonb, headers jsonb, run_id uuid, step text, last_attempt bool,
        deadline timestamptz)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_dequeue';
COMMENT ON FUNCTION underway.dequeue IS
'Takes up to max_tasks (1 to 10000) due tasks of a queue without handler, in the order of priority, due time and id; none when there are none. Needs the right work. worker: a name for people to see.
Commit before using the leases. Each row: the task''s id, the number of this attempt, its lease, the input, the headers, whether the task fails for good if this attempt fails, and when the attempt''s time is over. run_id and step: of a task that is a step of a run of a workflow.
Errors: 42704 no such queue, 42501 not allowed, 55000 the queue has a handler, 22023 bad value.';

-- Raises: the lease stands for no task any more, or never did.
CREATE FUNCTION underway_internal.lost_lease(lease uuid) RETURNS bool STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    h underway_internal.heartbeat;
BEGIN
    SELECT x.* INTO h FROM underway_internal.heartbeat x WHERE x.lease = lease;
    IF FOUND AND EXISTS (SELECT FROM underway_internal.archive a WHERE a.id = h.task_id AND a.lease = lease AND a.state = 'succeeded') THEN
        RAISE EXCEPTION USING ERRCODE = 'UW002', MESSAGE = format('task %s has already been completed with this lease', h.task_id),
            HINT = 'The answer to the first complete() was lost on its way; nothing is left to do.';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'UW001',
        MESSAGE = CASE WHEN h.task_id IS NULL THEN 'this lease stands for no task'
            ELSE format('the lease on task %s is lost', h.task_id) END,
        DETAIL = CASE WHEN h.task_id IS NULL THEN 'No dequeue has given it, or its attempt ended long ago.'
            ELSE format('It was given for attempt %s, which has ended.', h.attempt) END,
        HINT = 'Roll back what was done for it, and dequeue again.';
END $$;

-- For a transaction with one snapshot for all of it, which may be older than the loss of the lease. Stable: sees what its caller
-- sees, which is underway_internal.check_lease_now(), and that looks at what is committed now.
CREATE FUNCTION underway_internal.check_lease(lease uuid) RETURNS bool STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    RETURN EXISTS (SELECT FROM underway_internal.task x WHERE x.lease = lease AND x.state = 'in_progress')
        OR underway_internal.lost_lease(lease);
END $$;

-- The task that a lease stands for now; raises UW001 when it stands for none, UW002 when it has succeeded with it, 25001 when the
-- dequeue has not committed. lock: take the row. Null lease: 22023.
CREATE FUNCTION underway_internal.leased(caller oid, lease uuid, lock bool) RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    seen uuid;
    mine bool;
    q underway_internal.queue;
    old_snapshot bool := current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
BEGIN
    IF lease IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'lease must not be null', HINT = 'Give the lease that underway.dequeue() returned.';
    END IF;
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.lease = lease AND x.state = 'in_progress';
    IF FOUND THEN
        SELECT underway_internal.is_ours(x.xmin) INTO mine FROM underway_internal.task x WHERE x.id = t.id;
        IF mine AND NOT underway_internal.has_run_inline() THEN
            RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = 'this lease was taken by the current transaction',
                HINT = 'Commit the dequeue first: until then a crash could not be counted, and nobody sees who has the task.';
        END IF;
        IF old_snapshot THEN
            PERFORM underway_internal.check_lease_now(lease);
        END IF;
        IF lock THEN
            seen := t.id;
            SELECT x.* INTO t FROM underway_internal.task x WHERE x.lease = lease AND x.state = 'in_progress' FOR UPDATE;
            IF NOT FOUND THEN
                PERFORM underway_internal.left_locked(seen);
                PERFORM underway_internal.lost_lease(lease);
            END IF;
        END IF;
    END IF;
    IF NOT FOUND THEN
        IF old_snapshot AND underway_internal.check_lease_now(lease) THEN
            RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = 'this transaction began before the lease was given',
                HINT = 'Begin the transaction that does the work after the dequeue has committed.';
        END IF;
        PERFORM underway_internal.lost_lease(lease);
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    IF NOT underway_internal.may(caller, q, 'work') THEN
        PERFORM underway_internal.refuse_queue(caller, q, 'work');
    END IF;
    RETURN t;
END $$;

CREATE FUNCTION underway_internal.lock_task(caller oid, lease uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task := underway_internal.leased(caller, lease, false);
BEGIN
    PERFORM underway_internal.hold_task(t.id);
    -- While we waited for the lock the task may have been taken away.
    t := underway_internal.leased(caller, lease, false);
    RETURN true;
END $$;

CREATE FUNCTION underway.lock_task(lease uuid) RETURNS bool LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.lock_task IS
'To be called first in the transaction that does the work: until it ends nobody takes the task away, however late the heartbeats. An advisory lock of a class of its own, held by the transaction (pg_locks: locktype advisory, objsubid 21847).
Returns true. Errors: UW001 the lease is lost, UW002 completed already, 25001 the dequeue has not committed, 42501 not allowed.';
