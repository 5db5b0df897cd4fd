-- Steer: what was asked of unfinished runs. Invariants: src/README.md.
-- Who asks inserts a row beside the run, in a session of a user (87_ask.sql). The coordinator obeys: first the run's row says what is to be, which
-- commits; then what is under way follows, as often as it takes, without waiting for anybody. The row goes when all of it has followed.

CREATE FUNCTION underway_internal.ask_run(run_id uuid, kind text, undo bool, message text, asked_by text) RETURNS bool
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO underway_internal.run_control (run_id, kind, undo, message, asked_by, requested_at)
        VALUES (ask_run.run_id, ask_run.kind, ask_run.undo, ask_run.message, ask_run.asked_by, underway_internal.clock());
    RETURN underway_internal.note_control();
END $$;

-- In a restored copy nothing is done.
CREATE FUNCTION underway_internal.is_home(queue_id int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM underway_internal.queue q WHERE q.id = is_home.queue_id
        AND q.home_system = underway_internal.system_identifier()
        AND q.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()));
END $$;

CREATE FUNCTION underway_internal.asked_runs(after_id bigint, max_rows int) RETURNS TABLE (id bigint, run_id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT c.id, c.run_id FROM underway_internal.run_control c
        WHERE NOT c.seen AND c.id > after_id ORDER BY c.id LIMIT max_rows;
END $$;

CREATE FUNCTION underway_internal.unsettled_runs(after_id bigint, max_rows int) RETURNS TABLE (id bigint, run_id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT c.id, c.run_id FROM underway_internal.run_control c
        WHERE c.seen AND c.id > after_id ORDER BY c.id LIMIT max_rows;
END $$;

-- A parked run waits for a person, who may take his time.
CREATE FUNCTION underway_internal.overdue_runs(max_rows int) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT r.id FROM underway_internal.run r
        WHERE r.deadline <= underway_internal.clock() AND r.ending IS NULL AND r.state <> 'parked' AND underway_internal.is_home(r.queue_id)
        ORDER BY r.deadline LIMIT max_rows;
END $$;

CREATE FUNCTION underway_internal.next_deadline() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT r.deadline FROM underway_internal.run r
        WHERE r.deadline IS NOT NULL AND r.ending IS NULL AND r.state <> 'parked' AND underway_internal.is_home(r.queue_id)
        ORDER BY r.deadline LIMIT 1);
END $$;

-- What was asked of a run that has ended. False: of some of it a client is just disposing, who makes the run anew.
CREATE FUNCTION underway_internal.forget_control(run_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM underway_internal.run_control x WHERE x.run_id = run_id AND x.id IN (
        SELECT y.id FROM underway_internal.run_control y WHERE y.run_id = run_id FOR UPDATE SKIP LOCKED);
    RETURN NOT EXISTS (SELECT FROM underway_internal.run_control x WHERE x.run_id = run_id);
END $$;

-- What was asked of a run, and its deadline, put into its row. True: there is something to settle. False: somebody has it locked.
CREATE FUNCTION underway_internal.obey(run_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run;
    c underway_internal.run_control;
    now timestamptz := underway_internal.clock();
    undo_again bool := false;
    ids bigint[] := '{}';
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = run_id FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = run_id) THEN
            RETURN false;
        END IF;
        RETURN underway_internal.forget_control(run_id);     -- it has ended meanwhile
    ELSIF NOT underway_internal.is_home(r.queue_id) THEN
        RETURN true;
    END IF;
    FOR c IN SELECT x.* FROM underway_internal.run_control x WHERE x.run_id = run_id AND NOT x.seen ORDER BY x.id LOOP
        ids := ids || c.id;
        CASE
            WHEN c.kind = 'cancel' AND r.ending IS NULL THEN
                r.ending := 'cancelled';
                r.undo := coalesce(c.undo, true);
                r.reason := 'cancelled';
                r.error := c.message;
                r.sqlstate := NULL;
                r.output := NULL;
                r.paused_by := NULL;
                r.state := 'running';
            WHEN c.kind = 'cancel' AND c.undo IS FALSE THEN
                r.undo := false;        -- what has been undone by now is, the rest is not
                r.state := CASE WHEN r.state IN ('parked', 'paused') THEN 'undoing' ELSE r.state END;
                r.paused_by := NULL;
            WHEN c.kind = 'pause' AND r.ending IS NULL AND r.state = 'running' THEN
                r.state := 'paused';
                r.paused_by := c.asked_by;
            WHEN c.kind = 'resume' AND r.state = 'paused' THEN
                r.state := 'running';
                r.paused_by := NULL;
            WHEN c.kind = 'retry' AND r.state = 'parked' AND r.ending IS NULL THEN
                PERFORM underway_internal.forget_failures(r.id);
                r.state := 'running';
                r.error := NULL;
                r.sqlstate := NULL;
                -- How long a person took does not count.
                r.deadline := now + r.timeout;
            WHEN c.kind = 'retry' AND r.state = 'parked' THEN
                undo_again := true;
            WHEN c.kind = 'retry' AND r.state = 'running' THEN
                PERFORM underway_internal.hurry_retries(r);
            ELSE
                NULL;
        END CASE;
    END LOOP;
    IF r.deadline <= now AND r.ending IS NULL AND r.state <> 'parked' THEN
        r.ending := 'failed';
        r.reason := 'timed out';
        r.error := format('the run took longer than its timeout (%s)', r.timeout);
        r.sqlstate := '57014';
        r.paused_by := NULL;
        r.state := 'running';
        INSERT INTO underway_internal.run_control (run_id, kind, seen, asked_by, requested_at) VALUES (run_id, 'deadline', true, r.started_by, now);
    END IF;
    UPDATE underway_internal.run x
        SET state = r.state, ending = r.ending, undo = r.undo, reason = r.reason, error = r.error, sqlstate = r.sqlstate, output = r.output,
            paused_by = r.paused_by, deadline = r.deadline
        WHERE x.id = run_id AND (x.state, x.ending, x.undo, x.error, x.sqlstate, x.paused_by, x.deadline)
            IS DISTINCT FROM (r.state, r.ending, r.undo, r.error, r.sqlstate, r.paused_by, r.deadline);
    IF undo_again THEN
        PERFORM underway_internal.retry_undo(r);
    END IF;
    PERFORM underway_internal.note_deadline(r.deadline);
    UPDATE underway_internal.run_control x SET seen = true WHERE x.run_id = run_id AND x.id = ANY (ids);     -- others may have come meanwhile
    RETURN true;
END $$;

-- Has what is under way do what the run's row says. True: nothing is left to do, or what is left comes from its steps' own ends.
CREATE FUNCTION underway_internal.settle(run_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run;
    settled bool := true;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = run_id FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = run_id) THEN
            RETURN false;
        END IF;
        RETURN underway_internal.forget_control(run_id);
    ELSIF NOT underway_internal.is_home(r.queue_id) THEN
        RETURN true;
    ELSIF r.ending IS NOT NULL AND r.state IN ('running', 'undoing') THEN
        settled := underway_internal.settle_ending(r);
    ELSIF r.ending IS NULL AND r.state = 'paused' THEN
        settled := underway_internal.pause_steps(r);
    ELSIF r.state = 'running' THEN
        settled := underway_internal.resume_steps(r);
        IF settled THEN
            PERFORM underway_internal.look_at_run(r, NULL);
        END IF;
    END IF;
    -- Who cannot lock something leaves a nudge, and a nudge asks the coordinator to look: it looks again anyway.
    DELETE FROM underway_internal.run_control x WHERE x.run_id = run_id AND NOT x.seen AND underway_internal.is_ours(x.xmin);
    IF settled AND r.ending IS NOT NULL AND EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = run_id AND x.phase = 'child') THEN
        NULL;       -- the child's end asks for one more look, if there is what was asked
    ELSIF settled THEN
        DELETE FROM underway_internal.run_control x WHERE x.run_id = run_id AND x.seen;
    ELSE
        DELETE FROM underway_internal.task x WHERE x.run_id = run_id AND x.step IS NULL AND underway_internal.is_ours(x.xmin);
    END IF;
    RETURN settled;
END $$;

-- True once no step is left that the run's end has to stop first: what undoes, `finally` and child runs come back by themselves. What on_change
-- has paused of these goes on when somebody resumes the run.
CREATE FUNCTION underway_internal.settle_ending(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    IF EXISTS (SELECT FROM underway_internal.queue q WHERE q.id = r.queue_id AND q.dropped_at IS NOT NULL) THEN
        -- Nobody runs anything of this workflow any more, nor can it be undone.
        PERFORM underway_internal.stop_some(r, NULL, coalesce(r.error, 'the workflow was dropped'), true);
        IF NOT EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = r.id AND x.step IS NOT NULL) THEN
            PERFORM underway_internal.end_run(r);
            RETURN true;
        END IF;
        RETURN false;
    END IF;
    IF NOT underway_internal.resume_steps(r) THEN
        RETURN false;
    END IF;
    PERFORM underway_internal.close_run(r, NULL);
    RETURN NOT EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = r.id AND x.step IS NOT NULL
        AND (x.phase IS NULL OR x.phase NOT IN ('undo', 'finally', 'child')));
END $$;

-- What has not begun waits, timers and all. Children of a map that wait for a place do so already: nobody gives them one.
-- True: nothing of the run is in progress either, whose end could make something pending once more.
CREATE FUNCTION underway_internal.pause_steps(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    settled bool := true;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.run_id = r.id AND x.step IS NOT NULL AND x.state IN ('pending', 'in_progress') LOOP
        IF t.state = 'pending' THEN
            t := underway_internal.lock_row(t, false);
        END IF;
        IF t.state = 'pending' THEN
            UPDATE underway_internal.task x SET state = 'waiting', paused_by = r.paused_by WHERE x.id = t.id;
        ELSIF t.id IS NULL OR t.state = 'in_progress' THEN
            settled := false;
        END IF;
    END LOOP;
    RETURN settled;
END $$;

-- Due when they were; of a run that closes, what is not to be stopped anyway. True: none is left that waits.
CREATE FUNCTION underway_internal.resume_steps(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    settled bool := true;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.run_id = r.id AND x.state = 'waiting' AND x.paused_by IS NOT NULL
              AND (r.ending IS NULL OR x.phase IN ('undo', 'finally')) LOOP
        t := underway_internal.lock_row(t, false);
        IF t.id IS NULL THEN
            settled := false;
        ELSIF t.paused_by IS NOT NULL THEN
            IF t.phase = 'child' THEN
                PERFORM underway_internal.ask_run((t.headers #>> '{child,run}')::uuid, 'resume', NULL, NULL, r.started_by);
            ELSE
                PERFORM underway_internal.note(t.queue_id, t.priority, t.run_at, t.id);
            END IF;
            UPDATE underway_internal.task x SET state = CASE WHEN t.phase = 'child' THEN 'waiting' ELSE 'pending' END, paused_by = NULL
                WHERE x.id = t.id;
        END IF;
    END LOOP;
    RETURN settled;
END $$;

-- Steps that wait between two attempts are due now.
CREATE FUNCTION underway_internal.hurry_retries(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    now timestamptz := underway_internal.clock();
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.run_id = r.id AND x.step IS NOT NULL AND x.state = 'pending' AND x.run_at > now AND x.failures + x.crashes > 0 LOOP
        t := underway_internal.lock_row(t, false);
        IF t.state = 'pending' AND t.run_at > now THEN
            PERFORM underway_internal.note(t.queue_id, t.priority, now, t.id);
            UPDATE underway_internal.task x SET run_at = now WHERE x.id = t.id;
        END IF;
    END LOOP;
    RETURN true;
END $$;
