-- Locking the row of a task, so that the low-water marks hold. Claims pass over a locked row and raise the mark above it: whoever locks a pending
-- row notes its key, and the end of the transaction lowers the mark to it again.
-- Invariant: a statement that finds, once it has the lock, that the row no longer meets its condition keeps the lock all the same (EvalPlanQual
-- in nodeLockRows.c and nodeModifyTable.c). So either there is no condition on what can change, or who comes away with nothing says so.

-- The row of a task as it is now, locked; empty when it is gone, or, unless wait, when somebody else has locked it. What the
-- row's key was is noted before the lock, what it is by then after it.
CREATE FUNCTION underway_internal.lock_row(seen underway_internal.task, wait bool) RETURNS underway_internal.task
    LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
BEGIN
    IF seen.state = 'pending' THEN
        PERFORM underway_internal.note_locked(seen.queue_id, seen.priority, seen.run_at, seen.id);
    END IF;
    IF wait THEN
        SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = seen.id FOR UPDATE;
    ELSE
        SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = seen.id FOR UPDATE SKIP LOCKED;
    END IF;
    IF t.state = 'pending' AND (seen.state <> 'pending' OR t.run_at <> seen.run_at) THEN
        PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
    END IF;
    RETURN t;
END $$;

-- For who wanted to lock an attempt in progress, or to delete its task, and has found that it is that no longer.
CREATE FUNCTION underway_internal.left_locked(task_id uuid) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    t underway_internal.task;
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.id = left_locked.task_id AND x.state = 'pending';
    IF FOUND THEN
        PERFORM underway_internal.note_locked(t.queue_id, t.priority, t.run_at, t.id);
    END IF;
    RETURN FOUND;
END $$;
