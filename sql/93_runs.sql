-- Runs as those who may see them find them: by workflow and key, and as a view.
-- Invariant: the view shows what status() would show to the same role.

CREATE FUNCTION underway_internal.find_run(caller oid, workflow text, key text) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue;
    found_id uuid;
    starter text;
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'key must not be null',
            HINT = 'Give the key that the run was started with; runs without one are listed by the view underway.runs.';
    END IF;
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.name = workflow AND x.dropped_at IS NULL AND x.workflow;
    IF NOT FOUND THEN
        q := underway_internal.workflow_for(caller, workflow, 'see');       -- says what is wrong
    END IF;
    SELECT k.task_id INTO found_id FROM underway_internal.task_key k WHERE k.queue_id = q.id AND k.key = key;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    starter := coalesce((SELECT r.started_by FROM underway_internal.run r WHERE r.id = found_id),
        (underway_internal.ended_run(found_id)).started_by);
    IF starter IS NULL OR NOT underway_internal.may_see_task(caller, q.id, starter) THEN
        RETURN NULL;
    END IF;
    RETURN found_id;
END $$;

CREATE FUNCTION underway.find_run(workflow text, key text) RETURNS uuid LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.find_run IS
'The id of the run of a workflow that has this key, unfinished or ended: for a webhook, which knows order-42 and not the id.
Returns null when there is none, when it is kept no longer, and when the caller may not see it (who started it may, and who has the right see on the workflow). Errors: 42704 no such workflow, 22023 null.';

-- By workflow, and in it by state, key or time: the branches are planned for one workflow at a time, by an index each. A state that a branch
-- cannot have leaves it out of the plan, hence the constants.
CREATE INDEX run_key ON underway_internal.run (queue_id, key) WHERE key IS NOT NULL;
DO $$
BEGIN
    FOR n IN 0..15 LOOP
        EXECUTE format('CREATE INDEX run_archive_%s_key ON underway_internal.run_archive_%s (queue_id, key) WHERE key IS NOT NULL', n, n);
        EXECUTE format('CREATE INDEX run_archive_%s_started ON underway_internal.run_archive_%s (queue_id, started_at)', n, n);
    END LOOP;
END $$;

CREATE VIEW underway.runs WITH (security_barrier) AS
SELECT r.id, q.name AS workflow, r.version, r.state, r.key, r.group_key, r.started_by, r.started_at, r.finished_at, r.deadline,
    CASE WHEN r.finished_at IS NULL THEN ARRAY(
        SELECT DISTINCT t.step FROM underway_internal.task t WHERE t.run_id = r.id AND t.step IS NOT NULL ORDER BY t.step) END AS steps,
    r.parent, r.parent_step, r.priority, r.input, r.output, r.headers, r.reason, r.sqlstate, r.error, r.paused_by
FROM underway_internal.queue q
CROSS JOIN LATERAL (
    -- What shown_state() says: at work, or waiting for a time, a signal or others; then paused, undoing, parked.
    SELECT u.id, u.version, 'running' AS state, u.key, u.group_key, u.started_by, u.started_at, NULL::timestamptz AS finished_at,
        u.deadline, u.parent, u.parent_step, u.priority, u.input, u.output, u.headers, u.reason, u.sqlstate, u.error, u.paused_by
    FROM underway_internal.run u
    WHERE u.queue_id = q.id AND u.state = 'running' AND (u.ending IS NOT NULL
        OR EXISTS (SELECT FROM underway_internal.task t WHERE t.run_id = u.id
            AND (t.state = 'in_progress' OR t.state = 'pending' AND t.run_at <= underway_internal.clock()) OFFSET 0))
    UNION ALL
    SELECT u.id, u.version, 'waiting', u.key, u.group_key, u.started_by, u.started_at, NULL,
        u.deadline, u.parent, u.parent_step, u.priority, u.input, u.output, u.headers, u.reason, u.sqlstate, u.error, u.paused_by
    FROM underway_internal.run u
    WHERE u.queue_id = q.id AND u.state = 'running' AND u.ending IS NULL
      AND NOT EXISTS (SELECT FROM underway_internal.task t WHERE t.run_id = u.id
            AND (t.state = 'in_progress' OR t.state = 'pending' AND t.run_at <= underway_internal.clock()) OFFSET 0)
    UNION ALL
    SELECT u.id, u.version, u.state, u.key, u.group_key, u.started_by, u.started_at, NULL,
        u.deadline, u.parent, u.parent_step, u.priority, u.input, u.output, u.headers, u.reason, u.sqlstate, u.error, u.paused_by
    FROM underway_internal.run u
    WHERE u.queue_id = q.id AND u.state NOT IN ('running', 'waiting') AND u.state IN ('paused', 'undoing', 'parked')
    UNION ALL
    SELECT a.id, a.version, 'succeeded', a.key, a.group_key, a.started_by, a.started_at, a.finished_at,
        NULL, a.parent, a.parent_step, a.priority, a.input, a.output, a.headers, a.reason, a.sqlstate, a.error, NULL
    FROM underway_internal.run_archive a
    WHERE a.queue_id = q.id AND a.slot IN (0, 1, 2, 3, 4, 5, 6, 7)
    UNION ALL
    SELECT a.id, a.version, a.state, a.key, a.group_key, a.started_by, a.started_at, a.finished_at,
        NULL, a.parent, a.parent_step, a.priority, a.input, a.output, a.headers, a.reason, a.sqlstate, a.error, NULL
    FROM underway_internal.run_archive a
    WHERE a.queue_id = q.id AND a.slot IN (8, 9, 10, 11, 12, 13, 14, 15) AND a.state IN ('failed', 'cancelled')
      AND a.reopened_at IS NULL) r
WHERE q.workflow
  AND (q.id IN (SELECT s.id FROM underway_internal.seen_queue s)
    OR r.started_by IN (SELECT o.name FROM underway_internal.own_role o));
COMMENT ON VIEW underway.runs IS
'All runs of workflows, unfinished ones and those that are kept, that you started or may see by a right on their workflow. state: running, waiting (for a time, a signal, an external worker or others), paused, undoing, parked, succeeded, failed, cancelled. steps: those under way. parent, parent_step: of a child workflow, the run and the step that started it. Ask for one workflow, and for a state, a key, or a span of started_at or finished_at: each of these is found by an index.';
