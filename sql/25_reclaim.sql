-- Reclaim: attempts whose worker is known to be gone end as lost, and their tasks go on at once (promise 6). What becomes of a
-- task depends on how its worker ended: crashes and losses have counters of their own and use up no attempt (promise 7).

-- how: asked (somebody terminated the worker, or the server was shut down), own (the worker ended by itself while the handler ran),
-- crashed (the server went down uncleanly), timed_out (the handler went on after its timeout), silent (an external worker).
CREATE FUNCTION underway_internal.reclaim(t underway_internal.task, how text, message text, max_crashes int)
    RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    task_id uuid;
    q underway_internal.queue;
    cancelled text;
    due timestamptz;
BEGIN
    task_id := t.id;
    SELECT x.* INTO t FROM underway_internal.task x
        WHERE x.id = t.id AND x.attempt = t.attempt AND x.state = 'in_progress' FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM underway_internal.left_locked(task_id);
        RETURN 'lost';
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    cancelled := underway_internal.cancel_message(t.id);
    IF cancelled IS NOT NULL THEN
        RETURN underway_internal.end_cancelled(t, cancelled, NULL);
    ELSIF how = 'timed_out' THEN
        RETURN underway_internal.fail_task(t.id, t.attempt, true, NULL, 'error', NULL, '57014', message, NULL, NULL, NULL, NULL);
    END IF;
    due := t.run_at;
    IF how IN ('own', 'crashed') THEN
        t.crashes := t.crashes + 1;
        IF how = 'own' THEN
            due := underway_internal.clock() + make_interval(secs => least(power(2, least(t.crashes - 1, 6)), 60));
        END IF;
    ELSE
        t.losses := t.losses + 1;
    END IF;
    IF q.dropped_at IS NOT NULL OR t.crashes >= max_crashes THEN
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        PERFORM underway_internal.archive_task(t, 'failed', NULL, CASE WHEN q.dropped_at IS NOT NULL THEN 'queue dropped' ELSE 'crashes' END,
            NULL, message, NULL, NULL, NULL, NULL);
        RETURN 'failed';
    END IF;
    PERFORM underway_internal.record_attempt(t, 'lost', NULL, message, NULL, NULL, NULL, NULL, due);
    PERFORM underway_internal.reopen(t, due);
    RETURN 'pending';
END $$;

-- What a background worker, or each of them, has claimed and not ended, of this start of the server and of earlier ones.
CREATE FUNCTION underway_internal.held_by_workers(worker int DEFAULT NULL) RETURNS SETOF underway_internal.task LANGUAGE plpgsql STABLE AS $$
DECLARE
    c underway_internal.claim;
BEGIN
    FOR c IN SELECT x.* FROM underway_internal.claim x WHERE x.slot = worker OR worker IS NULL LOOP
        RETURN QUERY SELECT x.* FROM (SELECT DISTINCT i FROM unnest(c.tasks) i) u(id) CROSS JOIN LATERAL (SELECT y.* FROM underway_internal.task y
            WHERE y.id = u.id AND y.state = 'in_progress' AND y.slot = c.slot OFFSET 0) x;
    END LOOP;
END $$;

-- One worker process that is gone. culprit: the task whose handler was running, if one was; the others that it held were not begun,
-- or their batch went with it.
CREATE FUNCTION underway_internal.reclaim_worker(boot bigint, slot int, generation int, how text, culprit uuid, max_crashes int)
    RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.held_by_workers(slot) x WHERE x.boot = boot AND x.generation = generation LOOP
        PERFORM underway_internal.reclaim(t, CASE WHEN t.id = culprit THEN how ELSE 'asked' END,
            CASE WHEN t.id <> culprit OR how = 'asked' THEN format('the worker that held this task (%s) was terminated', t.worker)
                 WHEN how = 'timed_out' THEN 'canceling statement due to statement timeout; the handler went on, and its worker was terminated'
                 ELSE format('the worker (%s) ended while the handler ran', t.worker) END, max_crashes);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;

-- Every background worker of an earlier start of the server.
CREATE FUNCTION underway_internal.reclaim_boot(boot bigint, unclean bool, max_crashes int) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.held_by_workers() x JOIN underway_internal.queue q ON q.id = x.queue_id
            WHERE x.boot <> boot AND q.home_system = underway_internal.system_identifier()
              AND q.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) LOOP
        PERFORM underway_internal.reclaim(t, CASE WHEN unclean THEN 'crashed' ELSE 'asked' END,
            CASE WHEN unclean THEN 'the server went down uncleanly during this attempt' ELSE 'the server was shut down during this attempt' END,
            max_crashes);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;

-- External workers that are stale: nothing heard for three intervals, counted from the last heartbeat or the end of recovery,
-- whichever is later; or over their time. Taken only with the task's lock, which its executing transaction holds (promise 5): one
-- that is not free leaves no trace. Never waits for anybody: a row that a client has locked is passed over too. only_queue null: all.
-- Looks at up to max_rows. cleared: leases that had ended; again: when what was passed over may be taken, null if nothing was.
CREATE FUNCTION underway_internal.reclaim_stale(
        only_queue int, max_rows int, max_crashes int, OUT looked_at bigint, OUT reclaimed bigint, OUT cleared bigint,
        OUT again timestamptz)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    h underway_internal.heartbeat;
    t underway_internal.task;
    now timestamptz := underway_internal.clock();
    recovered timestamptz := underway_internal.recovered_at();
    over_time bool;
BEGIN
    looked_at := 0;
    reclaimed := 0;
    cleared := 0;
    FOR h IN SELECT x.* FROM underway_internal.queue q, LATERAL (
                SELECT y.* FROM underway_internal.heartbeat y WHERE y.queue_id = q.id AND y.stale_at <= now
                ORDER BY y.stale_at LIMIT max_rows) x
            WHERE q.id = only_queue OR only_queue IS NULL LIMIT max_rows LOOP
        looked_at := looked_at + 1;
        SELECT x.* INTO t FROM underway_internal.task x WHERE x.lease = h.lease;
        IF NOT FOUND THEN
            cleared := cleared + underway_internal.clear_heartbeat(h.lease, now)::int;
            CONTINUE;
        END IF;
        over_time := h.ends_at <= now;
        IF NOT over_time AND now < recovered + 3 * h.every THEN
            again := least(again, h.ends_at, recovered + 3 * h.every);
        ELSIF NOT underway_internal.try_lock_task(h.task_id) THEN
            again := least(again, now + interval '5 s');
        ELSE
            -- A heartbeat may have come, or be coming; the attempt may be ending: whoever has the row first.
            SELECT x.* INTO h FROM underway_internal.heartbeat x WHERE x.lease = h.lease FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN FOUND AND h.stale_at > now;
            IF FOUND THEN
                SELECT x.* INTO t FROM underway_internal.task x
                    WHERE x.id = t.id AND x.lease = t.lease AND x.state = 'in_progress' FOR UPDATE SKIP LOCKED;
            END IF;
            IF NOT FOUND THEN
                PERFORM underway_internal.left_locked(h.task_id);
                again := least(again, now + interval '5 s');
            ELSIF over_time THEN
                PERFORM underway_internal.fail_task(t.id, t.attempt, true, NULL, 'error', NULL, '57014',
                    format('the attempt took longer than its timeout (%s); worker %s', h.ends_at - t.claimed_at,
                        coalesce(t.worker, 'unknown')),
                    NULL, NULL, NULL, NULL);
                reclaimed := reclaimed + 1;
            ELSE
                PERFORM underway_internal.reclaim(t, 'silent',
                    format('no heartbeat from worker %s for %s', coalesce(t.worker, 'unknown'), now - h.beat_at), max_crashes);
                reclaimed := reclaimed + 1;
            END IF;
        END IF;
    END LOOP;
END $$;

-- The row of a lease that has ended goes an hour after the first call. False: somebody has it locked.
CREATE FUNCTION underway_internal.clear_heartbeat(lease uuid, now timestamptz) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    h underway_internal.heartbeat;
BEGIN
    SELECT x.* INTO h FROM underway_internal.heartbeat x WHERE x.lease = lease FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF h.ends_at = '-infinity' THEN
        DELETE FROM underway_internal.heartbeat x WHERE x.lease = lease;
    ELSE
        UPDATE underway_internal.heartbeat x SET stale_at = now + interval '1 hour', ends_at = '-infinity' WHERE x.lease = lease;
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.next_stale(after timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT min(x.stale_at) FROM underway_internal.queue q, LATERAL (
        SELECT y.stale_at FROM underway_internal.heartbeat y WHERE y.queue_id = q.id AND y.stale_at > after
        ORDER BY y.stale_at LIMIT 1) x);
END $$;
