-- The way out of the hot table: what is finished goes to the archive; what failed for good also to the dead letter queue.

CREATE FUNCTION underway_internal.ring_current(ring text, first int) RETURNS smallint LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT r.slot FROM underway_internal.ring_slot r WHERE r.ring = ring_current.ring AND r.closed_at IS NULL), first);
END $$;

-- The table of a ring of eight that comes after this one: of the current one, the one that is emptied next.
CREATE FUNCTION underway_internal.ring_next(slot int, first int) RETURNS smallint LANGUAGE plpgsql AS $$
BEGIN
    RETURN first + (slot - first + 1) % 8;
END $$;

-- What a person or a program asked for while the task was in progress; null: nothing.
CREATE FUNCTION underway_internal.cancel_message(task_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT c.message FROM underway_internal.cancel_request c WHERE c.task_id = cancel_message.task_id);
END $$;

-- Ends a task in progress, whose row the caller has locked, as cancelled.
CREATE FUNCTION underway_internal.end_cancelled(t underway_internal.task, message text, notices text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM underway_internal.task x WHERE x.id = t.id;
    DELETE FROM underway_internal.cancel_request c WHERE c.task_id = t.id;
    PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'cancelled', NULL, message, NULL, NULL, NULL, notices);
    RETURN 'cancelled';
END $$;

-- t is the value of a row that the caller deletes from task in the same transaction.
CREATE FUNCTION underway_internal.archive_task(
        t underway_internal.task, state text, output jsonb, reason text, sqlstate text, message text, detail text, hint text,
        context text, notices text)
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue;
    kept bool;
    letter uuid;
    now timestamptz := underway_internal.clock();
    target underway_internal.queue;
BEGIN
    IF t.run_id IS NOT NULL THEN
        IF t.step IS NULL THEN
            -- A nudge of a run that somebody started while its workflow was dropped.
            PERFORM underway_internal.ask_run(t.run_id, 'cancel', false, 'the workflow was dropped', t.enqueued_by)
                WHERE EXISTS (SELECT FROM underway_internal.run r WHERE r.id = t.run_id);
            -- A signal that came too late is for nobody.
            DELETE FROM underway_internal.signal g
                WHERE g.run_id = t.run_id AND NOT EXISTS (SELECT FROM underway_internal.run r WHERE r.id = t.run_id);
            RETURN false;
        ELSIF reason IS DISTINCT FROM 'run ended' THEN
            PERFORM underway_internal.step_lost(t, state, output, reason, sqlstate, coalesce(message, reason));
        END IF;
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    kept := q.keep = 'all' OR q.keep = 'failed' AND state = 'failed';
    IF kept THEN
        INSERT INTO underway_internal.archive (slot, id, queue_id, state, priority, run_at, attempt, failures, crashes, losses, snoozes,
                enqueued_at, started_at, finished_at, enqueued_by, worker, lease, input, output, headers, key, group_key, timeout,
                heartbeat, retry, source, reason, sqlstate, message, detail, hint, context, notices, run_id, version, step, item,
                phase)
            VALUES (CASE WHEN state = 'succeeded' THEN underway_internal.ring_current('succeeded', 0)
                         ELSE underway_internal.ring_current('ended', 8) END,
                t.id, t.queue_id, state, t.priority, t.run_at, t.attempt, t.failures, t.crashes, t.losses, t.snoozes,
                t.enqueued_at, t.claimed_at, now, t.enqueued_by, t.worker, t.lease, t.input, output, t.headers, t.key, t.group_key, t.timeout,
                t.heartbeat, t.retry, t.source, reason, sqlstate, message, detail, hint, context, notices, t.run_id, t.version,
                t.step, t.item, t.phase);
    ELSIF t.key IS NOT NULL THEN
        DELETE FROM underway_internal.task_key k WHERE k.queue_id = t.queue_id AND k.key = t.key AND k.task_id = t.id;
    END IF;
    -- A dead letter that fails is not dead-lettered again: two queues that name each other would pass it on for ever.
    -- Nor is a step of a run: there the run fails.
    IF state = 'failed' AND q.dead_letter IS NOT NULL AND t.source IS NULL AND t.run_id IS NULL THEN
        SELECT x.* INTO target FROM underway_internal.queue x WHERE x.id = q.dead_letter AND x.dropped_at IS NULL;
        IF FOUND THEN
            letter := underway_internal.new_id();
            INSERT INTO underway_internal.task (id, queue_id, priority, run_at, enqueued_at, enqueued_by, input, headers, group_key, source)
                VALUES (letter, target.id, target.priority, now, now, t.enqueued_by, t.input,
                    coalesce(t.headers, '{}') || jsonb_build_object('dead_letter', jsonb_strip_nulls(jsonb_build_object(
                        'queue', q.name, 'task', t.id, 'reason', reason, 'attempt', t.attempt, 'sqlstate', sqlstate,
                        'message', message, 'detail', detail, 'hint', hint, 'context', context))),
                    t.group_key, t.id);
            PERFORM underway_internal.note(target.id, target.priority, now, letter);
        END IF;
    END IF;
    IF t.lease IS NOT NULL THEN
        PERFORM underway_internal.place_free(t.queue_id);
    END IF;
    PERFORM underway_internal.finished(t.id);
    RETURN kept;
END $$;
