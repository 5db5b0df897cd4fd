-- Why: one line that says why a task is where it is, and what it waits for.
-- Invariant: reads only; says nothing that status() would not show to the same caller, besides how busy the server is.

-- Text of others, such as error messages, as a part of one line.
CREATE FUNCTION underway_internal.one_line(words text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    words := regexp_replace(btrim(words, E' \t\r\n'), '\s+', ' ', 'g');
    RETURN CASE WHEN length(words) > 200 THEN left(words, 197) || '...' ELSE words END;
END $$;

CREATE FUNCTION underway_internal.short_time(span interval) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
    RETURN date_trunc(CASE WHEN span < interval '1 second' THEN 'milliseconds' ELSE 'second' END, span);
END $$;

-- What keeps all tasks of a queue from being begun, with its hint; nulls when nothing does.
CREATE FUNCTION underway_internal.obstacle(q underway_internal.queue, OUT problem text, OUT hint text)
    LANGUAGE plpgsql AS $$
DECLARE
    f underway_internal.fitness;
BEGIN
    SELECT x.* INTO f FROM underway_internal.fitness x WHERE x.queue_id = q.id;
    IF pg_is_in_recovery() THEN
        problem := 'held: this server is a standby';
        hint := 'it runs tasks once it is promoted';
    ELSIF f.away THEN
        problem := 'held: restored copy';
        hint := 'call underway.adopt() if this copy is to run tasks';
    ELSIF NOT underway_internal.is_enabled() THEN
        problem := 'held: underway.enabled is off';
        hint := 'set it to on, for the server or for this database';
    ELSIF f.problem IS NOT NULL THEN
        problem := 'blocked: ' || f.problem;
        hint := lower(left(f.hint, 1)) || rtrim(substr(f.hint, 2), ';.');
    ELSIF q.handler_name IS NOT NULL
            AND underway_internal.find_handler(q.handler_schema, q.handler_name, q.handler_args) IS NULL THEN
        problem := format('blocked: handler %s is not fit to run', f.handler);
        hint := 'a handler is f(jsonb) or f(), returning void, jsonb, what casts to jsonb, or underway.transition';
    ELSIF q.paused_at IS NOT NULL THEN
        problem := format('pending: queue is paused by %s since %s', q.paused_by, date_trunc('second', q.paused_at));
        hint := format('select underway.resume_queue(%L)', q.name);
    END IF;
END $$;

-- A pending task that is due, on a queue that nothing stops.
CREATE FUNCTION underway_internal.why_due(q underway_internal.queue, t underway_internal.task)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := underway_internal.clock();
    here oid := (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database());
    busy int;
    busy_here int;
    workers_here int;
    most int := current_setting('underway.max_workers', true)::int;
    most_here int := nullif(greatest(current_setting('underway.max_workers_per_database', true)::int, 0), 0);
    running int;
    ahead int;
    line text;
BEGIN
    SELECT count(*) INTO ahead FROM (
        SELECT FROM generate_series(0, t.priority) p CROSS JOIN LATERAL (
            SELECT FROM underway_internal.task x
            WHERE x.queue_id = t.queue_id AND x.priority = p AND NOT x.waits AND x.state = 'pending' AND x.run_at <= now
              AND (p < t.priority OR (x.run_at, x.id) < (t.run_at, t.id))
            LIMIT 1000) s
        LIMIT 1000) s;
    IF q.handler_name IS NULL AND NOT q.workflow THEN
        line := format('due since %s, waits for an external worker (the queue has no handler)', date_trunc('second', t.run_at));
    ELSE
        SELECT count(*) FILTER (WHERE w.state = 'busy'), count(*) FILTER (WHERE w.state = 'busy' AND w.database = here),
                count(*) FILTER (WHERE w.database = here)
            INTO busy, busy_here, workers_here FROM underway_internal.workers() w;
        SELECT c.in_progress INTO running FROM underway_internal.count_tasks(NULL, t.queue_id) c;
        line := CASE
            WHEN running >= q.concurrency
                THEN format('%s of %s tasks of the queue in progress (its concurrency)', running, q.concurrency)
            WHEN busy_here >= most_here THEN format('%s of %s workers of this database busy', busy_here, most_here)
            WHEN busy >= most THEN format('%s of %s workers busy', busy, most)
            WHEN workers_here = 0 AND t.run_at < now - interval '10 seconds'
                THEN 'no worker serves this database; underway.check_health() may know why' END;
    END IF;
    RETURN 'pending: ' || concat_ws('; ', line, CASE
        WHEN ahead = 0 AND line IS NULL THEN 'next to run'
        WHEN ahead = 1 THEN '1 task of the queue goes first'
        WHEN ahead BETWEEN 2 AND 999 THEN format('%s tasks of the queue go first', ahead)
        WHEN ahead >= 1000 THEN '1000 or more tasks of the queue go first' END);
END $$;

CREATE FUNCTION underway_internal.why_unfinished(t underway_internal.task) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := underway_internal.clock();
    q underway_internal.queue;
    last underway_internal.attempt;
    o record;
    held_by record;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    IF t.paused_by IS NOT NULL THEN
        RETURN format('waiting: %spaused by %s; underway.resume() lets it go on', CASE WHEN t.run_id IS NOT NULL THEN 'the run is ' ELSE '' END, t.paused_by);
    ELSIF t.state = 'waiting' THEN
        RETURN 'waiting';
    ELSIF t.state = 'in_progress' THEN
        -- The slots of this server say nothing of a standby's or a copy's original.
        IF t.slot IS NOT NULL AND (SELECT f.away FROM underway_internal.fitness f WHERE f.queue_id = t.queue_id) THEN
            RETURN format('held: restored copy, made during attempt %s; underway.adopt() lets the task go on', t.attempt);
        ELSIF t.slot IS NOT NULL AND NOT pg_is_in_recovery() THEN
            SELECT w.task_id INTO held_by FROM underway_internal.workers() w
                WHERE w.slot = t.slot AND w.generation = t.generation;
            IF NOT FOUND THEN
                RETURN format('in_progress: attempt %s on %s, which is gone; the task will go on at once', t.attempt, t.worker);
            ELSIF held_by.task_id IS DISTINCT FROM t.id THEN
                RETURN format('in_progress: attempt %s, taken at %s by %s, which has others to finish first', t.attempt,
                    date_trunc('second', t.claimed_at), t.worker);
            END IF;
        END IF;
        RETURN format('in_progress: attempt %s since %s (%s) on %s', t.attempt, date_trunc('second', t.claimed_at),
            underway_internal.short_time(now - t.claimed_at), t.worker);
    ELSIF q.dropped_at IS NOT NULL THEN
        RETURN 'pending: its queue was dropped; it will end failed';
    END IF;
    SELECT x.* INTO o FROM underway_internal.obstacle(q) x;
    IF o.problem IS NOT NULL THEN
        RETURN o.problem || '; ' || o.hint;
    ELSIF t.run_at <= now THEN
        RETURN underway_internal.why_due(q, t);
    END IF;
    last := underway_internal.latest_attempt(t.id);
    RETURN format('pending: due in %s, at %s', underway_internal.short_time(t.run_at - now), date_trunc('second', t.run_at))
        || CASE last.outcome
            WHEN 'failed' THEN format(' (retry after failure %s of %s: %s)', t.failures,
                coalesce((t.retry ->> 'max_attempts')::int, (q.retry ->> 'max_attempts')::int, 5),
                underway_internal.one_line(last.message))
            WHEN 'lost' THEN format(' (attempt %s was lost: %s)', last.attempt, underway_internal.one_line(last.message))
            WHEN 'again' THEN format(' (attempt %s asked to go on then)', last.attempt)
            ELSE '' END;
END $$;

CREATE FUNCTION underway_internal.why_ended(a underway_internal.archive) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    error text := coalesce(': ' || underway_internal.one_line(a.message), '');
    most int := coalesce((a.retry ->> 'max_attempts')::int,
        (SELECT (q.retry ->> 'max_attempts')::int FROM underway_internal.queue q WHERE q.id = a.queue_id), 5);
BEGIN
    RETURN CASE
        WHEN a.state = 'succeeded' THEN format('succeeded: attempt %s, at %s', a.attempt, date_trunc('second', a.finished_at))
            || coalesce(format(' in %s', underway_internal.short_time(a.finished_at - a.started_at)), '')
        WHEN a.state = 'cancelled' THEN 'cancelled' || CASE WHEN a.message LIKE 'cancelled by %'
            THEN ':' || substr(underway_internal.one_line(a.message), length('cancelled') + 1) ELSE error END
        WHEN a.reason = 'gave up' THEN format('failed: gave up in attempt %s', a.attempt) || error
        WHEN a.reason = 'crashes' THEN format('failed: it was running in %s crashes of the server', a.crashes) || error
        WHEN a.reason = 'expired' THEN 'failed: expired' || error
        WHEN a.reason = 'error' AND a.failures < most
            THEN format('failed: attempt %s ended with an error that is not retried (%s)', a.attempt, a.sqlstate) || error
        WHEN a.reason = 'error' THEN format('failed: %s of %s attempts failed', a.failures, most) || error
        ELSE 'failed' || coalesce(': ' || a.reason, '') || error END;
END $$;

CREATE FUNCTION underway_internal.why(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    a underway_internal.archive;
    r underway_internal.run;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = id;
    IF FOUND THEN
        IF underway_internal.may_see_task(caller, t.queue_id, t.enqueued_by) THEN
            IF t.paused_by IS NULL AND t.state <> 'in_progress'
                    AND (t.phase IN ('map', 'child', 'wait') OR t.phase = 'sleep' AND t.run_at > underway_internal.clock()) THEN
                -- No worker is to begin these: a wait without a timeout is never due.
                SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = t.run_id;
                RETURN 'waiting: ' || underway_internal.why_step(r, t);
            END IF;
            RETURN underway_internal.why_unfinished(t);
        END IF;
    ELSIF underway_internal.is_run(id) THEN
        RETURN underway_internal.why_run(caller, id);
    ELSE
        a := underway_internal.last_end(id);
        IF a.id IS NOT NULL AND underway_internal.may_see_task(caller, a.queue_id, a.enqueued_by) THEN
            RETURN underway_internal.why_ended(a);
        END IF;
    END IF;
    PERFORM underway_internal.no_task(id);
END $$;

CREATE FUNCTION underway.why(id uuid) RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.why IS
'Says in one line why a task or a run is where it is, for people: ''pending: 4 of 4 workers busy'', ''blocked: handler public.f(jsonb) does not exist'', ''failed: 5 of 5 attempts failed: division by zero''; ''waiting: step "approval" waits for signal "approved" until 2030-01-31 12:00:00+00''. The word before the colon is the state, or held or blocked when its queue is. Do not parse the rest.
Who may see the task or run may ask. Errors: P0002 no such task or run.';
