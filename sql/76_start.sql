-- Start: a run of a workflow, in the caller's transaction; and the tasks that its steps are.
-- Invariant: a step under way has one task row, by the unique index task_step (src/README.md).

-- Who has just finished a task of this queue, and would go on at once with what comes next. Null: nobody.
CREATE TYPE underway_internal.claimer AS (queue_id int, worker text, boot bigint, slot int, generation int);

-- What the template and the conditions of a step may speak of: outputs by step name; skipped steps have none.
CREATE FUNCTION underway_internal.needed_results(r underway_internal.run, s underway_internal.step) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT jsonb_object_agg(x.step, x.output) FROM underway_internal.step_result x
        WHERE x.run_id = r.id AND x.item = -1 AND x.state = 'succeeded' AND (x.step = ANY (s.after) OR x.step = ANY (s.needs)));
END $$;

-- What a step gets: by its template; else the run's input, the output before it, or an object of those before it by their names.
-- previous: the output before it, where the caller knows it.
CREATE FUNCTION underway_internal.input_of(r underway_internal.run, s underway_internal.step, previous jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    IF s.input IS NOT NULL THEN
        RETURN underway_internal.eval_input(s, r.input, underway_internal.needed_results(r, s));
    ELSIF cardinality(s.after) = 0 THEN
        RETURN r.input;
    ELSIF cardinality(s.after) = 1 THEN
        RETURN coalesce(previous, (SELECT x.output FROM underway_internal.step_result x
            WHERE x.run_id = r.id AND x.step = s.after[1] AND x.item = -1), '{}');
    END IF;
    RETURN (SELECT jsonb_object_agg(a.name, CASE WHEN x.state = 'succeeded' THEN x.output END)
        FROM unnest(s.after) a(name)
        LEFT JOIN underway_internal.step_result x ON x.run_id = r.id AND x.step = a.name AND x.item = -1);
END $$;

-- The same for a step with a template, whose predecessors have results.
CREATE FUNCTION underway_internal.made_input(run_id uuid, version int, step text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT coalesce(underway_internal.eval_input(s, r.input, underway_internal.needed_results(r, s)), '{}')
        FROM underway_internal.run r JOIN underway_internal.step s ON s.queue_id = r.queue_id
        WHERE r.id = made_input.run_id AND s.version = made_input.version AND s.name = made_input.step);
END $$;

-- Inserts the task of a step. In the queue of `who`, and due now, it is begun in the same act: in progress, claimed by them.
CREATE FUNCTION underway_internal.put_step(
        r underway_internal.run, s underway_internal.step, phase text, item int, input jsonb, due timestamptz,
        who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    target int := CASE WHEN phase = 'undo' THEN s.undo_queue WHEN s.kind <> 'map' OR item >= 0 THEN s.target_queue END;
    now timestamptz := underway_internal.clock();
    chained bool;
    held_by text;
BEGIN
    t.id := underway_internal.new_id();
    t.queue_id := coalesce(target, r.queue_id);
    t.priority := coalesce(s.priority, r.priority);
    t.retry := s.retry;
    t.timeout := s.timeout;
    IF target IS NOT NULL THEN
        -- The settings of the workflow are defaults of all its steps.
        SELECT nullif(coalesce(q.retry, '{}') || coalesce(s.retry, '{}'), '{}'), coalesce(s.timeout, q.timeout) INTO t.retry, t.timeout
            FROM underway_internal.queue q WHERE q.id = r.queue_id;
    END IF;
    IF phase = 'sleep' THEN
        due := due + s.duration;
    ELSIF phase = 'wait' THEN
        due := coalesce(due + s.timeout, 'infinity');
    END IF;
    IF s.kind = 'wait' THEN
        t.timeout := NULL;
    ELSIF phase = 'undo' THEN
        r.headers := coalesce(r.headers, '{}') || '{"undo": true}';     -- both may go to one queue
    END IF;
    -- A child is worked by others.
    -- Nothing begins of a run that is paused or parked: what is decided now is kept for when it goes on.
    IF r.ending IS NULL AND r.state IN ('paused', 'parked') THEN
        held_by := coalesce(r.paused_by, r.state);
    END IF;
    chained := held_by IS NULL AND phase IS DISTINCT FROM 'child' AND t.queue_id = who.queue_id AND due <= now AND (who).worker IS NOT NULL;
    INSERT INTO underway_internal.task AS x (id, queue_id, priority, state, run_at, enqueued_at, attempt, slot, generation, boot,
            claimed_at, enqueued_by, input, headers, group_key, timeout, retry, worker, paused_by, run_id, version, step, item, phase)
        VALUES (t.id, t.queue_id, t.priority, CASE WHEN chained THEN 'in_progress' WHEN phase = 'child' OR held_by IS NOT NULL THEN 'waiting' ELSE 'pending' END, due, now,
            CASE WHEN chained THEN 1 ELSE 0 END, CASE WHEN chained THEN who.slot END, CASE WHEN chained THEN who.generation END,
            CASE WHEN chained THEN who.boot END, CASE WHEN chained THEN now END, r.started_by, coalesce(input, '{}'), r.headers,
            r.group_key, t.timeout, t.retry, CASE WHEN chained THEN who.worker END, held_by, r.id, r.version, s.name, item, phase)
        RETURNING x.* INTO t;
    IF t.state = 'pending' THEN
        PERFORM underway_internal.note(t.queue_id, t.priority, due, t.id);
    END IF;
    RETURN t;
END $$;

-- A task that is no step: whoever works it locks the run, looks and goes on (src/README.md).
CREATE FUNCTION underway_internal.nudge(run_id uuid, due timestamptz DEFAULT NULL) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run;
    now timestamptz := underway_internal.clock();
    id uuid := underway_internal.new_id();
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = nudge.run_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO underway_internal.task (id, queue_id, priority, run_at, enqueued_at, enqueued_by, input, run_id, version)
        VALUES (id, r.queue_id, r.priority, coalesce(due, now), now, r.started_by, '{}', r.id, r.version);
    IF EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = r.id) THEN
        -- No worker may be free for it, or allowed on the queue: who has asked something must not wait for that.
        PERFORM underway_internal.ask_run(r.id, 'look', NULL, NULL, r.started_by);
    END IF;
    RETURN underway_internal.note(r.queue_id, r.priority, coalesce(due, now), id);
END $$;

-- The row of a run, and its first steps.
CREATE FUNCTION underway_internal.begin_run(r underway_internal.run, due timestamptz) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    r.state := 'running';
    r.undo := true;
    r.started_at := coalesce(r.started_at, underway_internal.clock());
    INSERT INTO underway_internal.run SELECT r.*;
    PERFORM underway_internal.note_deadline(r.deadline);
    PERFORM underway_internal.advance(r, NULL, NULL, due, NULL);
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.start(
        caller oid, workflow text, input jsonb, delay interval, run_at timestamptz, priority int, key text, group_key text,
        timeout interval, version int, headers jsonb)
    RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.workflow_for(caller, workflow, 'enqueue');
    r underway_internal.run;
    w underway_internal.workflow;
    now timestamptz := underway_internal.clock();
    due timestamptz := now;
    other uuid;
BEGIN
    IF num_nonnulls(delay, run_at, priority, headers) > 0 THEN
        due := (underway_internal.check_task_options(now, delay, run_at, priority, NULL, NULL, NULL, NULL, headers)).due;
    END IF;
    PERFORM underway_internal.check_interval(timeout, 'timeout', '1 millisecond', '1000 years');
    PERFORM underway_internal.check_key(key, 'key');
    PERFORM underway_internal.check_key(group_key, 'group_key');
    SELECT x.* INTO w FROM underway_internal.workflow x WHERE x.queue_id = q.id;
    IF version IS NOT NULL AND NOT EXISTS (
            SELECT FROM underway_internal.workflow_version v WHERE v.queue_id = q.id AND v.version = version) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('workflow "%s" has no version %s', q.name, version),
            HINT = format('Its current version is %s. Leave version out to start that one.', w.version);
    END IF;
    r.id := underway_internal.new_id();
    IF key IS NOT NULL THEN
        other := underway_internal.take_key(q.id, key, r.id);
        IF other <> r.id THEN
            RETURN other;
        END IF;
    END IF;
    r.queue_id := q.id;
    r.version := coalesce(version, w.version);
    r.input := coalesce(input, '{}');
    r.headers := headers;
    r.priority := coalesce(priority, q.priority);
    r.key := key;
    r.group_key := group_key;
    r.started_by := pg_get_userbyid(caller);
    r.started_at := now;
    r.timeout := coalesce(timeout, w.run_timeout);
    r.deadline := due + r.timeout;
    PERFORM underway_internal.begin_run(r, due);
    RETURN r.id;
END $$;

CREATE FUNCTION underway.start(
        workflow text, input jsonb DEFAULT '{}', delay interval DEFAULT NULL, run_at timestamptz DEFAULT NULL,
        priority int DEFAULT NULL, key text DEFAULT NULL, group_key text DEFAULT NULL, timeout interval DEFAULT NULL,
        version int DEFAULT NULL, headers jsonb DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.start IS
'Starts a run of a workflow in the caller''s transaction, also from a trigger; a worker is woken when that commits. Needs the right enqueue on the workflow.
workflow: its name. input: given to the first step; NULL becomes {}. delay: from now, or run_at: when it begins. priority: of its steps, 0 (first) to 15. key: with a key that a kept run of the workflow has, that run''s id comes back and nothing is started. group_key: stored. timeout: of the whole run, from when it begins. version: another than the current one. headers: a JSON object that each step can read.
Returns the run''s id. Errors: 42704 no such workflow, 42501 not allowed, 22023 bad value.';
