-- Views: what there is, for those who may see it. They run with their owner's rights on the tables, and with the reader's on
-- functions: hence pg_catalog's alone, and the three of the library that 99_rights.sql opens.
-- Invariant: every view that shows tasks shows only what status() would show to the same role.

-- The names of the roles whose rights the reader has.
CREATE VIEW underway_internal.own_role AS
SELECT r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE pg_has_role(r.oid, 'USAGE');

-- The queues whose tasks the reader may see.
CREATE VIEW underway_internal.seen_queue AS
SELECT q.id FROM underway_internal.queue q
WHERE (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
   OR q.owner IN (SELECT o.name FROM underway_internal.own_role o)
   OR q.id IN (SELECT g.queue_id FROM underway_internal.queue_grant g
       WHERE g."right" IN ('see', 'manage')
         AND (g.role = 'public' OR g.role IN (SELECT o.name FROM underway_internal.own_role o)));

-- What a queue holds. By the gateway, which forces plans by index: planned with the reader's statement, a table that has just been filled
-- or emptied, and not analysed since, is scanned as a whole for every priority of every queue.
CREATE FUNCTION underway_internal.count_tasks(caller oid, queue int, OUT pending bigint, OUT pending_exact bool, OUT due bigint,
        OUT in_progress bigint, OUT waiting bigint, OUT oldest_due timestamptz) LANGUAGE plpgsql STABLE AS $$
DECLARE
    now timestamptz := underway_internal.clock();
BEGIN
    SELECT count(*) INTO pending FROM (
        SELECT FROM underway_internal.task t WHERE t.queue_id = queue AND NOT t.waits AND t.state = 'pending' LIMIT 10000) s;
    pending_exact := pending < 10000;
    SELECT sum(s.n), min(s.first) INTO due, oldest_due
        FROM generate_series(0, 15) p CROSS JOIN LATERAL (
            SELECT count(*) AS n, min(d.run_at) AS first FROM (
                SELECT t.run_at FROM underway_internal.task t
                WHERE t.queue_id = queue AND t.priority = p AND NOT t.waits AND t.state = 'pending' AND t.run_at <= now
                ORDER BY t.run_at LIMIT 10000) d) s;
    -- In two: each is found in its own way.
    in_progress := (SELECT count(*) FROM underway_internal.task t
            WHERE t.queue_id = queue AND num_nonnulls(t.lease) = 1 AND t.state = 'in_progress')
        + (SELECT count(*) FROM underway_internal.held_by_workers() t WHERE t.queue_id = queue);
    SELECT count(*) INTO waiting FROM underway_internal.task t WHERE t.queue_id = queue AND t.waits;
END $$;

CREATE FUNCTION underway_internal.count_tasks(queue int, OUT pending bigint, OUT pending_exact bool, OUT due bigint,
        OUT in_progress bigint, OUT waiting bigint, OUT oldest_due timestamptz) STABLE
    AS 'MODULE_PATHNAME', 'underway_gateway' LANGUAGE C;

-- The queues that the reader has any right on.
CREATE VIEW underway.queues WITH (security_barrier) AS
SELECT q.name, q.owner, f.handler,
    CASE WHEN f.away OR NOT underway_internal.is_enabled() THEN 'held'
        WHEN f.problem IS NOT NULL THEN 'blocked'
        WHEN q.paused_at IS NOT NULL THEN 'paused'
        ELSE 'active' END AS state,
    n.pending, n.pending_exact, n.due, n.in_progress, n.waiting, n.oldest_due,
    f.problem, q.paused_at, q.paused_by, q.concurrency, q.priority, q.retry, q.timeout, q.heartbeat, q.ttl,
    (SELECT d.name FROM underway_internal.queue d WHERE d.id = q.dead_letter AND d.dropped_at IS NULL) AS dead_letter,
    q.keep, q.batch, q.durability, q.group_concurrency,
    CASE WHEN q.id IN (SELECT s.id FROM underway_internal.seen_queue s) THEN q.settings END AS settings, q.created_at,
    q.workflow
FROM underway_internal.queue q
JOIN underway_internal.fitness f ON f.queue_id = q.id
CROSS JOIN LATERAL underway_internal.count_tasks(q.id) n
WHERE q.dropped_at IS NULL
  AND (q.id IN (SELECT s.id FROM underway_internal.seen_queue s)
    OR q.id IN (SELECT g.queue_id FROM underway_internal.queue_grant g
        WHERE g.role = 'public' OR g.role IN (SELECT o.name FROM underway_internal.own_role o)));
COMMENT ON VIEW underway.queues IS
'The queues that you own or have a right on. state: active, paused (by a person), blocked (see problem) or held (a restored copy, or underway.enabled is off). pending: tasks not begun, counted up to 10000; pending_exact says whether that is all. due: those of them that could begin now, counted up to 10000 in each priority. oldest_due: since when the oldest of them waits. Settings that are null are at their default; the column settings is shown to those who may see the tasks. workflow: the steps of that workflow, see underway.workflows.';

-- Three branches: unfinished tasks; those that succeeded, which are never re-opened; the other finished ones, as they ended last.
CREATE VIEW underway_internal.any_task AS
SELECT t.id, t.queue_id, t.state, t.priority, t.attempt, t.failures, t.crashes, t.losses, t.snoozes, t.enqueued_at, t.run_at,
    t.expires_at, t.claimed_at AS started_at, NULL::timestamptz AS finished_at, t.enqueued_by, t.worker, t.key, t.group_key,
    t.input, t.headers, NULL::jsonb AS output, CASE WHEN t.paused_by IS NOT NULL THEN 'paused' END AS reason,
    NULL::text AS sqlstate, NULL::text AS error, NULL::text AS detail, NULL::text AS hint, NULL::text AS context,
    NULL::text AS notices, t.timeout, t.heartbeat, t.retry, t.source, t.paused_by,
    (SELECT h.beat_at FROM underway_internal.heartbeat h WHERE h.lease = t.lease) AS last_heartbeat,
    t.run_id, t.step, nullif(t.item, -1) AS item
FROM underway_internal.task t
WHERE t.run_id IS NULL OR t.step IS NOT NULL
UNION ALL
SELECT a.id, a.queue_id, a.state, a.priority, a.attempt, a.failures, a.crashes, a.losses, a.snoozes, a.enqueued_at, a.run_at,
    NULL, a.started_at, a.finished_at, a.enqueued_by, a.worker, a.key, a.group_key,
    a.input, a.headers, a.output, a.reason, a.sqlstate, a.message, a.detail, a.hint, a.context,
    a.notices, a.timeout, a.heartbeat, a.retry, a.source, NULL, NULL, a.run_id, a.step, nullif(a.item, -1)
FROM underway_internal.archive a
WHERE a.slot IN (0, 1, 2, 3, 4, 5, 6, 7)
UNION ALL
SELECT a.id, a.queue_id, a.state, a.priority, a.attempt, a.failures, a.crashes, a.losses, a.snoozes, a.enqueued_at, a.run_at,
    NULL, a.started_at, a.finished_at, a.enqueued_by, a.worker, a.key, a.group_key,
    a.input, a.headers, a.output, a.reason, a.sqlstate, a.message, a.detail, a.hint, a.context,
    a.notices, a.timeout, a.heartbeat, a.retry, a.source, NULL, NULL, a.run_id, a.step, nullif(a.item, -1)
FROM underway_internal.archive a
WHERE a.slot IN (8, 9, 10, 11, 12, 13, 14, 15)
  AND a.reopened_at IS NULL;

CREATE VIEW underway.tasks WITH (security_barrier) AS
SELECT t.id, q.name AS queue, t.state, t.priority, t.attempt, t.failures, t.crashes, t.losses, t.snoozes, t.enqueued_at, t.run_at,
    t.expires_at, t.started_at, t.finished_at, t.enqueued_by, t.worker, t.key, t.group_key, t.input, t.headers, t.output, t.reason,
    t.sqlstate, t.error, t.detail, t.hint, t.context, t.notices, t.timeout, t.heartbeat, t.retry, t.source, t.paused_by,
    t.last_heartbeat, t.run_id, t.step, t.item
FROM underway_internal.any_task t
JOIN underway_internal.queue q ON q.id = t.queue_id
WHERE t.queue_id IN (SELECT s.id FROM underway_internal.seen_queue s)
   OR t.enqueued_by IN (SELECT o.name FROM underway_internal.own_role o);
COMMENT ON VIEW underway.tasks IS
'All tasks, unfinished ones and those that are kept, that you enqueued or may see by a right on their queue. The error columns are those of the attempt that ended a finished task; errors of others stand in underway.attempts. source: for a dead letter, the task it is about. last_heartbeat: of the external worker that has it in progress; background workers stand in underway.workers. run_id, step, item: of a task that is a step of a run of a workflow; item counts the children of a map, from 0. Ask for one id or one queue: a count over everything reads everything.';

CREATE VIEW underway.attempts WITH (security_barrier) AS
SELECT x.task_id, q.name AS queue, x.attempt, x.outcome, x.started_at, x.ended_at, x.worker, x.sqlstate, x.error, x.detail, x.hint,
    x.context, x.notices, x.retry_at
FROM (
    SELECT a.task_id, a.queue_id, a.attempt, a.outcome, a.started_at, a.ended_at, a.worker, a.sqlstate, a.message AS error,
        a.detail, a.hint, a.context, a.notices, a.retry_at
    FROM underway_internal.attempt a
    UNION ALL
    -- The last attempt stands with the task. One that ended before it was begun has no started_at.
    SELECT a.id, a.queue_id, a.attempt, a.state, a.started_at, a.finished_at, a.worker, a.sqlstate, a.message,
        a.detail, a.hint, a.context, a.notices, NULL
    FROM underway_internal.archive a WHERE a.started_at IS NOT NULL
    UNION ALL
    SELECT t.id, t.queue_id, t.attempt, t.state, t.claimed_at, NULL, t.worker, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM underway_internal.task t WHERE t.state = 'in_progress') x
JOIN underway_internal.queue q ON q.id = x.queue_id
WHERE x.queue_id IN (SELECT s.id FROM underway_internal.seen_queue s)
   -- OFFSET 0: by id for each row, and not from a hash of all tasks.
   OR EXISTS (SELECT FROM underway_internal.task t
       WHERE t.id = x.task_id AND t.enqueued_by IN (SELECT o.name FROM underway_internal.own_role o) OFFSET 0)
   OR EXISTS (SELECT FROM underway_internal.archive a
       WHERE a.id = x.task_id AND a.enqueued_by IN (SELECT o.name FROM underway_internal.own_role o) OFFSET 0);
COMMENT ON VIEW underway.attempts IS
'Every attempt that is kept, of tasks that you may see by a right on their queue, also when they are kept no more themselves, and of those in underway.tasks that you enqueued. outcome: in_progress, succeeded, failed (retry_at says when it was tried again), lost (its worker went away), again (it asked to go on later), released, cancelled.';

CREATE VIEW underway.workers WITH (security_barrier) AS
SELECT w.slot AS worker, w.pid, d.datname::text AS database, r.rolname::text AS role, w.state, q.name AS queue,
    CASE WHEN q.id IS NOT NULL THEN w.task_id END AS task_id,
    CASE WHEN q.id IS NOT NULL THEN w.attempt END AS attempt,
    w.tasks, w.started_at,
    CASE WHEN q.id IS NOT NULL THEN w.task_started_at END AS task_started_at
FROM underway_internal.workers() w
LEFT JOIN pg_catalog.pg_database d ON d.oid = w.database
LEFT JOIN pg_catalog.pg_roles r ON r.oid = w.role
LEFT JOIN underway_internal.queue q ON q.id = w.queue_id AND d.datname = current_database()
    AND q.id IN (SELECT s.id FROM underway_internal.seen_queue s);
COMMENT ON VIEW underway.workers IS
'The background workers of this server. state: starting, idle, busy, dead (its tasks are about to go on). Queue and task are shown for this database, and only where you may see the queue. tasks: how many it holds, claimed and not finished.';
