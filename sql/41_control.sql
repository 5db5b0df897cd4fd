-- Control of single tasks: cancel, retry, pause, resume.
-- Invariant: only tasks that are not in progress are locked or changed here; to one in progress a request is laid beside. Who finishes a task must never wait for an idle
-- transaction of somebody else.

-- The unfinished task of that id, locked unless it is in progress; empty when there is none. The low-water mark protocol:
-- a row's key is noted before the row is locked, and again if it changed in between.
CREATE FUNCTION underway_internal.lock_unfinished(id uuid) RETURNS underway_internal.task LANGUAGE plpgsql AS $$
DECLARE
    seen underway_internal.task;
    t underway_internal.task;
BEGIN
    LOOP
        SELECT x.* INTO seen FROM underway_internal.task x WHERE x.id = lock_unfinished.id;
        IF NOT FOUND OR seen.state = 'in_progress' THEN
            RETURN seen;
        END IF;
        PERFORM underway_internal.note_locked(seen.queue_id, seen.priority, seen.run_at, seen.id);
        -- A claim that commits while this waits leaves the row locked by us, whatever a condition on its state says: given up with
        -- the subtransaction, so that an idle transaction of a client never keeps a worker from finishing.
        BEGIN
            SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = lock_unfinished.id FOR UPDATE;
            IF FOUND AND t.state <> 'in_progress' THEN
                IF (t.queue_id, t.priority, t.run_at) IS DISTINCT FROM (seen.queue_id, seen.priority, seen.run_at) THEN
                    PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
                END IF;
                RETURN t;
            END IF;
            RAISE EXCEPTION USING ERRCODE = 'UW900', MESSAGE = 'the row is given up';
        EXCEPTION WHEN SQLSTATE 'UW900' THEN
            NULL;   -- look again
        END;
    END LOOP;
END $$;

-- Raises unless caller may see the task (else it does not exist) and may do this to it.
CREATE FUNCTION underway_internal.check_control(caller oid, id uuid, queue_id int, enqueued_by text, enqueuer_may bool)
    RETURNS underway_internal.queue LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
BEGIN
    IF queue_id IS NULL OR NOT underway_internal.may_see_task(caller, queue_id, enqueued_by) THEN
        PERFORM underway_internal.no_task(id);
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = check_control.queue_id;
    IF NOT (enqueuer_may AND underway_internal.has_role(caller, enqueued_by) OR underway_internal.may(caller, q, 'manage')) THEN
        PERFORM underway_internal.refuse_queue(caller, q, 'manage');
    END IF;
    RETURN q;
END $$;

-- Wrong state: what is wrong with this one, and what would do.
CREATE FUNCTION underway_internal.wrong_state(id uuid, state text, wanted text, hint text)
    RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('task %s is %s, so it cannot be %s', id, state, wanted),
        HINT = wrong_state.hint;
END $$;

-- A step is no task of its own: what holds it back or tries it again is a matter of its run. A nudge does not exist for users.
CREATE FUNCTION underway_internal.refuse_step(
        caller oid, id uuid, queue_id int, enqueued_by text, run_id uuid, step text, wanted text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF run_id IS NULL OR NOT underway_internal.may_see_task(caller, queue_id, enqueued_by) THEN
        RETURN false;
    ELSIF step IS NULL THEN
        PERFORM underway_internal.no_task(id);
    END IF;
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('task %s is step "%s" of a run, so it cannot be %s by itself', id, step, wanted),
        HINT = format('Do it to the run, whose id is %s.', run_id);
END $$;

CREATE FUNCTION underway_internal.cancel(caller oid, id uuid, reason text, undo bool)
    RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
    message text;
BEGIN
    IF octet_length(reason) > 8192 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('reason must have at most 8192 bytes, not %s', octet_length(reason)),
            HINT = 'A short sentence is enough.';
    END IF;
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = id;
    IF FOUND THEN
        IF t.run_id IS NOT NULL AND t.step IS NULL THEN
            PERFORM underway_internal.no_task(id);      -- a nudge
        END IF;
        -- Before the lock: who has no right must not even hold one.
        PERFORM underway_internal.check_control(caller, id, t.queue_id, t.enqueued_by, true);
        IF t.phase = 'child' THEN
            PERFORM underway_internal.ask_run(c.id, 'cancel', undo, format('cancelled by %s', pg_get_userbyid(caller))
                || coalesce(': ' || nullif(reason, ''), ''), pg_get_userbyid(caller))
                FROM underway_internal.run c WHERE c.parent = t.run_id AND c.parent_step = t.step;
            RETURN t.state;
        END IF;
        t := underway_internal.lock_unfinished(id);
    ELSIF underway_internal.is_run(id) THEN
        RETURN underway_internal.cancel_run(caller, id, reason, undo);
    END IF;
    IF t.id IS NULL THEN
        a := underway_internal.last_end(id);
        PERFORM underway_internal.check_control(caller, id, a.queue_id, a.enqueued_by, true);
        IF a.state <> 'cancelled' THEN
            PERFORM underway_internal.wrong_state(id, a.state, 'cancelled', 'It has ended already.');
        END IF;
        RETURN a.state;
    END IF;
    message := format('cancelled by %s', pg_get_userbyid(caller)) || coalesce(': ' || nullif(reason, ''), '');
    IF t.state = 'in_progress' THEN
        INSERT INTO underway_internal.cancel_request VALUES (id, message, underway_internal.clock()) ON CONFLICT DO NOTHING;
        PERFORM underway_internal.note_cancelled(id);
        RETURN t.state;
    ELSIF t.phase = 'map' THEN
        IF NOT underway_internal.stop_map(t) THEN
            -- It ends after the last of its children: as long as it is there it is found that they are through (82_close_run.sql).
            INSERT INTO underway_internal.cancel_request VALUES (id, message, underway_internal.clock()) ON CONFLICT DO NOTHING;
            RETURN t.state;
        END IF;
    END IF;
    DELETE FROM underway_internal.task x WHERE x.id = id;
    PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'cancelled', NULL, message, NULL, NULL, NULL, NULL);
    RETURN 'cancelled';
END $$;

CREATE FUNCTION underway.cancel(id uuid, reason text DEFAULT NULL, undo bool DEFAULT true) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.cancel IS
'Cancels a task or a run of a workflow. Who enqueued or started it may, and who has the right manage on the queue. One that has not begun ends at once. One in progress is told to stop when this commits: the handler''s statement is interrupted, and after underway.cancel_grace its worker is terminated; an external worker learns it from its next heartbeat. It ends cancelled, unless it succeeds first. A task that is a step of a run is a step that did not succeed: its policy on_failure applies.
A run: what is under way of it, children too, is stopped as soon as this has committed, even while its queue is paused or no worker is free; then what its steps did is undone, `finally` runs, and it ends cancelled. One that is about to end otherwise does so.
reason: kept and shown as its error (at most 8192 bytes). undo: false leaves what a run''s steps did, also of a run that is being undone already.
Returns the state as it stands: cancelled, also when it was so already; in_progress when the task was told to stop; waiting when the items of a map were; running, waiting, and so on, of a run. Errors: P0002 no such task or run, 55000 it has ended otherwise, 42501 not allowed.';

-- Requests for tasks that are pending again, or have ended, by now: what was asked for is done, or is pointless. Returns those that
-- are still in progress in the server, and those whose row a client has locked, which is not waited for.
CREATE FUNCTION underway_internal.apply_cancels() RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    c underway_internal.cancel_request;
    t underway_internal.task;
BEGIN
    FOR c IN SELECT x.* FROM underway_internal.cancel_request x LOOP
        SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = c.task_id;
        IF NOT FOUND THEN
            DELETE FROM underway_internal.cancel_request x WHERE x.task_id IN (
                SELECT y.task_id FROM underway_internal.cancel_request y WHERE y.task_id = c.task_id FOR UPDATE SKIP LOCKED);
        ELSIF t.state = 'in_progress' THEN
            IF t.slot IS NOT NULL THEN
                RETURN NEXT t.id;
            END IF;
        ELSIF t.phase = 'map' THEN
            CONTINUE;       -- until its children have ended
        ELSE
            PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
            SELECT x.* INTO t FROM underway_internal.task x
                WHERE x.id = c.task_id AND x.state = t.state AND x.run_at = t.run_at FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                PERFORM underway_internal.end_cancelled(t, c.message, NULL);
            ELSE
                PERFORM underway_internal.left_locked(c.task_id);
                RETURN NEXT c.task_id;
            END IF;
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION underway_internal.retry(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
    q underway_internal.queue;
    due timestamptz := underway_internal.clock();
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = id;
    IF FOUND THEN
        PERFORM underway_internal.refuse_step(caller, id, t.queue_id, t.enqueued_by, t.run_id, t.step, 'retried');
        PERFORM underway_internal.check_control(caller, id, t.queue_id, t.enqueued_by, false);
        t := underway_internal.lock_unfinished(id);
    ELSIF underway_internal.is_run(id) THEN
        RETURN underway_internal.retry_run(caller, id);
    END IF;
    IF t.id IS NOT NULL THEN
        -- It waits between two attempts: then now is as good.
        IF t.state = 'pending' AND t.attempt > 0 THEN
            IF t.run_at > due THEN
                PERFORM underway_internal.note(t.queue_id, t.priority, due, t.id);
                UPDATE underway_internal.task x SET run_at = due WHERE x.id = id;
            END IF;
            RETURN 'pending';
        END IF;
        PERFORM underway_internal.wrong_state(id, t.state, 'retried', CASE
            WHEN t.paused_by IS NOT NULL THEN 'It is paused: underway.resume() lets it go on.'
            ELSE 'Only a task that has failed or was cancelled can be re-opened.' END);
    END IF;

    LOOP
        a := underway_internal.last_end(id);
        PERFORM underway_internal.refuse_step(caller, id, a.queue_id, a.enqueued_by, a.run_id, a.step, 'retried');
        q := underway_internal.check_control(caller, id, a.queue_id, a.enqueued_by, false);
        IF a.state = 'succeeded' THEN
            PERFORM underway_internal.wrong_state(id, a.state, 'retried', 'To do it once more, enqueue its input again.');
        ELSIF q.dropped_at IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('task %s cannot be retried: its queue "%s" was dropped', id, q.name),
                HINT = 'Enqueue its input on another queue.';
        ELSIF a.reason = 'redriven' THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = format('task %s cannot be retried: it is a dead letter that was redriven', id),
                HINT = format('Its original has gone on: select * from underway.status(%L);', a.source);
        ELSIF underway_internal.reopen_archived(a) THEN
            RETURN 'pending';
        END IF;
        IF EXISTS (SELECT FROM underway_internal.task x WHERE x.id = id) THEN
            RETURN 'pending';       -- somebody else did it at the same time
        END IF;
    END LOOP;                       -- and it has ended by now
END $$;

CREATE FUNCTION underway.retry(id uuid) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.retry IS
'Re-opens a task that has failed or was cancelled: pending again under the same id, with all its attempts and its ttl anew; attempt numbers go on. A task that waits between two attempts becomes due now. Needs the right manage on the queue.
A run that has failed or was cancelled goes on under its id where it stopped: what its steps gave is kept, items of a map that succeeded too; what was undone begins again, and so does all that comes after it. Its timeout counts anew. A parked run tries the step that failed, or the undo that failed, again. Steps of a run that wait between two attempts become due now. Who started it may, with the right enqueue on the workflow, and who has the right manage.
Returns the state: pending; of a run running, or, before it has been done, what it is now. Errors: P0002 no such task or run, 55000 wrong state, or a dead letter that was redriven, or its queue or workflow was dropped, or an output of over 1 MB is kept no longer, 42501 not allowed.';

CREATE FUNCTION underway_internal.pause(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = id;
    IF FOUND THEN
        PERFORM underway_internal.refuse_step(caller, id, t.queue_id, t.enqueued_by, t.run_id, t.step, 'paused');
        PERFORM underway_internal.check_control(caller, id, t.queue_id, t.enqueued_by, false);
        t := underway_internal.lock_unfinished(id);
    ELSIF underway_internal.is_run(id) THEN
        RETURN underway_internal.pause_run(caller, id);
    END IF;
    IF t.id IS NULL THEN
        a := underway_internal.last_end(id);
        PERFORM underway_internal.refuse_step(caller, id, a.queue_id, a.enqueued_by, a.run_id, a.step, 'paused');
        PERFORM underway_internal.check_control(caller, id, a.queue_id, a.enqueued_by, false);
        PERFORM underway_internal.wrong_state(id, a.state, 'paused', 'It has ended already.');
    ELSIF t.paused_by IS NOT NULL THEN
        RETURN t.state;
    ELSIF t.state <> 'pending' THEN
        PERFORM underway_internal.wrong_state(id, t.state, 'paused', 'Only a pending task can be paused.');
    END IF;
    UPDATE underway_internal.task x SET state = 'waiting', paused_by = pg_get_userbyid(caller) WHERE x.id = id;
    RETURN 'waiting';
END $$;

CREATE FUNCTION underway.pause(id uuid) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.pause IS
'Keeps a pending task from being begun, until resume(); its ttl does not end it meanwhile. Needs the right manage on the queue.
A run: as soon as this has committed, none of its steps begins any more, nor is one tried again; timers and signals wait too. What is in progress ends, and its output counts: the last step, or one that returns finish(), ends the run, and `finally` runs; external workers may complete what they hold. Its timeout goes on. Who started it may, and who has the right manage on the workflow.
Returns the state: waiting, also when the task was paused already; of a run, what it is now. Errors: P0002 no such task or run, 55000 wrong state, 42501 not allowed.';

CREATE FUNCTION underway_internal.resume(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = id;
    IF FOUND THEN
        PERFORM underway_internal.refuse_step(caller, id, t.queue_id, t.enqueued_by, t.run_id, t.step, 'resumed');
        PERFORM underway_internal.check_control(caller, id, t.queue_id, t.enqueued_by, false);
        t := underway_internal.lock_unfinished(id);
    ELSIF underway_internal.is_run(id) THEN
        RETURN underway_internal.resume_run(caller, id);
    END IF;
    IF t.id IS NULL THEN
        a := underway_internal.last_end(id);
        PERFORM underway_internal.refuse_step(caller, id, a.queue_id, a.enqueued_by, a.run_id, a.step, 'resumed');
        PERFORM underway_internal.check_control(caller, id, a.queue_id, a.enqueued_by, false);
        PERFORM underway_internal.wrong_state(id, a.state, 'resumed', 'It has ended already.');
    ELSIF t.state = 'pending' THEN
        RETURN t.state;
    ELSIF t.paused_by IS NULL THEN
        PERFORM underway_internal.wrong_state(id, t.state, 'resumed',
            'Only a task that underway.pause() stopped can be resumed.');
    END IF;
    PERFORM underway_internal.note(t.queue_id, t.priority, t.run_at, t.id);
    UPDATE underway_internal.task x SET state = 'pending', paused_by = NULL WHERE x.id = id;
    PERFORM underway_internal.note_expiry(coalesce(t.expires_at, underway_internal.clock()));
    RETURN 'pending';
END $$;

CREATE FUNCTION underway.resume(id uuid) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.resume IS
'Lets a task or a run go on that pause() stopped: due when it was due. Of a run it also takes back a pause() that has not been done yet. Who may pause it may.
Returns the state: pending, also when the task was not paused; of a run, what it is now. Errors: P0002 no such task or run, 55000 wrong state, 42501 not allowed.';
