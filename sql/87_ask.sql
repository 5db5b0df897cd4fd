-- Ask: cancel, pause, resume and retry of runs, by whoever started them, or has the right manage on the workflow.
-- Invariant: of an unfinished run nothing is locked or changed here; what is asked is inserted beside it, and done after the commit.

CREATE FUNCTION underway_internal.is_run(id uuid) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM underway_internal.run r WHERE r.id = is_run.id)
        OR EXISTS (SELECT FROM underway_internal.run_archive r WHERE r.id = is_run.id);
END $$;

CREATE FUNCTION underway_internal.wrong_run_state(id uuid, state text, wanted text, hint text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('run %s is %s, so it cannot be %s', id, state, wanted),
        HINT = wrong_run_state.hint;
END $$;

CREATE FUNCTION underway_internal.cancel_run(caller oid, id uuid, reason text, undo bool) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run := underway_internal.steered_run(caller, id, NULL);
    a underway_internal.run_archive;
BEGIN
    IF r.state IS NULL THEN
        a := underway_internal.kept_run(caller, id);
        IF a.state <> 'cancelled' THEN
            PERFORM underway_internal.wrong_run_state(id, a.state, 'cancelled', 'It has ended already.');
        END IF;
        RETURN a.state;
    ELSIF r.ending IS NULL OR undo IS FALSE THEN
        PERFORM underway_internal.ask_run(id, 'cancel', undo,
            format('cancelled by %s', pg_get_userbyid(caller)) || coalesce(': ' || nullif(reason, ''), ''), pg_get_userbyid(caller));
    END IF;
    RETURN underway_internal.shown_state(r);
END $$;

CREATE FUNCTION underway_internal.pause_run(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run := underway_internal.steered_run(caller, id, 'paused');
BEGIN
    IF r.ending IS NOT NULL THEN
        PERFORM underway_internal.wrong_run_state(id, 'about to end', 'paused', format('It will be %s.', r.ending));
    ELSIF r.state = 'parked' THEN
        PERFORM underway_internal.wrong_run_state(id, 'parked', 'paused', 'It goes on only when somebody retries it.');
    END IF;
    PERFORM underway_internal.ask_run(id, 'pause', NULL, NULL, pg_get_userbyid(caller));
    RETURN underway_internal.shown_state(r);
END $$;

CREATE FUNCTION underway_internal.resume_run(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run := underway_internal.steered_run(caller, id, 'resumed');
BEGIN
    IF r.state = 'parked' THEN
        PERFORM underway_internal.wrong_run_state(id, 'parked', 'resumed', format('Try the step that failed again: select underway.retry(%L);', id));
    ELSIF r.state = 'paused' OR EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = id AND c.kind = 'pause') THEN
        PERFORM underway_internal.ask_run(id, 'resume', NULL, NULL, pg_get_userbyid(caller));
    END IF;
    RETURN underway_internal.shown_state(r);
END $$;

CREATE FUNCTION underway_internal.retry_run(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run := underway_internal.steered_run(caller, id, NULL);
    a underway_internal.run_archive;
    q underway_internal.queue;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = r.queue_id;
    IF q.dropped_at IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('run %s cannot be retried: its workflow "%s" was dropped', id, q.name), HINT = 'Start a run of another workflow.';
    ELSIF NOT underway_internal.may(caller, q, 'enqueue') THEN
        PERFORM underway_internal.workflow_for(caller, q.name, 'enqueue');      -- it is work anew, which the workflow's owner pays for
    ELSIF r.state IS NOT NULL THEN
        IF r.state <> 'parked' AND NOT EXISTS (SELECT FROM underway_internal.task t
                WHERE t.run_id = id AND t.state = 'pending' AND t.failures + t.crashes > 0)
                AND NOT EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = id AND c.kind = 'retry') THEN
            PERFORM underway_internal.wrong_run_state(id, underway_internal.shown_state(r), 'retried', CASE WHEN r.state = 'paused'
                THEN format('select underway.resume(%L);', id)
                ELSE 'A run can be retried that has failed, was cancelled or is parked, or of which a step waits between two attempts.' END);
        END IF;
        PERFORM underway_internal.ask_run(id, 'retry', NULL, NULL, pg_get_userbyid(caller));
        RETURN underway_internal.shown_state(r);
    END IF;
    LOOP
        a := underway_internal.kept_run(caller, id);
        IF a.state = 'succeeded' THEN
            PERFORM underway_internal.wrong_run_state(id, a.state, 'retried',
                format('To do a part of it once more: select underway.fork(%L, ''step'').', id));
        ELSIF underway_internal.reopen_run(a) THEN
            RETURN 'running';
        END IF;
        IF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = id) THEN
            RETURN 'running';       -- somebody else did it at the same time
        END IF;
    END LOOP;                       -- and it has ended by now
END $$;

-- An ended run goes on under its id where it stopped: what its steps gave stays. What was undone begins again, and all that comes after it.
-- False: it has gone on from that end already.
CREATE FUNCTION underway_internal.reopen_run(a underway_internal.run_archive) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run;
    again text[];
BEGIN
    UPDATE underway_internal.run_archive x SET reopened_at = underway_internal.clock()
        WHERE x.slot = a.slot AND x.id = a.id AND x.finished_at = a.finished_at AND x.reopened_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM underway_internal.renew_key(a.slot, a.queue_id, a.key, a.id);
    INSERT INTO underway_internal.run AS x (id, queue_id, version, state, input, headers, priority, key, group_key, started_by, started_at, timeout, deadline,
            forked_from)
        VALUES (a.id, a.queue_id, a.version, 'running', a.input, a.headers, a.priority, a.key, a.group_key, a.started_by, a.started_at,
            a.timeout, underway_internal.clock() + a.timeout, a.forked_from)
        RETURNING x.* INTO r;
    DELETE FROM underway_internal.run_control c WHERE c.run_id = r.id;      -- asked before, and too late
    PERFORM underway_internal.restore_results(r.id, a.results, false);
    PERFORM underway_internal.forget_failures(r.id);
    UPDATE underway_internal.step_result x SET undo = 'due' WHERE x.run_id = r.id AND x.undo = 'stuck';
    again := ARRAY(SELECT DISTINCT f FROM underway_internal.step_result x, unnest(underway_internal.from_here_on(r.queue_id, r.version, x.step)) f
        WHERE x.run_id = r.id AND x.item >= -1 AND x.state = 'undone');
    DELETE FROM underway_internal.step_result x WHERE x.run_id = r.id AND (x.state = 'undone' OR x.step IN (
        SELECT s.name FROM underway_internal.step s WHERE s.queue_id = r.queue_id AND s.version = r.version AND s.kind = 'finally'));
    PERFORM underway_internal.forget_results(r.id, again);
    PERFORM underway_internal.note_deadline(r.deadline);
    PERFORM underway_internal.advance(r, NULL, NULL, underway_internal.clock(), NULL);
    RETURN true;
END $$;
