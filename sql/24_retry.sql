-- Retry: what a failed attempt leads to, by the task's policy over the queue's over the default.

-- How long to wait after this many failures; null: no further attempt.
CREATE FUNCTION underway_internal.retry_delay(policy jsonb, failures int, sqlstate text) RETURNS interval LANGUAGE plpgsql AS $$
DECLARE
    initial float8 := coalesce((policy ->> 'initial_interval')::float8, 1);
    longest float8 := greatest(coalesce((policy ->> 'max_interval')::float8, 60), initial);
    backoff float8 := coalesce((policy ->> 'backoff')::float8, 2);
    jitter float8 := coalesce((policy ->> 'jitter')::float8, 0.5);
    seconds float8;
BEGIN
    IF failures >= coalesce((policy ->> 'max_attempts')::int, 5) THEN
        RETURN NULL;
    END IF;
    IF sqlstate = 'UW010'
            OR policy -> 'never' ?| ARRAY[sqlstate, left(sqlstate, 2)]
            OR jsonb_array_length(policy -> 'only_on') > 0 AND NOT policy -> 'only_on' ?| ARRAY[sqlstate, left(sqlstate, 2)] THEN
        RETURN NULL;
    END IF;
    -- By logarithms: the power itself overflows after some thousand failures.
    IF initial > 0 AND (failures - 1) * ln(backoff) >= ln(greatest(longest / initial, 1)) THEN
        seconds := longest;
    ELSE
        seconds := least(initial * power(backoff, failures - 1), longest);
    END IF;
    RETURN make_interval(secs => seconds * (1 + jitter * (2 * random() - 1)));
END $$;

CREATE FUNCTION underway_internal.record_attempt(
        t underway_internal.task, outcome text, sqlstate text, message text, detail text, hint text, context text, notices text,
        retry_at timestamptz)
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    INSERT INTO underway_internal.attempt (slot, task_id, attempt, queue_id, outcome, started_at, ended_at, worker, sqlstate, message,
            detail, hint, context, notices, retry_at)
        VALUES (underway_internal.ring_current('attempt', 0), t.id, t.attempt, t.queue_id, outcome, t.claimed_at,
            underway_internal.clock(), t.worker, sqlstate, message, detail, hint, context, notices, retry_at);
    RETURN true;
END $$;

-- Ends an attempt that failed: pending again, or failed for good. Returns the task's new state, or 'lost' when this attempt is no
-- longer the task's. may_retry false: the handler gave up. retry_after: instead of what the policy says. Runs in a transaction of its own, or (give_up) as the handler's fence.
CREATE FUNCTION underway_internal.fail_task(
        task_id uuid, attempt int, may_retry bool, retry_after interval, reason text, output jsonb, sqlstate text, message text,
        detail text, hint text, context text, notices text)
    RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    q underway_internal.queue;
    delay interval;
    retry_at timestamptz;
    cancelled text;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = task_id AND x.attempt = attempt AND x.state = 'in_progress' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM underway_internal.left_locked(task_id);
        RETURN 'lost';
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    cancelled := underway_internal.cancel_message(task_id);
    IF cancelled IS NOT NULL THEN
        RETURN underway_internal.end_cancelled(t, cancelled, notices);      -- interrupted as asked, and no failure
    END IF;
    t.failures := t.failures + 1;
    IF q.dropped_at IS NOT NULL THEN
        reason := 'queue dropped';
    ELSIF t.run_id IS NOT NULL AND t.step IS NULL THEN
        delay := make_interval(secs => least(t.failures, 60));      -- a nudge is never given up
    ELSIF may_retry THEN
        delay := underway_internal.retry_delay(coalesce(q.retry, '{}') || coalesce(t.retry, '{}'), t.failures, sqlstate);
        IF delay IS NOT NULL THEN
            delay := coalesce(retry_after, delay);
        END IF;
    END IF;
    IF delay IS NULL THEN
        DELETE FROM underway_internal.task x WHERE x.id = task_id;
        PERFORM underway_internal.archive_task(t, 'failed', output, reason, sqlstate, message, detail, hint, context, notices);
        RETURN 'failed';
    END IF;
    retry_at := underway_internal.clock() + delay;
    PERFORM underway_internal.record_attempt(t, 'failed', sqlstate, message, detail, hint, context, notices, retry_at);
    PERFORM underway_internal.reopen(t, retry_at);
    RETURN 'pending';
END $$;

-- Makes a task in progress pending again, due at run_at, with the counters and the input of t; a step of a paused run waits for the run.
CREATE FUNCTION underway_internal.reopen(t underway_internal.task, run_at timestamptz) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    paused text;
BEGIN
    IF t.run_id IS NOT NULL AND t.step IS NOT NULL THEN
        paused := (SELECT r.paused_by FROM underway_internal.run r WHERE r.id = t.run_id AND r.state = 'paused');
    END IF;
    UPDATE underway_internal.task x
        SET state = CASE WHEN paused IS NULL THEN 'pending' ELSE 'waiting' END, paused_by = paused, run_at = reopen.run_at, attempt = t.attempt,
            expires_at = CASE WHEN t.attempt = 0 THEN x.expires_at END, input = t.input, failures = t.failures, crashes = t.crashes, losses = t.losses,
            snoozes = t.snoozes, claimed_at = NULL, worker = NULL, boot = NULL, slot = NULL, generation = NULL, lease = NULL
        WHERE x.id = t.id;
    IF paused IS NOT NULL THEN
        RETURN false;
    END IF;
    IF t.attempt = 0 AND t.run_id IS NULL THEN
        -- Nobody may claim from its queue any more, and the sweep be through.
        PERFORM underway_internal.note_expiry(coalesce(t.expires_at, greatest(reopen.run_at, t.enqueued_at) + q.ttl))
            FROM underway_internal.queue q WHERE q.id = t.queue_id;
    END IF;
    RETURN underway_internal.note(t.queue_id, t.priority, reopen.run_at, t.id);
END $$;

-- A row that was taken out, as it is in t.
CREATE FUNCTION underway_internal.put_back(t underway_internal.task) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO underway_internal.task (id, queue_id, priority, run_at, enqueued_at, failures, crashes, losses, snoozes, expires_at, lease,
            enqueued_by, input, headers, key, group_key, timeout, heartbeat, retry, source, paused_by, run_id, version, step, item, phase,
            state, attempt, slot, generation, boot, claimed_at, worker)
        VALUES (t.id, t.queue_id, t.priority, t.run_at, t.enqueued_at, t.failures, t.crashes, t.losses, t.snoozes, t.expires_at, t.lease,
            t.enqueued_by, t.input, t.headers, t.key, t.group_key, t.timeout, t.heartbeat, t.retry, t.source, t.paused_by, t.run_id, t.version,
            t.step, t.item, t.phase, t.state, t.attempt, t.slot, t.generation, t.boot, t.claimed_at, t.worker);
END $$;

-- The transition `again`: effects are kept and the task runs once more later; no attempt is used. False: the fence is gone.
CREATE FUNCTION underway_internal.run_again(task_id uuid, attempt int, delay interval, input jsonb, notices text)
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    cancelled text;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = task_id AND x.attempt = attempt AND x.state = 'in_progress' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM underway_internal.left_locked(task_id);
        RETURN false;
    END IF;
    cancelled := underway_internal.cancel_message(task_id);
    IF cancelled IS NOT NULL THEN
        PERFORM underway_internal.end_cancelled(t, cancelled, notices);
        RETURN true;
    END IF;
    PERFORM underway_internal.record_attempt(t, 'again', NULL, NULL, NULL, NULL, NULL, notices, underway_internal.clock() + delay);
    t.snoozes := t.snoozes + 1;
    t.input := coalesce(input, t.input);
    PERFORM underway_internal.reopen(t, underway_internal.clock() + delay);
    RETURN true;
END $$;
