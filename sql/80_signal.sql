-- Signals: named messages to a run, buffered until a step waits for one of that name.
-- Invariant: a signal that found nobody waiting leaves a nudge, and a step that begins to wait looks for signals under the run's lock: the
-- later of the two sees the other.

-- The oldest signal of that name, which is then gone; null when there is none.
CREATE FUNCTION underway_internal.take_signal(run_id uuid, name text) RETURNS jsonb LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    g underway_internal.signal;
BEGIN
    SELECT x.* INTO g FROM underway_internal.signal x WHERE x.run_id = run_id AND x.name = name AND NOT x.taken
        ORDER BY x.id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF g.key IS NULL THEN
        DELETE FROM underway_internal.signal x WHERE x.run_id = run_id AND x.id = g.id;
    ELSE
        UPDATE underway_internal.signal x SET taken = true, payload = NULL WHERE x.run_id = run_id AND x.id = g.id;
    END IF;
    RETURN jsonb_build_object('name', g.name, 'payload', g.payload, 'key', g.key, 'sent_by', g.sent_by, 'sent_at', g.sent_at);
END $$;

-- Gives a signal to a step that waits, if there is one for it. False: the task is not waiting any more, or somebody has locked it; nothing is
-- locked then, since this may be a session that does not end soon.
CREATE FUNCTION underway_internal.deliver_signal(w underway_internal.task, signal_name text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
    now timestamptz := underway_internal.clock();
    arrived jsonb;
BEGIN
    t := underway_internal.lock_row(w, false);
    IF t.phase = 'wait' AND t.state = 'pending' THEN
        arrived := underway_internal.take_signal(t.run_id, signal_name);
    END IF;
    IF arrived IS NULL THEN
        RAISE EXCEPTION 'to be unlocked' USING ERRCODE = 'UW999';
    END IF;
    PERFORM underway_internal.note(t.queue_id, t.priority, now, t.id);
    UPDATE underway_internal.task x SET phase = 'close', run_at = now,
            headers = coalesce(x.headers, '{}') || jsonb_build_object('signal', arrived)
        WHERE x.id = t.id;
    RETURN true;
EXCEPTION WHEN SQLSTATE 'UW999' THEN
    RETURN false;
END $$;

-- Gives signals to the steps of a run that wait for them. name null: for any. False: one was not to be had just now.
CREATE FUNCTION underway_internal.deliver_signals(run_id uuid, name text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    w record;
    all_seen bool := true;
BEGIN
    FOR w IN SELECT x AS task, s.signal FROM underway_internal.task x
            JOIN underway_internal.run r ON r.id = x.run_id
            JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = x.step
            WHERE x.run_id = run_id AND x.phase = 'wait' AND x.state = 'pending' AND (s.signal = name OR name IS NULL)
            ORDER BY s.position LOOP
        IF EXISTS (SELECT FROM underway_internal.signal g WHERE g.run_id = run_id AND g.name = w.signal AND NOT g.taken) THEN
            all_seen := underway_internal.deliver_signal(w.task, w.signal) AND all_seen;
        END IF;
    END LOOP;
    RETURN all_seen;
END $$;

-- The unfinished run, for somebody who may steer it: who started it, and who has the right manage on the workflow. wanted null: also one that
-- has ended, which has no state then.
CREATE FUNCTION underway_internal.steered_run(caller oid, id uuid, wanted text) RETURNS underway_internal.run LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run := underway_internal.run_for(caller, id);
    q underway_internal.queue;
BEGIN
    IF NOT underway_internal.has_role(caller, r.started_by) THEN
        SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = r.queue_id;
        IF NOT underway_internal.may(caller, q, 'manage') THEN
            PERFORM underway_internal.refuse_queue(caller, q, 'manage');
        END IF;
    END IF;
    IF r.state IS NULL AND wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('run %s has ended (%s), so it cannot be %s', id, (underway_internal.kept_run(caller, id)).state, wanted),
            HINT = 'Only a run that goes on can be.';
    END IF;
    RETURN r;
END $$;

CREATE FUNCTION underway_internal.signal(caller oid, run uuid, name text, payload jsonb, key text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run;
BEGIN
    PERFORM underway_internal.check_name(name, 'name');
    PERFORM underway_internal.check_key(key, 'key');
    r := underway_internal.steered_run(caller, run, 'signalled');
    INSERT INTO underway_internal.signal AS g (run_id, name, payload, key, sent_by, sent_at)
        VALUES (r.id, name, payload, key, pg_get_userbyid(caller), underway_internal.clock())
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT underway_internal.deliver_signals(r.id, name)
            OR EXISTS (SELECT FROM underway_internal.signal g WHERE g.run_id = r.id AND g.name = name AND NOT g.taken) THEN
        PERFORM underway_internal.steered_run(caller, run, 'signalled');        -- it may have ended meanwhile
        PERFORM underway_internal.nudge(r.id);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION underway.signal(run uuid, name text, payload jsonb DEFAULT NULL, key text DEFAULT NULL) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.signal IS
'Sends a named message to an unfinished run, in the caller''s transaction. It is kept until a step waits for one of that name, before or after makes no difference; each is taken once, in the order of sending. Who started the run may, and who has the right manage on the workflow.
payload: the output of the step that takes it. key: a second signal of the same name and key to the run is ignored.
Returns true, or false for a duplicate. Errors: P0002 no such run, 55000 it has ended, 42501 not allowed, 22023 bad value.';
