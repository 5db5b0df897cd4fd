-- Queues: making and changing them.
-- Invariant: only who could become the role that a queue runs as decides what runs as it (handler, settings, run_as).
-- The row of a queue is locked against other changes of it, never against enqueue, which only reads it.

-- The NOTICE of create_queue: a handler that finds its tables in this session and not in a worker puzzles people.
-- exposed: it has no search_path of its own.
CREATE FUNCTION underway_internal.notice_search_path(q underway_internal.queue, exposed bool) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    owners text;
    callers text := underway_internal.caller_search_path();
BEGIN
    IF exposed IS NOT TRUE OR q.settings ? 'search_path' THEN
        RETURN false;
    END IF;
    SELECT substr(c, length('search_path=') + 1) INTO owners
        FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c
        WHERE c LIKE 'search\_path=%' AND s.setrole IN (0, underway_internal.role_oid(q.owner))
          AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
        ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1;
    IF NOT FOUND THEN
        owners := coalesce(
            (SELECT f.setting FROM pg_catalog.pg_file_settings f WHERE f.name = 'search_path' AND f.applied LIMIT 1),
            (SELECT g.boot_val FROM pg_catalog.pg_settings g WHERE g.name = 'search_path'));
    END IF;
    IF replace(owners, ' ', '') <> replace(callers, ' ', '') THEN
        RAISE NOTICE USING
            MESSAGE = format('%s "%s" will run with search_path = %s, not with that of this session (%s)',
                CASE WHEN q.workflow THEN 'the steps of workflow' ELSE 'the handler of queue' END, q.name, owners, callers),
            HINT = CASE WHEN q.workflow THEN format('Set it for the functions (alter function ... set search_path), or give '
                    'create_workflow() settings => %L.', jsonb_build_object('search_path', callers))
                ELSE format('Set it for the function (alter function ... set search_path), or for the queue: '
                    'select underway.alter_queue(%L, settings => %L);', q.name, jsonb_build_object('search_path', callers)) END;
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION underway_internal.find_dead_letter(
        caller oid, old underway_internal.queue, name text, dead_letter text)
    RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    target underway_internal.queue;
BEGIN
    IF dead_letter = name THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'dead_letter must not be the queue itself',
            HINT = 'Make another queue for what has failed; it needs no handler.';
    END IF;
    SELECT x.* INTO target FROM underway_internal.queue x
        WHERE x.name = find_dead_letter.dead_letter AND x.dropped_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('dead_letter: queue "%s" does not exist', left(dead_letter, 200)),
            HINT = 'Create that queue first; it needs no handler.';
    ELSIF target.workflow THEN
        PERFORM underway_internal.refuse_workflow(target, 'dead_letter must be a queue; it needs no handler.');
    ELSIF target.id IS DISTINCT FROM old.dead_letter AND NOT underway_internal.may(caller, target, 'enqueue') THEN
        PERFORM underway_internal.refuse_queue(caller, target, 'enqueue');
    END IF;
    RETURN target.id;
END $$;

-- Everything about a queue that is to be: q as it was (or empty), with the new plain values in it; handler, dead_letter and
-- run_as are null where they stay. Returns what to store.
CREATE FUNCTION underway_internal.check_queue(
        caller oid, old underway_internal.queue, q underway_internal.queue, handler text, dead_letter text, run_as text)
    RETURNS underway_internal.queue LANGUAGE plpgsql AS $$
DECLARE
    found_handler jsonb;
    role oid;
BEGIN
    PERFORM underway_internal.check_int(q.concurrency, 'concurrency', 1, 1000000);
    PERFORM underway_internal.check_int(q.group_concurrency, 'group_concurrency', 1, 1000000);
    PERFORM underway_internal.check_int(q.batch, 'batch', 1, 1000);
    PERFORM underway_internal.check_interval(q.timeout, 'timeout', '1 millisecond', '24 days');
    PERFORM underway_internal.check_interval(q.heartbeat, 'heartbeat', '1 millisecond', '24 days');
    PERFORM underway_internal.check_interval(q.ttl, 'ttl', '1 millisecond', '1000 years');
    PERFORM underway_internal.check_word(q.keep, 'keep', '{all,failed,none}');
    PERFORM underway_internal.check_word(q.durability, 'durability', '{sync,async}');
    PERFORM underway_internal.check_retry(q.retry, 'retry');
    IF dead_letter IS NOT NULL THEN
        q.dead_letter := underway_internal.find_dead_letter(caller, old, q.name, dead_letter);
    END IF;

    IF run_as IS NOT NULL THEN
        IF underway_internal.role_oid(run_as) IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('run_as: role "%s" does not exist', left(run_as, 100)),
                HINT = 'Give the name exactly as it is, without quotes; \du in psql lists the roles.';
        ELSIF NOT underway_internal.can_become(caller, run_as) THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = format('run_as: role "%s" cannot become role "%s"', pg_get_userbyid(caller), run_as),
                HINT = format('A member of it can: grant %I to %I.', run_as, pg_get_userbyid(caller));
        END IF;
        q.owner := run_as;
    END IF;
    IF handler IS NOT NULL THEN
        found_handler := underway_internal.resolve_handler(handler);
        q.handler_schema := found_handler ->> 'schema';
        q.handler_name := found_handler ->> 'name';
        q.handler_args := ARRAY(SELECT jsonb_array_elements_text(found_handler -> 'args'));
        q.handler_owner := found_handler ->> 'owner';
    END IF;

    role := underway_internal.role_oid(q.owner);
    IF old.id IS NOT NULL
            AND (q.handler_schema, q.handler_name, q.handler_args, q.handler_owner, q.settings, q.owner) IS DISTINCT FROM
                (old.handler_schema, old.handler_name, old.handler_args, old.handler_owner, old.settings, old.owner)
            AND NOT underway_internal.can_become(caller, old.owner) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" cannot change handler, settings or run_as of queue "%s"',
                pg_get_userbyid(caller), q.name),
            HINT = format('They decide what runs as role "%s"; only who can become that role may change them.', old.owner);
    END IF;
    IF q.settings IS NOT NULL AND (q.settings, q.owner) IS DISTINCT FROM (old.settings, old.owner) THEN
        IF role IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '42704',
                MESSAGE = format('role "%s", which the queue runs as, does not exist', q.owner),
                HINT = 'Name another one with run_as.';
        END IF;
        PERFORM underway_internal.check_settings(q.settings, role);
    END IF;
    RETURN q;
END $$;

-- After the row is stored: is the queue fit to run? Checked where the handler or the owner is new, so that other settings of a
-- queue that is blocked can be changed.
CREATE FUNCTION underway_internal.check_fitness(old underway_internal.queue, q underway_internal.queue) RETURNS bool
    LANGUAGE plpgsql AS $$
DECLARE
    f underway_internal.fitness;
BEGIN
    IF q.handler_name IS NULL
            OR (q.handler_schema, q.handler_name, q.handler_args, q.owner) IS NOT DISTINCT FROM
               (old.handler_schema, old.handler_name, old.handler_args, old.owner) THEN
        RETURN false;
    END IF;
    SELECT x.* INTO f FROM underway_internal.fitness x WHERE x.queue_id = q.id;
    IF f.problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = f.code,
            MESSAGE = format('queue "%s" could not run: %s', q.name, f.problem), HINT = f.hint;
    END IF;
    RETURN underway_internal.notice_search_path(q, NOT EXISTS (SELECT FROM pg_catalog.pg_proc p, unnest(p.proconfig) c
        WHERE p.oid = underway_internal.find_handler(q.handler_schema, q.handler_name, q.handler_args)
          AND c LIKE 'search\_path=%'));
END $$;

CREATE FUNCTION underway_internal.store_queue(q underway_internal.queue) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    UPDATE underway_internal.queue x SET owner = q.owner, handler_schema = q.handler_schema, handler_name = q.handler_name,
            handler_args = q.handler_args, handler_owner = q.handler_owner, concurrency = q.concurrency, priority = q.priority, retry = q.retry,
            timeout = q.timeout, heartbeat = q.heartbeat, ttl = q.ttl, dead_letter = q.dead_letter, keep = q.keep,
            batch = q.batch, durability = q.durability, group_concurrency = q.group_concurrency, settings = q.settings
        WHERE x.id = q.id;
    IF q.ttl IS NOT NULL THEN
        PERFORM underway_internal.note_expiry(underway_internal.clock());
    END IF;
    RETURN underway_internal.queue_changed(q.id);
END $$;

-- The row, locked against other changes, for somebody who still has the right.
CREATE FUNCTION underway_internal.lock_queue(caller oid, queue_name text, "right" text) RETURNS underway_internal.queue
    LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue_name, "right");
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = q.id FOR NO KEY UPDATE;
    IF q.dropped_at IS NOT NULL THEN
        -- Dropped while we waited; perhaps another one has the name by now.
        RETURN underway_internal.lock_queue(caller, queue_name, "right");
    ELSIF NOT underway_internal.may(caller, q, "right") THEN
        PERFORM underway_internal.refuse_queue(caller, q, "right");
    END IF;
    RETURN q;
END $$;

-- What a new queue or workflow has without being told, for somebody who may make one.
CREATE FUNCTION underway_internal.new_queue(caller oid, name text, what text) RETURNS underway_internal.queue
    LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
    here oid := (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database());
BEGIN
    IF NOT has_database_privilege(caller, here, 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" may not create a %s: it lacks the CREATE privilege on database "%s"',
                pg_get_userbyid(caller), what, current_database()),
            HINT = format('Its owner can give it: grant create on database %I to %I.', current_database(),
                pg_get_userbyid(caller));
    END IF;
    q.name := name;
    q.workflow := what = 'workflow';
    q.owner := pg_get_userbyid(caller);
    q.created_at := underway_internal.clock();
    q.home_system := underway_internal.system_identifier();
    q.home_database := here::bigint;
    RETURN q;
END $$;

CREATE FUNCTION underway_internal.create_queue(
        caller oid, name text, handler text, concurrency int, priority int, retry jsonb, timeout interval, heartbeat interval,
        ttl interval, dead_letter text, keep text, batch int, durability text, group_concurrency int, settings jsonb, run_as text,
        or_replace bool)
    RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    old underway_internal.queue;
    q underway_internal.queue;
BEGIN
    PERFORM underway_internal.check_name(name, 'name');
    PERFORM underway_internal.check_int(priority, 'priority', 0, 15);
    IF EXISTS (SELECT FROM underway_internal.queue x WHERE x.name = name AND x.dropped_at IS NULL) THEN
        IF or_replace IS NOT TRUE THEN
            RAISE EXCEPTION USING ERRCODE = '42710', MESSAGE = format('queue "%s" already exists', name),
                HINT = 'Change it with underway.alter_queue(), or give or_replace => true.';
        END IF;
        old := underway_internal.lock_queue(caller, name, 'manage');
        IF old.workflow THEN
            PERFORM underway_internal.refuse_workflow(old, 'Change it with underway.create_workflow().');
        END IF;
        q := old;
        q.dead_letter := NULL;
        q.handler_schema := NULL;
        q.handler_name := NULL;
        q.handler_args := NULL;
        q.handler_owner := NULL;
    ELSE
        q := underway_internal.new_queue(caller, name, 'queue');
    END IF;
    q.concurrency := concurrency;
    q.priority := coalesce(priority, 8);
    q.retry := retry;
    q.timeout := timeout;
    q.heartbeat := heartbeat;
    q.ttl := ttl;
    q.keep := coalesce(keep, 'all');
    q.batch := batch;
    q.durability := durability;
    q.group_concurrency := group_concurrency;
    q.settings := settings;
    q := underway_internal.check_queue(caller, old, q, handler, dead_letter, run_as);
    IF old.id IS NULL THEN
        q.id := nextval('underway_internal.queue_id');
        INSERT INTO underway_internal.queue SELECT q.* ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '42710', MESSAGE = format('queue "%s" already exists', name),
                DETAIL = 'Another transaction has just created it.',
                HINT = 'Change it with underway.alter_queue(), or give or_replace => true.';
        END IF;
        PERFORM underway_internal.queue_created(q.id);
    ELSE
        PERFORM underway_internal.store_queue(q);
    END IF;
    PERFORM underway_internal.check_fitness(old, q);
    RETURN q.name;
END $$;

CREATE FUNCTION underway.create_queue(
        name text, handler text DEFAULT NULL, concurrency int DEFAULT NULL, priority int DEFAULT NULL, retry jsonb DEFAULT NULL,
        timeout interval DEFAULT NULL, heartbeat interval DEFAULT NULL, ttl interval DEFAULT NULL, dead_letter text DEFAULT NULL,
        keep text DEFAULT 'all', batch int DEFAULT NULL, durability text DEFAULT NULL, group_concurrency int DEFAULT NULL,
        settings jsonb DEFAULT NULL, run_as text DEFAULT NULL, or_replace bool DEFAULT false)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.create_queue IS
'Makes a queue; needs the CREATE privilege on the database.
name: 1 to 128 bytes. handler: the SQL function that the server runs for each task, as ''f'', ''schema.f'' or ''schema.f(jsonb)'', found by the caller''s search_path; left out, external workers dequeue the tasks. concurrency: tasks in progress at once (1 to 1000000; default no limit but the number of workers). priority: of tasks that give none, 0 (first) to 15; default 8. retry: retry_policy(); default 5 attempts. timeout: of one attempt (default underway.default_timeout). heartbeat: interval for external workers (default 30 s). ttl: tasks that have not started this long after they were due, or enqueued if that is later, end failed (default 14 days). dead_letter: the queue that gets a copy of what failed for good; needs the right enqueue on it. keep: which finished tasks are kept: all, failed (cancelled ones are not), none. batch: this many tasks in one transaction (1 to 1000; default 1). durability: sync or async (default sync). group_concurrency: tasks in progress at once with the same group_key. settings: a JSON object of settings that the handler runs with. run_as: the role that the handler runs as, which the caller must be able to become; default the caller.
or_replace: an existing queue gets exactly what this call says or implies; its tasks, its owner (unless run_as is given), the rights on it and whether it is paused stay. Needs the right manage; for another handler, settings or run_as, the ability to become the owner.
Returns the name. A NOTICE says when the handler will run with another search_path than this session''s. Errors: 42710 exists, 42704 no such dead_letter or role, 42883 no such handler, 42501 not allowed, 22023 bad value.';

CREATE FUNCTION underway_internal.alter_queue(
        caller oid, name text, handler text, concurrency int, priority int, retry jsonb, timeout interval, heartbeat interval,
        ttl interval, dead_letter text, keep text, batch int, durability text, group_concurrency int, settings jsonb, run_as text,
        reset text[])
    RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    old underway_internal.queue := underway_internal.lock_queue(caller, name, 'manage');
    q underway_internal.queue := old;
    given text[] := array_remove(ARRAY[
        CASE WHEN handler IS NOT NULL THEN 'handler' END, CASE WHEN concurrency IS NOT NULL THEN 'concurrency' END,
        CASE WHEN priority IS NOT NULL THEN 'priority' END, CASE WHEN retry IS NOT NULL THEN 'retry' END,
        CASE WHEN timeout IS NOT NULL THEN 'timeout' END, CASE WHEN heartbeat IS NOT NULL THEN 'heartbeat' END,
        CASE WHEN ttl IS NOT NULL THEN 'ttl' END, CASE WHEN dead_letter IS NOT NULL THEN 'dead_letter' END,
        CASE WHEN keep IS NOT NULL THEN 'keep' END, CASE WHEN batch IS NOT NULL THEN 'batch' END,
        CASE WHEN durability IS NOT NULL THEN 'durability' END,
        CASE WHEN group_concurrency IS NOT NULL THEN 'group_concurrency' END,
        CASE WHEN settings IS NOT NULL THEN 'settings' END], NULL);
    setting text;
BEGIN
    IF old.workflow THEN
        PERFORM underway_internal.refuse_workflow(old, 'Change it with underway.create_workflow().');
    END IF;
    PERFORM underway_internal.check_int(priority, 'priority', 0, 15);
    IF cardinality(reset) > 0 THEN
        IF 'run_as' = ANY (reset) THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'reset must not contain run_as, which has no default',
                HINT = 'Name the role: run_as => ''...''.';
        END IF;
        PERFORM underway_internal.check_words(reset, 'reset', '{handler,concurrency,priority,retry,timeout,heartbeat,ttl,'
            'dead_letter,keep,batch,durability,group_concurrency,settings}');
        IF reset && given THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('%s is both given and named in reset',
                    (SELECT g FROM unnest(given) WITH ORDINALITY u(g, n) WHERE g = ANY (reset) ORDER BY n LIMIT 1)),
                HINT = 'Give a new value, or name it in reset to go back to the default.';
        END IF;
        FOREACH setting IN ARRAY reset LOOP
            CASE setting
                WHEN 'handler' THEN
                    q.handler_schema := NULL;
                    q.handler_name := NULL;
                    q.handler_args := NULL;
                    q.handler_owner := NULL;
                WHEN 'concurrency' THEN q.concurrency := NULL;
                WHEN 'priority' THEN q.priority := 8;
                WHEN 'retry' THEN q.retry := NULL;
                WHEN 'timeout' THEN q.timeout := NULL;
                WHEN 'heartbeat' THEN q.heartbeat := NULL;
                WHEN 'ttl' THEN q.ttl := NULL;
                WHEN 'dead_letter' THEN q.dead_letter := NULL;
                WHEN 'keep' THEN q.keep := 'all';
                WHEN 'batch' THEN q.batch := NULL;
                WHEN 'durability' THEN q.durability := NULL;
                WHEN 'group_concurrency' THEN q.group_concurrency := NULL;
                WHEN 'settings' THEN q.settings := NULL;
            END CASE;
        END LOOP;
    END IF;
    q.concurrency := coalesce(concurrency, q.concurrency);
    q.priority := coalesce(priority, q.priority);
    q.retry := coalesce(retry, q.retry);
    q.timeout := coalesce(timeout, q.timeout);
    q.heartbeat := coalesce(heartbeat, q.heartbeat);
    q.ttl := coalesce(ttl, q.ttl);
    q.keep := coalesce(keep, q.keep);
    q.batch := coalesce(batch, q.batch);
    q.durability := coalesce(durability, q.durability);
    q.group_concurrency := coalesce(group_concurrency, q.group_concurrency);
    q.settings := coalesce(settings, q.settings);
    q := underway_internal.check_queue(caller, old, q, handler, dead_letter, run_as);
    PERFORM underway_internal.store_queue(q);
    PERFORM underway_internal.check_fitness(old, q);
    RETURN q.name;
END $$;

CREATE FUNCTION underway.alter_queue(
        name text, handler text DEFAULT NULL, concurrency int DEFAULT NULL, priority int DEFAULT NULL, retry jsonb DEFAULT NULL,
        timeout interval DEFAULT NULL, heartbeat interval DEFAULT NULL, ttl interval DEFAULT NULL, dead_letter text DEFAULT NULL,
        keep text DEFAULT NULL, batch int DEFAULT NULL, durability text DEFAULT NULL, group_concurrency int DEFAULT NULL,
        settings jsonb DEFAULT NULL, run_as text DEFAULT NULL, reset text[] DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.alter_queue IS
'Changes a queue from the next claim on; tasks in progress go on as they began. Needs the right manage; for handler, settings and run_as, the ability to become the queue''s owner.
Arguments as in create_queue; what is null stays as it is. reset: names of settings that go back to their default; resetting handler leaves the tasks to external workers.
Returns the name. Errors: 42704 no such queue, dead_letter or role, 42883 no such handler, 42501 not allowed, 22023 bad value.';
