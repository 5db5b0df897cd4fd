-- Advance: what comes next in a run. Invariants: src/README.md. r is always the value of a run's row that the caller has locked.

-- The step and all that come after it, directly or not.
CREATE FUNCTION underway_internal.from_here_on(queue_id int, version int, step text) RETURNS text[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE later(name) AS (
            SELECT from_here_on.step
            UNION SELECT s.name FROM later JOIN underway_internal.step s
                ON s.queue_id = from_here_on.queue_id AND s.version = from_here_on.version AND later.name = ANY (s.after))
        SELECT name FROM later);
END $$;

-- The step and all that come before it.
CREATE FUNCTION underway_internal.up_to_here(queue_id int, version int, step text) RETURNS text[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE before(name) AS (
            SELECT up_to_here.step
            UNION SELECT a FROM before JOIN underway_internal.step s
                ON s.queue_id = up_to_here.queue_id AND s.version = up_to_here.version AND s.name = before.name
                CROSS JOIN unnest(s.after) a)
        SELECT name FROM before);
END $$;

CREATE FUNCTION underway_internal.record_result(
        t underway_internal.task, state text, input jsonb, output jsonb, error text, sqlstate text, undo text)
    RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO underway_internal.step_result (run_id, step, item, state, input, output, error, sqlstate, task_id, ended_at, undo)
        VALUES (t.run_id, t.step, t.item, record_result.state, record_result.input, record_result.output, record_result.error,
            record_result.sqlstate, t.id, underway_internal.clock(), record_result.undo);
    RETURN true;
END $$;

-- Begins a step whose predecessors have results, or skips it: then the id is null.
CREATE FUNCTION underway_internal.begin_step(
        r underway_internal.run, s underway_internal.step, previous jsonb, due timestamptz, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    phase text;
    arrived jsonb;
BEGIN
    IF s.run_if IS NOT NULL AND NOT underway_internal.eval_run_if(s, r.input, underway_internal.needed_results(r, s)) THEN
        -- As if it were not there: what it would have got without a template is passed on.
        s.input := NULL;
        INSERT INTO underway_internal.step_result (run_id, step, state, output, ended_at, next_at)
            VALUES (r.id, s.name, 'skipped', underway_internal.input_of(r, s, previous), underway_internal.clock(),
                CASE WHEN due > underway_internal.clock() THEN due END);
        RETURN NULL;
    END IF;
    IF s.kind = 'child' THEN
        RETURN underway_internal.begin_child(r, s, underway_internal.input_of(r, s, previous), due);
    ELSIF s.kind = 'sleep' THEN
        phase := 'sleep';
    ELSIF s.kind = 'wait' THEN
        phase := 'wait';
        arrived := underway_internal.take_signal(r.id, s.signal);
        IF arrived IS NOT NULL THEN
            phase := 'close';
            due := underway_internal.clock();
            r.headers := coalesce(r.headers, '{}') || jsonb_build_object('signal', arrived);
        ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
            PERFORM underway_internal.nudge(r.id);      -- there may be one that this snapshot does not see
        END IF;
    END IF;
    RETURN underway_internal.put_function_step(r, s, phase, -1, underway_internal.input_of(r, s, previous), due, who);
END $$;

-- Begins whatever can begin: steps without result that are not under way, and whose predecessors have results. from_step: only those
-- after it can; null: look at all. Returns the task that `who` goes on with; its id is null when there is none.
CREATE FUNCTION underway_internal.advance(
        r underway_internal.run, from_step text, previous jsonb, due timestamptz, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    chained underway_internal.task;
    s underway_internal.step;
    t underway_internal.task;
    again bool := true;
    -- Before the look at results: a step that ends without the run's lock leaves its result and takes its task away in one commit.
    over bool := NOT EXISTS (SELECT FROM underway_internal.task y WHERE y.run_id = r.id AND y.step IS NOT NULL);
BEGIN
    IF from_step IS NOT NULL AND due > underway_internal.clock() THEN
        UPDATE underway_internal.step_result x SET next_at = due WHERE x.run_id = r.id AND x.step = from_step AND x.item = -1;
    END IF;
    WHILE again LOOP
        again := false;
        FOR s IN SELECT x.* FROM underway_internal.step x
                WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.kind <> 'finally'
                  AND (from_step IS NULL OR from_step = ANY (x.after))
                  AND NOT EXISTS (SELECT FROM underway_internal.step_result y WHERE y.run_id = r.id AND y.step = x.name AND y.item = -1)
                  AND NOT EXISTS (SELECT FROM underway_internal.task y WHERE y.run_id = r.id AND y.step = x.name AND y.item = -1)
                  AND NOT EXISTS (SELECT FROM unnest(x.after) a WHERE NOT EXISTS (SELECT FROM underway_internal.step_result y
                      WHERE y.run_id = r.id AND y.step = a AND y.item = -1 AND y.state IN ('succeeded', 'skipped')))
                ORDER BY x.position LOOP
            t := underway_internal.begin_step(r, s, previous, CASE WHEN cardinality(s.after) > 1 THEN greatest(due, (
                SELECT max(y.next_at) FROM underway_internal.step_result y
                WHERE y.run_id = r.id AND y.step = ANY (s.after) AND y.item = -1)) ELSE due END, who);
            over := over AND t.id IS NULL;
            IF t.id IS NULL THEN
                again := true;
            ELSIF t.state = 'in_progress' THEN
                chained := t;
                who := NULL;
            END IF;
        END LOOP;
        from_step := NULL;
        previous := NULL;
    END LOOP;
    -- A step that has failed, and whose nudge nobody has followed yet, decides later.
    IF over AND NOT EXISTS (SELECT FROM underway_internal.step_result y
                WHERE y.run_id = r.id AND y.item = -1 AND y.state IN ('failed', 'cancelled')) THEN
        r.ending := 'succeeded';
        r.output := underway_internal.run_output(r);
        RETURN underway_internal.close_run(r, who);
    END IF;
    RETURN chained;
END $$;

-- advance() for a workflow in which each step has one before and one after it: only the next one can begin.
CREATE FUNCTION underway_internal.advance_linear(
        r underway_internal.run, after_position int, previous jsonb, due timestamptz, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    s underway_internal.step;
    t underway_internal.task;
BEGIN
    LOOP
        SELECT x.* INTO s FROM underway_internal.step x
            WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.position > after_position AND x.kind <> 'finally'
            ORDER BY x.position LIMIT 1;
        IF NOT FOUND THEN
            r.ending := 'succeeded';
            r.output := previous;
            RETURN underway_internal.close_run(r, who);
        END IF;
        t := underway_internal.begin_step(r, s, previous, due, who);
        EXIT WHEN t.id IS NOT NULL;
        after_position := s.position;
    END LOOP;
    RETURN underway_internal.chained(t);
END $$;

-- The output of the last step; of several last ones, an object by their names.
CREATE FUNCTION underway_internal.run_output(r underway_internal.run) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    lasts text[] := ARRAY(
        SELECT s.name FROM underway_internal.step s
        WHERE s.queue_id = r.queue_id AND s.version = r.version AND s.kind <> 'finally'
          AND NOT EXISTS (SELECT FROM underway_internal.step y
              WHERE y.queue_id = r.queue_id AND y.version = r.version AND s.name = ANY (y.after))
        ORDER BY s.position);
BEGIN
    IF cardinality(lasts) = 1 THEN
        RETURN (SELECT x.output FROM underway_internal.step_result x WHERE x.run_id = r.id AND x.step = lasts[1] AND x.item = -1);
    END IF;
    RETURN (SELECT jsonb_object_agg(a.name, CASE WHEN x.state = 'succeeded' THEN x.output END)
        FROM unnest(lasts) a(name)
        LEFT JOIN underway_internal.step_result x ON x.run_id = r.id AND x.step = a.name AND x.item = -1);
END $$;

-- Goes on with `target` instead of what comes after s. What lies between is skipped; what comes after the target and ran before is
-- forgotten, but for its undo.
CREATE FUNCTION underway_internal.go_to(
        r underway_internal.run, s underway_internal.step, target text, previous jsonb, due timestamptz,
        who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    goal underway_internal.step;
    t underway_internal.task;
    later text[];
    branch text[];
    beside text;
BEGIN
    SELECT x.* INTO goal FROM underway_internal.step x
        WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.name = target AND x.kind <> 'finally';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('go_to: there is no step "%s" in this version of the workflow', left(target, 200)),
            HINT = (SELECT format('Its steps: %s.', left(string_agg(x.name, ', ' ORDER BY x.position), 500)) FROM underway_internal.step x
                WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.kind <> 'finally');
    END IF;
    later := underway_internal.from_here_on(r.queue_id, r.version, target);
    branch := underway_internal.from_here_on(r.queue_id, r.version, s.name) || underway_internal.up_to_here(r.queue_id, r.version, s.name);
    -- Else a step beside this one, which may be under way, would begin a second time.
    SELECT x INTO beside FROM unnest(later) x WHERE x <> ALL (branch) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('go_to: step "%s" cannot go to "%s", since that leads to "%s", which runs beside it', s.name, target, beside),
            HINT = 'Go to a step that comes before or after this one on the same branch.';
    END IF;
    -- Nor may a join begin before its other branches have ended, or the last of them would begin it once more.
    SELECT x INTO beside FROM unnest(underway_internal.up_to_here(r.queue_id, r.version, target)) x WHERE x <> ALL (branch) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('go_to: step "%s" cannot go to "%s", since that waits for "%s", which runs beside it', s.name, target, beside),
            HINT = 'Go to a step before that one. A branch the rest of which may be passed over needs a last step of its own to go to.';
    END IF;
    PERFORM underway_internal.forget_results(r.id, later);
    INSERT INTO underway_internal.step_result (run_id, step, state, ended_at)
        SELECT r.id, x, 'skipped', underway_internal.clock()
        FROM unnest(underway_internal.from_here_on(r.queue_id, r.version, s.name)) x
        WHERE x <> ALL (later) AND x <> s.name
        ON CONFLICT DO NOTHING;
    goal.run_if := NULL;
    goal.after := ARRAY[s.name];
    t := underway_internal.begin_step(r, goal, previous, due, who);
    RETURN underway_internal.chained(t);
END $$;

-- Results of steps that are to run again. Those that can be undone stay, under numbers of their own.
CREATE FUNCTION underway_internal.forget_results(run_id uuid, steps text[]) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    WITH lowest AS (
        SELECT x.step, least(min(x.item), -1) AS item FROM underway_internal.step_result x
        WHERE x.run_id = forget_results.run_id AND x.step = ANY (steps) GROUP BY x.step),
    gone AS (
        DELETE FROM underway_internal.step_result x
        WHERE x.run_id = forget_results.run_id AND x.step = ANY (steps) AND x.item >= -1
        RETURNING x.*)
    INSERT INTO underway_internal.step_result (run_id, step, item, state, input, output, error, sqlstate, task_id, ended_at, seq, undo)
        SELECT g.run_id, g.step, l.item - row_number() OVER (PARTITION BY g.step ORDER BY g.seq), g.state, g.input, g.output, g.error,
            g.sqlstate, g.task_id, g.ended_at, g.seq, g.undo
        FROM gone g JOIN lowest l ON l.step = g.step WHERE g.undo IS NOT NULL;
    RETURN true;
END $$;

