-- Redrive: what has failed for good goes back to the queue it failed in, under its own id.
-- Invariant: a dead letter leaves its queue in the transaction that re-opens its original, or when the original went on
-- by other means; where the original cannot be re-opened, the letter stays.

-- A finished task becomes pending again. Attempt numbers go on; failures and crashes are counted from 0, since a person has
-- decided to try anew; the ttl counts anew too, from run_at. a: what last_end() gave, or original_of(), without a slot then.
-- False: it has gone on from that end already.
CREATE FUNCTION underway_internal.reopen_archived(a underway_internal.archive) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    due timestamptz := underway_internal.clock();
BEGIN
    -- Who waits for another finds the row re-opened, however that went on since; where his snapshot is older, that is an error.
    UPDATE underway_internal.archive x SET reopened_at = due
        WHERE x.slot = a.slot AND x.id = a.id AND x.attempt = a.attempt AND x.finished_at = a.finished_at AND x.reopened_at IS NULL;
    IF NOT FOUND AND a.slot IS NOT NULL THEN
        RETURN false;
    END IF;
    INSERT INTO underway_internal.task (id, queue_id, priority, state, run_at, enqueued_at, attempt, losses, snoozes, enqueued_by,
            input, headers, key, group_key, timeout, heartbeat, retry, source)
        VALUES (a.id, a.queue_id, a.priority, 'pending', due, a.enqueued_at, a.attempt, a.losses, a.snoozes, a.enqueued_by,
            a.input, a.headers, a.key, a.group_key, a.timeout, a.heartbeat, a.retry, a.source)
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF a.slot IS NULL AND EXISTS (SELECT FROM underway_internal.archive x WHERE x.id = a.id AND x.reopened_at IS NULL) THEN
        -- Two letters of it: who waited for the other has no row to see that by.
        DELETE FROM underway_internal.task t WHERE t.id = a.id;
        RETURN false;
    END IF;
    PERFORM underway_internal.renew_key(a.slot, a.queue_id, a.key, a.id);
    -- One that came too late for the attempt that succeeded, or failed, is not meant for the next.
    DELETE FROM underway_internal.cancel_request c WHERE c.task_id = a.id;
    PERFORM underway_internal.note(a.queue_id, a.priority, due, a.id);
    RETURN true;
END $$;

-- The key of what is re-opened, as a new row if its end stands in the table that is emptied next: retention may just have found the
-- old one to be deleted (rotate). One of the two waits for the other then, and a row that is gone is not deleted. Not elsewhere,
-- since an enqueue with that key waits too.
CREATE FUNCTION underway_internal.renew_key(slot smallint, queue_id int, key text, task_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    IF key IS NULL OR slot <> underway_internal.ring_next(underway_internal.ring_current('ended', 8), 8) THEN
        RETURN false;
    END IF;
    DELETE FROM underway_internal.task_key k WHERE k.queue_id = queue_id AND k.key = key AND k.task_id = task_id;
    INSERT INTO underway_internal.task_key (queue_id, key, task_id) VALUES (queue_id, key, task_id);
    RETURN true;
END $$;

-- How a finished task ended last; empty when that is not kept. For one that is unfinished again, how it ended before that: who
-- has found no task, and asks then, hears of an end that was true between the two. One statement, so one snapshot.
CREATE FUNCTION underway_internal.last_end(id uuid) RETURNS underway_internal.archive LANGUAGE plpgsql AS $$
DECLARE
    a underway_internal.archive;
BEGIN
    SELECT x.* INTO a FROM underway_internal.archive x
        WHERE x.id = last_end.id
          AND (x.reopened_at IS NULL OR EXISTS (SELECT FROM underway_internal.task t WHERE t.id = x.id OFFSET 0))
        ORDER BY x.reopened_at DESC NULLS FIRST LIMIT 1;
    RETURN a;
END $$;

-- The original of a dead letter whose archive row is gone (its queue keeps none, or retention), from what the letter carries;
-- without a queue when that is gone.
CREATE FUNCTION underway_internal.original_of(letter underway_internal.task)
    RETURNS underway_internal.archive LANGUAGE plpgsql AS $$
DECLARE
    a underway_internal.archive;
    q underway_internal.queue;
    origin jsonb := letter.headers -> 'dead_letter';
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.name = origin ->> 'queue' AND x.dropped_at IS NULL;
    a.id := letter.source;
    a.queue_id := q.id;
    a.state := 'failed';
    a.priority := q.priority;
    a.attempt := coalesce((origin ->> 'attempt')::int, 0);
    a.losses := 0;
    a.snoozes := 0;
    a.enqueued_at := letter.enqueued_at;
    a.enqueued_by := letter.enqueued_by;
    a.input := letter.input;
    a.headers := nullif(letter.headers - 'dead_letter', '{}');
    a.group_key := letter.group_key;
    RETURN a;
END $$;

-- True when the original is pending again.
CREATE FUNCTION underway_internal.redrive_letter(caller oid, letter underway_internal.task)
    RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    a underway_internal.archive;
    q underway_internal.queue;
    reopened bool := false;
    stays bool := false;
BEGIN
    IF NOT EXISTS (SELECT FROM underway_internal.task t WHERE t.id = letter.source) THEN
        a := underway_internal.last_end(letter.source);
        -- Where the end that the letter is about is kept, it went on from there by other means, and nothing is kept since.
        IF a.id IS NULL AND NOT EXISTS (SELECT FROM underway_internal.archive x
                WHERE x.id = letter.source AND x.finished_at = letter.enqueued_at) THEN
            a := underway_internal.original_of(letter);
        END IF;
        IF a.state = 'failed' THEN
            SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = a.queue_id AND x.dropped_at IS NULL;
            IF NOT FOUND THEN
                stays := true;
            ELSIF NOT underway_internal.may(caller, q, 'manage') THEN
                PERFORM underway_internal.refuse_queue(caller, q, 'manage');
            ELSE
                reopened := underway_internal.reopen_archived(a);
            END IF;
        END IF;
    END IF;
    IF stays THEN
        PERFORM underway_internal.put_back(letter);
    ELSE
        PERFORM underway_internal.archive_task(letter, 'cancelled', NULL, 'redriven', NULL,
            format('redriven by %s', pg_get_userbyid(caller)), NULL, NULL, NULL, NULL);
    END IF;
    RETURN reopened;
END $$;

CREATE FUNCTION underway_internal.redrive(caller oid, queue text, max_tasks int) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'manage');
    most bigint := coalesce(max_tasks, 9223372036854775807);
    letter underway_internal.task;
    a underway_internal.archive;
    seen bigint := 0;
    n bigint := 0;
    stayed bigint := 0;
BEGIN
    IF q.workflow THEN
        PERFORM underway_internal.refuse_workflow(q, 'Retry its runs: select underway.retry(r.id) from underway.runs r where ...;');
    END IF;
    IF max_tasks < 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('max_tasks must be 1 or more, not %s', max_tasks),
            HINT = 'Leave it out to redrive all of them.';
    END IF;
    FOR letter IN SELECT t.* FROM underway_internal.take_pending(q.id, true, false, most) t LOOP
        seen := seen + 1;
        IF underway_internal.redrive_letter(caller, letter) THEN
            n := n + 1;
        ELSIF EXISTS (SELECT FROM underway_internal.task t WHERE t.id = letter.id) THEN
            stayed := stayed + 1;
        END IF;
    END LOOP;
    IF stayed > 0 THEN
        RAISE WARNING USING MESSAGE = CASE stayed
                WHEN 1 THEN format('1 dead letter of queue "%s" stays: its queue was dropped', q.name)
                ELSE format('%s dead letters of queue "%s" stay: their queues were dropped', stayed, q.name) END,
            HINT = 'Enqueue their inputs anew, or underway.cancel() them.';
    END IF;
    -- No letters, and nobody's dead letter queue: then its own tasks that failed are meant.
    IF seen = 0 AND NOT EXISTS (SELECT FROM underway_internal.queue x WHERE x.dead_letter = q.id) THEN
        FOR a IN SELECT x.* FROM underway_internal.archive x
                WHERE x.slot BETWEEN 8 AND 15 AND x.queue_id = q.id AND x.state = 'failed' AND x.run_id IS NULL
                  AND x.reopened_at IS NULL
                ORDER BY x.finished_at LIMIT max_tasks LOOP
            IF underway_internal.reopen_archived(a) THEN
                n := n + 1;
            END IF;
        END LOOP;
    END IF;
    RETURN n;
END $$;

CREATE FUNCTION underway.redrive(queue text, max_tasks int DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.redrive IS
'Re-opens tasks that failed for good, the oldest first: the same ids, pending at once, with all their attempts anew.
queue: a dead letter queue, whose letters then end cancelled ("redriven") while their originals run again where they failed; or any other queue, whose own failed tasks are re-opened, those whose failure is kept (letters about them stay where they are, and go at the next redrive there). Needs the right manage on the queue, and on those that the letters came from. max_tasks: at most so many; default all. Steps of runs are left out: retry() their runs.
Returns how many were re-opened. Errors: 42704 no such queue, 42501 not allowed, 22023 bad value.';
