-- Finish: how a step ends, well or not, and what that does to its run. Invariants: src/README.md.

-- The record of a step that succeeded, in the archive.
CREATE FUNCTION underway_internal.archive_step(t underway_internal.task, output jsonb, notices text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO underway_internal.archive (slot, id, queue_id, state, priority, run_at, attempt, failures, crashes, losses, snoozes,
            enqueued_at, started_at, finished_at, enqueued_by, worker, lease, input, output, headers, group_key, timeout,
            heartbeat, retry, notices, run_id, version, step, item, phase)
        VALUES (underway_internal.ring_current('succeeded', 0), t.id, t.queue_id, 'succeeded', t.priority, t.run_at, t.attempt,
            t.failures, t.crashes, t.losses, t.snoozes, t.enqueued_at, t.claimed_at, underway_internal.clock(), t.enqueued_by, t.worker,
            t.lease, t.input, output, t.headers, t.group_key, t.timeout, t.heartbeat, t.retry, notices, t.run_id, t.version, t.step,
            t.item, t.phase);
    RETURN true;
END $$;

-- What is special about the end of some kinds of steps. goes_on: the step goes on in another way, or has failed, and nothing follows now.
CREATE FUNCTION underway_internal.end_special(
        t underway_internal.task, s underway_internal.step, INOUT output jsonb, OUT passed_on jsonb, OUT state text, OUT goes_on bool)
    LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run;
    arrived jsonb;
    stopped text;
    c record;
BEGIN
    goes_on := false;
    state := 'succeeded';
    IF s.kind = 'wait' THEN
        arrived := CASE WHEN t.phase = 'close' THEN t.headers -> 'signal' ELSE underway_internal.take_signal(t.run_id, s.signal) END;
        IF arrived IS NOT NULL THEN
            output := nullif(arrived -> 'payload', 'null');
        ELSIF s.on_timeout = 'continue' THEN
            state := 'skipped';
        ELSE
            PERFORM underway_internal.archive_task(t, 'failed', NULL, 'timed out', '57014',
                format('no signal "%s" came within %s', s.signal, s.timeout), NULL, NULL, NULL, NULL);
            goes_on := true;
        END IF;
    ELSIF s.kind = 'child' THEN
        output := t.headers #> '{child,output}';
        IF t.headers #>> '{child,state}' <> 'succeeded' THEN
            PERFORM underway_internal.archive_child(t);
            goes_on := true;
        END IF;
    ELSIF s.kind = 'map' AND t.phase IS NULL THEN
        SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = t.run_id FOR NO KEY UPDATE;
        IF r.ending IS NOT NULL THEN
            -- Not an empty map: whoever retries or forks the run would take it as done.
            PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'cancelled', NULL, 'the run ended', NULL, NULL, NULL, NULL);
            goes_on := true;
            RETURN;
        END IF;
        goes_on := underway_internal.open_map(r, s, t, output);
        output := (underway_internal.collect(t, s)).output;
    ELSIF s.kind = 'map' THEN
        c := underway_internal.collect(t, s);
        output := c.output;
        stopped := underway_internal.cancel_message(t.id);
        IF stopped IS NOT NULL THEN
            DELETE FROM underway_internal.cancel_request x WHERE x.task_id = t.id;
            PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'cancelled', NULL, stopped, NULL, NULL, NULL, NULL);
            goes_on := true;
        ELSIF c.problem IS NOT NULL THEN
            PERFORM underway_internal.archive_task(t, 'failed', NULL, 'error', c.sqlstate, c.problem, NULL, NULL, NULL, NULL);
            goes_on := true;
        END IF;
    END IF;
    passed_on := coalesce(output, t.input);
END $$;

-- A step whose work is done; t was deleted by the caller's transaction. decision: next, go_to (target), finish.
CREATE FUNCTION underway_internal.finish_step(
        t underway_internal.task, output jsonb, notices text, decision text, target text, due timestamptz,
        who underway_internal.claimer, OUT look text, OUT next underway_internal.task)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    d record;
    e record;
    s underway_internal.step;
    r underway_internal.run;
    passed_on jsonb := coalesce(output, t.input);
    state text := 'succeeded';
    undone bigint;
BEGIN
    SELECT x AS step, v.linear, q.keep = 'all' AS kept INTO d
        FROM underway_internal.run y
        JOIN underway_internal.step x ON x.queue_id = y.queue_id AND x.version = t.version AND x.name = t.step
        JOIN underway_internal.workflow_version v ON v.queue_id = x.queue_id AND v.version = x.version
        JOIN underway_internal.queue q ON q.id = t.queue_id
        WHERE y.id = t.run_id;
    s := d.step;
    IF s.kind IN ('wait', 'map', 'child') AND t.item < 0 AND t.phase IS DISTINCT FROM 'undo' THEN
        e := underway_internal.end_special(t, s, output);
        IF e.goes_on THEN
            RETURN;
        END IF;
        output := e.output;
        passed_on := e.passed_on;
        state := e.state;
        IF s.kind = 'child' THEN
            t.headers := t.headers #- '{child,output}';
        END IF;
    END IF;
    IF d.kept THEN
        PERFORM underway_internal.archive_step(t, output, notices);
    END IF;
    PERFORM underway_internal.finished(t.id);
    IF t.phase = 'undo' THEN
        undone := underway_internal.undone(t);
    ELSIF t.item >= 0 THEN
        e := underway_internal.finish_child(t, s, output, who);
        look := e.look;
        next := e.next;
        RETURN;
    ELSE
        PERFORM underway_internal.record_result(t, state, NULL, passed_on, NULL, NULL, underway_internal.undo_of(t, s, state, NULL));
    END IF;
    IF NOT d.linear AND (t.slot IS NULL OR current_setting('transaction_isolation') <> 'read committed') THEN
        -- Whoever follows the nudge goes by the results, among which a decision has no place.
        IF decision <> 'next' OR due > underway_internal.clock() THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = 'a step of a workflow with branches cannot decide where the run goes in a transaction that is not READ COMMITTED',
                HINT = 'Return the output itself, or take default_transaction_isolation out of the workflow''s settings.';
        END IF;
        PERFORM underway_internal.nudge(t.run_id);
        RETURN;
    END IF;
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = t.run_id FOR NO KEY UPDATE;
    IF r.state IN ('paused', 'parked') AND r.ending IS NOT NULL THEN
        RETURN;     -- whoever lets it go on looks
    ELSIF r.ending IS NULL AND current_setting('transaction_isolation') = 'read committed'
            AND EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = r.id AND NOT c.seen) THEN
        -- What was asked of the run is about to be done: what this step leads to waits for that (put_step()).
        r.paused_by := coalesce(r.paused_by, 'what was asked');
        r.state := CASE r.state WHEN 'running' THEN 'paused' ELSE r.state END;
    END IF;
    IF undone IS NOT NULL THEN
        next := underway_internal.undo_more(r, undone, who);
    ELSIF r.ending IS NOT NULL THEN
        next := underway_internal.close_run(r, who);
    ELSIF decision = 'go_to' THEN
        next := underway_internal.go_to(r, s, target, passed_on, due, who);
    ELSIF decision = 'finish' THEN
        r.ending := 'succeeded';
        r.output := passed_on;
        next := underway_internal.close_run(r, who);
    ELSIF d.linear THEN
        next := underway_internal.advance_linear(r, s.position, passed_on, due, who);
    ELSE
        next := underway_internal.advance(r, s.name, passed_on, due, who);
    END IF;
END $$;

-- A step that ended for good and did not succeed: called where its task goes to the archive, in whatever session. Locks nothing.
CREATE FUNCTION underway_internal.step_lost(
        t underway_internal.task, state text, output jsonb, reason text, sqlstate text, message text)
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    s underway_internal.step;
BEGIN
    SELECT x.* INTO s FROM underway_internal.run r
        JOIN underway_internal.step x ON x.queue_id = r.queue_id AND x.version = r.version AND x.name = t.step
        WHERE r.id = t.run_id;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF t.phase = 'undo' THEN
        PERFORM underway_internal.undo_failed(t, sqlstate, message);
    ELSE
        PERFORM underway_internal.record_result(t, state, t.input, output, message, sqlstate,
            underway_internal.undo_of(t, s, state, reason));
    END IF;
    RETURN underway_internal.nudge(t.run_id);
END $$;

-- The transaction of a nudge, whose task the caller has deleted. What is to be looked at again soon, since somebody has a row locked, is so
-- after 20 ms, and later each time, lest a session that does not end keep a worker busy.
CREATE FUNCTION underway_internal.follow_nudge(t underway_internal.task, who underway_internal.claimer) RETURNS underway_internal.task
    LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run;
    begun underway_internal.task;
    now timestamptz := underway_internal.clock();
    tries int := coalesce((t.input ->> 'tries')::int, 0);
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = t.run_id FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        begun := underway_internal.look_at_run(r, who);
    ELSIF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = t.run_id) THEN
        -- Somebody is just finishing a step.
        PERFORM underway_internal.nudge(t.run_id, now + interval '20 milliseconds');
    ELSE
        -- It ended while this was about to commit: a signal too late is for nobody.
        DELETE FROM underway_internal.signal x WHERE x.run_id = t.run_id;
    END IF;
    UPDATE underway_internal.task x
        SET input = jsonb_build_object('tries', tries + 1), run_at = now + least(interval '20 milliseconds' * power(2, least(tries, 8)), interval '5 seconds')
        WHERE x.run_id = t.run_id AND x.step IS NULL AND x.state = 'pending' AND x.run_at > now AND underway_internal.is_ours(x.xmin);
    RETURN begun;
END $$;

-- Everything that may be due in a run: what failed, then what can begin.
CREATE FUNCTION underway_internal.look_at_run(r underway_internal.run, who underway_internal.claimer) RETURNS underway_internal.task
    LANGUAGE plpgsql AS $$
DECLARE
    f record;
    policy text;
BEGIN
    IF r.state IN ('paused', 'parked') THEN
        RETURN NULL;
    ELSIF r.ending IS NOT NULL THEN
        RETURN underway_internal.close_run(r, who);
    END IF;
    FOR f IN SELECT x.step, x.input, x.error, x.sqlstate, coalesce(s.on_failure, w.on_failure) AS policy
            FROM underway_internal.step_result x
            JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = x.step
            JOIN underway_internal.workflow w ON w.queue_id = r.queue_id
            WHERE x.run_id = r.id AND x.item = -1 AND x.state IN ('failed', 'cancelled') ORDER BY x.seq LOOP
        IF f.policy = 'skip' THEN
            UPDATE underway_internal.step_result x SET state = 'skipped', output = f.input
                WHERE x.run_id = r.id AND x.step = f.step AND x.item = -1;
            PERFORM underway_internal.stop_some(r, f.step, 'the map was cancelled');
            CONTINUE;
        END IF;
        r.error := format('step "%s": %s', f.step, f.error);
        r.sqlstate := f.sqlstate;
        IF f.policy = 'park' THEN
            UPDATE underway_internal.run x SET state = 'parked', error = r.error, sqlstate = r.sqlstate WHERE x.id = r.id;
            RETURN NULL;
        END IF;
        r.ending := 'failed';
        r.reason := 'step failed';
        RETURN underway_internal.close_run(r, who);
    END LOOP;
    FOR f IN SELECT x AS task, s AS step FROM underway_internal.task x
            JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = x.step
            WHERE x.run_id = r.id AND x.phase = 'map' LOOP
        PERFORM underway_internal.tend_map(r, f.step, f.task);
    END LOOP;
    IF NOT underway_internal.deliver_signals(r.id, NULL) THEN
        PERFORM underway_internal.nudge(r.id, underway_internal.clock() + interval '20 milliseconds');
    END IF;
    RETURN underway_internal.advance(r, NULL, NULL, underway_internal.clock(), who);
END $$;

-- Off the hot tables.
CREATE FUNCTION underway_internal.end_run(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    keep text := (SELECT q.keep FROM underway_internal.queue q WHERE q.id = r.queue_id);
    results jsonb := underway_internal.take_results(r.id, r.ending = 'succeeded' AND r.forked_from IS NULL);
BEGIN
    DELETE FROM underway_internal.run x WHERE x.id = r.id;
    IF keep = 'all' OR keep = 'failed' AND r.ending = 'failed' THEN
        INSERT INTO underway_internal.run_archive (slot, id, queue_id, version, state, input, headers, priority, key, group_key, parent,
                parent_step, started_by, started_at, finished_at, reason, error, sqlstate, output, results, timeout, forked_from)
            VALUES (CASE WHEN r.ending = 'succeeded' THEN underway_internal.ring_current('succeeded', 0)
                         ELSE underway_internal.ring_current('ended', 8) END,
                r.id, r.queue_id, r.version, r.ending, r.input, r.headers, r.priority, r.key, r.group_key, r.parent, r.parent_step,
                r.started_by, r.started_at, underway_internal.clock(), r.reason, r.error, r.sqlstate, r.output, results, r.timeout, r.forked_from);
    ELSIF r.key IS NOT NULL THEN
        DELETE FROM underway_internal.task_key k WHERE k.queue_id = r.queue_id AND k.key = r.key AND k.task_id = r.id;
    END IF;
    DELETE FROM underway_internal.signal x WHERE x.run_id = r.id;
    DELETE FROM underway_internal.run_control x WHERE x.run_id = r.id;
    PERFORM underway_internal.child_ended(r);
    PERFORM underway_internal.finished(r.id);
    RETURN true;
END $$;

-- What a worker calls with a step whose work is done: the fence, then all the rest. worker null: nobody goes on at once. One row. held false:
-- the attempt was no longer the task's. look: the worker is to look at this map after the commit. id and what follows: the task that the
-- worker goes on with.
CREATE FUNCTION underway_internal.complete_step(
        task_id uuid, attempt int, output jsonb, notices text, decision text, target text, delay interval,
        worker text, boot bigint, slot int, generation int)
    RETURNS TABLE (held bool, look text, id uuid, "input" jsonb, headers jsonb, timeout interval, max_attempts int,
        version int, step text, item int, phase text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n underway_internal.task;
    who underway_internal.claimer;
    done record;
BEGIN
    DELETE FROM underway_internal.task x WHERE x.id = task_id AND x.attempt = attempt AND x.state = 'in_progress' RETURNING x.* INTO t;
    held := FOUND;
    IF NOT held THEN
        PERFORM underway_internal.left_locked(task_id);
    ELSE
        IF worker IS NOT NULL THEN
            who := ROW(t.queue_id, worker, boot, slot, generation);
        END IF;
        IF t.step IS NULL THEN
            n := underway_internal.follow_nudge(t, who);
        ELSE
            SELECT x.* INTO done FROM underway_internal.finish_step(t, output, notices, decision, target,
                underway_internal.clock() + coalesce(delay, '0'), who) x;
            look := done.look;
            n := done.next;
        END IF;
    END IF;
    id := n.id;
    input := n.input;
    headers := n.headers;
    timeout := n.timeout;
    max_attempts := (n.retry ->> 'max_attempts')::int;
    version := n.version;
    step := n.step;
    item := n.item;
    phase := n.phase;
    RETURN NEXT;
END $$;
