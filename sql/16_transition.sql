-- What a handler may decide instead of just returning: a value of this type.
CREATE TYPE underway.transition AS (action text, output jsonb, delay interval, input jsonb, error text, step text);
COMMENT ON TYPE underway.transition IS 'What a handler decides about its task: made by underway.again(), underway.give_up() and, in a step of a workflow, underway.next(), underway.go_to() and underway.finish().';

CREATE FUNCTION underway.again(delay interval, input jsonb DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF delay IS NULL OR delay < interval '0' OR delay > interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('delay must be from 0 to 1000 years, not %s', coalesce(delay::text, 'null')),
            HINT = 'For example: RETURN underway.again(''10 s'');';
    END IF;
    RETURN ROW('again', NULL, delay, input, NULL, NULL)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.again IS
'Returned by a handler: keep the effects, and run this task once more after delay, with another input if one is given. Uses no attempt.
Errors: 22023 for a null or negative delay.';

CREATE FUNCTION underway.give_up(error text, output jsonb DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(error, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'error must not be empty', HINT = 'Say why the task is given up.';
    END IF;
    RETURN ROW('give_up', output, NULL, NULL, error, NULL)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.give_up IS
'Returned by a handler: keep the effects, end the task as failed with this error, and do not retry. A dead letter is written as for any failed task.
Errors: 22023 for an empty error.';

CREATE FUNCTION underway.next(output jsonb DEFAULT NULL, delay interval DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF delay < interval '0' OR delay > interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('delay must be from 0 to 1000 years, not %s', delay),
            HINT = 'Leave it out to go on at once.';
    END IF;
    RETURN ROW('next', output, delay, NULL, NULL, NULL)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.next IS
'Returned by a step of a workflow: go on with what comes next, which gets output, after delay.
Errors: 22023 for a negative delay. Outside a workflow the attempt fails.';

CREATE FUNCTION underway.go_to(step text, output jsonb DEFAULT NULL, delay interval DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(step, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'step must not be empty', HINT = 'Name a step of the workflow.';
    ELSIF delay < interval '0' OR delay > interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('delay must be from 0 to 1000 years, not %s', delay),
            HINT = 'Leave it out to go on at once.';
    END IF;
    RETURN ROW('go_to', output, delay, NULL, NULL, step)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.go_to IS
'Returned by a step of a workflow: go on with that step of the same branch, which gets output, after delay. A step further on: those between are skipped. One before, or the same: it and what comes after it run again, and what they gave before is forgotten, but for their undo.
Errors: 22023 for an empty step or a negative delay. The attempt fails for a step that there is not (42704), that leads to one beside this one or waits for one (55000), and outside a workflow.';

CREATE FUNCTION underway.finish(output jsonb DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ROW('finish', output, NULL, NULL, NULL, NULL)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.finish IS
'Returned by a step of a workflow: the run has succeeded, with this output. What else of it is under way is cancelled. Outside a workflow the attempt fails.';
