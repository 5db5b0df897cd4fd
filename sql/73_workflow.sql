-- Workflows: defining and dropping them.
-- Invariant: the row of the workflow's queue is locked first, as for other changes of it; a version is never changed.

-- A queue that is a workflow is not handled as a queue.
CREATE FUNCTION underway_internal.refuse_workflow(q underway_internal.queue, hint text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('"%s" is a workflow', q.name), HINT = hint;
END $$;

-- The living workflow of that name, for somebody with that right on it; raises otherwise.
CREATE FUNCTION underway_internal.workflow_for(caller oid, workflow_name text, "right" text) RETURNS underway_internal.queue
    LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
    similar_name text;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.name = workflow_name AND x.dropped_at IS NULL;
    IF FOUND AND q.workflow THEN
        IF NOT underway_internal.may(caller, q, "right") THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = format('role "%s" does not have the right %s on workflow "%s"', pg_get_userbyid(caller), "right", q.name),
                HINT = format('Its owner can give it: select underway.grant_queue(%L, %L, ''{%s}'');',
                    q.name, pg_get_userbyid(caller), "right");
        END IF;
        RETURN q;
    ELSIF FOUND AND underway_internal.may(caller, q, "right") THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('"%s" is a queue and not a workflow', q.name),
            HINT = 'Tasks go to queues with underway.enqueue(); the view underway.workflows lists the workflows there are.';
    ELSIF coalesce(workflow_name, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('the name of the workflow must not be %s',
                CASE WHEN workflow_name IS NULL THEN 'null' ELSE 'empty' END),
            HINT = 'Give the name of a workflow that underway.create_workflow() made.';
    END IF;
    SELECT x.name INTO similar_name FROM underway_internal.queue x
        WHERE x.dropped_at IS NULL AND x.workflow AND lower(btrim(x.name)) = lower(btrim(workflow_name)) AND x.name <> workflow_name
          AND underway_internal.may(caller, x, "right")
        ORDER BY x.name LIMIT 1;
    RAISE EXCEPTION USING ERRCODE = '42704',
        MESSAGE = format('workflow "%s" does not exist', left(workflow_name, 200)),
        HINT = CASE WHEN similar_name IS NULL
            THEN 'Make it with underway.create_workflow(); the view underway.workflows lists the workflows there are.'
            ELSE format('There is a workflow "%s".', similar_name) END;
END $$;

-- After the steps are stored: can the owner run them, and would they find what they find in this session?
CREATE FUNCTION underway_internal.check_step_fitness(q underway_internal.queue, version int) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    f record;
BEGIN
    SELECT x.code, x.problem, x.hint INTO f FROM underway_internal.fitness x WHERE x.queue_id = q.id;
    IF f.problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = f.code,
            MESSAGE = format('workflow "%s" could not run: %s', q.name, f.problem), HINT = f.hint;
    END IF;
    SELECT x.* INTO f FROM underway_internal.step_fitness x
        WHERE x.queue_id = q.id AND x.version = check_step_fitness.version ORDER BY x."position", x.what LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = f.code, MESSAGE = format('step "%s": %s', f.name, f.problem), HINT = f.hint;
    END IF;
    RETURN underway_internal.notice_search_path(q, (SELECT bool_or(NOT EXISTS (
            SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace, unnest(p.proconfig) c
            WHERE n.nspname = x.schema AND p.proname = x.function AND c LIKE 'search\_path=%'
              AND p.proargtypes = CASE WHEN x.args = '{}' THEN '' ELSE '3802' END::oidvector))
        FROM underway_internal.step_function x WHERE x.queue_id = q.id AND x.version = check_step_fitness.version));
END $$;

CREATE FUNCTION underway_internal.create_workflow(
        caller oid, name text, steps jsonb[], concurrency int, group_concurrency int, priority int, retry jsonb, timeout interval,
        on_failure text, on_change text, keep text, durability text, settings jsonb, run_as text, run_timeout interval)
    RETURNS int LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    old underway_internal.queue;
    q underway_internal.queue;
    read record;
    s underway_internal.step;
    digest text;
    version int;
    current_version int;
BEGIN
    PERFORM underway_internal.check_name(name, 'name');
    PERFORM underway_internal.check_int(priority, 'priority', 0, 15);
    PERFORM underway_internal.check_word(on_failure, 'on_failure', '{fail,skip,park}');
    PERFORM underway_internal.check_word(on_change, 'on_change', '{continue,pause,fail}');
    PERFORM underway_internal.check_interval(run_timeout, 'run_timeout', '1 millisecond', '1000 years');
    SELECT x.* INTO old FROM underway_internal.queue x WHERE x.name = name AND x.dropped_at IS NULL;
    IF FOUND AND NOT old.workflow THEN
        RAISE EXCEPTION USING ERRCODE = '42710', MESSAGE = format('"%s" is a queue already', name),
            HINT = 'Workflows and queues share their names. Take another name, or drop the queue.';
    ELSIF FOUND THEN
        old := underway_internal.lock_queue(caller, name, 'manage');
        q := old;
    ELSE
        old := NULL;
        q := underway_internal.new_queue(caller, name, 'workflow');
        q.id := nextval('underway_internal.queue_id');
    END IF;
    q.concurrency := concurrency;
    q.group_concurrency := group_concurrency;
    q.priority := coalesce(priority, 8);
    q.retry := retry;
    q.timeout := timeout;
    q.keep := coalesce(keep, 'all');
    q.durability := durability;
    q.settings := settings;
    q := underway_internal.check_queue(caller, old, q, NULL, NULL, run_as);
    read := underway_internal.read_steps(caller, q, steps);
    digest := encode(sha256(convert_to(read.normal::text || read.identity, getdatabaseencoding())), 'hex');

    IF old.id IS NULL THEN
        INSERT INTO underway_internal.queue SELECT q.* ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            -- Another transaction has just made it.
            RETURN underway_internal.create_workflow(caller, name, steps, concurrency, group_concurrency, priority, retry, timeout,
                on_failure, on_change, keep, durability, settings, run_as, run_timeout);
        END IF;
        PERFORM underway_internal.queue_changed(q.id);
    ELSE
        PERFORM underway_internal.store_queue(q);
        current_version := (SELECT w.version FROM underway_internal.workflow w WHERE w.queue_id = q.id);
        SELECT v.version INTO version FROM underway_internal.workflow_version v
            WHERE v.queue_id = q.id AND v.digest = digest ORDER BY v.version DESC LIMIT 1;
        IF version IS DISTINCT FROM current_version AND NOT underway_internal.can_become(caller, old.owner) THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = format('role "%s" cannot change the steps of workflow "%s"', pg_get_userbyid(caller), name),
                HINT = format('They decide what runs as role "%s"; only who can become that role may change them.', old.owner);
        END IF;
    END IF;
    IF version IS NULL THEN
        version := 1 + coalesce((SELECT max(v.version) FROM underway_internal.workflow_version v WHERE v.queue_id = q.id), 0);
        INSERT INTO underway_internal.workflow_version (queue_id, version, steps, digest, linear, created_at)
            VALUES (q.id, version, read.normal, digest,
                NOT EXISTS (SELECT FROM unnest(read.rows) x WHERE x.kind = 'map' OR x.kind <> 'finally' AND x.after IS DISTINCT FROM
                    coalesce((SELECT ARRAY[b.name] FROM unnest(read.rows) b WHERE b."position" = x."position" - 1), '{}')),
                underway_internal.clock());
        FOR s IN SELECT x.* FROM unnest(read.rows) x LOOP
            s.version := version;
            INSERT INTO underway_internal.step SELECT s.*;
        END LOOP;
    END IF;
    INSERT INTO underway_internal.workflow AS w (queue_id, version, on_change, on_failure, run_timeout)
        VALUES (q.id, version, coalesce(on_change, 'continue'), coalesce(on_failure, 'fail'), run_timeout)
        ON CONFLICT (queue_id) DO UPDATE SET version = excluded.version, on_change = excluded.on_change,
            on_failure = excluded.on_failure, run_timeout = excluded.run_timeout;
    IF version IS DISTINCT FROM current_version OR q.owner <> old.owner THEN
        PERFORM underway_internal.check_step_fitness(q, version);
    END IF;
    RETURN version;
END $$;

CREATE FUNCTION underway.create_workflow(
        name text, steps jsonb[], concurrency int DEFAULT NULL, group_concurrency int DEFAULT NULL, priority int DEFAULT NULL,
        retry jsonb DEFAULT NULL, timeout interval DEFAULT NULL, on_failure text DEFAULT NULL, on_change text DEFAULT NULL,
        keep text DEFAULT NULL, durability text DEFAULT NULL, settings jsonb DEFAULT NULL, run_as text DEFAULT NULL,
        run_timeout interval DEFAULT NULL)
    RETURNS int LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.create_workflow IS
'Defines a workflow, or defines it anew; a new one needs the CREATE privilege on the database. Steps that are as in an earlier version, function bodies included, make that version the current one; others make a new version. Runs in flight stay on theirs. The settings become exactly what this call says or implies.
name: 1 to 128 bytes, shared with queues: rights on the workflow are given by grant_queue, it is stopped by pause_queue. steps: 1 to 1000, made by step(), map(), wait(), sleep(), child() and, as the last, finally(). concurrency, group_concurrency, priority, keep, durability, settings, run_as: as in create_queue, of the steps that run in the server; keep also of the runs. retry, timeout (of one attempt): of steps that give none. on_failure: when a step that gives none has failed for good: fail (default), skip, park. on_change: when a run comes to a step, an undo or a finally whose function is gone, or not as it was when the run''s version was defined: continue (default) with what is there, pause the run there until resume(), or fail the run (by an undo that is changed it is parked, as by one that fails). run_timeout: of a whole run (default none).
To define it anew needs the right manage and, for other steps, settings or run_as, the ability to become the owner; to name a queue or another workflow, the right enqueue on it, which the owner needs too.
Returns the version. Errors: 42710 a queue has that name, 42704 no such queue, workflow or role, 42883 no such function, 42501 not allowed, 22023 bad value.';

CREATE FUNCTION underway_internal.drop_workflow(caller oid, name text, force bool) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue;
    n bigint;
BEGIN
    PERFORM underway_internal.workflow_for(caller, name, 'manage');
    q := underway_internal.lock_queue(caller, name, 'manage');
    IF NOT underway_internal.has_role(caller, q.owner) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" is not an owner of workflow "%s"', pg_get_userbyid(caller), q.name),
            HINT = format('Only who has the rights of role "%s" may drop it; underway.pause_queue() stops it.', q.owner);
    END IF;
    IF force IS NOT TRUE THEN
        SELECT count(*) INTO n FROM (SELECT FROM underway_internal.run r WHERE r.queue_id = q.id LIMIT 10000) s;
        IF n > 0 THEN
            RAISE EXCEPTION USING ERRCODE = '55006',
                MESSAGE = format('workflow "%s" still has %s unfinished %s', q.name,
                    CASE WHEN n = 10000 THEN '10000 or more' ELSE n::text END, CASE WHEN n = 1 THEN 'run' ELSE 'runs' END),
                HINT = 'Let them finish, or give force => true: that cancels them, without undoing anything.';
        END IF;
    END IF;
    PERFORM underway_internal.refuse_used_queue(q, force);
    IF EXISTS (SELECT FROM underway_internal.run r WHERE r.queue_id = q.id) THEN
        INSERT INTO underway_internal.run_control (run_id, kind, undo, message, asked_by, requested_at)
            SELECT r.id, 'cancel', false, format('workflow "%s" was dropped by %s', q.name, pg_get_userbyid(caller)), pg_get_userbyid(caller),
                underway_internal.clock()
            FROM underway_internal.run r WHERE r.queue_id = q.id;
        PERFORM underway_internal.note_control();
    END IF;
    RETURN underway_internal.bury_queue(caller, q);
END $$;

CREATE FUNCTION underway.drop_workflow(name text, force bool DEFAULT false) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.drop_workflow IS
'Drops a workflow with all its versions; only who has the rights of its owner may. Its name is free at once; what is kept of its runs stays as long as it would have.
force: also while it has unfinished runs, which are cancelled, without undoing anything, and while another workflow runs it as a child (that step then fails).
Returns the name. Errors: 42704 no such workflow, 42501 not allowed, 55006 in use.';
