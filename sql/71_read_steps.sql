-- Reading a definition: from the steps as given to rows of step, with everything they name found and checked.
-- Invariant: errors say which step they are about; nothing is stored here.

CREATE FUNCTION underway_internal.find_step_queue(
        caller oid, q underway_internal.queue, name text, argument text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    target underway_internal.queue;
    is_child bool := argument = 'workflow';
    owner oid := underway_internal.role_oid(q.owner);
BEGIN
    IF is_child AND find_step_queue.name = q.name THEN
        RETURN q.id;
    END IF;
    SELECT x.* INTO target FROM underway_internal.queue x WHERE x.name = find_step_queue.name AND x.dropped_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = CASE WHEN is_child THEN format('workflow "%s" does not exist', left(name, 200))
                ELSE format('%s: queue "%s" does not exist', argument, left(name, 200)) END,
            HINT = CASE WHEN is_child THEN 'Make it first, with underway.create_workflow().'
                ELSE 'Make it first, with underway.create_queue(); it needs no handler.' END;
    ELSIF is_child AND NOT target.workflow THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('"%s" is a queue and not a workflow', name),
            HINT = format('A step whose task goes to that queue: underway.step(''...'', queue => %L).', name);
    ELSIF NOT is_child AND target.workflow THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s: "%s" is a workflow', argument, name),
            HINT = format('A step that runs a workflow: underway.child(''...'', %L).', name);
    ELSIF NOT underway_internal.may(caller, target, 'enqueue') THEN
        PERFORM underway_internal.refuse_queue(caller, target, 'enqueue');
    ELSIF owner IS NOT NULL AND NOT underway_internal.may(owner, target, 'enqueue') THEN
        PERFORM underway_internal.refuse_queue(owner, target, 'enqueue');
    END IF;
    RETURN target.id;
END $$;

-- One step: its row, but for after and needs, the form that it is kept in, and what else its identity depends on.
CREATE FUNCTION underway_internal.read_step(
        caller oid, q underway_internal.queue, given jsonb, n int,
        OUT s underway_internal.step, OUT normal jsonb, OUT identity text)
    LANGUAGE plpgsql AS $$
DECLARE
    place text := format('step %s', n);
    f jsonb;
    detail text;
    hint text;
BEGIN
    IF jsonb_typeof(given -> 'name') = 'string' THEN
        place := format('step "%s"', left(given ->> 'name', 128));
    END IF;
    normal := underway_internal.check_step(given);
    s.queue_id := q.id;
    s."position" := n;
    s.name := normal ->> 'name';
    s.kind := normal ->> 'kind';
    s.input := normal -> 'input';
    s.run_if := normal ->> 'run_if';
    s.retry := normal -> 'retry';
    s.timeout := (normal ->> 'timeout')::interval;
    s.priority := (normal ->> 'priority')::smallint;
    s.on_failure := normal ->> 'on_failure';
    s.items := normal ->> 'items';
    s.concurrency := (normal ->> 'concurrency')::int;
    s.tolerate := (normal ->> 'tolerate')::int;
    s.signal := normal ->> 'signal';
    s.on_timeout := CASE s.kind WHEN 'wait' THEN coalesce(normal ->> 'on_timeout', 'fail') END;
    s.duration := (normal ->> 'duration')::interval;
    IF normal ? 'handler' THEN
        f := underway_internal.resolve_handler(normal ->> 'handler');
        s.handler_schema := f ->> 'schema';
        s.handler_name := f ->> 'name';
        s.handler_args := ARRAY(SELECT jsonb_array_elements_text(f -> 'args'));
        s.handler_owner := f ->> 'owner';
        s.body_digest := underway_internal.body_digest((f ->> 'oid')::oid);
        normal := normal || jsonb_build_object('handler', underway_internal.signature(f));
    END IF;
    IF normal ? 'undo' THEN
        f := underway_internal.resolve_handler(normal ->> 'undo');
        s.undo_schema := f ->> 'schema';
        s.undo_name := f ->> 'name';
        s.undo_args := ARRAY(SELECT jsonb_array_elements_text(f -> 'args'));
        s.undo_owner := f ->> 'owner';
        s.undo_digest := underway_internal.body_digest((f ->> 'oid')::oid);
        normal := normal || jsonb_build_object('undo', underway_internal.signature(f));
    END IF;
    IF normal ? 'over' THEN
        f := underway_internal.resolve_items(normal ->> 'over');
        s.over_schema := f ->> 'schema';
        s.over_name := f ->> 'name';
        s.over_args := ARRAY(SELECT jsonb_array_elements_text(f -> 'args'));
        s.over_owner := f ->> 'owner';
        s.over_digest := underway_internal.body_digest((f ->> 'oid')::oid);
        normal := normal || jsonb_build_object('over', underway_internal.signature(f));
    END IF;
    IF normal ? 'queue' THEN
        s.target_queue := underway_internal.find_step_queue(caller, q, normal ->> 'queue', 'queue');
    END IF;
    IF normal ? 'undo_queue' THEN
        s.undo_queue := underway_internal.find_step_queue(caller, q, normal ->> 'undo_queue', 'undo_queue');
    END IF;
    IF normal ? 'workflow' THEN
        s.child_queue := underway_internal.find_step_queue(caller, q, normal ->> 'workflow', 'workflow');
    END IF;
    -- A queue that was dropped and made again is another one, and so is a function that somebody else made.
    identity := concat_ws(',', s.body_digest, s.undo_digest, s.over_digest, s.handler_owner, s.undo_owner, s.over_owner, s.target_queue,
        s.undo_queue, s.child_queue);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    IF detail = '' THEN
        RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = format('%s: %s', place, SQLERRM), HINT = hint;
    END IF;
    RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = format('%s: %s', place, SQLERRM), DETAIL = detail, HINT = hint;
END $$;

CREATE FUNCTION underway_internal.signature(found_function jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN format('%I.%I(%s)', found_function ->> 'schema', found_function ->> 'name', found_function -> 'args' ->> 0);
END $$;

CREATE FUNCTION underway_internal.refuse_step(step text, problem text, hint text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('step "%s": %s', step, problem), HINT = hint;
END $$;

-- The steps that must have ended before each one begins, by position: given, or the step before. names: of all steps; finally,
-- if there is one, is the last and comes after everything.
CREATE FUNCTION underway_internal.resolve_after(names text[], kinds text[], afters jsonb[]) RETURNS SETOF text[]
    LANGUAGE plpgsql AS $$
DECLARE
    steps int := cardinality(names) - (kinds[cardinality(names)] = 'finally')::int;
    places jsonb := '{}';
    unknown text;
BEGIN
    FOR n IN 1..cardinality(names) LOOP
        IF places ? names[n] THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('steps %s and %s are both called "%s"', places -> names[n], n, names[n]),
                HINT = 'A step is known by its name, which must be its own in the workflow.';
        ELSIF kinds[n] = 'finally' AND n < cardinality(names) THEN
            PERFORM underway_internal.refuse_step(names[n], 'finally must be the last of the steps, and there can be only one',
                'It runs after everything else, however the run ends.');
        END IF;
        places := places || jsonb_build_object(names[n], n);
    END LOOP;
    IF steps = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'there must be a step besides finally',
            HINT = 'Make steps with underway.step(), map(), wait(), sleep() and child().';
    END IF;
    FOR n IN 1..cardinality(names) LOOP
        IF kinds[n] = 'finally' THEN
            RETURN NEXT ARRAY[]::text[];
        ELSIF afters[n] IS NULL THEN
            RETURN NEXT CASE n WHEN 1 THEN ARRAY[]::text[] ELSE names[n - 1:n - 1] END;
        ELSE
            SELECT a INTO unknown FROM jsonb_array_elements_text(afters[n]) a WHERE NOT places ? a LIMIT 1;
            IF FOUND THEN
                PERFORM underway_internal.refuse_step(names[n], format('after: there is no step "%s"', left(unknown, 128)),
                    'Names of steps are written exactly as they are; they may be defined further down.');
            ELSIF steps < cardinality(names) AND afters[n] ? names[cardinality(names)] THEN
                PERFORM underway_internal.refuse_step(names[n],
                    format('after: "%s" is the step that finally runs', names[cardinality(names)]), 'Nothing comes after it.');
            END IF;
            RETURN NEXT ARRAY(SELECT a FROM jsonb_array_elements_text(afters[n]) WITH ORDINALITY e(a, n) ORDER BY e.n);
        END IF;
    END LOOP;
END $$;

-- Raises 22023 for a cycle. Returns for each step, by position, the set of those that have ended before it begins.
-- froms, tos: the edges, by position, in the order of froms.
CREATE FUNCTION underway_internal.find_ancestors(names text[], froms int[], tos int[]) RETURNS varbit[] LANGUAGE plpgsql AS $$
DECLARE
    steps int := cardinality(names);
    nothing varbit := repeat('0', steps)::varbit;
    ancestors varbit[] := array_fill(nothing, ARRAY[steps]);
    waits_for int[] := array_fill(0, ARRAY[steps]);     -- how many predecessors are not placed yet
    first_edge int[] := array_fill(NULL::int, ARRAY[steps]);
    ready int[] := '{}';
    done int := 0;
    edge int;
    n int;
    path int[];
BEGIN
    FOR e IN 1..coalesce(cardinality(froms), 0) LOOP
        waits_for[tos[e]] := waits_for[tos[e]] + 1;
        first_edge[froms[e]] := coalesce(first_edge[froms[e]], e);
    END LOOP;
    FOR s IN 1..steps LOOP
        IF waits_for[s] = 0 THEN
            ready := ready || s;
        END IF;
    END LOOP;
    WHILE done < cardinality(ready) LOOP
        done := done + 1;
        n := ready[done];
        edge := first_edge[n];
        WHILE froms[edge] = n LOOP
            ancestors[tos[edge]] := ancestors[tos[edge]] | set_bit(ancestors[n], n - 1, 1);
            waits_for[tos[edge]] := waits_for[tos[edge]] - 1;
            IF waits_for[tos[edge]] = 0 THEN
                ready := ready || tos[edge];
            END IF;
            edge := edge + 1;
        END LOOP;
    END LOOP;
    IF done = steps THEN
        RETURN ancestors;
    END IF;
    -- Every step that is not placed has a predecessor that is not: going back from one comes around.
    n := (SELECT min(s) FROM unnest(waits_for) WITH ORDINALITY o(left_over, s) WHERE o.left_over > 0);
    WHILE array_position(path, n) IS NULL LOOP
        path := path || n;
        n := (SELECT min(f) FROM unnest(froms, tos) e(f, t) WHERE e.t = n AND waits_for[e.f] > 0);
    END LOOP;
    path := path[array_position(path, n):];
    RAISE EXCEPTION USING ERRCODE = '22023',
        MESSAGE = format('steps wait for each other: %s', (SELECT string_agg('"' || names[p] || '"', ' after ' ORDER BY i)
            FROM unnest((path || n)[:20]) WITH ORDINALITY u(p, i)) || CASE WHEN cardinality(path) > 19 THEN ' ...' ELSE '' END),
        HINT = 'A step that is to run again is gone to: a handler can return underway.go_to(). In after the order must have no cycle.';
END $$;

-- All steps of a definition, in order, as rows; and normal and identity as read_step() gives them, of all.
CREATE FUNCTION underway_internal.read_steps(
        caller oid, q underway_internal.queue, given jsonb[],
        OUT rows underway_internal.step[], OUT normal jsonb, OUT identity text)
    LANGUAGE plpgsql AS $$
DECLARE
    n int := cardinality(given);
    r record;
    s underway_internal.step;
    normals jsonb[] := '{}';
    names text[] := '{}';
    kinds text[] := '{}';
    afters jsonb[] := '{}';
    froms int[];
    tos int[];
    places jsonb;
    ancestors varbit[];
    needed text[];
    needs text;
    argument text;
BEGIN
    IF coalesce(n, 0) = 0 OR n > 1000 OR array_ndims(given) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = CASE WHEN array_ndims(given) > 1 THEN format('steps must have one dimension, not %s', array_ndims(given))
                ELSE format('there must be 1 to 1000 steps, not %s', coalesce(n::text, 'null')) END,
            HINT = 'For example underway.create_workflow(''order'', array[underway.step(''charge'', ''charge'')]).';
    END IF;
    rows := '{}';
    identity := '';
    FOR i IN 1..n LOOP
        r := underway_internal.read_step(caller, q, given[array_lower(given, 1) + i - 1], i);
        rows := rows || r.s;
        normals := normals || r.normal;
        identity := identity || r.identity || ';';
        names := names || (r.s).name;
        kinds := kinds || (r.s).kind;
        afters := afters || (r.normal -> 'after');
    END LOOP;

    n := 0;
    FOR needed IN SELECT * FROM underway_internal.resolve_after(names, kinds, afters) LOOP
        n := n + 1;
        s := rows[n];
        s.after := needed;
        rows[n] := s;
        IF s.kind <> 'finally' THEN
            normals[n] := normals[n] || jsonb_build_object('after', s.after);
        END IF;
    END LOOP;
    places := (SELECT jsonb_object_agg(u.name, u.n) FROM unnest(names) WITH ORDINALITY u(name, n));
    SELECT array_agg(e.f ORDER BY e.f, e.t), array_agg(e.t ORDER BY e.f, e.t) INTO froms, tos
        FROM (SELECT (places -> a)::int AS f, u."position" AS t FROM unnest(rows) u, unnest(u.after) a) e;
    ancestors := underway_internal.find_ancestors(names, froms, tos);

    FOR i IN 1..n LOOP
        s := rows[i];
        s.needs := '{}';
        FOR argument, needed IN VALUES ('input', CASE WHEN s.input IS NULL THEN s.after
                    ELSE underway_internal.template_references(s.input, 'input') END),
                ('run_if', underway_internal.path_references(s.run_if, 'run_if', true)),
                ('items', underway_internal.path_references(s.items, 'items', false)) LOOP
            IF array_position(needed, NULL) IS NOT NULL THEN
                -- It speaks of $steps as a whole.
                needed := array_remove(needed, NULL) || ARRAY(SELECT names[p] FROM generate_series(1, n) p
                    WHERE get_bit(ancestors[i], p - 1) = 1);
            END IF;
            FOREACH needs IN ARRAY needed LOOP
                IF NOT places ? needs THEN
                    PERFORM underway_internal.refuse_step(s.name, format('%s: there is no step "%s"', argument, left(needs, 128)),
                        'After $steps comes the name of an earlier step; one with dots, spaces or signs is written $steps."its name".');
                ELSIF get_bit(ancestors[i], (places -> needs)::int - 1) = 0 THEN
                    PERFORM underway_internal.refuse_step(s.name, format('%s: step "%s" does not come before it', argument, needs),
                        'Only what has ended for certain when the step begins has an output; name it in after.');
                END IF;
            END LOOP;
            s.needs := ARRAY(SELECT DISTINCT d FROM unnest(s.needs || needed) d ORDER BY d);
        END LOOP;
        rows[i] := s;
    END LOOP;
    normal := to_jsonb(normals);
END $$;
