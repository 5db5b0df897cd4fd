-- Queues: dropping, pausing, emptying them.
-- Invariant: a dropped queue stays as a tombstone, so that a task that commits into it late finds out why it ends.

-- Deletes pending tasks of a queue, at most max_tasks, and returns them. Rows that others have locked (a claim, a cancel) are
-- left to them. The note of each priority's first row goes before the locks: an abort of this transaction gives the rows
-- back below the low-water mark. Rows that come in before that first one meanwhile are not touched.
CREATE FUNCTION underway_internal.take_pending(queue_id int, letters bool, steps bool, max_tasks bigint)
    RETURNS SETOF underway_internal.task
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    first_at timestamptz;
    first_id uuid;
    n bigint;
BEGIN
    FOR p IN 0..15 LOOP
        EXIT WHEN max_tasks <= 0;
        SELECT t.run_at, t.id INTO first_at, first_id FROM underway_internal.task t
            WHERE t.queue_id = take_pending.queue_id AND t.priority = p AND NOT t.waits AND t.state = 'pending'
            ORDER BY t.run_at, t.id LIMIT 1;
        CONTINUE WHEN NOT FOUND;
        PERFORM underway_internal.note_locked(take_pending.queue_id, p, first_at, first_id);
        RETURN QUERY
            WITH picked AS MATERIALIZED (
                SELECT t.id FROM underway_internal.task t
                WHERE t.queue_id = take_pending.queue_id AND t.priority = p AND NOT t.waits AND t.state = 'pending'
                  AND (t.run_at, t.id) >= (first_at, first_id) AND (NOT letters OR t.source IS NOT NULL) AND (steps OR t.run_id IS NULL)
                ORDER BY t.run_at, t.id LIMIT max_tasks FOR UPDATE SKIP LOCKED)
            DELETE FROM underway_internal.task t USING picked WHERE t.id = picked.id RETURNING t.*;
        GET DIAGNOSTICS n = ROW_COUNT;
        max_tasks := max_tasks - n;
    END LOOP;
END $$;

-- Workflows whose steps name the queue, or the workflow, as they are defined now.
CREATE FUNCTION underway_internal.refuse_used_queue(q underway_internal.queue, force bool) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    used record;
BEGIN
    IF force THEN
        RETURN false;
    END IF;
    SELECT o.name AS workflow, s.name AS step INTO used
        FROM underway_internal.queue o
        JOIN underway_internal.workflow w ON w.queue_id = o.id
        JOIN underway_internal.step s ON s.queue_id = o.id AND s.version = w.version
        WHERE o.dropped_at IS NULL AND o.id <> q.id AND q.id IN (s.target_queue, s.undo_queue, s.child_queue)
        ORDER BY o.name, s."position" LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55006',
            MESSAGE = format('%s "%s" is used by step "%s" of workflow "%s"', CASE WHEN q.workflow THEN 'workflow' ELSE 'queue' END,
                q.name, used.step, used.workflow),
            HINT = 'Define that workflow anew without it, or drop it; or give force => true: that step then fails.';
    END IF;
    RETURN false;
END $$;

-- Leaves the tombstone, and ends what has not begun.
CREATE FUNCTION underway_internal.bury_queue(caller oid, q underway_internal.queue) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n bigint;
    message text := format('queue "%s" was dropped by %s', q.name, pg_get_userbyid(caller));
BEGIN
    UPDATE underway_internal.queue x SET dropped_at = underway_internal.clock() WHERE x.id = q.id;
    PERFORM underway_internal.queue_changed(q.id);
    FOR n IN UPDATE underway_internal.queue x SET dead_letter = NULL WHERE x.dead_letter = q.id AND x.dropped_at IS NULL
            RETURNING x.id LOOP
        PERFORM underway_internal.queue_changed(n::int);
    END LOOP;
    -- A queue made anew under this name has another id: nobody can ask for these keys any more. Those of what has not ended go by
    -- its end, which would wait for this transaction.
    DELETE FROM underway_internal.task_key k WHERE k.queue_id = q.id AND NOT EXISTS (SELECT FROM underway_internal.task x WHERE x.id = k.task_id)
        AND NOT EXISTS (SELECT FROM underway_internal.run x WHERE x.id = k.task_id);
    IF q.workflow THEN
        RETURN q.name;      -- its runs end one after the other, in the coordinator
    END IF;
    -- What is in progress finishes; a task that is locked or committed just now ends when a worker or the coordinator sees it.
    FOR t IN SELECT x.* FROM underway_internal.take_pending(q.id, false, true, 9223372036854775807) x LOOP
        PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'queue dropped', NULL, message, NULL, NULL, NULL, NULL);
    END LOOP;
    FOR t IN DELETE FROM underway_internal.task x WHERE x.queue_id = q.id AND x.waits RETURNING x.* LOOP
        PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'queue dropped', NULL, message, NULL, NULL, NULL, NULL);
    END LOOP;
    RETURN q.name;
END $$;

CREATE FUNCTION underway_internal.drop_queue(caller oid, name text, force bool) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.lock_queue(caller, name, 'manage');
    n bigint;
    other text;
BEGIN
    IF q.workflow THEN
        PERFORM underway_internal.refuse_workflow(q, format('Drop it: select underway.drop_workflow(%L);', q.name));
    END IF;
    -- As with tables: others can be given all rights on it, and still not drop it.
    IF NOT underway_internal.has_role(caller, q.owner) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" is not an owner of queue "%s"', pg_get_userbyid(caller), q.name),
            HINT = format('Only who has the rights of role "%s" may drop it; underway.pause_queue() stops it.', q.owner);
    END IF;
    IF force IS NOT TRUE THEN
        SELECT count(*) INTO n FROM (SELECT FROM underway_internal.task x
            WHERE x.queue_id = q.id AND NOT x.waits AND x.state = 'pending' LIMIT 10000) s;
        IF n = 0 THEN
            SELECT count(*) INTO n FROM (SELECT FROM underway_internal.task x WHERE x.queue_id = q.id LIMIT 10000) s;
        END IF;
        IF n > 0 THEN
            RAISE EXCEPTION USING ERRCODE = '55006',
                MESSAGE = format('queue "%s" still holds %s unfinished %s', q.name,
                    CASE WHEN n = 10000 THEN '10000 or more' ELSE n::text END, CASE WHEN n = 1 THEN 'task' ELSE 'tasks' END),
                HINT = 'Let them finish, empty it with underway.purge_queue(), or give force => true: that cancels them.';
        END IF;
        SELECT x.name INTO other FROM underway_internal.queue x
            WHERE x.dead_letter = q.id AND x.dropped_at IS NULL ORDER BY x.name LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '55006',
                MESSAGE = format('queue "%s" is the dead letter queue of queue "%s"', q.name, other),
                HINT = format('First select underway.alter_queue(%L, reset => ''{dead_letter}''); or give force => true: '
                    'what fails there is then not copied any more.', other);
        END IF;
    END IF;
    PERFORM underway_internal.refuse_used_queue(q, force);
    RETURN underway_internal.bury_queue(caller, q);
END $$;

CREATE FUNCTION underway.drop_queue(name text, force bool DEFAULT false) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.drop_queue IS
'Drops a queue; only who has the rights of its owner may. Its name is free at once; what is kept of finished tasks stays as long as it would have.
force: also while it holds unfinished tasks (those that have not begun end cancelled, "queue dropped"; those in progress may finish, but are not tried again), and while it is the dead letter queue of another (which then has none).
Returns the name. Errors: 42704 no such queue, 42501 not allowed, 55006 in use.';

CREATE FUNCTION underway_internal.pause_queue(caller oid, queue text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.lock_queue(caller, queue, 'manage');
BEGIN
    IF q.paused_at IS NOT NULL THEN
        RETURN false;
    END IF;
    UPDATE underway_internal.queue x SET paused_at = underway_internal.clock(), paused_by = pg_get_userbyid(caller)
        WHERE x.id = q.id;
    IF q.ttl IS NOT NULL THEN
        PERFORM underway_internal.note_expiry(underway_internal.clock());      -- the sweep sets its timer
    END IF;
    RETURN underway_internal.queue_changed(q.id) IS NOT NULL;
END $$;

CREATE FUNCTION underway.pause_queue(queue text)
    RETURNS bool LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.pause_queue IS
'Pauses a queue until resume_queue(), also over restarts: tasks can be enqueued, none is begun, those in progress finish. Needs the right manage.
Returns false when it was paused already. Errors: 42704 no such queue, 42501 not allowed.';

CREATE FUNCTION underway_internal.resume_queue(caller oid, queue text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.lock_queue(caller, queue, 'manage');
BEGIN
    IF q.paused_at IS NULL THEN
        RETURN false;
    END IF;
    UPDATE underway_internal.queue x SET paused_at = NULL, paused_by = NULL WHERE x.id = q.id;
    RETURN underway_internal.queue_changed(q.id) IS NOT NULL;
END $$;

CREATE FUNCTION underway.resume_queue(queue text)
    RETURNS bool LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.resume_queue IS
'Ends what pause_queue() began. Needs the right manage.
Returns false when the queue was not paused. Errors: 42704 no such queue, 42501 not allowed.';

CREATE FUNCTION underway_internal.purge_queue(caller oid, queue text) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'manage');
    taken bigint;
    waiting bigint;
BEGIN
    IF q.workflow THEN
        PERFORM underway_internal.refuse_workflow(q, 'Cancel its runs: select underway.cancel(r.id) from underway.runs r where ...;');
    END IF;
    WITH gone AS MATERIALIZED (
        SELECT t.id, t.key FROM underway_internal.take_pending(q.id, false, false, 9223372036854775807) t),
    keys AS (
        DELETE FROM underway_internal.task_key k USING gone g
        WHERE k.queue_id = q.id AND k.key = g.key AND k.task_id = g.id)
    SELECT count(underway_internal.finished(g.id)) INTO taken FROM gone g;
    WITH gone AS (
        DELETE FROM underway_internal.task t WHERE t.queue_id = q.id AND t.waits AND t.run_id IS NULL RETURNING t.id, t.key),
    keys AS (
        DELETE FROM underway_internal.task_key k USING gone g
        WHERE k.queue_id = q.id AND k.key = g.key AND k.task_id = g.id)
    SELECT count(underway_internal.finished(g.id)) INTO waiting FROM gone g;
    RETURN taken + waiting;
END $$;

CREATE FUNCTION underway.purge_queue(queue text)
    RETURNS bigint LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.purge_queue IS
'Deletes the tasks of a queue that have not begun, pending and waiting, for good: nothing is kept of them and their keys are free. Tasks in progress and finished ones stay, and so do steps of runs: cancel those, or their runs. Needs the right manage. To keep a trace, cancel tasks instead.
Returns how many. Errors: 42704 no such queue, 42501 not allowed.';
