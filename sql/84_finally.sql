-- Finally: what runs however a run ends, after everything else and after what is undone. It is told how the run ends.
-- Invariant: begun at most once for each end of a run, since its result stands until then; a cancel does not stop it.

-- The next step of that kind that has not run; its id is null when there is none.
CREATE FUNCTION underway_internal.finally_next(r underway_internal.run, who underway_internal.claimer) RETURNS underway_internal.task
    LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
BEGIN
    SELECT x.* INTO s FROM underway_internal.step x
        WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.kind = 'finally'
          AND NOT EXISTS (SELECT FROM underway_internal.step_result y WHERE y.run_id = r.id AND y.step = x.name AND y.item = -1)
        ORDER BY x.position LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM underway_internal.store_closing(r, 'running');
    RETURN underway_internal.put_function_step(r, s, 'finally', -1,
        jsonb_build_object('state', r.ending, 'error', r.error, 'sqlstate', r.sqlstate, 'input', r.input, 'output', r.output),
        underway_internal.clock(), who);
END $$;

-- A run that would have succeeded fails with its finally; it is not undone any more. One that failed already has its error.
CREATE FUNCTION underway_internal.after_finally(r underway_internal.run) RETURNS underway_internal.run LANGUAGE plpgsql AS $$
DECLARE
    f underway_internal.step_result;
BEGIN
    IF r.ending <> 'succeeded' THEN
        RETURN r;
    END IF;
    SELECT x.* INTO f FROM underway_internal.step s JOIN underway_internal.step_result x ON x.run_id = r.id AND x.step = s.name AND x.item = -1
        WHERE s.queue_id = r.queue_id AND s.version = r.version AND s.kind = 'finally' AND x.state IN ('failed', 'cancelled')
        ORDER BY x.seq LIMIT 1;
    IF FOUND THEN
        r.ending := 'failed';
        r.reason := 'step failed';
        r.error := format('step "%s": %s', f.step, f.error);
        r.sqlstate := f.sqlstate;
        r.output := NULL;
    END IF;
    RETURN r;
END $$;
