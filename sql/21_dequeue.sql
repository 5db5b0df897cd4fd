-- Dequeue: what surrounds the claim itself, which is src/claim.cpp.

-- Claimed and not begun: handed back as if it had never been claimed.
CREATE FUNCTION underway_internal.give_back(ids uuid[], attempts int[]) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t underway_internal.task;
    cancelled text;
    given bigint := 0;
BEGIN
    -- By its id, each, here and wherever several tasks are looked for: while an old snapshot is held, the table seems empty and its
    -- index large to the planner, and it would rather read all of that once.
    FOR t IN SELECT x.* FROM unnest(ids, attempts) u(id, attempt) CROSS JOIN LATERAL (SELECT y.* FROM underway_internal.task y
            WHERE y.id = u.id AND y.attempt = u.attempt AND y.state = 'in_progress' FOR UPDATE) x LOOP
        cancelled := underway_internal.cancel_message(t.id);
        IF cancelled IS NOT NULL THEN
            PERFORM underway_internal.end_cancelled(t, cancelled, NULL);
        ELSE
            t.attempt := t.attempt - 1;
            PERFORM underway_internal.reopen(t, t.run_at);
        END IF;
        given := given + 1;
    END LOOP;
    IF given < cardinality(ids) THEN
        PERFORM underway_internal.left_locked(u.id) FROM unnest(ids) u(id);
    END IF;
    RETURN given;
END $$;
