-- Operation: is everything well, and letting a restored copy run.
-- Invariant: check_health() only reads, and says of queues no more than underway.queues does.

CREATE FUNCTION underway_internal.version(caller oid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    installed text := (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'underway');
    library text := underway_internal.library_version();
BEGIN
    RETURN installed || CASE WHEN library = installed THEN '' ELSE format(' (library %s)', library) END;
END $$;

CREATE FUNCTION underway.version() RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.version IS
'The version of the extension in this database, and that of the library where it differs.';

CREATE FUNCTION underway_internal.adopt(caller oid) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    all_of_them bool := underway_internal.owns_database(caller);
    q underway_internal.queue;
    held underway_internal.task;
    due record;
    n int := 0;
    refused int := 0;
BEGIN
    FOR q IN SELECT x.* FROM underway_internal.queue x JOIN underway_internal.fitness f ON f.queue_id = x.id
            WHERE f.away ORDER BY x.id LOOP
        IF NOT all_of_them AND NOT underway_internal.can_become(caller, q.owner) THEN
            refused := refused + (q.dropped_at IS NULL)::int;
            CONTINUE;
        END IF;
        UPDATE underway_internal.queue x SET home_system = underway_internal.system_identifier(),
                home_database = (SELECT d.oid::bigint FROM pg_catalog.pg_database d WHERE d.datname = current_database())
            WHERE x.id = q.id AND (x.home_system, x.home_database) = (q.home_system, q.home_database);
        CONTINUE WHEN NOT FOUND;    -- somebody else adopted it meanwhile
        -- What workers of the original had in hand when the copy was made is in nobody's hands here. Not so leases: their
        -- holders may beat here as well, or are found silent.
        FOR held IN SELECT x.* FROM underway_internal.task x
                WHERE x.queue_id = q.id AND NOT x.waits AND x.state = 'in_progress' AND x.slot IS NOT NULL LOOP
            PERFORM underway_internal.reclaim(held, 'asked', 'the database was copied during this attempt',
                current_setting('underway.max_crashes')::int);
        END LOOP;
        -- Rows that a restore has loaded were never noted: each priority's first one is enough.
        FOR due IN SELECT s.* FROM generate_series(0, 15) p CROSS JOIN LATERAL (
                SELECT t.priority, t.run_at, t.id FROM underway_internal.task t
                WHERE t.queue_id = q.id AND t.priority = p AND NOT t.waits AND t.state = 'pending' ORDER BY t.run_at, t.id LIMIT 1) s LOOP
            PERFORM underway_internal.note(q.id, due.priority, due.run_at, due.id);
        END LOOP;
        PERFORM underway_internal.queue_changed(q.id);
        -- Timers were set without what waits in it.
        PERFORM underway_internal.note_expiry(underway_internal.clock()), underway_internal.note_deadline(underway_internal.clock());
        n := n + (q.dropped_at IS NULL)::int;
    END LOOP;
    IF n = 0 AND refused > 0 THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" may not adopt the queues of this database', pg_get_userbyid(caller)),
            HINT = 'The owner of the database may adopt all of them, others those whose owner they can become.';
    END IF;
    RETURN n;
END $$;

CREATE FUNCTION underway.adopt() RETURNS int LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.adopt IS
'Lets the queues of a restored, cloned or copied database run here. Until somebody says so they are held, lest a copy do again what the original does. The owner of the database adopts all queues; others those whose owner they can become.
Returns how many queues it let run. Errors: 42501 there are held queues, and none that the caller may adopt.';

-- About the server and this database as a whole.
CREATE FUNCTION underway_internal.check_server() RETURNS TABLE (severity text, object text, problem text, hint text)
    LANGUAGE plpgsql AS $$
DECLARE
    installed text := (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'underway');
    library text := underway_internal.library_version();
    here pg_catalog.pg_database;
    most int := current_setting('underway.max_workers', true)::int;
    slots int := current_setting('max_worker_processes')::int;
    busy int;
    waits interval;
    trouble text;
BEGIN
    SELECT d.* INTO here FROM pg_catalog.pg_database d WHERE d.datname = current_database();
    IF current_setting('shared_preload_libraries') !~ '(^|[,/\s"])underway(\.so)?($|[,\s"])' THEN
        RETURN QUERY SELECT 'error', 'server', 'the library underway is not in shared_preload_libraries',
            format('In postgresql.conf: shared_preload_libraries = %L; then restart the server.',
                concat_ws(', ', nullif(current_setting('shared_preload_libraries'), ''), 'underway'));
    END IF;
    IF library <> installed THEN
        RETURN QUERY SELECT 'error', 'extension underway',
            format('the extension is at version %s, the library at %s', installed, library),
            'Run alter extension underway update; if that does not help, restart the server, which has an older library loaded.';
    END IF;
    IF pg_is_in_recovery() THEN
        RETURN QUERY SELECT 'notice', 'server', 'this server is a standby: nothing runs here',
            'It runs tasks once it is promoted.';
        RETURN;
    END IF;
    IF NOT underway_internal.is_enabled() THEN
        RETURN QUERY SELECT 'warning', format('database "%s"', here.datname), 'underway.enabled is off: nothing runs',
            format('For the server: alter system set underway.enabled = on; for this database: '
                'alter database %I set underway.enabled = on.', here.datname);
    END IF;
    -- The launcher and one coordinator need a slot each.
    IF most + 2 > slots THEN
        RETURN QUERY SELECT 'warning', 'server',
            format('max_worker_processes (%s) leaves no room for underway.max_workers (%s), launcher and coordinator',
                slots, most),
            format('Raise max_worker_processes to %s or more, counting other extensions and parallel queries; then restart.',
                most + 4);
    END IF;
    SELECT count(*) INTO busy FROM underway_internal.workers() w WHERE w.state = 'busy';
    SELECT underway_internal.clock() - min(s.run_at) INTO waits
        FROM underway_internal.queue q JOIN underway_internal.fitness f ON f.queue_id = q.id
        CROSS JOIN generate_series(0, 15) p CROSS JOIN LATERAL (
            SELECT t.run_at FROM underway_internal.task t
            WHERE t.queue_id = q.id AND t.priority = p AND NOT t.waits AND t.state = 'pending' ORDER BY t.run_at, t.id LIMIT 1) s
        WHERE q.dropped_at IS NULL AND q.handler_name IS NOT NULL AND q.paused_at IS NULL AND f.problem IS NULL AND NOT f.away;
    IF busy >= most AND waits > interval '10 seconds' THEN
        RETURN QUERY SELECT 'warning', 'server',
            format('all %s workers are busy, and a task has been due for %s', busy, underway_internal.short_time(waits)),
            'Raise underway.max_workers, or see in underway.workers what takes so long.';
    ELSIF waits > interval '5 minutes' AND NOT EXISTS (
            SELECT FROM underway_internal.workers() w WHERE w.database = here.oid) THEN
        RETURN QUERY SELECT 'error', format('database "%s"', here.datname),
            format('a task has been due for %s, and no worker serves this database', underway_internal.short_time(waits)),
            'See the server''s log for why workers do not start; often max_worker_processes is too low.';
    END IF;
    -- Our processes try again after at most 10 seconds: what was longer ago came right, or ended with its process.
    SELECT d.trouble INTO trouble FROM underway_internal.databases() d
        WHERE d.database = here.oid AND d.trouble_at > clock_timestamp() - interval '1 minute';
    IF FOUND THEN
        RETURN QUERY SELECT 'error', format('database "%s"', here.datname),
            format('a background process fails at its own work, and tries again: %s', underway_internal.one_line(trouble)),
            'See the server''s log.';
    END IF;
    IF current_setting('autovacuum') = 'off' THEN
        RETURN QUERY SELECT 'warning', 'server', 'autovacuum is off: the table of unfinished tasks grows and gets slow',
            'Set autovacuum = on.';
    END IF;
END $$;

-- About the steps of a workflow: as they are defined now, and of versions that unfinished runs are on.
CREATE FUNCTION underway_internal.check_workflow(q underway_internal.queue)
    RETURNS TABLE (severity text, object text, problem text, hint text) LANGUAGE plpgsql AS $$
DECLARE
    current_version int := (SELECT w.version FROM underway_internal.workflow w WHERE w.queue_id = q.id);
    n bigint;
BEGIN
    RETURN QUERY SELECT 'error', format('workflow "%s"', q.name),
            CASE f.version WHEN current_version THEN '' ELSE format('version %s: ', f.version) END
                || format('step "%s": %s', f.name, f.problem), f.hint
        FROM underway_internal.step_fitness f
        WHERE f.queue_id = q.id AND (f.version = current_version OR EXISTS (
            SELECT FROM underway_internal.run r WHERE r.queue_id = q.id AND r.version = f.version));
    SELECT count(*) INTO n FROM (SELECT FROM underway_internal.run r
        WHERE r.queue_id = q.id AND r.state = 'parked' AND r.state NOT IN ('running', 'waiting') LIMIT 10000) s;
    IF n > 0 THEN
        RETURN QUERY SELECT 'warning', format('workflow "%s"', q.name), format('%s %s parked',
                CASE n WHEN 10000 THEN '10000 or more' ELSE n::text END, CASE n WHEN 1 THEN 'run is' ELSE 'runs are' END),
            'See why in underway.runs; underway.retry(run) goes on from the failed step, underway.cancel(run) ends it.';
    END IF;
END $$;

-- About the queues that caller has a right on.
CREATE FUNCTION underway_internal.check_queues(caller oid)
    RETURNS TABLE (severity text, object text, problem text, hint text)
    LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := underway_internal.clock();
    q underway_internal.queue;
    f underway_internal.fitness;
    due timestamptz;
    n bigint;
    waits interval;
BEGIN
    IF NOT pg_is_in_recovery() THEN
        SELECT count(*) INTO n FROM underway_internal.queue x JOIN underway_internal.fitness y ON y.queue_id = x.id
            WHERE x.dropped_at IS NULL AND y.away;
        IF n > 0 THEN
            RETURN QUERY SELECT 'error', format('database "%s"', current_database()),
                format('%s %s held: this database is a restored or cloned copy', n,
                    CASE n WHEN 1 THEN 'queue is' ELSE 'queues are' END),
                'If this copy is to run tasks, and the original no longer does: select underway.adopt();';
        END IF;
    END IF;
    FOR q IN SELECT x.* FROM underway_internal.queue x WHERE x.dropped_at IS NULL ORDER BY x.name LOOP
        CONTINUE WHEN NOT underway_internal.has_role(caller, q.owner) AND NOT EXISTS (
            SELECT FROM underway_internal.queue_grant g
            WHERE g.queue_id = q.id AND (g.role = 'public' OR underway_internal.has_role(caller, g.role)));
        object := format('%s "%s"', CASE WHEN q.workflow THEN 'workflow' ELSE 'queue' END, q.name);
        SELECT x.* INTO f FROM underway_internal.fitness x WHERE x.queue_id = q.id;
        IF f.problem IS NOT NULL THEN
            RETURN QUERY SELECT 'error', object, 'blocked: ' || f.problem, f.hint;
        ELSIF q.handler_name IS NOT NULL
                AND underway_internal.find_handler(q.handler_schema, q.handler_name, q.handler_args) IS NULL THEN
            RETURN QUERY SELECT 'error', object, format('blocked: handler %s is not fit to run', f.handler),
                'A handler is f(jsonb) or f(), returning void, jsonb, what casts to jsonb, or underway.transition.';
        END IF;
        IF q.dead_letter IS NOT NULL AND NOT EXISTS (
                SELECT FROM underway_internal.queue x WHERE x.id = q.dead_letter AND x.dropped_at IS NULL) THEN
            RETURN QUERY SELECT 'warning', object, 'its dead letter queue does not exist any more',
                format('Name another: select underway.alter_queue(%L, dead_letter => ''...''); or reset => ''{dead_letter}''.',
                    q.name);
        END IF;
        SELECT min(s.run_at) INTO due FROM generate_series(0, 15) p CROSS JOIN LATERAL (
            SELECT t.run_at FROM underway_internal.task t
            WHERE t.queue_id = q.id AND t.priority = p AND NOT t.waits AND t.state = 'pending' AND t.run_at <= now
            ORDER BY t.run_at, t.id LIMIT 1) s;
        waits := now - due;
        IF q.paused_at IS NOT NULL AND waits > interval '1 hour' THEN
            RETURN QUERY SELECT 'warning', object, format('paused by %s since %s, and a task has been due for %s', q.paused_by,
                    date_trunc('second', q.paused_at), underway_internal.short_time(waits)),
                format('select underway.resume_queue(%L);', q.name);
        ELSIF q.workflow THEN
            RETURN QUERY SELECT w.* FROM underway_internal.check_workflow(q) w;
        ELSIF q.handler_name IS NULL AND due IS NOT NULL
                AND EXISTS (SELECT FROM underway_internal.queue x WHERE x.dead_letter = q.id) THEN
            SELECT count(*) INTO n FROM (SELECT FROM underway_internal.task t
                WHERE t.queue_id = q.id AND NOT t.waits AND t.state = 'pending' LIMIT 10000) s;
            RETURN QUERY SELECT 'warning', object, format('%s dead %s %s, the oldest since %s',
                    CASE n WHEN 10000 THEN '10000 or more' ELSE n::text END, CASE n WHEN 1 THEN 'letter' ELSE 'letters' END,
                    CASE n WHEN 1 THEN 'waits' ELSE 'wait' END, date_trunc('second', due)),
                format('See them in underway.tasks; select underway.redrive(%L); runs their originals again.', q.name);
        ELSIF q.handler_name IS NULL AND waits > interval '15 minutes' THEN
            RETURN QUERY SELECT 'warning', object,
                format('a task has been due for %s, and no external worker takes it', underway_internal.short_time(waits)),
                'Start a worker for this queue, or give it a handler with underway.alter_queue().';
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION underway_internal.check_health(caller oid)
    RETURNS TABLE (severity text, object text, problem text, hint text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT c.* FROM (
            SELECT s.* FROM underway_internal.check_server() s
            UNION ALL SELECT q.* FROM underway_internal.check_queues(caller) q) c
        ORDER BY array_position('{error,warning,notice}', c.severity), c.object, c.problem;
END $$;

CREATE FUNCTION underway.check_health() RETURNS TABLE (severity text, object text, problem text, hint text)
    LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.check_health IS
'What is wrong, or soon will be, with the server and with the queues that the caller has a right on; no rows when all is well.
severity: error (work stands still), warning, notice. object: what it is about. problem. hint: what helps.';
