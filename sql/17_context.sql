-- What a handler may ask about the attempt that it is; null outside.
CREATE FUNCTION underway.task_id() RETURNS uuid LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_task_id';
COMMENT ON FUNCTION underway.task_id() IS 'In a handler: the id of its task, the same at each attempt: a key for effects outside the database. Null elsewhere.';

CREATE FUNCTION underway.attempt() RETURNS int LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_attempt';
COMMENT ON FUNCTION underway.attempt() IS 'In a handler: the number of this attempt, from 1. Null elsewhere.';

CREATE FUNCTION underway.last_attempt() RETURNS bool LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_last_attempt';
COMMENT ON FUNCTION underway.last_attempt() IS 'In a handler: whether the task fails for good if this attempt fails. Null elsewhere.';

CREATE FUNCTION underway.headers() RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_headers';
COMMENT ON FUNCTION underway.headers() IS 'In a handler: the headers that the task was enqueued with; in a dead letter also dead_letter, with queue, task and error of the original. Null elsewhere.';

CREATE FUNCTION underway.progress(progress jsonb) RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_progress';
COMMENT ON FUNCTION underway.progress IS
'In a handler: shows how far it is, at once and to everybody who may see the task, in status() (in no transaction: it is not undone). At most 500 bytes as text. Returns its argument.
Errors: 22023 when too long. Outside a handler it does nothing.';

CREATE FUNCTION underway.run_id() RETURNS uuid LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_run_id';
COMMENT ON FUNCTION underway.run_id() IS 'In a step of a workflow: the id of its run. Null elsewhere.';

CREATE FUNCTION underway.run_input() RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_run_input';
COMMENT ON FUNCTION underway.run_input() IS 'In a step of a workflow: the input that its run was started with. Null elsewhere.';

CREATE FUNCTION underway.step_output(step text) RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_step_output';
COMMENT ON FUNCTION underway.step_output IS
'In a step of a workflow: what that step of the run gave; of one that gave nothing, the input that it passed on; of a map, the array of its outputs. Null for one that has not ended or was skipped, and outside a workflow.
Errors: 42704 no such step.';

CREATE FUNCTION underway.step_outputs(step text)
    RETURNS TABLE (index int, input jsonb, state text, output jsonb, error text)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_step_outputs';
COMMENT ON FUNCTION underway.step_outputs IS
'In a step of a workflow: what each child of a map of the run got and gave, in order; of another step, one row without index. No rows outside a workflow.
Errors: 42704 no such step.';

-- The run of the task that is being worked, as the library knows it.
CREATE FUNCTION underway_internal.run_input(run_id uuid) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT r.input FROM underway_internal.run r WHERE r.id = run_input.run_id);
END $$;

CREATE FUNCTION underway_internal.step_outputs(run_id uuid, step text)
    RETURNS TABLE (item int, "input" jsonb, state text, output jsonb, error text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r underway_internal.run;
    has_children bool;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = step_outputs.run_id;
    IF NOT EXISTS (SELECT FROM underway_internal.step s
            WHERE s.queue_id = r.queue_id AND s.version = r.version AND s.name = step_outputs.step) THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('there is no step "%s" in this version of the workflow',
            coalesce(left(step_outputs.step, 200), 'null')), HINT = 'Give the name of a step as it is in the definition.';
    END IF;
    has_children := EXISTS (SELECT FROM underway_internal.step_result x
        WHERE x.run_id = step_outputs.run_id AND x.step = step_outputs.step AND x.item >= 0);
    RETURN QUERY SELECT nullif(x.item, -1), x.input, x.state, CASE WHEN x.state IN ('succeeded', 'undone') THEN x.output END, x.error
        FROM underway_internal.step_result x
        WHERE x.run_id = step_outputs.run_id AND x.step = step_outputs.step AND x.item >= has_children::int - 1 ORDER BY x.item;
END $$;

CREATE FUNCTION underway_internal.step_output(run_id uuid, step text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    found_output jsonb;
BEGIN
    SELECT x.output INTO found_output FROM underway_internal.step_result x
        WHERE x.run_id = step_output.run_id AND x.step = step_output.step AND x.item = -1 AND x.state IN ('succeeded', 'undone');
    IF NOT FOUND THEN
        PERFORM underway_internal.step_outputs(run_id, step);
    END IF;
    RETURN found_output;
END $$;
