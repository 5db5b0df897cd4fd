-- What a workflow looks like: as text for people, and as a Mermaid diagram, which many places draw.
-- Invariant: both are made from the rows of step alone, in the order of the definition.

CREATE FUNCTION underway_internal.queue_name(id int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT q.name || CASE WHEN q.dropped_at IS NULL THEN '' ELSE ' (dropped)' END
        FROM underway_internal.queue q WHERE q.id = queue_name.id);
END $$;

-- A jsonpath as people write it: the server quotes every key.
CREATE FUNCTION underway_internal.path_words(path text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN regexp_replace(path, '([.$])"([A-Za-z_][A-Za-z0-9_]*)"', '\1\2', 'g');
END $$;

-- What the step does, in a few words.
CREATE FUNCTION underway_internal.step_words(s underway_internal.step) RETURNS text LANGUAGE plpgsql
    SET intervalstyle = 'postgres' AS $$
DECLARE
    work text := CASE WHEN s.handler_name IS NOT NULL
        THEN format('%I.%I(%s)', s.handler_schema, s.handler_name, array_to_string(s.handler_args, ', '))
        ELSE 'queue ' || underway_internal.queue_name(s.target_queue) END;
BEGIN
    RETURN CASE s.kind
        WHEN 'step' THEN work
        WHEN 'map' THEN work || ' for each of ' || CASE
            WHEN s.over_name IS NOT NULL THEN format('%I.%I(%s)', s.over_schema, s.over_name, array_to_string(s.over_args, ', '))
            WHEN s.items IS NOT NULL THEN underway_internal.path_words(s.items) ELSE 'its input' END
            || coalesce(', ' || s.concurrency || ' at once', '') || coalesce(', ' || s.tolerate || ' may fail', '')
        WHEN 'wait' THEN 'wait for signal ' || s.signal || CASE WHEN s.timeout IS NULL THEN ''
            ELSE format(', %s, then %s', s.timeout, s.on_timeout) END
        WHEN 'sleep' THEN 'sleep ' || s.duration
        WHEN 'child' THEN 'workflow ' || underway_internal.queue_name(s.child_queue)
        WHEN 'finally' THEN work || ', however the run ends' END;
END $$;

CREATE FUNCTION underway_internal.undo_words(s underway_internal.step) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN s.undo_name IS NOT NULL
            THEN format('%I.%I(%s)', s.undo_schema, s.undo_name, array_to_string(s.undo_args, ', '))
        WHEN s.undo_queue IS NOT NULL THEN 'queue ' || underway_internal.queue_name(s.undo_queue) END;
END $$;

-- Lines of a step's settings. before: the name of the step before.
CREATE FUNCTION underway_internal.step_details(s underway_internal.step, before text) RETURNS text LANGUAGE plpgsql
    SET intervalstyle = 'postgres' AS $$
BEGIN
    RETURN concat(
        CASE WHEN s.kind = 'finally' OR s.after = CASE WHEN before IS NULL THEN '{}' ELSE ARRAY[before] END THEN NULL
            WHEN s.after = '{}' THEN E'\n     after: the start'
            ELSE E'\n     after: ' || array_to_string(s.after, ', ') END,
        E'\n     if: ' || underway_internal.path_words(s.run_if),
        E'\n     input: ' || s.input::text,
        E'\n     undo: ' || underway_internal.undo_words(s),
        CASE WHEN s.kind <> 'wait' THEN E'\n     timeout: ' || s.timeout END,
        E'\n     retry: ' || s.retry::text,
        E'\n     priority: ' || s.priority,
        E'\n     on failure: ' || s.on_failure);
END $$;

CREATE FUNCTION underway_internal.explain_text(q underway_internal.queue, v underway_internal.workflow_version, title text)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
    before text;
    lines text := title;
BEGIN
    FOR s IN SELECT x.* FROM underway_internal.step x WHERE x.queue_id = q.id AND x.version = v.version ORDER BY x."position" LOOP
        lines := lines || format(E'\n%s. %s: %s%s', lpad(s."position"::text, 3), s.name, underway_internal.step_words(s),
            underway_internal.step_details(s, before));
        before := s.name;
    END LOOP;
    RETURN lines;
END $$;

-- A label in a Mermaid diagram, in quotes; entities are written as Mermaid wants them.
CREATE FUNCTION underway_internal.mermaid_label(VARIADIC parts text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN '"' || (SELECT string_agg(
            replace(replace(replace(replace(replace(p, '#', '#35;'), '&', '#amp;'), '"', '#quot;'), '<', '#lt;'), '>', '#gt;'),
            '<br/>' ORDER BY n)
        FROM unnest(parts) WITH ORDINALITY u(p, n) WHERE p IS NOT NULL) || '"';
END $$;

CREATE FUNCTION underway_internal.explain_mermaid(q underway_internal.queue, v underway_internal.workflow_version, title text)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
    places jsonb;
    nodes text := '';
    edges text := '';
    before text;
    label text;
    undo text;
    finals text;
    last_step text;
BEGIN
    SELECT jsonb_object_agg(x.name, x."position") INTO places FROM underway_internal.step x
        WHERE x.queue_id = q.id AND x.version = v.version;
    SELECT 's' || x."position" INTO last_step FROM underway_internal.step x
        WHERE x.queue_id = q.id AND x.version = v.version AND x.kind = 'finally';
    FOR s IN SELECT x.* FROM underway_internal.step x WHERE x.queue_id = q.id AND x.version = v.version ORDER BY x."position" LOOP
        label := underway_internal.mermaid_label(s.name, underway_internal.step_words(s));
        nodes := nodes || format(E'\n    s%s%s', s."position", CASE s.kind
            WHEN 'map' THEN '[[' || label || ']]'
            WHEN 'wait' THEN '{{' || label || '}}'
            WHEN 'sleep' THEN '(' || label || ')'
            WHEN 'child' THEN '[/' || label || '/]'
            ELSE '[' || label || ']' END);
        CONTINUE WHEN s.kind = 'finally';
        FOREACH before IN ARRAY CASE WHEN s.after = '{}' THEN ARRAY[NULL] ELSE s.after END LOOP
            edges := edges || format(E'\n    %s -->%s s%s', coalesce('s' || (places ->> before), 'begin'),
                CASE WHEN s.run_if IS NULL THEN '' ELSE '|' || underway_internal.mermaid_label('if ' || underway_internal.path_words(s.run_if)) || '|' END,
                s."position");
        END LOOP;
        undo := underway_internal.undo_words(s);
        IF undo IS NOT NULL THEN
            nodes := nodes || format(E'\n    u%s[%s]', s."position", underway_internal.mermaid_label('undo ' || s.name, undo));
            edges := edges || format(E'\n    s%s -.-> u%s', s."position", s."position");
        END IF;
    END LOOP;
    SELECT string_agg(format(E'\n    s%s --> %s', x."position", coalesce(last_step, 'done')), '' ORDER BY x."position") INTO finals
        FROM underway_internal.step x
        WHERE x.queue_id = q.id AND x.version = v.version AND x.kind <> 'finally'
          AND NOT EXISTS (SELECT FROM underway_internal.step y
              WHERE y.queue_id = q.id AND y.version = v.version AND x.name = ANY (y.after));
    RETURN E'flowchart TD\n    begin([' || underway_internal.mermaid_label(q.name) || '])' || nodes || E'\n    done(["end"])'
        || edges || finals || coalesce(E'\n    ' || last_step || ' --> done', '');
END $$;

CREATE FUNCTION underway_internal.explain_workflow(caller oid, name text, version int, format text) RETURNS text
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.workflow_for(caller, name, 'see');
    w underway_internal.workflow;
    v underway_internal.workflow_version;
    title text;
BEGIN
    PERFORM underway_internal.check_word(coalesce(format, ''), 'format', '{text,mermaid}');
    SELECT x.* INTO w FROM underway_internal.workflow x WHERE x.queue_id = q.id;
    SELECT x.* INTO v FROM underway_internal.workflow_version x
        WHERE x.queue_id = q.id AND x.version = coalesce(version, w.version);
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('workflow "%s" has no version %s', q.name, version),
            HINT = pg_catalog.format('Its current version is %s; leave version out to have that one.', w.version);
    END IF;
    title := pg_catalog.format('workflow %s, version %s%s, %s %s', q.name, v.version,
        CASE WHEN v.version = w.version THEN ' (current)' ELSE pg_catalog.format(' (current is %s)', w.version) END,
        jsonb_array_length(v.steps), CASE jsonb_array_length(v.steps) WHEN 1 THEN 'step' ELSE 'steps' END);
    RETURN CASE format WHEN 'text' THEN underway_internal.explain_text(q, v, title)
        ELSE underway_internal.explain_mermaid(q, v, title) END;
END $$;

CREATE FUNCTION underway.explain_workflow(name text, version int DEFAULT NULL, format text DEFAULT 'text') RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.explain_workflow IS
'What a workflow looks like: its steps, in their order. Needs the right see.
version: default the current one. format: text, for people; or mermaid, a diagram that many editors and web sites draw.
Errors: 42704 no such workflow or version, 42501 not allowed, 22023 bad value.';

-- The workflows that the reader has any right on.
CREATE VIEW underway.workflows WITH (security_barrier) AS
SELECT q.name, w.version, q.owner,
    CASE WHEN q.id IN (SELECT s.id FROM underway_internal.seen_queue s) THEN v.steps END AS steps,
    CASE WHEN f.away OR NOT underway_internal.is_enabled() THEN 'held'
        WHEN f.problem IS NOT NULL THEN 'blocked'
        WHEN q.paused_at IS NOT NULL THEN 'paused'
        ELSE 'active' END AS state,
    coalesce(f.problem, (SELECT format('step "%s": %s', x.name, x.problem) FROM underway_internal.step_fitness x
        WHERE x.queue_id = q.id AND x.version = w.version ORDER BY x."position", x.what LIMIT 1)) AS problem,
    w.on_change, w.on_failure, q.created_at, v.created_at AS defined_at,
    (SELECT count(*) FROM (SELECT FROM underway_internal.run r WHERE r.queue_id = q.id LIMIT 10000) s) AS unfinished,
    (SELECT count(*) FROM (SELECT FROM underway_internal.run r
        WHERE r.queue_id = q.id AND r.state = 'paused' AND r.state NOT IN ('running', 'waiting') LIMIT 10000) s) AS paused,
    (SELECT count(*) FROM (SELECT FROM underway_internal.run r
        WHERE r.queue_id = q.id AND r.state = 'undoing' AND r.state NOT IN ('running', 'waiting') LIMIT 10000) s) AS undoing,
    (SELECT count(*) FROM (SELECT FROM underway_internal.run r
        WHERE r.queue_id = q.id AND r.state = 'parked' AND r.state NOT IN ('running', 'waiting') LIMIT 10000) s) AS parked,
    (SELECT n.in_progress FROM underway_internal.count_tasks(q.id) n) AS in_progress,
    q.paused_at, q.paused_by, q.concurrency, q.group_concurrency, q.priority, q.retry, q.timeout, w.run_timeout, q.keep, q.durability,
    CASE WHEN q.id IN (SELECT s.id FROM underway_internal.seen_queue s) THEN q.settings END AS settings
FROM underway_internal.queue q
JOIN underway_internal.workflow w ON w.queue_id = q.id
JOIN underway_internal.workflow_version v ON v.queue_id = q.id AND v.version = w.version
JOIN underway_internal.fitness f ON f.queue_id = q.id
WHERE q.dropped_at IS NULL
  AND (q.id IN (SELECT s.id FROM underway_internal.seen_queue s)
    OR q.id IN (SELECT g.queue_id FROM underway_internal.queue_grant g
        WHERE g.role = 'public' OR g.role IN (SELECT o.name FROM underway_internal.own_role o)));
COMMENT ON VIEW underway.workflows IS
'The workflows that you own or have a right on, as they are defined now. state: active, paused (by a person), blocked (no step can run, see problem) or held (a restored copy, or underway.enabled is off). problem: what blocks it; or of an active one, which step would fail, and why. steps: as create_workflow() takes them; shown, as settings are, to those who may see the runs. unfinished, and of these paused, undoing and parked: runs; in_progress: steps that run in the server now; each counted up to 10000. Settings that are null are at their default.';
