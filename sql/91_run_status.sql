-- What there is to know about a run, for those who may see it: who started it, and who has the right see on its workflow.

-- How a run ended last, as last_end() says it of a task.
CREATE FUNCTION underway_internal.ended_run(id uuid) RETURNS underway_internal.run_archive LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run_archive;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run_archive x
        WHERE x.id = ended_run.id
          AND (x.reopened_at IS NULL OR EXISTS (SELECT FROM underway_internal.run u WHERE u.id = x.id OFFSET 0))
        ORDER BY x.reopened_at DESC NULLS FIRST LIMIT 1;
    RETURN r;
END $$;

-- Waiting: nothing of it is in progress, and nothing is due.
CREATE FUNCTION underway_internal.shown_state(r underway_internal.run) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF r.state <> 'running' OR r.ending IS NOT NULL
            OR EXISTS (SELECT FROM underway_internal.task t WHERE t.run_id = r.id AND t.state = 'in_progress')
            OR EXISTS (SELECT FROM underway_internal.task t
                WHERE t.run_id = r.id AND t.state = 'pending' AND t.run_at <= underway_internal.clock()) THEN
        RETURN r.state;
    END IF;
    RETURN 'waiting';
END $$;

CREATE FUNCTION underway_internal.run_progress(r underway_internal.run) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object(
        'steps', (SELECT count(*) FROM underway_internal.step s WHERE s.queue_id = r.queue_id AND s.version = r.version),
        'ended', (SELECT count(*) FROM underway_internal.step_result x WHERE x.run_id = r.id AND x.item = -1),
        'under_way', coalesce((SELECT jsonb_agg(DISTINCT t.step) FROM underway_internal.task t
            WHERE t.run_id = r.id AND t.step IS NOT NULL AND t.item = -1), '[]'));
END $$;

CREATE FUNCTION underway_internal.run_status(caller oid, id uuid)
    RETURNS TABLE (kind text, queue text, state text, attempt int, failures int, crashes int, losses int, enqueued_at timestamptz,
        run_at timestamptz, started_at timestamptz, finished_at timestamptz, worker text, last_heartbeat timestamptz,
        progress jsonb, input jsonb, output jsonb, reason text, sqlstate text, error text, detail text, hint text, context text,
        notices text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r underway_internal.run;
    a underway_internal.run_archive;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = run_status.id;
    IF FOUND THEN
        IF underway_internal.may_see_task(caller, r.queue_id, r.started_by) THEN
            RETURN QUERY SELECT 'run', q.name, underway_internal.shown_state(r), NULL::int, NULL::int, NULL::int, NULL::int, r.started_at,
                    NULL::timestamptz, r.started_at, NULL::timestamptz, NULL::text, NULL::timestamptz,
                    underway_internal.run_progress(r), r.input, r.output,
                    CASE WHEN r.paused_by IS NOT NULL THEN 'paused by ' || r.paused_by ELSE r.reason END, r.sqlstate, r.error,
                    NULL::text, NULL::text, NULL::text, NULL::text
                FROM underway_internal.queue q WHERE q.id = r.queue_id;
        END IF;
        RETURN;
    END IF;
    a := underway_internal.ended_run(run_status.id);
    IF a.id IS NOT NULL AND underway_internal.may_see_task(caller, a.queue_id, a.started_by) THEN
        RETURN QUERY SELECT 'run', q.name, a.state, NULL::int, NULL::int, NULL::int, NULL::int, a.started_at,
                NULL::timestamptz, a.started_at, a.finished_at, NULL::text, NULL::timestamptz,
                NULL::jsonb, a.input, a.output, a.reason, a.sqlstate, a.error, NULL::text, NULL::text, NULL::text, NULL::text
            FROM underway_internal.queue q WHERE q.id = a.queue_id;
    END IF;
END $$;
