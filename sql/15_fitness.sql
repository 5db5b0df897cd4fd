-- Fitness: can this queue run at all, and if not, why not and what helps.
-- A view and not a function: the views that users read are built on it, and may only call what their reader may execute.
-- Invariant: problem is null exactly when nothing about owner and handler blocks the queue. Workers decide by the library's
-- find_handler(), by the same rules.

CREATE VIEW underway_internal.fitness AS
SELECT q.id AS queue_id, h.handler, b.blocked[1] AS code, b.blocked[2] AS problem, b.blocked[3] AS hint,
    q.home_system <> s.system OR q.home_database <> d.oid::bigint AS away
FROM underway_internal.queue q
CROSS JOIN (SELECT underway_internal.system_identifier() AS system OFFSET 0) s
JOIN pg_catalog.pg_database d ON d.datname = current_database()
LEFT JOIN pg_catalog.pg_roles o ON o.rolname = q.owner::name
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = q.handler_schema::name
LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = q.handler_name::name
    AND p.proargtypes = CASE WHEN q.handler_args = '{}' THEN '' ELSE '3802' END::oidvector     -- () or (jsonb)
CROSS JOIN LATERAL (SELECT CASE WHEN q.handler_name IS NOT NULL
    THEN format('%I.%I(%s)', q.handler_schema, q.handler_name, array_to_string(q.handler_args, ', ')) END AS handler,
    format(CASE WHEN q.workflow THEN 'create_workflow(%L, ...' ELSE 'alter_queue(%L' END, q.name) AS change) h
CROSS JOIN LATERAL (SELECT CASE
    WHEN o.oid IS NULL THEN ARRAY['42704',
        format('owner role "%s" does not exist', q.owner),
        format('Create the role; or, as a superuser, name another: select underway.%s, run_as => ''...'');', h.change)]
    WHEN q.handler_name IS NULL AND NOT q.workflow THEN NULL
    WHEN o.rolsuper AND current_setting('underway.superuser_queues', true) = 'off' THEN ARRAY['42501',
        format('owner "%s" is a superuser, and underway.superuser_queues is off', q.owner),
        format('Let an ordinary role run it: select underway.%s, run_as => ''...'');', h.change)]
    WHEN NOT o.rolcanlogin AND current_setting('server_version_num')::int < 170000 THEN ARRAY['42501',
        format('owner "%s" is not allowed to log in', q.owner),
        format('Before PostgreSQL 17 workers cannot connect as such a role: alter role %I login;', q.owner)]
    WHEN NOT has_database_privilege(o.oid, d.oid, 'CONNECT') THEN ARRAY['42501',
        format('owner "%s" lacks the CONNECT privilege on database "%s"', q.owner, d.datname),
        format('Workers connect as the owner: grant connect on database %I to %I;', d.datname, q.owner)]
    WHEN q.workflow THEN NULL           -- of its steps, 72_step_fitness.sql tells
    WHEN p.oid IS NULL THEN ARRAY['42883',
        format('handler %s does not exist', h.handler),
        format('Create the function again, or name another: select underway.alter_queue(%L, handler => ''...'');', q.name)]
    WHEN p.prokind NOT IN ('f', 'p') OR p.proretset THEN ARRAY['22023',
        format('handler %s is not a plain function or procedure', h.handler),
        'A handler is f(jsonb) or f(); it returns no set and is neither an aggregate nor a window function.']
    WHEN NOT has_schema_privilege(o.oid, n.oid, 'USAGE') THEN ARRAY['42501',
        format('owner "%s" lacks the USAGE privilege on schema %I of its handler', q.owner, q.handler_schema),
        format('Workers run the handler as the owner: grant usage on schema %I to %I;', q.handler_schema, q.owner)]
    WHEN NOT has_function_privilege(o.oid, p.oid, 'EXECUTE') THEN ARRAY['42501',
        format('owner "%s" lacks the EXECUTE privilege on handler %s', q.owner, h.handler),
        format('Workers run the handler as the owner: grant execute on %s %s to %I;',
            CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, h.handler, q.owner)]
    -- Whoever may make functions in that schema could else run what he likes as the owner, once the handler is dropped.
    WHEN p.proowner <> o.oid AND pg_get_userbyid(p.proowner) IS DISTINCT FROM q.handler_owner::name
            AND NOT pg_has_role(p.proowner, o.oid,
                CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN ARRAY['42501',
        format('handler %s now belongs to role "%s", and would run as "%s"', h.handler, pg_get_userbyid(p.proowner), q.owner),
        format('If that is meant, say so: select underway.alter_queue(%L, handler => %L);', q.name, h.handler)]
    END AS blocked) b;
