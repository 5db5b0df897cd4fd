-- Child workflows: a step that is a run of another workflow. Its own task waits meanwhile (phase child), and knows the run by its headers.
-- Invariant: a child run ends in the commit that makes its parent's task due. Nobody else changes that task, and while it is there the parent does
-- not end. So a cancel of the parent asks the child to end, and waits for it.

-- How many runs may stand one above the other: a workflow that starts itself must not do so for ever.
CREATE FUNCTION underway_internal.most_generations() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RETURN 100;
END $$;

-- Why the run must not start another of that workflow: its SQLSTATE and what is wrong; null when it may. Rights are those of the parent's owner, who
-- had them when the workflow was defined.
CREATE FUNCTION underway_internal.refuse_child(r underway_internal.run, target underway_internal.queue, OUT code text, OUT problem text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    owner text := (SELECT q.owner FROM underway_internal.queue q WHERE q.id = r.queue_id);
    generations int;
BEGIN
    IF target.dropped_at IS NOT NULL THEN
        code := '42704';
        problem := format('workflow "%s" was dropped', target.name);
    ELSIF NOT coalesce(underway_internal.may(to_regrole(quote_ident(owner))::oid, target, 'enqueue'), false) THEN
        code := '42501';
        problem := format('role "%s" does not have the right enqueue on workflow "%s"', owner, target.name);
    ELSIF r.parent IS NOT NULL THEN
        WITH RECURSIVE above(id) AS (
            SELECT r.parent UNION ALL SELECT x.parent FROM above a JOIN underway_internal.run x ON x.id = a.id WHERE x.parent IS NOT NULL)
            SELECT count(*) + 2 INTO generations FROM above;
        IF generations > underway_internal.most_generations() THEN
            code := '54000';
            problem := format('a run cannot have more than %s runs above it', underway_internal.most_generations() - 1);
        END IF;
    END IF;
END $$;

-- Begins a step of the kind: its task, and the other run, which a nudge of its own begins: it may in turn begin with a child.
CREATE FUNCTION underway_internal.begin_child(r underway_internal.run, s underway_internal.step, input jsonb, due timestamptz)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    target underway_internal.queue;
    refused record;
    c underway_internal.run;
    t underway_internal.task;
BEGIN
    SELECT q.* INTO target FROM underway_internal.queue q WHERE q.id = s.child_queue;
    c.id := underway_internal.new_id();
    c.headers := r.headers;
    r.headers := coalesce(r.headers, '{}') || jsonb_build_object('child', jsonb_build_object('run', c.id));
    t := underway_internal.put_step(r, s, 'child', -1, input, due, NULL);
    refused := underway_internal.refuse_child(r, target);
    IF refused.problem IS NOT NULL THEN
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        t.headers := t.headers - 'child';
        PERFORM underway_internal.archive_task(t, 'failed', NULL, 'error', refused.code, refused.problem, NULL, NULL, NULL, NULL);
        RETURN t;
    END IF;
    c.queue_id := target.id;
    SELECT w.version, w.run_timeout, due + w.run_timeout INTO c.version, c.timeout, c.deadline FROM underway_internal.workflow w WHERE w.queue_id = target.id;
    c.state := CASE WHEN t.paused_by IS NULL THEN 'running' ELSE 'paused' END;
    c.paused_by := t.paused_by;
    c.undo := true;
    c.input := t.input;
    c.priority := least(target.priority, r.priority);
    c.group_key := r.group_key;
    c.parent := r.id;
    c.parent_step := s.name;
    c.started_by := (SELECT q.owner FROM underway_internal.queue q WHERE q.id = r.queue_id);
    c.started_at := underway_internal.clock();
    INSERT INTO underway_internal.run SELECT c.*;
    PERFORM underway_internal.note_deadline(c.deadline);
    PERFORM underway_internal.nudge(c.id, due);
    RETURN t;
END $$;

-- A run has ended: the task of its parent's step, if it waits for this run, is due and knows how.
CREATE FUNCTION underway_internal.child_ended(c underway_internal.run) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
    now timestamptz := underway_internal.clock();
BEGIN
    IF c.parent IS NULL THEN
        RETURN false;
    END IF;
    SELECT x.* INTO t FROM underway_internal.task x
        WHERE x.run_id = c.parent AND x.step = c.parent_step AND x.item = -1 AND x.phase = 'child' AND x.headers #>> '{child,run}' = c.id::text;
    IF FOUND THEN
        t := underway_internal.lock_row(t, true);
    END IF;
    IF t.phase IS DISTINCT FROM 'child' THEN
        RETURN false;       -- the run was retried after its parent had gone on
    END IF;
    PERFORM underway_internal.note(t.queue_id, t.priority, now, t.id);
    UPDATE underway_internal.task x
        SET state = 'pending', phase = 'close', run_at = now, headers = x.headers || jsonb_build_object('child',
            jsonb_build_object('run', c.id, 'state', c.ending, 'error', c.error, 'sqlstate', c.sqlstate)
                || CASE WHEN c.output IS NULL THEN '{}' ELSE jsonb_build_object('output', c.output) END)
        WHERE x.id = t.id;
    IF EXISTS (SELECT FROM underway_internal.run_control g WHERE g.run_id = c.parent) THEN
        PERFORM underway_internal.ask_run(c.parent, 'look', NULL, NULL, c.started_by);      -- no worker may be allowed on its queue
    END IF;
    RETURN true;
END $$;

-- The parent's task, deleted by the caller, when its child did not succeed.
CREATE FUNCTION underway_internal.archive_child(t underway_internal.task) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    c jsonb := t.headers -> 'child';
BEGIN
    RETURN underway_internal.archive_task(t, 'failed', NULL, 'error', c ->> 'sqlstate',
        CASE c ->> 'state' WHEN 'cancelled' THEN 'child run was cancelled' ELSE 'child run failed' END || coalesce(': ' || (c ->> 'error'), ''),
        format('The child run is %s.', c ->> 'run'), NULL, NULL, NULL);
END $$;

-- The task, deleted by the caller, of a step whose child run has ended before it could be stopped: so has the step, or a retry of the parent would
-- start another where that has succeeded. False: it is no such task.
CREATE FUNCTION underway_internal.keep_child(t underway_internal.task) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    output jsonb := t.headers #> '{child,output}';
BEGIN
    IF t.phase IS DISTINCT FROM 'close' OR t.headers #>> '{child,state}' IS NULL
            OR NOT EXISTS (SELECT FROM underway_internal.run r
                JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = t.step
                WHERE r.id = t.run_id AND s.kind = 'child') THEN
        RETURN false;
    ELSIF t.headers #>> '{child,state}' <> 'succeeded' THEN
        PERFORM underway_internal.archive_child(t);
        RETURN true;
    END IF;
    t.headers := t.headers #- '{child,output}';
    IF (SELECT q.keep = 'all' FROM underway_internal.queue q WHERE q.id = t.queue_id) THEN
        PERFORM underway_internal.archive_step(t, output, NULL);
    END IF;
    RETURN underway_internal.record_result(t, 'succeeded', NULL, coalesce(output, t.input), NULL, NULL, NULL);
END $$;

-- A step of that kind whose run is to end. False: the child was asked before, or is ending anyway, or has just ended.
CREATE FUNCTION underway_internal.stop_child(r underway_internal.run, t underway_internal.task, message text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    child_id uuid := (t.headers #>> '{child,run}')::uuid;
BEGIN
    IF NOT EXISTS (SELECT FROM underway_internal.run x WHERE x.id = child_id AND (x.ending IS NULL OR x.undo AND NOT r.undo))
            OR EXISTS (SELECT FROM underway_internal.run_control x
                WHERE x.run_id = child_id AND x.kind = 'cancel' AND (r.undo OR x.undo IS FALSE)) THEN
        RETURN false;
    END IF;
    RETURN underway_internal.ask_run(child_id, 'cancel', r.undo, message, r.started_by);
END $$;
