-- Rights: who may do what with a queue. Every public function asks here, with the oid of who called it.
-- Invariant: a role that does not exist (any more) never raises and never has a right; roles are kept by name.

-- The role of exactly that name, null when there is none. What users give as a role's name comes through here once; further
-- down to_regrole() is used, which is faster, and would cut a name that is too long.
CREATE FUNCTION underway_internal.role_oid(name text) RETURNS oid LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname::text = role_oid.name);
END $$;

CREATE FUNCTION underway_internal.is_superuser(role oid) RETURNS bool STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = is_superuser.role), false);
END $$;

-- Does caller have the rights of the role called name, as its own (a superuser has everybody's)?
CREATE FUNCTION underway_internal.has_role(caller oid, name text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce(pg_has_role(caller, to_regrole(quote_ident(name))::oid, 'USAGE'), false)
        OR underway_internal.is_superuser(caller);
END $$;

-- Could caller become that role? Asked wherever somebody decides what code runs as it: less than this would be a way to
-- gain its rights. From 16 on, being a member does not imply SET ROLE.
CREATE FUNCTION underway_internal.can_become(caller oid, name text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce(pg_has_role(caller, to_regrole(quote_ident(name))::oid,
            CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END), false)
        OR underway_internal.is_superuser(caller);
END $$;

CREATE FUNCTION underway_internal.owns_database(caller oid) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.is_superuser(caller)
        OR (SELECT pg_has_role(caller, d.datdba, 'USAGE') FROM pg_catalog.pg_database d WHERE d.datname = current_database());
END $$;

-- The rights enqueue, work, see and manage: those who have the owner's role have them all, others what was granted.
CREATE FUNCTION underway_internal.may(caller oid, q underway_internal.queue, "right" text)
    RETURNS bool STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce(pg_has_role(caller, to_regrole(quote_ident(q.owner))::oid, 'USAGE'), false)
        OR EXISTS (SELECT FROM underway_internal.queue_grant g
            WHERE g.queue_id = q.id AND g."right" IN (may."right", 'manage')
              AND (g.role = 'public' OR pg_has_role(caller, to_regrole(quote_ident(g.role))::oid, 'USAGE')))
        OR underway_internal.is_superuser(caller);
END $$;

-- Who enqueued a task may see, await and cancel it, whatever was granted on the queue.
CREATE FUNCTION underway_internal.may_see_task(caller oid, queue_id int, enqueued_by text)
    RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
BEGIN
    IF underway_internal.has_role(caller, enqueued_by) THEN
        RETURN true;
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = may_see_task.queue_id;
    RETURN FOUND AND underway_internal.may(caller, q, 'see');
END $$;

CREATE FUNCTION underway_internal.refuse_queue(caller oid, q underway_internal.queue, "right" text) RETURNS bool
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = format('role "%s" does not have the right %s on %s "%s"', pg_get_userbyid(caller), "right",
            CASE WHEN q.workflow THEN 'workflow' ELSE 'queue' END, q.name),
        HINT = format('Its owner can give it: select underway.grant_queue(%L, %L, ''{%s}'');',
            q.name, pg_get_userbyid(caller), "right");
END $$;

-- The living queue of that name, for somebody with that right; raises otherwise.
CREATE FUNCTION underway_internal.queue_for(caller oid, queue_name text, "right" text) RETURNS underway_internal.queue
    STABLE LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
    similar_name text;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.name = queue_name AND x.dropped_at IS NULL;
    IF FOUND THEN
        IF NOT underway_internal.may(caller, q, "right") THEN
            PERFORM underway_internal.refuse_queue(caller, q, "right");
        END IF;
        RETURN q;
    END IF;
    IF coalesce(queue_name, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('the name of the queue must not be %s',
                CASE WHEN queue_name IS NULL THEN 'null' ELSE 'empty' END),
            HINT = 'Give the name of a queue that underway.create_queue() made.';
    END IF;
    -- Only names that the caller may use are worth a suggestion.
    SELECT x.name INTO similar_name FROM underway_internal.queue x
        WHERE x.dropped_at IS NULL AND lower(btrim(x.name)) = lower(btrim(queue_name))
          AND underway_internal.may(caller, x, "right")
        ORDER BY x.name LIMIT 1;
    RAISE EXCEPTION USING ERRCODE = '42704',
        MESSAGE = format('queue "%s" does not exist', left(queue_name, 200)),
        HINT = CASE WHEN similar_name IS NULL
            THEN 'Make it with underway.create_queue(); the view underway.queues lists the queues there are.'
            ELSE format('There is a queue "%s".', similar_name) END;
END $$;

-- What runs as whom stands in these tables, so they are not among the data that pg_write_all_data is about.
CREATE FUNCTION underway_internal.guard_rights() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_user <> (SELECT pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c WHERE c.oid = TG_RELID)
            AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('role "%s" may not write to %s', current_user, TG_RELID::regclass),
            HINT = 'Queues and rights on them are changed by the functions of the schema underway.';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard_rights BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON underway_internal.queue
    FOR EACH STATEMENT EXECUTE FUNCTION underway_internal.guard_rights();
CREATE TRIGGER guard_rights BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON underway_internal.queue_grant
    FOR EACH STATEMENT EXECUTE FUNCTION underway_internal.guard_rights();
