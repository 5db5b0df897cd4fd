-- Retention: finished tasks and attempts stand in rings of eight tables each. When the open one has taken rows for a seventh
-- of the time to keep, the next one, whose rows are older than that by then, is emptied by TRUNCATE and opened.
-- TRUNCATE is not MVCC-safe: a snapshot older than it sees the table empty.

-- True when the ring moved on. Run with a short lock_timeout: a table that somebody reads stays, and is tried again later.
CREATE FUNCTION underway_internal.rotate(ring text, first int, keep interval) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    now timestamptz := underway_internal.clock();
    present underway_internal.ring_slot;
    oldest underway_internal.ring_slot;
    family text := CASE ring WHEN 'attempt' THEN 'attempt' ELSE 'archive' END;
BEGIN
    SELECT r.* INTO present FROM underway_internal.ring_slot r WHERE r.ring = ring AND r.closed_at IS NULL;
    IF NOT FOUND THEN
        INSERT INTO underway_internal.ring_slot VALUES (ring, first, now, NULL);
        RETURN false;
    END IF;
    IF keep IS NULL OR present.opened_at > now - keep / 7 THEN
        RETURN false;
    END IF;
    SELECT r.* INTO oldest FROM underway_internal.ring_slot r WHERE r.ring = ring AND r.slot = underway_internal.ring_next(present.slot, first);
    IF oldest.closed_at > now - keep THEN
        RETURN false;
    END IF;
    IF FOUND THEN
        IF family = 'archive' THEN
            -- A key is taken as long as its task or run is kept. Of what is re-opened meanwhile it is another row (renew_key). By slot
            -- number, so that only these tables are read and locked.
            EXECUTE format('DELETE FROM underway_internal.task_key k USING underway_internal.archive_%s a
                WHERE a.key IS NOT NULL AND k.queue_id = a.queue_id AND k.key = a.key AND k.task_id = a.id
                  AND a.reopened_at IS NULL', oldest.slot);
            EXECUTE format('DELETE FROM underway_internal.task_key k USING underway_internal.run_archive_%s a
                WHERE a.key IS NOT NULL AND k.queue_id = a.queue_id AND k.key = a.key AND k.task_id = a.id
                  AND a.reopened_at IS NULL', oldest.slot);
            EXECUTE format('TRUNCATE underway_internal.archive_%s, underway_internal.run_archive_%1$s', oldest.slot);
        ELSE
            EXECUTE format('TRUNCATE underway_internal.attempt_%s', oldest.slot);
        END IF;
        DELETE FROM underway_internal.ring_slot r WHERE r.ring = ring AND r.slot = oldest.slot;
    END IF;
    UPDATE underway_internal.ring_slot r SET closed_at = now WHERE r.ring = ring AND r.slot = present.slot;
    INSERT INTO underway_internal.ring_slot VALUES (ring, underway_internal.ring_next(present.slot, first), now, NULL);
    RETURN underway_internal.ring_moved();
END $$;

CREATE FUNCTION underway_internal.next_rotation(keep_succeeded interval, keep_ended interval) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT min(r.opened_at + CASE r.ring WHEN 'succeeded' THEN keep_succeeded WHEN 'ended' THEN keep_ended
            ELSE greatest(keep_succeeded, keep_ended) END / 7)
        FROM underway_internal.ring_slot r WHERE r.closed_at IS NULL);
END $$;
