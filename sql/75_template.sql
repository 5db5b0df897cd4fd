-- Templates: what a step gets, whether it runs, and the items of a map, from the run's input and the outputs of earlier steps.
-- References are checked at definition; the eval_ functions are given results: an object of outputs by step name, which holds
-- at least the steps named in needs.
-- The bodies are quoted as $body$, since two dollar signs mean something here.
-- Invariant: what passed the checks never raises at run time, but for eval_items(), where it says so.

-- The path that a reference in a template stands for: '$steps."my step".x[0]' is {steps,my step,x,0}.
CREATE FUNCTION underway_internal.read_reference(word text, argument text) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    path text[];
    part text;
BEGIN
    IF word !~ '^\$(run|steps)(\.([^][\s."]+|"([^"\\]|\\.)*")|\[-?\d{1,9}\])*$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: "%s" is not a reference', argument, left(word, 100)),
            HINT = 'References are $run, $run.key[0], $steps.name, $steps."a name".key; a string that begins with a dollar sign '
                'otherwise is written with two: "$$5".';
    END IF;
    path := ARRAY[substring(word FROM '^\$(run|steps)')];
    FOR part IN SELECT m[1] FROM regexp_matches(word, '(\.[^][\s."]+|\."(?:[^"\\]|\\.)*"|\[-?\d+\])', 'g') m LOOP
        BEGIN
            path := path || CASE WHEN part LIKE '."%' THEN substr(part, 2)::jsonb #>> '{}' WHEN part LIKE '.%' THEN substr(part, 2)
                ELSE btrim(part, '[]') END;
        EXCEPTION WHEN data_exception THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('%s: %s in "%s" is not a JSON string', argument, substr(part, 2), left(word, 100)),
                HINT = 'What is in quotes is read as in JSON.';
        END;
    END LOOP;
    IF path[1] = 'steps' AND (cardinality(path) = 1 OR word ~ '^\$steps\[') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: "%s" names no step', argument, left(word, 100)),
            HINT = 'For example "$steps.charge.receipt".';
    END IF;
    RETURN path;
END $body$;

CREATE FUNCTION underway_internal.is_reference(word text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
    RETURN word LIKE '$%' AND word NOT LIKE '$$%';
END $body$;

-- The steps that a template speaks of; raises 22023 for strings that are no references.
CREATE FUNCTION underway_internal.template_references(template jsonb, argument text) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    found_steps text[] := '{}';
    path text[];
    word text;
BEGIN
    -- Strict: in lax mode .** would give the elements of arrays twice.
    FOR word IN SELECT DISTINCT w #>> '{}' FROM jsonb_path_query(template, 'strict $.** ? (@.type() == "string")') w LOOP
        IF underway_internal.is_reference(word) THEN
            path := underway_internal.read_reference(word, argument);
            IF path[1] = 'steps' AND path[2] <> ALL (found_steps) THEN
                found_steps := found_steps || path[2];
            END IF;
        END IF;
    END LOOP;
    RETURN found_steps;
END $body$;

-- The steps that a jsonpath, as the server writes it, speaks of; null in the array: of all of them. Variables are $run and
-- $steps; whole: the root is {"run": ..., "steps": {...}} too.
CREATE FUNCTION underway_internal.path_references(path text, argument text, whole bool) RETURNS text[] LANGUAGE plpgsql AS $body$
DECLARE
    found_steps text[] := '{}';
    part text[];
    base text;
    named text;
BEGIN
    -- $"variable"."key", or $."key"."key", or a string to skip.
    FOR part IN SELECT m FROM regexp_matches(path,
            '(\$)("(?:[^"\\]|\\.)*")?(?:\.("(?:[^"\\]|\\.)*"))?(?:\.("(?:[^"\\]|\\.)*"))?|"(?:[^"\\]|\\.)*"', 'g') m LOOP
        CONTINUE WHEN part[1] IS NULL;
        IF part[2] IS NOT NULL THEN
            base := part[2]::jsonb #>> '{}';
            named := part[3]::jsonb #>> '{}';
        ELSIF whole THEN
            base := part[3]::jsonb #>> '{}';
            named := part[4]::jsonb #>> '{}';
        ELSE
            CONTINUE;
        END IF;
        IF base NOT IN ('run', 'steps') THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('%s: there is no $%s%s', argument, CASE WHEN part[2] IS NULL THEN '.' ELSE '' END, left(base, 100)),
                HINT = 'There are $run, the run''s input, and $steps.name, the output of an earlier step.';
        ELSIF base IS DISTINCT FROM 'run' THEN
            found_steps := found_steps || named;
        END IF;
    END LOOP;
    RETURN found_steps;
END $body$;

CREATE FUNCTION underway_internal.fill_template(template jsonb, scope jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $body$
DECLARE
    word text;
BEGIN
    CASE jsonb_typeof(template)
        WHEN 'string' THEN
            word := template #>> '{}';
            RETURN CASE
                WHEN underway_internal.is_reference(word)
                    THEN coalesce(scope #> underway_internal.read_reference(word, 'input'), 'null')
                WHEN word LIKE '$$%' THEN to_jsonb(substr(word, 2))
                ELSE template END;
        WHEN 'object' THEN
            RETURN (SELECT coalesce(jsonb_object_agg(e.key, underway_internal.fill_template(e.value, scope)), '{}')
                FROM jsonb_each(template) e);
        WHEN 'array' THEN
            RETURN (SELECT coalesce(jsonb_agg(underway_internal.fill_template(e.value, scope) ORDER BY e.ordinality), '[]')
                FROM jsonb_array_elements(template) WITH ORDINALITY e);
        ELSE
            RETURN template;
    END CASE;
END $body$;

CREATE FUNCTION underway_internal.template_scope(run_input jsonb, results jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
    RETURN jsonb_build_object('run', run_input, 'steps', coalesce(results, '{}'));
END $body$;

-- What the step gets.
CREATE FUNCTION underway_internal.eval_input(s underway_internal.step, run_input jsonb, results jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
    RETURN CASE
        WHEN s.input IS NOT NULL
            THEN underway_internal.fill_template(s.input, underway_internal.template_scope(run_input, results))
        WHEN cardinality(s.after) = 0 THEN run_input
        WHEN cardinality(s.after) = 1 THEN coalesce(results -> s.after[1], 'null')
        ELSE (SELECT jsonb_object_agg(a, coalesce(results -> a, 'null')) FROM unnest(s.after) a) END;
END $body$;

-- Whether the step runs. With time zones, since without them a comparison of times can raise. A path that is no predicate says yes when it finds something but null and false.
CREATE FUNCTION underway_internal.eval_run_if(s underway_internal.step, run_input jsonb, results jsonb) RETURNS bool
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    scope jsonb;
BEGIN
    IF s.run_if IS NULL THEN
        RETURN true;
    END IF;
    scope := underway_internal.template_scope(run_input, results);
    RETURN coalesce(jsonb_path_query_first_tz(scope, s.run_if::jsonpath, scope, true) NOT IN ('null', 'false'), false);
END $body$;

-- The items of a map that has no function for them, in order, from the input that the map got.
CREATE FUNCTION underway_internal.eval_items(s underway_internal.step, input jsonb, run_input jsonb, results jsonb)
    RETURNS SETOF jsonb LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF input IS NULL OR input = 'null' THEN
        RETURN;
    ELSIF s.items IS NOT NULL THEN
        RETURN QUERY SELECT i FROM jsonb_path_query_tz(input, s.items::jsonpath,
            underway_internal.template_scope(run_input, results), true) i;
    ELSIF jsonb_typeof(input) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('map "%s" needs an array as its input, not %s', s.name, jsonb_typeof(input)),
            HINT = 'Say where the items are: items => ''$.lines[*]''.';
    ELSE
        RETURN QUERY SELECT e.value FROM jsonb_array_elements(input) WITH ORDINALITY e ORDER BY e.ordinality;
    END IF;
END $body$;
