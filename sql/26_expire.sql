-- Expire: tasks that never started within their time to live end failed, with that reason.

CREATE FUNCTION underway_internal.expire_task(t underway_internal.task, ttl interval) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    RETURN underway_internal.archive_task(t, 'failed', NULL, 'expired', NULL,
        format('not started within its time to live (%s)', coalesce(t.expires_at - greatest(t.run_at, t.enqueued_at), ttl)), NULL, NULL, NULL, NULL);
END $$;

-- Tasks that a claim has just taken and found too old.
CREATE FUNCTION underway_internal.expire_claimed(ids uuid[], ttl interval) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    one uuid;
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOREACH one IN ARRAY ids LOOP
        DELETE FROM underway_internal.task x WHERE x.id = one AND x.state = 'in_progress' RETURNING x.* INTO t;
        CONTINUE WHEN NOT FOUND;
        t.attempt := 0;
        t.claimed_at := NULL;
        t.worker := NULL;
        PERFORM underway_internal.expire_task(t, ttl);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;

-- The coordinator's sweep for queues that nobody claims from (paused, blocked), at most max_tasks in one transaction.
-- The head of a priority is noted before its rows are locked: should this abort, they come free below the low-water mark.
CREATE FUNCTION underway_internal.expire(default_ttl interval, max_tasks int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
    t underway_internal.task;
    seen uuid;
    now timestamptz := underway_internal.clock();
    n bigint := 0;
BEGIN
    FOR q IN SELECT x.* FROM underway_internal.queue x
            WHERE x.dropped_at IS NULL AND x.home_system = underway_internal.system_identifier()
              AND x.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) LOOP
        FOR p IN 0..15 LOOP
            IF EXISTS (SELECT FROM underway_internal.task x WHERE x.queue_id = q.id AND x.priority = p AND NOT x.waits AND x.state = 'pending'
                    AND x.run_at <= now - coalesce(q.ttl, default_ttl)) THEN
                PERFORM underway_internal.note_locked(q.id, p, '-infinity', '00000000-0000-0000-0000-000000000000');
                FOR t IN SELECT x.* FROM underway_internal.task x
                        WHERE x.queue_id = q.id AND x.priority = p AND NOT x.waits AND x.state = 'pending' AND x.attempt = 0 AND x.expires_at IS NULL
                          AND x.run_id IS NULL
                          AND x.run_at <= now - coalesce(q.ttl, default_ttl) AND x.enqueued_at <= now - coalesce(q.ttl, default_ttl)
                        ORDER BY x.run_at, x.id LIMIT max_tasks - n FOR UPDATE SKIP LOCKED LOOP
                    DELETE FROM underway_internal.task x WHERE x.id = t.id;
                    PERFORM underway_internal.expire_task(t, coalesce(q.ttl, default_ttl));
                    n := n + 1;
                END LOOP;
            END IF;
        END LOOP;
    END LOOP;
    FOR t IN SELECT x.* FROM underway_internal.task x JOIN underway_internal.queue y ON y.id = x.queue_id
            WHERE x.expires_at <= now AND x.expires_at IS NOT NULL AND x.attempt = 0 AND x.state = 'pending'
              AND y.home_system = underway_internal.system_identifier()
              AND y.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())
            ORDER BY x.expires_at LIMIT max_tasks - n LOOP
        seen := t.id;
        PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
        DELETE FROM underway_internal.task x WHERE x.id IN (
            SELECT y.id FROM underway_internal.task y
            WHERE y.id = seen AND y.attempt = 0 AND y.state = 'pending' FOR UPDATE SKIP LOCKED) RETURNING x.* INTO t;
        IF FOUND THEN
            PERFORM underway_internal.expire_task(t, NULL);
            n := n + 1;
        ELSE
            PERFORM underway_internal.left_locked(seen);
        END IF;
    END LOOP;
    RETURN n;
END $$;

-- When a ttl is over next: a task's own, or that of a queue from which nobody may be claiming (paused, external, blocked). Claims
-- find the others, and the hourly sweep what has the default ttl. What the sweep of swept_at has passed over, since a client
-- has it locked, is looked at again soon.
CREATE FUNCTION underway_internal.next_expiry(swept_at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    next timestamptz;
BEGIN
    SELECT t.expires_at INTO next FROM underway_internal.task t JOIN underway_internal.queue q ON q.id = t.queue_id
        WHERE t.expires_at IS NOT NULL AND t.attempt = 0 AND t.state = 'pending'
          AND q.home_system = underway_internal.system_identifier()
          AND q.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())
        ORDER BY t.expires_at LIMIT 1;
    next := least(next, (SELECT min(greatest(s.run_at, s.enqueued_at) + q.ttl)
        FROM underway_internal.queue q CROSS JOIN generate_series(0, 15) p CROSS JOIN LATERAL (
            SELECT t.run_at, t.enqueued_at FROM underway_internal.task t
            WHERE t.queue_id = q.id AND t.priority = p AND NOT t.waits AND t.state = 'pending' AND t.attempt = 0 AND t.expires_at IS NULL
            ORDER BY t.run_at, t.id LIMIT 1) s
        WHERE q.ttl IS NOT NULL AND q.dropped_at IS NULL AND (q.paused_at IS NOT NULL OR q.handler_name IS NULL
            OR (SELECT f.problem IS NOT NULL FROM underway_internal.fitness f WHERE f.queue_id = q.id))
          AND q.home_system = underway_internal.system_identifier()
          AND q.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())));
    RETURN CASE WHEN next <= swept_at THEN underway_internal.clock() + interval '5 s' ELSE next END;
END $$;

-- Tasks that committed into a queue while, or after, it was dropped. One that waits for a child run ends with that run, which the end of its own
-- run stops: that is asked for, unless somebody has.
CREATE FUNCTION underway_internal.end_dropped(queue_id int, max_tasks int) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.queue_id = end_dropped.queue_id AND x.state IN ('pending', 'waiting')
              AND (x.phase IS DISTINCT FROM 'child' OR NOT EXISTS (SELECT FROM underway_internal.run_control c WHERE c.run_id = x.run_id))
            LIMIT max_tasks LOOP
        IF t.phase = 'child' THEN
            PERFORM underway_internal.ask_run(t.run_id, 'cancel', false, 'the workflow was dropped', t.enqueued_by);
            n := n + 1;
            CONTINUE;
        END IF;
        -- Whoever has one locked tells of it; to note it here would be to tell oneself, again and again.
        SELECT y.* INTO t FROM underway_internal.task y WHERE y.id = t.id AND y.state IN ('pending', 'waiting') FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF t.state = 'pending' THEN
            PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
        END IF;
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        PERFORM underway_internal.archive_task(t, 'failed', NULL, 'queue dropped', NULL, 'the queue was dropped', NULL, NULL, NULL, NULL);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
