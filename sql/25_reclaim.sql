-- Reclaim: attempts whose background worker is known to be gone end as lost, and their tasks go on at once (promise 6).
-- No failure attempt is used; an unclean stop of the server counts as a crash for what was running.

CREATE FUNCTION underway_internal.reclaim(t underway_internal.task, crashed bool, message text) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = t.id AND x.attempt = t.attempt AND x.state = 'in_progress' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    IF crashed THEN
        t.crashes := t.crashes + 1;
    ELSE
        t.losses := t.losses + 1;
    END IF;
    IF q.dropped_at IS NOT NULL THEN
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        PERFORM underway_internal.archive_task(t, 'failed', NULL, 'queue dropped', NULL, message, NULL, NULL, NULL, NULL);
        RETURN 'failed';
    ELSIF t.crashes >= coalesce((coalesce(q.retry, '{}') || coalesce(t.retry, '{}') ->> 'max_crashes')::int, 3) THEN
        DELETE FROM underway_internal.task x WHERE x.id = t.id;
        PERFORM underway_internal.archive_task(t, 'failed', NULL, 'crashes', NULL, message, NULL, NULL, NULL, NULL);
        RETURN 'failed';
    END IF;
    PERFORM underway_internal.record_attempt(t, 'lost', NULL, message, NULL, NULL, NULL, NULL, t.run_at);
    PERFORM underway_internal.reopen(t, t.run_at);
    RETURN 'pending';
END $$;

-- One worker process that is gone.
CREATE FUNCTION underway_internal.reclaim_worker(boot bigint, slot int, generation int) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            WHERE x.state = 'in_progress' AND x.slot = slot AND x.boot = boot AND x.generation = generation LOOP
        PERFORM underway_internal.reclaim(t, false, format('the worker that ran this attempt (%s) ended', t.worker));
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;

-- Every worker of an earlier start of the server.
CREATE FUNCTION underway_internal.reclaim_boot(boot bigint, unclean bool) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    n bigint := 0;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x JOIN underway_internal.queue q ON q.id = x.queue_id
            WHERE x.state = 'in_progress' AND x.slot IS NOT NULL AND x.boot <> boot
              AND q.home_system = underway_internal.system_identifier()
              AND q.home_database = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) LOOP
        PERFORM underway_internal.reclaim(t, unclean,
            CASE WHEN unclean THEN 'the server went down uncleanly during this attempt' ELSE 'the server was shut down during this attempt' END);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
