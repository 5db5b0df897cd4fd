-- Why, for runs: one line that says what a run is doing, or waits for.
-- Invariant: reads only; says nothing that status() and history() would not show to the same caller, besides how busy the server is.

CREATE FUNCTION underway_internal.second(at timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN date_trunc('second', at);
END $$;

-- What one step that is under way does or waits for.
CREATE FUNCTION underway_internal.why_step(r underway_internal.run, t underway_internal.task) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
    q underway_internal.queue;
    now timestamptz := underway_internal.clock();
    name text := CASE WHEN t.phase = 'undo' THEN 'undo of ' ELSE '' END || format('step "%s"', t.step)
        || CASE WHEN t.item >= 0 THEN format(' (item %s)', t.item) ELSE '' END;
    child record;
    n bigint;
BEGIN
    SELECT x.* INTO s FROM underway_internal.step x WHERE x.queue_id = r.queue_id AND x.version = r.version AND x.name = t.step;
    IF t.phase = 'map' THEN
        SELECT count(*) INTO n FROM underway_internal.task x WHERE x.run_id = r.id AND x.step = t.step AND x.item >= 0;
        RETURN format('map "%s" has %s of %s items left', t.step, n, n + (SELECT count(*) FROM underway_internal.step_result x
            WHERE x.run_id = r.id AND x.step = t.step AND x.item >= 0));
    ELSIF t.phase = 'child' THEN
        SELECT c.id, w.name INTO child FROM underway_internal.run c JOIN underway_internal.queue w ON w.id = c.queue_id
            WHERE c.parent = r.id AND c.parent_step = t.step ORDER BY c.started_at DESC LIMIT 1;
        RETURN format('%s waits for run %s of workflow "%s"', name, coalesce(child.id::text, 'that has just ended'), coalesce(child.name, '?'));
    ELSIF t.paused_by IS NOT NULL THEN
        RETURN name || ' has not begun';
    ELSIF t.state = 'pending' AND t.phase = 'wait' THEN
        RETURN format('%s waits for signal "%s"', name, s.signal)
            || coalesce(' until ' || underway_internal.second(nullif(t.run_at, 'infinity')), ', without a timeout');
    ELSIF t.state = 'pending' AND t.phase = 'sleep' AND t.run_at > now THEN
        RETURN format('%s sleeps until %s', name, underway_internal.second(t.run_at));
    ELSIF t.state = 'pending' AND t.queue_id <> r.queue_id AND t.run_at <= now THEN
        SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = t.queue_id;
        RETURN format('%s waits for an external worker on queue "%s", since %s', name, q.name, underway_internal.second(t.run_at))
            || CASE WHEN q.paused_at IS NOT NULL THEN format(', which is paused by %s', q.paused_by) ELSE '' END;
    END IF;
    -- As of a task: in progress since when and where, next attempt at, queue paused, workers busy.
    RETURN name || ' is ' || replace(underway_internal.why_unfinished(t), 'in_progress: ', 'in progress: ');
END $$;

-- The steps under way, those in progress first; of many, the first three. Children of a map stand for themselves only while in progress.
CREATE FUNCTION underway_internal.why_steps(r underway_internal.run) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    lines text[] := '{}';
    n bigint;
BEGIN
    FOR t IN SELECT x.* FROM underway_internal.task x
            LEFT JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = x.step
            WHERE x.run_id = r.id AND x.step IS NOT NULL AND (x.item < 0 OR x.state = 'in_progress')
            ORDER BY x.state = 'in_progress' DESC, s.position, x.item LIMIT 3 LOOP
        lines := lines || underway_internal.why_step(r, t);
    END LOOP;
    SELECT count(*) INTO n FROM (SELECT FROM underway_internal.task x
        WHERE x.run_id = r.id AND x.step IS NOT NULL AND (x.item < 0 OR x.state = 'in_progress') LIMIT 1003) y;
    RETURN nullif(array_to_string(lines, '; ') || CASE WHEN n > 1002 THEN '; and 1000 or more others' WHEN n = 4 THEN '; and one other'
        WHEN n > 4 THEN format('; and %s others', n - 3) ELSE '' END, '');
END $$;

CREATE FUNCTION underway_internal.why_unfinished_run(r underway_internal.run) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue;
    c underway_internal.run_control;
    o record;
    state text := underway_internal.shown_state(r);
    steps text := underway_internal.why_steps(r);
    now timestamptz := underway_internal.clock();
    failed underway_internal.step_result;
    asked text;
BEGIN
    SELECT x.* INTO q FROM underway_internal.queue x WHERE x.id = r.queue_id;
    SELECT x.* INTO o FROM underway_internal.obstacle(q) x;
    SELECT x.* INTO c FROM underway_internal.run_control x WHERE x.run_id = r.id AND NOT x.seen AND x.kind <> 'look' ORDER BY x.id DESC LIMIT 1;
    IF FOUND THEN
        asked := format('%s asked by %s at %s, not done yet', c.kind, c.asked_by, underway_internal.second(c.requested_at));
    END IF;
    IF o.problem LIKE 'held:%' THEN
        RETURN o.problem || '; ' || o.hint || coalesce('; ' || asked, '');
    ELSIF asked IS NOT NULL THEN
        RETURN state || ': ' || concat_ws('; ', asked, steps);
    ELSIF r.state = 'parked' THEN
        SELECT x.* INTO failed FROM underway_internal.step_result x WHERE x.run_id = r.id AND (CASE WHEN r.ending IS NULL
            THEN x.item = -1 AND x.state IN ('failed', 'cancelled') ELSE x.undo = 'stuck' END) ORDER BY x.seq LIMIT 1;
        RETURN format('parked: since %s, %s; underway.retry() tries %s again, underway.cancel() %s',
            underway_internal.second(failed.ended_at),
            underway_internal.one_line(r.error),
            CASE WHEN r.ending IS NULL THEN 'that step' ELSE 'that' END,
            CASE WHEN r.ending IS NULL THEN 'ends the run' ELSE '(undo => false) leaves it' END);
    ELSIF r.state = 'paused' THEN
        RETURN concat_ws('; ', CASE WHEN r.paused_by LIKE 'on\_change: %' THEN 'paused: ' || substr(r.paused_by, length('on_change: ') + 1) ELSE format('paused: by %s', r.paused_by) END, 'underway.resume() lets it go on', steps);
    ELSIF r.ending IS NOT NULL AND EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = r.id AND x.state = 'in_progress') THEN
        NULL;
    ELSIF o.problem IS NOT NULL THEN
        RETURN concat_ws('; ', CASE WHEN o.problem LIKE 'pending:%' THEN state || substr(o.problem, length('pending:')) ELSE o.problem END, o.hint);
    END IF;
    RETURN state || ': ' || concat_ws('; ',
        CASE r.ending WHEN 'cancelled' THEN underway_internal.one_line(r.error)
            WHEN 'failed' THEN 'it has failed: ' || underway_internal.one_line(r.error) WHEN 'succeeded' THEN 'its last step has ended' END,
        CASE WHEN r.ending IS NOT NULL AND r.state = 'running' AND steps IS NOT NULL THEN 'waits for what is under way to end: ' || steps ELSE steps END,
        CASE WHEN steps IS NULL THEN 'what comes next begins at once' END);
END $$;

CREATE FUNCTION underway_internal.why_run(caller oid, id uuid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    r underway_internal.run;
    a underway_internal.run_archive;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = id;
    IF FOUND THEN
        IF underway_internal.may_see_task(caller, r.queue_id, r.started_by) THEN
            RETURN underway_internal.why_unfinished_run(r);
        END IF;
    ELSE
        a := underway_internal.ended_run(id);
        IF a.id IS NOT NULL AND underway_internal.may_see_task(caller, a.queue_id, a.started_by) THEN
            RETURN CASE a.state
                WHEN 'succeeded' THEN format('succeeded: at %s in %s', underway_internal.second(a.finished_at),
                    underway_internal.short_time(a.finished_at - a.started_at))
                WHEN 'cancelled' THEN format('cancelled: %s; at %s', CASE WHEN a.error LIKE 'cancelled by %'
                    THEN substr(underway_internal.one_line(a.error), length('cancelled ') + 1) ELSE underway_internal.one_line(a.error) END,
                    underway_internal.second(a.finished_at))
                ELSE format('failed: %s; at %s', underway_internal.one_line(a.error), underway_internal.second(a.finished_at)) END;
        END IF;
    END IF;
    PERFORM underway_internal.no_task(id);
END $$;
