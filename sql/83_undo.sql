-- Undo: a run that fails or is cancelled undoes what its steps did, one after the other, the last one first.
-- Invariant: step_result.undo says what is left to be undone: set with the result, gone with the commit of the undo. Nobody but who has the
-- run's lock, or ends the task of an undo, touches it.

-- What is to be undone of a step, or of a child of a map, that has ended so: due, or null. Of one that did not succeed: what an attempt may have
-- left behind, since it was begun outside, was a procedure (which may commit), gave up, or ran again later and kept its effects.
CREATE FUNCTION underway_internal.undo_of(t underway_internal.task, s underway_internal.step, state text, reason text) RETURNS text
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    IF s.undo_name IS NULL AND s.undo_queue IS NULL OR s.kind = 'map' AND t.item < 0 THEN
        RETURN NULL;
    ELSIF state = 'succeeded' OR t.attempt > 0 AND (
            t.queue_id <> s.queue_id OR t.snoozes > 0 OR reason = 'gave up'
            OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                WHERE n.nspname = s.handler_schema AND p.proname = s.handler_name AND p.prokind = 'p'
                  AND p.proargtypes = CASE WHEN s.handler_args = '{}' THEN '' ELSE '3802' END::oidvector)) THEN
        RETURN 'due';
    END IF;
    RETURN NULL;
END $$;

-- A task that was stopped before it ended.
CREATE FUNCTION underway_internal.keep_for_undo(t underway_internal.task, message text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
BEGIN
    IF t.attempt = 0 OR t.phase IS NOT NULL THEN
        RETURN false;
    END IF;
    SELECT x.* INTO s FROM underway_internal.run r
        JOIN underway_internal.step x ON x.queue_id = r.queue_id AND x.version = r.version AND x.name = t.step
        WHERE r.id = t.run_id;
    IF underway_internal.undo_of(t, s, 'cancelled', NULL) IS NULL THEN
        RETURN false;
    END IF;
    RETURN underway_internal.record_result(t, 'cancelled', t.input, NULL, message, NULL, 'due');
END $$;

-- Begins the undo of the last one of what is left, of those with a smaller seq than `below` (null: of all). Its id and state are null when nothing is; id null and state parked: that one could not be
-- undone, and the run is parked.
CREATE FUNCTION underway_internal.undo_next(r underway_internal.run, below bigint, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    s underway_internal.step;
    x underway_internal.step_result;
    t underway_internal.task;
BEGIN
    SELECT y.* INTO x FROM underway_internal.step_result y WHERE y.run_id = r.id AND y.undo IS NOT NULL
        AND y.seq < coalesce(below, 9223372036854775807) ORDER BY y.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF x.undo = 'stuck' THEN
        r.cause := jsonb_build_object('error', r.error, 'sqlstate', r.sqlstate);
        r.error := format('undo of step "%s": %s', x.step, x.error);
        r.sqlstate := x.sqlstate;
        PERFORM underway_internal.store_closing(r, 'parked');
        t.state := 'parked';
        RETURN t;
    END IF;
    SELECT y.* INTO s FROM underway_internal.step y WHERE y.queue_id = r.queue_id AND y.version = r.version AND y.name = x.step;
    PERFORM underway_internal.store_closing(r, 'undoing');
    RETURN underway_internal.put_function_step(r, s, 'undo', x.item, coalesce(x.output, x.input), underway_internal.clock(), who);
END $$;

-- The seq of what was undone.
CREATE FUNCTION underway_internal.undone(t underway_internal.task) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    at bigint;
BEGIN
    UPDATE underway_internal.step_result x SET state = 'undone', undo = NULL
        WHERE x.run_id = t.run_id AND x.step = t.step AND x.item = t.item RETURNING x.seq INTO at;
    RETURN at;
END $$;

-- close_run() after an undo. A run that undoes has no other task, so the next undo is found from the place of the last one: a look at the whole run
-- would meet what is left of all that is done, for as long as an old snapshot keeps it.
CREATE FUNCTION underway_internal.undo_more(r underway_internal.run, below bigint, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
BEGIN
    IF r.undo THEN
        t := underway_internal.undo_next(r, below, who);
        IF t.state IS NOT NULL THEN
            RETURN underway_internal.chained(t);
        END IF;
    END IF;
    RETURN underway_internal.close_run(r, who);
END $$;

-- For good: the run will be parked by who looks next.
CREATE FUNCTION underway_internal.undo_failed(t underway_internal.task, sqlstate text, message text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    UPDATE underway_internal.step_result x SET undo = 'stuck', error = message, sqlstate = sqlstate
        WHERE x.run_id = t.run_id AND x.step = t.step AND x.item = t.item;
    RETURN FOUND;
END $$;

-- A run that is parked since it could not be undone: tries that once more. The caller has locked it.
CREATE FUNCTION underway_internal.retry_undo(r underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    UPDATE underway_internal.step_result x SET undo = 'due' WHERE x.run_id = r.id AND x.undo = 'stuck';
    PERFORM underway_internal.close_run(r, NULL);
    RETURN true;
END $$;
