-- Steer: cancel, pause, resume and retry of unfinished runs.
-- Invariant: who asks locks nothing of the run: a row beside it, in the caller's transaction, which the coordinator obeys.

CREATE FUNCTION underway_internal.ask_run(run_id uuid, kind text, undo bool, message text, asked_by text) RETURNS bool
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO underway_internal.run_control (run_id, kind, undo, message, asked_by, requested_at)
        VALUES (ask_run.run_id, ask_run.kind, ask_run.undo, ask_run.message, ask_run.asked_by, underway_internal.clock());
    RETURN underway_internal.note_look();
END $$;
