-- Change: a step's function that is not, when a run comes to it, as it was when the run's version was defined. The workflow's on_change says what then.
-- Invariant: looked at once, where the step's task is put into the table; what has begun goes on, and is tried again, with whatever is there.

-- What is different about the functions that a step, its undo or its finally is about to call; null when nothing is.
CREATE FUNCTION underway_internal.changed_function(s underway_internal.step, phase text) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    f record;
    digest text;
BEGIN
    FOR f IN SELECT x.* FROM (VALUES ('handler', s.handler_schema, s.handler_name, s.handler_args, s.body_digest, phase IS DISTINCT FROM 'undo'),
                ('over', s.over_schema, s.over_name, s.over_args, s.over_digest, phase IS DISTINCT FROM 'undo'),
                ('undo', s.undo_schema, s.undo_name, s.undo_args, s.undo_digest, phase = 'undo')) x(what, schema, name, args, digest, wanted)
            WHERE x.wanted AND x.name IS NOT NULL LOOP
        digest := underway_internal.body_digest(f.schema, f.name, f.args);
        IF digest IS DISTINCT FROM f.digest THEN
            RETURN format(CASE WHEN digest IS NULL THEN '%s %I.%I(%s) is not there any more' ELSE '%s %I.%I(%s) is not as it was in version %s' END,
                f.what, f.schema, f.name, array_to_string(f.args, ', '), s.version);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- put_step() for what calls a function. Changed, under `pause` the task is there, and paused with its run until resume(); under `fail` it has
-- failed, and the run with it.
CREATE FUNCTION underway_internal.put_function_step(
        r underway_internal.run, s underway_internal.step, phase text, item int, input jsonb, due timestamptz,
        who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    on_change text := (SELECT w.on_change FROM underway_internal.workflow w WHERE w.queue_id = s.queue_id);
    problem text;
    t underway_internal.task;
BEGIN
    IF on_change <> 'continue' THEN
        problem := underway_internal.changed_function(s, phase);
    END IF;
    IF problem IS NULL THEN
        RETURN underway_internal.put_step(r, s, phase, item, input, due, who);
    END IF;
    t := underway_internal.put_step(r, s, phase, item, input, due, NULL);
    IF on_change = 'pause' THEN
        problem := format('on_change: step "%s": %s', s.name, problem);
        UPDATE underway_internal.task x SET state = 'waiting', paused_by = problem WHERE x.id = t.id RETURNING x.* INTO t;
        UPDATE underway_internal.run x SET state = 'paused', paused_by = problem WHERE x.id = r.id;
    ELSE
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        IF r.ending IS NULL THEN
            r.ending := 'failed';
            r.reason := 'function changed';
            r.error := format('step "%s": %s', s.name, problem);
            r.sqlstate := '55000';
            PERFORM underway_internal.store_closing(r, 'running');
        END IF;
        PERFORM underway_internal.archive_task(t, 'failed', NULL, 'function changed', '55000', problem, NULL,
            'Put it back as it was, or define the workflow anew and start another run.', NULL, NULL);
        t.state := 'failed';
    END IF;
    RETURN t;
END $$;
