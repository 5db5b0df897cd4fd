-- What a handler may decide instead of just returning: a value of this type. Attributes at the end come with workflows.
CREATE TYPE underway.transition AS (action text, output jsonb, delay interval, input jsonb, error text);
COMMENT ON TYPE underway.transition IS 'What a handler decides about its task: made by underway.again() and underway.give_up().';

CREATE FUNCTION underway.again(delay interval, input jsonb DEFAULT NULL) RETURNS underway.transition
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF delay IS NULL OR delay < interval '0' OR delay > interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('delay must be from 0 to 1000 years, not %s', coalesce(delay::text, 'null')),
            HINT = 'For example: RETURN underway.again(''10 s'');';
    END IF;
    RETURN ROW('again', NULL, delay, input, NULL)::underway.transition;
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
    RETURN ROW('give_up', output, NULL, NULL, error)::underway.transition;
END $$;
COMMENT ON FUNCTION underway.give_up IS
'Returned by a handler: keep the effects, end the task as failed with this error, and do not retry. A dead letter is written as for any failed task.
Errors: 22023 for an empty error.';
