-- Steps: jsonb objects made by step(), map(), wait(), sleep(), child() and finally(), for create_workflow().
-- Invariant: check_step() alone holds the rules; one written by hand, or read from underway.workflows, is checked by the same.
-- In them intervals are ISO 8601 text, jsonpaths are text; what is left out is not there.

-- An interval in the one form that reads the same under every IntervalStyle.
CREATE FUNCTION underway_internal.iso_interval(span interval) RETURNS text LANGUAGE plpgsql SET intervalstyle = 'iso_8601' AS $$
BEGIN
    RETURN span::text;
END $$;

CREATE FUNCTION underway_internal.read_interval(words text, argument text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
    RETURN words::interval;
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s must be an interval, not "%s"', argument, left(words, 100)),
        HINT = 'For example "15 minutes".';
END $$;

CREATE FUNCTION underway_internal.read_jsonpath(words text, argument text) RETURNS jsonpath LANGUAGE plpgsql AS $$
BEGIN
    RETURN words::jsonpath;
EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s is not a jsonpath: %s', argument, SQLERRM),
        HINT = 'For example ''$run.amount > 100'', or ''$steps.check.ok == true''.';
END $$;

-- The keys that a step of a kind may have, and their JSON types; null for an unknown kind.
CREATE FUNCTION underway_internal.step_keys(kind text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    flow CONSTANT jsonb := '{"kind": "string", "name": "string", "after": "array", "run_if": "string"}';
    work CONSTANT jsonb := '{"handler": "string", "queue": "string", "retry": "object", "timeout": "string"}';
    step CONSTANT jsonb := flow || work || '{"input": "any", "undo": "string", "undo_queue": "string", "priority": "number",
        "on_failure": "string"}';
BEGIN
    RETURN CASE kind
        WHEN 'step' THEN step
        WHEN 'map' THEN step || '{"over": "string", "items": "string", "concurrency": "number", "tolerate": "number"}'
        WHEN 'wait' THEN flow || '{"signal": "string", "timeout": "string", "on_timeout": "string"}'
        WHEN 'sleep' THEN flow || '{"duration": "string"}'
        WHEN 'child' THEN flow || '{"workflow": "string", "input": "any", "on_failure": "string"}'
        WHEN 'finally' THEN work || '{"kind": "string", "name": "string"}' END;
END $$;

CREATE FUNCTION underway_internal.check_step_keys(given jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    known jsonb;
    wrong text;
    key text;
    value jsonb;
    cleaned jsonb := '{}';
BEGIN
    IF given IS NULL OR jsonb_typeof(given) <> 'object' THEN
        wrong := format('a step must be a JSON object, not %s', coalesce(jsonb_typeof(given), 'null'));
    ELSIF underway_internal.step_keys(given ->> 'kind') IS NULL THEN
        wrong := format('kind must be one of step, map, wait, sleep, child, finally, not %s',
            coalesce('"' || left(given ->> 'kind', 100) || '"', 'null'));
    ELSE
        known := underway_internal.step_keys(given ->> 'kind');
        FOR key, value IN SELECT e.key, e.value FROM jsonb_each(given) e LOOP
            -- A template may be JSON's null.
            CONTINUE WHEN value = 'null' AND key <> 'input';
            IF known ->> key IS NULL THEN
                wrong := format('a step of the kind %s has no "%s"', given ->> 'kind', left(key, 100));
            ELSIF known ->> key <> 'any' AND jsonb_typeof(value) <> known ->> key THEN
                wrong := format('%s must be of the JSON type %s, not %s', key, known ->> key, jsonb_typeof(value));
            ELSIF jsonb_typeof(value) = 'number' AND (value::numeric <> trunc(value::numeric) OR abs(value::numeric) > 2147483647) THEN
                wrong := format('%s must be a whole number in the range of int, not %s', key, left(value::text, 100));
            ELSIF known ->> key = 'string' AND value = '""' THEN
                wrong := format('%s must not be empty', key);
            ELSIF key = 'after' AND jsonb_path_exists(value, 'strict $[*] ? (@.type() != "string" || @ == "")') THEN
                wrong := 'after must contain names of steps, and no nulls';
            END IF;
            EXIT WHEN wrong IS NOT NULL;
            cleaned := cleaned || jsonb_build_object(key, value);
        END LOOP;
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = wrong,
            HINT = 'Make steps with underway.step(), map(), wait(), sleep(), child() and finally().';
    END IF;
    RETURN cleaned;
END $$;

-- A step in the one form that it is kept in; raises 22023 for everything that can be told without looking at others.
CREATE FUNCTION underway_internal.check_step(given jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    s jsonb := underway_internal.check_step_keys(given);
    kind text := s ->> 'kind';
    span interval;
    wrong text;
    hint text;
BEGIN
    PERFORM underway_internal.check_name(s ->> 'name', 'name');
    PERFORM underway_internal.check_retry(s -> 'retry', 'retry');
    PERFORM underway_internal.check_int((s ->> 'priority')::int, 'priority', 0, 15);
    PERFORM underway_internal.check_int((s ->> 'concurrency')::int, 'concurrency', 1, 1000000);
    PERFORM underway_internal.check_int((s ->> 'tolerate')::int, 'tolerate', 0, 1000000000);
    PERFORM underway_internal.check_word(s ->> 'on_failure', 'on_failure', '{fail,skip,park}');
    PERFORM underway_internal.check_word(s ->> 'on_timeout', 'on_timeout', '{fail,continue}');
    IF kind = 'wait' THEN
        s := jsonb_build_object('signal', s -> 'name') || s;
        PERFORM underway_internal.check_name(s ->> 'signal', 'signal');
    END IF;

    IF s ? 'timeout' THEN
        span := underway_internal.read_interval(s ->> 'timeout', 'timeout');
        PERFORM underway_internal.check_interval(span, 'timeout', '1 millisecond',
            CASE kind WHEN 'wait' THEN '1000 years' ELSE '24 days' END::interval);
        s := s || jsonb_build_object('timeout', underway_internal.iso_interval(span));
    ELSIF s ? 'on_timeout' THEN
        wrong := 'on_timeout is given, but no timeout';
        hint := 'Without a timeout the step waits until the signal comes.';
    END IF;
    IF s ? 'duration' THEN
        span := underway_internal.read_interval(s ->> 'duration', 'duration');
        PERFORM underway_internal.check_interval(span, 'duration', '0', '1000 years');
        s := s || jsonb_build_object('duration', underway_internal.iso_interval(span));
    ELSIF kind = 'sleep' THEN
        wrong := 'duration must not be null';
        hint := 'For example underway.sleep(''later'', ''1 hour'').';
    END IF;
    IF s ? 'run_if' THEN
        s := s || jsonb_build_object('run_if', underway_internal.read_jsonpath(s ->> 'run_if', 'run_if')::text);
    END IF;
    IF s ? 'items' THEN
        s := s || jsonb_build_object('items', underway_internal.read_jsonpath(s ->> 'items', 'items')::text);
    END IF;

    IF wrong IS NOT NULL THEN
        NULL;
    ELSIF kind IN ('step', 'map', 'finally') AND s ? 'handler' AND s ? 'queue' THEN
        wrong := 'handler and queue cannot both be given';
        hint := 'A handler runs in the server; a queue is where external workers take the step''s task from.';
    ELSIF kind IN ('step', 'map', 'finally') AND NOT s ? 'handler' AND NOT s ? 'queue' THEN
        wrong := 'handler or queue must be given';
        hint := 'A handler runs in the server; a queue is where external workers take the step''s task from.';
    ELSIF s ? 'undo' AND s ? 'undo_queue' THEN
        wrong := 'undo and undo_queue cannot both be given';
        hint := 'undo is a handler that runs in the server; undo_queue is for external workers.';
    ELSIF s ? 'over' AND s ? 'items' THEN
        wrong := 'over and items cannot both be given';
        hint := 'over is a function that returns the items; items is a jsonpath that finds them in the input.';
    ELSIF kind = 'child' AND NOT s ? 'workflow' THEN
        wrong := 'workflow must not be null';
        hint := 'Give the name of a workflow that underway.create_workflow() made.';
    ELSIF s -> 'after' ? (s ->> 'name') THEN
        wrong := 'after must not contain the step itself';
        hint := 'Name the steps that must have ended before this one begins.';
    ELSIF (SELECT count(DISTINCT a) < count(*) FROM jsonb_array_elements(s -> 'after') a) THEN
        wrong := 'after contains a step twice';
        hint := 'Name each step that must have ended before this one begins once.';
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = wrong, HINT = hint;
    END IF;
    IF s ? 'input' THEN
        PERFORM underway_internal.template_references(s -> 'input', 'input');
    END IF;
    PERFORM underway_internal.path_references(s ->> 'run_if', 'run_if', true);
    PERFORM underway_internal.path_references(s ->> 'items', 'items', false);
    RETURN s;
END $$;

CREATE FUNCTION underway_internal.step(
        caller oid, name text, handler text, queue text, input jsonb, after text[], run_if jsonpath, undo text, undo_queue text,
        retry jsonb, timeout interval, priority int, on_failure text)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'step', 'name', name, 'handler', handler, 'queue', queue,
            'after', after, 'run_if', run_if::text, 'undo', undo, 'undo_queue', undo_queue, 'retry', retry,
            'timeout', underway_internal.iso_interval(timeout), 'priority', priority, 'on_failure', on_failure)
        || CASE WHEN input IS NULL THEN '{}' ELSE jsonb_build_object('input', input) END);
END $$;

CREATE FUNCTION underway.step(
        name text, handler text DEFAULT NULL, queue text DEFAULT NULL, input jsonb DEFAULT NULL, after text[] DEFAULT NULL,
        run_if jsonpath DEFAULT NULL, undo text DEFAULT NULL, undo_queue text DEFAULT NULL, retry jsonb DEFAULT NULL,
        timeout interval DEFAULT NULL, priority int DEFAULT NULL, on_failure text DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.step IS
'Makes a step for create_workflow: a function that runs in the server, or work for external workers.
name: 1 to 128 bytes, of its own in the workflow. handler: the SQL function to run, as in create_queue; or queue: external workers take the step from there. input: what the step gets, a template: strings such as ''$run.user.id'' or ''$steps.charge.receipt'' in it are replaced by that part of the run''s input or of an earlier step''s output (null when there is none; quote names with dots or spaces: ''$steps."my step".x''; a string that begins with a dollar sign otherwise is written with two); left out, the first step gets the run''s input, others the output of the step before, or, when there are several, an object of their outputs by step name. after: names of the steps that must have ended before; left out, the step before in the list; ''{}'': the run begins with it. run_if: a jsonpath such as ''$run.amount > 100'' or ''$steps.check.ok == true''; when it gives nothing, null or false the step is skipped. undo: a handler, or undo_queue: a queue, that undoes the step when the run fails or is cancelled later on: those of all steps run one after the other, the last step''s first. It gets the step''s output, else its input, and has undo: true in its headers. Of a step outside, or a procedure, it also runs for attempts that failed or were lost, so it must be idempotent. retry and timeout hold for it too; when it fails for good the run is parked. retry, timeout (of one attempt), priority: default those of the workflow. on_failure: when it has failed for good: fail (the run), skip (go on without it), park (the run, until retry() or cancel()); default the workflow''s.
Returns jsonb. Errors: 22023 bad value.';

CREATE FUNCTION underway_internal.map(
        caller oid, name text, handler text, queue text, input jsonb, after text[], run_if jsonpath, undo text, undo_queue text,
        retry jsonb, timeout interval, priority int, on_failure text, over text, items jsonpath, concurrency int, tolerate int)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'map', 'name', name, 'handler', handler, 'queue', queue,
            'after', after, 'run_if', run_if::text, 'undo', undo, 'undo_queue', undo_queue, 'retry', retry,
            'timeout', underway_internal.iso_interval(timeout), 'priority', priority, 'on_failure', on_failure,
            'over', over, 'items', items::text, 'concurrency', concurrency, 'tolerate', tolerate)
        || CASE WHEN input IS NULL THEN '{}' ELSE jsonb_build_object('input', input) END);
END $$;

CREATE FUNCTION underway.map(
        name text, handler text DEFAULT NULL, queue text DEFAULT NULL, input jsonb DEFAULT NULL, after text[] DEFAULT NULL,
        run_if jsonpath DEFAULT NULL, undo text DEFAULT NULL, undo_queue text DEFAULT NULL, retry jsonb DEFAULT NULL,
        timeout interval DEFAULT NULL, priority int DEFAULT NULL, on_failure text DEFAULT NULL, over text DEFAULT NULL,
        items jsonpath DEFAULT NULL, concurrency int DEFAULT NULL, tolerate int DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.map IS
'Makes a step for create_workflow that runs once for each of many items; its output is the array of their outputs, in the order of the items.
Arguments as in step, and: over: a function f(jsonb) or f() that returns a set, called with the step''s input: each row is an item. items: a jsonpath that finds the items in the input (default ''$[*]'': the input is an array; null gives none). concurrency: items in progress at once (default no limit but the number of workers). tolerate: how many items may fail for good, their outputs being null, before the step fails (default 0).
Returns jsonb. Errors: 22023 bad value.';

CREATE FUNCTION underway_internal.wait(
        caller oid, name text, signal text, timeout interval, on_timeout text, after text[], run_if jsonpath)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'wait', 'name', name, 'signal', signal,
        'timeout', underway_internal.iso_interval(timeout), 'on_timeout', on_timeout, 'after', after, 'run_if', run_if::text));
END $$;

CREATE FUNCTION underway.wait(
        name text, signal text DEFAULT NULL, timeout interval DEFAULT NULL, on_timeout text DEFAULT NULL,
        after text[] DEFAULT NULL, run_if jsonpath DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.wait IS
'Makes a step for create_workflow that waits for a signal to the run; its output is the signal''s payload. A signal that came before is taken at once. While it waits nothing is held, no process and no transaction.
signal: the name to wait for (default the step''s). timeout: the longest wait (default none). on_timeout: fail (default), or continue with null as the output. after, run_if: as in step.
Returns jsonb. Errors: 22023 bad value.';

CREATE FUNCTION underway_internal.sleep(caller oid, name text, duration interval, after text[], run_if jsonpath)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'sleep', 'name', name,
        'duration', underway_internal.iso_interval(duration), 'after', after, 'run_if', run_if::text));
END $$;

CREATE FUNCTION underway.sleep(name text, duration interval, after text[] DEFAULT NULL, run_if jsonpath DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.sleep IS
'Makes a step for create_workflow that lets time pass, and passes its input on. While it sleeps nothing is held, no process and no transaction.
duration: 0 to 1000 years. after, run_if: as in step.
Returns jsonb. Errors: 22023 bad value.';

CREATE FUNCTION underway_internal.child(
        caller oid, name text, workflow text, input jsonb, after text[], run_if jsonpath, on_failure text)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'child', 'name', name, 'workflow', workflow,
            'after', after, 'run_if', run_if::text, 'on_failure', on_failure)
        || CASE WHEN input IS NULL THEN '{}' ELSE jsonb_build_object('input', input) END);
END $$;

CREATE FUNCTION underway.child(
        name text, workflow text, input jsonb DEFAULT NULL, after text[] DEFAULT NULL, run_if jsonpath DEFAULT NULL,
        on_failure text DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.child IS
'Makes a step for create_workflow that runs another workflow; its output is that run''s output, and it fails when that run fails or is cancelled. The run is of the version that is then the current one, started by the owner of this workflow, who needs the right enqueue on the other, now and then; at most 100 runs stand one above the other. It is cancelled with its parent, whose end waits for its. What it did is undone by its own steps, not when its parent fails later on.
workflow: its name, which may be that of this workflow. input, after, run_if, on_failure: as in step.
Returns jsonb. Errors: 22023 bad value.';

CREATE FUNCTION underway_internal.finally(
        caller oid, name text, handler text, queue text, retry jsonb, timeout interval)
    RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.check_step(jsonb_build_object('kind', 'finally', 'name', name, 'handler', handler, 'queue', queue,
        'retry', retry, 'timeout', underway_internal.iso_interval(timeout)));
END $$;

CREATE FUNCTION underway.finally(
        name text, handler text DEFAULT NULL, queue text DEFAULT NULL, retry jsonb DEFAULT NULL, timeout interval DEFAULT NULL)
    RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.finally IS
'Makes the last step for create_workflow, which runs however the run ends, after everything else and after what is undone. It gets {"state", "error", "sqlstate", "input", "output"}: how the run ends (succeeded, failed or cancelled), why, the run''s input and its output. A cancel does not stop it. When it fails for good, a run that would have succeeded fails, without being undone; the end of others stays what it was.
Arguments as in step.
Returns jsonb. Errors: 22023 bad value.';
