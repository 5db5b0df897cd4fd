-- Close: how a run ends that is to end, whatever is still to be done for it. The end itself is end_run().
-- Invariant: a run that closes has `ending` in its row before anything of it is stopped, undone or done at last; what it will end as is never
-- changed after that, but by a `finally` that fails. Each of the phases comes back to close_run() when it is through.

-- Stops what is under way: all of a run, or the children of one of its maps. What is in progress is told, and tells by its end. False:
-- there was nothing. One that somebody has locked is looked at again soon. The task of a map is the last to go: as long as it is there the
-- coordinator finds that the children are through, whoever ended them. last_too: also a `finally`, of a workflow that was dropped.
CREATE FUNCTION underway_internal.stop_some(r underway_internal.run, map text, message text, last_too bool DEFAULT false) RETURNS bool
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    stopped bool := false;
    busy bool := false;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.run_id = r.id AND x.step IS NOT NULL AND (map IS NULL OR x.step = map AND x.item >= 0)
              AND (x.phase IS NULL OR x.phase NOT IN ('undo', 'finally') OR x.phase = 'undo' AND NOT r.undo OR last_too)
            ORDER BY x.item DESC LOOP
        CONTINUE WHEN t.phase = 'map' AND EXISTS (SELECT FROM underway_internal.task x
            WHERE x.run_id = r.id AND x.step = t.step AND x.item >= 0);
        IF t.phase = 'child' THEN
            PERFORM underway_internal.stop_child(r, t, message);
            CONTINUE;
        ELSIF t.state <> 'in_progress' THEN
            t := underway_internal.lock_row(t, false);
        END IF;
        IF t.id IS NULL THEN
            busy := true;
        ELSIF t.state = 'in_progress' AND t.phase IN ('close', 'sleep', 'wait') THEN
            CONTINUE;       -- what it waited for is there: it ends at once, and what its child gave is not lost
        ELSIF t.state = 'in_progress' THEN
            INSERT INTO underway_internal.cancel_request VALUES (t.id, message, underway_internal.clock()) ON CONFLICT DO NOTHING;
            PERFORM underway_internal.note_cancelled(t.id);
        ELSE
            DELETE FROM underway_internal.task x WHERE x.id = t.id;
            IF NOT underway_internal.keep_child(t) THEN
                PERFORM underway_internal.archive_task(t, 'cancelled', NULL, 'run ended', NULL, message, NULL, NULL, NULL, NULL);
                PERFORM underway_internal.keep_for_undo(t, message);
            END IF;
            stopped := true;
        END IF;
    END LOOP;
    IF busy THEN
        PERFORM underway_internal.nudge(r.id, underway_internal.clock() + interval '20 milliseconds');
    END IF;
    RETURN stopped;
END $$;

-- Writes down that the run closes, and how; false when that stands there.
CREATE FUNCTION underway_internal.store_closing(r underway_internal.run, state text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    UPDATE underway_internal.run x SET state = state, ending = r.ending, undo = r.undo, reason = r.reason, error = r.error,
            sqlstate = r.sqlstate, output = r.output, cause = r.cause, paused_by = NULL
        WHERE x.id = r.id AND (x.ending IS NULL OR x.state <> state OR x.undo <> r.undo OR x.ending <> r.ending);
    RETURN FOUND;
END $$;

-- A run that is to end, r.ending and so on saying how: its other tasks are stopped, then what is to be undone is, then `finally` runs, then it
-- ends. One that was paused or parked goes on by this. Returns the task that `who` goes on with.
CREATE FUNCTION underway_internal.close_run(r underway_internal.run, who underway_internal.claimer) RETURNS underway_internal.task
    LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
BEGIN
    IF r.cause IS NOT NULL THEN
        r.error := r.cause ->> 'error';
        r.sqlstate := r.cause ->> 'sqlstate';
        r.cause := NULL;
    ELSIF r.ending = 'succeeded' THEN
        r.error := NULL;        -- of a step that had parked it
        r.sqlstate := NULL;
    END IF;
    IF EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = r.id AND x.step IS NOT NULL) THEN
        IF underway_internal.store_closing(r, CASE WHEN EXISTS (SELECT FROM underway_internal.task x
                WHERE x.run_id = r.id AND x.phase = 'undo') THEN 'undoing' ELSE 'running' END) THEN
            -- Known to all before anything is stopped: a map's child that ends just now then sees it after its commit, or is found ended.
            PERFORM underway_internal.nudge(r.id);
            RETURN NULL;
        END IF;
        PERFORM underway_internal.stop_some(r, NULL, CASE r.ending WHEN 'cancelled' THEN coalesce(r.error, 'the run was cancelled')
            WHEN 'failed' THEN 'the run failed' ELSE 'the run has finished' END);
        IF EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = r.id AND x.step IS NOT NULL) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF r.undo AND r.ending <> 'succeeded' THEN
        t := underway_internal.undo_next(r, NULL, who);
        IF t.state IS NOT NULL THEN
            RETURN underway_internal.chained(t);
        END IF;
    END IF;
    t := underway_internal.finally_next(r, who);
    IF t.id IS NOT NULL THEN
        RETURN underway_internal.chained(t);
    END IF;
    PERFORM underway_internal.end_run(underway_internal.after_finally(r));
    RETURN NULL;
END $$;

-- What a worker goes on with: the task if it is in progress, else nothing.
CREATE FUNCTION underway_internal.chained(t underway_internal.task) RETURNS underway_internal.task LANGUAGE plpgsql AS $$
BEGIN
    IF t.state = 'in_progress' THEN
        RETURN t;
    END IF;
    RETURN NULL;
END $$;
