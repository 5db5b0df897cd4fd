-- Can the steps of a workflow run, as fitness tells of a queue: their handlers are there and may be called, queues and workflows
-- that they name are there. A view, so that the views that users read can be built on it.
-- Invariant: a step that is not fit does not stop its workflow; its attempts fail, with this code.

CREATE VIEW underway_internal.step_function AS
SELECT s.queue_id, s.version, s."position", s.name, f.what, f.schema, f.function, f.args, f.maker,
    format('%I.%I(%s)', f.schema, f.function, array_to_string(f.args, ', ')) AS signature
FROM underway_internal.step s
CROSS JOIN LATERAL (VALUES ('handler', s.handler_schema, s.handler_name, s.handler_args, s.handler_owner),
    ('undo', s.undo_schema, s.undo_name, s.undo_args, s.undo_owner),
    ('over', s.over_schema, s.over_name, s.over_args, s.over_owner)) f(what, schema, function, args, maker)
WHERE f.function IS NOT NULL;

CREATE VIEW underway_internal.step_fitness AS
SELECT f.queue_id, f.version, f."position", f.name, f.what, b.blocked[1] AS code, b.blocked[2] AS problem, b.blocked[3] AS hint
FROM underway_internal.step_function f
JOIN underway_internal.queue q ON q.id = f.queue_id
LEFT JOIN pg_catalog.pg_roles o ON o.rolname = q.owner::name
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = f.schema::name
LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = f.function::name
    AND p.proargtypes = CASE WHEN f.args = '{}' THEN '' ELSE '3802' END::oidvector     -- () or (jsonb)
CROSS JOIN LATERAL (SELECT CASE
    WHEN p.oid IS NULL THEN ARRAY['42883',
        format('%s: function %s does not exist', f.what, f.signature),
        'Create the function again, or define the workflow anew with another.']
    WHEN p.prokind NOT IN ('f', 'p') OR p.proretset <> (f.what = 'over') THEN ARRAY['22023',
        CASE f.what WHEN 'over' THEN format('over: function %s does not return a set', f.signature)
            ELSE format('%s: %s is not a plain function or procedure', f.what, f.signature) END,
        CASE f.what WHEN 'over' THEN 'Items are given by a function f(jsonb) or f() that returns a set or a table.'
            ELSE 'A handler is f(jsonb) or f(); it returns no set and is neither an aggregate nor a window function.' END]
    WHEN o.oid IS NULL THEN NULL        -- told of the queue
    WHEN NOT has_schema_privilege(o.oid, n.oid, 'USAGE') THEN ARRAY['42501',
        format('%s: owner "%s" lacks the USAGE privilege on schema %I', f.what, q.owner, f.schema),
        format('Workers run the steps as the owner: grant usage on schema %I to %I;', f.schema, q.owner)]
    WHEN NOT has_function_privilege(o.oid, p.oid, 'EXECUTE') THEN ARRAY['42501',
        format('%s: owner "%s" lacks the EXECUTE privilege on %s', f.what, q.owner, f.signature),
        format('Workers run the steps as the owner: grant execute on %s %s to %I;',
            CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, f.signature, q.owner)]
    -- As in fitness: whoever may make functions in that schema must not run what he likes as the owner.
    WHEN p.proowner <> o.oid AND pg_get_userbyid(p.proowner) IS DISTINCT FROM f.maker::name
            AND NOT pg_has_role(p.proowner, o.oid,
                CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN ARRAY['42501',
        format('%s: %s now belongs to role "%s", and would run as "%s"', f.what, f.signature, pg_get_userbyid(p.proowner), q.owner),
        'If that is meant, say so: define the workflow anew with underway.create_workflow().']
    END AS blocked) b
WHERE b.blocked IS NOT NULL
UNION ALL
SELECT s.queue_id, s.version, s."position", s.name, t.what, '42704',
    CASE t.what WHEN 'workflow' THEN format('workflow "%s" was dropped', d.name)
        ELSE format('%s: queue "%s" was dropped', t.what, d.name) END,
    'Make it again and define the workflow anew.'
FROM underway_internal.step s
CROSS JOIN LATERAL (VALUES ('queue', s.target_queue), ('undo_queue', s.undo_queue), ('workflow', s.child_queue)) t(what, id)
JOIN underway_internal.queue d ON d.id = t.id AND d.dropped_at IS NOT NULL;

-- What stands in pg_proc of a function that decides what it does, as a digest; null when there is none.
CREATE FUNCTION underway_internal.body_digest(function oid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT encode(sha256(convert_to(concat_ws(E'\x01', l.lanname, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc),
            p.probin, p.prosecdef::text, array_to_string(p.proconfig, E'\x02')), getdatabaseencoding())), 'hex')
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.oid = body_digest.function);
END $$;

-- The same for a function as it is kept.
CREATE FUNCTION underway_internal.body_digest(schema text, name text, args text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.body_digest((SELECT p.oid FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = body_digest.schema AND p.proname = body_digest.name
          AND p.proargtypes = CASE WHEN args = '{}' THEN '' ELSE '3802' END::oidvector));
END $$;
