-- Heartbeats: signs of life of external workers, on their leases, in a table that finishing never touches.

CREATE FUNCTION underway_internal.beat(caller oid, lease uuid, progress jsonb) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    q underway_internal.queue;
    now timestamptz := underway_internal.clock();
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.lease = lease AND x.state = 'in_progress';
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
    IF NOT underway_internal.may(caller, q, 'work') THEN
        PERFORM underway_internal.refuse_queue(caller, q, 'work');
    END IF;
    UPDATE underway_internal.heartbeat h
        SET beat_at = now, stale_at = least(now + 3 * h.every, h.ends_at), progress = coalesce(beat.progress, h.progress)
        WHERE h.lease = beat.lease;
    -- Whoever reclaims holds that row: after it has ended, this looks at what it did.
    IF NOT EXISTS (SELECT FROM underway_internal.task x WHERE x.lease = lease AND x.state = 'in_progress') THEN
        RETURN 'lost';
    ELSIF underway_internal.cancel_message(t.id) IS NOT NULL THEN
        RETURN 'cancel';
    END IF;
    RETURN 'ok';
END $$;

CREATE FUNCTION underway_internal.heartbeat(caller oid, lease uuid, progress jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF lease IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'lease must not be null', HINT = 'Give the lease that underway.dequeue() returned.';
    ELSIF octet_length(progress::text) > 8192 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('progress must have at most 8192 bytes as text, not %s', octet_length(progress::text)),
            HINT = 'A large result belongs into the output or into a table.';
    END IF;
    RETURN underway_internal.beat(caller, lease, progress);
END $$;

CREATE FUNCTION underway.heartbeat(lease uuid, progress jsonb DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.heartbeat IS
'Says that the worker is alive; to be called about once per heartbeat interval (the task''s or the queue''s, default 30 s), in a transaction of its own. After three intervals without one the lease is stale, and the task may be taken by others, unless a transaction holds lock_task. progress: shown by status() (at most 8192 bytes as text).
Returns ok; cancel when the task is to be given up: stop and call fail or release; lost when the lease is: stop, nothing can be completed with it. Errors: 42501 not allowed, 22023 bad value.';

CREATE FUNCTION underway_internal.heartbeat_many(caller oid, leases uuid[]) RETURNS TABLE (lease uuid, answer text) LANGUAGE plpgsql AS $$
DECLARE
    one uuid;
BEGIN
    IF leases IS NULL OR array_position(leases, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'leases must neither be null nor contain null',
            HINT = 'Give the leases that underway.dequeue() returned.';
    END IF;
    -- In one order, so that two callers with the same leases cannot deadlock.
    FOR one IN SELECT DISTINCT u FROM unnest(leases) u ORDER BY u LOOP
        lease := one;
        answer := underway_internal.beat(caller, one, NULL);
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION underway.heartbeat_many(leases uuid[]) RETURNS TABLE (lease uuid, answer text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.heartbeat_many IS
'heartbeat() for many leases: one row for each, with its answer: ok, cancel or lost. Errors: 42501 not allowed, 22023 null.';
