-- Retry policies: jsonb objects made by retry_policy(); intervals in it are seconds, for plain arithmetic.
-- Invariant: retry_policy() alone holds the rules; a policy written by hand is checked by building it anew.

CREATE FUNCTION underway_internal.retry_policy(
        caller oid, max_attempts int, initial_interval interval, max_interval interval, backoff float8, jitter float8,
        never text[], only_on text[])
    RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    argument text;
    codes text[];
    code text;
BEGIN
    IF max_attempts < 1 OR max_attempts > 1000000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('max_attempts must be from 1 to 1000000, not %s', max_attempts),
            HINT = '1 means that a failed task is not tried again. The default is 5.';
    END IF;
    IF initial_interval < interval '0' OR initial_interval > interval '365 days' OR NOT isfinite(initial_interval) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('initial_interval must be from 0 to 365 days, not %s', initial_interval),
            HINT = 'The wait after the first failure. The default is 1 second.';
    END IF;
    IF max_interval < interval '0' OR max_interval > interval '365 days' OR NOT isfinite(max_interval) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('max_interval must be from 0 to 365 days, not %s', max_interval),
            HINT = 'The longest wait between two attempts. The default is 1 minute.';
    END IF;
    IF max_interval < initial_interval THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('max_interval (%s) must not be shorter than initial_interval (%s)', max_interval, initial_interval),
            HINT = 'Waits grow from the one to the other.';
    END IF;
    IF NOT backoff BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('backoff must be from 1 to 1000, not %s', backoff),
            HINT = 'Each wait is this many times the one before. The default is 2; 1 keeps the wait the same.';
    END IF;
    IF NOT jitter BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('jitter must be from 0 to 1, not %s', jitter),
            HINT = 'The part of each wait that is left to chance. The default is 0.5.';
    END IF;
    FOR argument, codes IN VALUES ('never', never), ('only_on', only_on) LOOP
        IF cardinality(codes) > 100 THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('%s must have at most 100 elements, not %s', argument, cardinality(codes)),
                HINT = 'A class of two characters stands for all SQLSTATEs that begin with it.';
        END IF;
        FOREACH code IN ARRAY coalesce(codes, '{}') LOOP
            IF code IS NULL OR code !~ '^([0-9A-Z]{2}|[0-9A-Z]{5})$' THEN
                RAISE EXCEPTION USING ERRCODE = '22023',
                    MESSAGE = format('%s must not contain %s', argument, coalesce(quote_literal(left(code, 100)), 'null')),
                    HINT = 'Give SQLSTATEs of five characters, such as 23505, or classes of two, such as 23.';
            END IF;
        END LOOP;
    END LOOP;
    IF cardinality(only_on) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'only_on must not be empty',
            HINT = 'Leave it out to retry on every error; max_attempts => 1 retries on none.';
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'max_attempts', max_attempts,
        'initial_interval', extract(epoch FROM initial_interval)::float8,
        'max_interval', extract(epoch FROM max_interval)::float8,
        'backoff', backoff,
        'jitter', jitter,
        'never', never,
        'only_on', only_on));
END $$;

CREATE FUNCTION underway.retry_policy(
        max_attempts int DEFAULT NULL, initial_interval interval DEFAULT NULL, max_interval interval DEFAULT NULL,
        backoff float8 DEFAULT NULL, jitter float8 DEFAULT NULL, never text[] DEFAULT NULL, only_on text[] DEFAULT NULL)
    RETURNS jsonb LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.retry_policy IS
'Makes a retry policy, for the argument retry of create_queue, alter_queue, enqueue and others. What is left out comes from the queue, then from the default.
max_attempts: failed attempts until the task ends failed (1 to 1000000; default 5). initial_interval: wait after the first failure (0 to 365 days; default 1 s). max_interval: longest wait (default 1 min). backoff: each wait is this many times the one before (1 to 1000; default 2). jitter: the part of a wait left to chance (0 to 1; default 0.5). never: SQLSTATEs or two-character classes that are not retried. only_on: retry on these alone.
Returns jsonb, with intervals in seconds. Errors: 22023 bad value.';

-- Raises 22023 unless policy is what retry_policy() could have made. argument: how the caller calls it.
CREATE FUNCTION underway_internal.check_retry(policy jsonb, argument text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    kinds CONSTANT jsonb := '{"max_attempts": "number", "initial_interval": "number", "max_interval": "number",
        "backoff": "number", "jitter": "number", "never": "array", "only_on": "array"}';
    key text;
    value jsonb;
    wrong text;
BEGIN
    IF policy IS NULL THEN
        RETURN true;
    ELSIF jsonb_typeof(policy) <> 'object' THEN
        wrong := format('%s must be a JSON object, not %s', argument, jsonb_typeof(policy));
    ELSE
        FOR key, value IN SELECT e.key, e.value FROM jsonb_each(policy) e LOOP
            IF kinds ->> key IS NULL THEN
                wrong := format('%s has an unknown key "%s"', argument, left(key, 100));
            ELSIF jsonb_typeof(value) <> kinds ->> key THEN
                wrong := format('"%s" in %s must be of type %s, not %s', key, argument, kinds ->> key, jsonb_typeof(value));
            ELSIF jsonb_typeof(value) = 'number' AND abs(value::numeric) > 1e9 THEN
                wrong := format('"%s" in %s is out of range', key, argument);
            ELSIF key = 'max_attempts' AND value::numeric <> trunc(value::numeric) THEN
                wrong := format('"%s" in %s must be a whole number, not %s', key, argument, value);
            ELSIF jsonb_typeof(value) = 'array' AND jsonb_path_exists(value, 'strict $[*] ? (@.type() != "string")') THEN
                wrong := format('"%s" in %s must be an array of strings', key, argument);
            END IF;
            EXIT WHEN wrong IS NOT NULL;
        END LOOP;
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = wrong,
            HINT = format('Make it with underway.retry_policy(). Known keys: %s; intervals are in seconds.',
                (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(kinds) k));
    END IF;
    PERFORM underway_internal.retry_policy(NULL,
        (policy ->> 'max_attempts')::numeric::int,
        make_interval(secs => (policy ->> 'initial_interval')::float8),
        make_interval(secs => (policy ->> 'max_interval')::float8),
        (policy ->> 'backoff')::float8,
        (policy ->> 'jitter')::float8,
        CASE WHEN policy ? 'never' THEN ARRAY(SELECT jsonb_array_elements_text(policy -> 'never')) END,
        CASE WHEN policy ? 'only_on' THEN ARRAY(SELECT jsonb_array_elements_text(policy -> 'only_on')) END);
    RETURN true;
END $$;
