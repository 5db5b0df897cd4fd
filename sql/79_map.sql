-- Maps: one step, many children. The map's own task waits (phase map) while they run, then collects what they gave (phase close).
-- Invariant: children lock nothing of the run. Who finds that none is left makes the map's task pending, which happens once.

-- A map that begins: its children, in the order of the items; the first `concurrency` of them pending, the others waiting. False: there
-- are no items, or none that has not succeeded in an earlier life of the run. t was deleted, and is put back. output: the array that the map's function gave, if it has one.
CREATE FUNCTION underway_internal.open_map(
        r underway_internal.run, s underway_internal.step, t underway_internal.task, output jsonb)
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    target int := coalesce(s.target_queue, t.queue_id);
    now timestamptz := underway_internal.clock();
    retry jsonb := t.retry;
    timeout interval := t.timeout;
    n bigint;
    first_id uuid := underway_internal.new_id();
    again bool := EXISTS (SELECT FROM underway_internal.step_result x WHERE x.run_id = r.id AND x.step = s.name AND x.item >= 0);
    at_once int := CASE WHEN r.state = 'running' THEN coalesce(s.concurrency, 2147483647) ELSE 0 END;
BEGIN
    IF target <> r.queue_id THEN
        SELECT nullif(coalesce(q.retry, '{}') || coalesce(s.retry, '{}'), '{}'), coalesce(s.timeout, q.timeout) INTO retry, timeout
            FROM underway_internal.queue q WHERE q.id = r.queue_id;
    END IF;
    IF again THEN
        PERFORM underway_internal.keep_items(r.id, s.name,
            ARRAY(SELECT coalesce(i.item, 'null') FROM underway_internal.map_items(r, s, t, output) WITH ORDINALITY i(item, n) ORDER BY i.n));
    END IF;
    INSERT INTO underway_internal.task (id, queue_id, priority, state, run_at, enqueued_at, enqueued_by, input, headers, group_key,
            timeout, retry, run_id, version, step, item)
        SELECT underway_internal.new_id(), target, t.priority, CASE WHEN i.place <= at_once THEN 'pending' ELSE 'waiting' END, now, now,
            t.enqueued_by, i.item, t.headers, t.group_key, timeout, retry, t.run_id, t.version, t.step, i.n - 1
        FROM (SELECT coalesce(m.item, 'null') AS item, m.n, row_number() OVER (ORDER BY m.n) AS place
              FROM underway_internal.map_items(r, s, t, output) WITH ORDINALITY m(item, n)
              WHERE NOT again OR NOT EXISTS (SELECT FROM underway_internal.step_result x
                  WHERE x.run_id = r.id AND x.step = s.name AND x.item = m.n - 1)) i
        ORDER BY i.n;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = 0 THEN
        RETURN false;
    END IF;
    -- first_id is older than the ids of all of them.
    PERFORM underway_internal.note(target, t.priority, now, first_id, least(n, at_once, 2147483647)::int);
    t.state := 'waiting';
    t.phase := 'map';
    t.slot := NULL;
    t.generation := NULL;
    t.boot := NULL;
    PERFORM underway_internal.put_back(t);
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.map_items(
        r underway_internal.run, s underway_internal.step, t underway_internal.task, output jsonb)
    RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF s.over_name IS NULL THEN
        RETURN QUERY SELECT i FROM underway_internal.eval_items(s, t.input, r.input, underway_internal.needed_results(r, s)) i;
    ELSE
        RETURN QUERY SELECT e.value FROM jsonb_array_elements(output) WITH ORDINALITY e ORDER BY e.ordinality;
    END IF;
END $$;

-- The next child of a map with a limit, after one has ended: begun by `who`, or pending. Its id is null when none waits. They are begun in
-- order, so the next one mostly stands shortly after `item`: no long scan over those that have ended.
CREATE FUNCTION underway_internal.next_child(run_id uuid, step text, item int, who underway_internal.claimer)
    RETURNS underway_internal.task LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    n underway_internal.task;
    seen underway_internal.task;
    now timestamptz := underway_internal.clock();
    after_item int := item;
    last_item int := 2147483647;
BEGIN
    LOOP
        SELECT x.* INTO seen FROM underway_internal.task x
            WHERE x.run_id = run_id AND x.step = step AND x.item > after_item AND x.item <= last_item AND x.state = 'waiting'
              AND x.paused_by IS NULL
            ORDER BY x.item LIMIT 1;
        IF FOUND THEN
            n := underway_internal.lock_row(seen, false);
            EXIT WHEN n.state = 'waiting' AND n.paused_by IS NULL;
            after_item := seen.item;        -- somebody else was first
        ELSIF last_item = item OR item < 0 THEN
            RETURN NULL;
        ELSE
            last_item := item;              -- from the first one on
            after_item := -1;
        END IF;
    END LOOP;
    IF (who).queue_id = n.queue_id THEN
        UPDATE underway_internal.task x SET state = 'in_progress', attempt = x.attempt + 1, run_at = now, claimed_at = now,
                worker = who.worker, boot = who.boot, slot = who.slot, generation = who.generation
            WHERE x.id = n.id RETURNING x.* INTO n;
    ELSE
        PERFORM underway_internal.note(n.queue_id, n.priority, now, n.id);
        UPDATE underway_internal.task x SET state = 'pending', run_at = now WHERE x.id = n.id RETURNING x.* INTO n;
    END IF;
    RETURN n;
END $$;

-- A child that succeeded. Another that waits begins in its place. If there is none, the worker looks at the map after the commit. A client may
-- not commit soon and has nothing to look with: for it the coordinator looks.
CREATE FUNCTION underway_internal.finish_child(
        t underway_internal.task, s underway_internal.step, output jsonb, who underway_internal.claimer,
        OUT look text, OUT next underway_internal.task)
    LANGUAGE plpgsql AS $$
DECLARE
    begun underway_internal.task;
BEGIN
    PERFORM underway_internal.record_result(t, 'succeeded', t.input, output, NULL, NULL,
        underway_internal.undo_of(t, s, 'succeeded', NULL));
    IF t.slot IS NULL THEN
        PERFORM underway_internal.note_look();
        RETURN;
    ELSIF s.concurrency IS NOT NULL THEN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            -- What others began meanwhile would look as if it waited: somebody with a new snapshot looks.
            PERFORM underway_internal.nudge(t.run_id);
            RETURN;
        ELSIF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = t.run_id AND x.state = 'running' AND x.ending IS NULL) THEN
            begun := underway_internal.next_child(t.run_id, t.step, t.item, who);
            IF begun.state = 'in_progress' THEN
                next := begun;
            END IF;
            IF begun.id IS NOT NULL THEN
                RETURN;
            END IF;
        END IF;
    END IF;
    look := t.step;
END $$;

-- None of the children is left: the map's task goes on. Again is harmless.
CREATE FUNCTION underway_internal.end_map(run_id uuid, step text) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    t underway_internal.task;
    now timestamptz := underway_internal.clock();
BEGIN
    SELECT x.* INTO t FROM underway_internal.task x WHERE x.run_id = run_id AND x.step = step AND x.item = -1 AND x.phase = 'map';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    t := underway_internal.lock_row(t, false);
    IF t.id IS NULL THEN
        PERFORM underway_internal.nudge(run_id, now + interval '20 milliseconds');
        RETURN false;
    ELSIF t.phase IS DISTINCT FROM 'map' THEN
        RETURN false;
    END IF;
    PERFORM underway_internal.note(t.queue_id, t.priority, now, t.id);
    UPDATE underway_internal.task x SET state = 'pending', phase = 'close', run_at = now, claimed_at = NULL, worker = NULL WHERE x.id = t.id;
    RETURN true;
END $$;

-- After the commit of a child, with a new snapshot: are all through? First its own hundred, so that few look at all of them; those from the
-- last one, which is most likely under way.
CREATE FUNCTION underway_internal.look_at_map(run_id uuid, step text, item int) RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    IF item IS NOT NULL AND EXISTS (SELECT FROM underway_internal.task x
            WHERE x.run_id = run_id AND x.step = step AND x.item >= item / 100 * 100 AND x.item < item / 100 * 100 + 100) THEN
        RETURN false;
    ELSIF (SELECT x.item FROM underway_internal.task x WHERE x.run_id = run_id AND x.step = step AND x.item >= 0
            ORDER BY x.item DESC LIMIT 1) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM underway_internal.run x WHERE x.id = run_id AND x.ending IS NOT NULL) THEN
        RETURN underway_internal.nudge(run_id);
    END IF;
    RETURN underway_internal.end_map(run_id, step);
END $$;

-- The coordinator's look at all open maps: when a client has finished a child, a worker has died, and at the start.
CREATE FUNCTION underway_internal.look_at_maps() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    m record;
    n bigint := 0;
BEGIN
    FOR m IN SELECT r AS run, s AS step, x AS task FROM underway_internal.task x
            JOIN underway_internal.run r ON r.id = x.run_id
            JOIN underway_internal.step s ON s.queue_id = r.queue_id AND s.version = r.version AND s.name = x.step
            WHERE x.phase = 'map' LOOP
        PERFORM underway_internal.fill_places(m.run, m.step, m.task);
        n := n + underway_internal.look_at_map((m.run).id, (m.step).name, NULL)::int;
    END LOOP;
    RETURN n;
END $$;

-- Begins as many of the children that wait as there are places. Those who do this do it one after the other: who finds the map's row locked
-- leaves a nudge, as in end_map(). Nobody waits for it: it may be a client's, who cancels the map and thinks.
CREATE FUNCTION underway_internal.fill_places(r underway_internal.run, s underway_internal.step, t underway_internal.task) RETURNS bool
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    running bigint;
    child underway_internal.task;
BEGIN
    t := underway_internal.lock_row(t, false);
    IF t.id IS NULL THEN
        PERFORM underway_internal.nudge(r.id, underway_internal.clock() + interval '20 milliseconds');
        RETURN false;
    ELSIF t.phase IS DISTINCT FROM 'map'
            OR NOT EXISTS (SELECT FROM underway_internal.run x WHERE x.id = r.id AND x.state = 'running' AND x.ending IS NULL) THEN
        RETURN false;
    END IF;
    SELECT count(*) INTO running FROM (SELECT FROM underway_internal.task x
        WHERE x.run_id = r.id AND x.step = s.name AND x.item >= 0 AND x.state IN ('pending', 'in_progress') LIMIT s.concurrency) y;
    WHILE running < coalesce(s.concurrency, 2147483647) LOOP
        child := underway_internal.next_child(r.id, s.name, coalesce(child.item, -1), NULL);
        EXIT WHEN child.id IS NULL;
        running := running + 1;
    END LOOP;
    RETURN true;
END $$;

-- Under the run's lock: a map of which a child has failed, or whose places may be empty. Who takes children away leaves a nudge: one
-- that ends just now may have looked before this commits.
CREATE FUNCTION underway_internal.tend_map(r underway_internal.run, s underway_internal.step, t underway_internal.task) RETURNS bool
    LANGUAGE plpgsql AS $$
DECLARE
    failed bigint;
BEGIN
    SELECT count(*) INTO failed FROM underway_internal.step_result x
        WHERE x.run_id = r.id AND x.step = s.name AND x.item >= 0 AND x.state IN ('failed', 'cancelled');
    IF failed > coalesce(s.tolerate, 0) OR underway_internal.cancel_message(t.id) IS NOT NULL THEN
        IF underway_internal.stop_some(r, s.name, CASE WHEN failed > coalesce(s.tolerate, 0) THEN 'too many items of the map failed'
                ELSE 'the map was cancelled' END) THEN
            RETURN underway_internal.nudge(r.id);
        END IF;
    ELSE
        PERFORM underway_internal.fill_places(r, s, t);
    END IF;
    RETURN underway_internal.look_at_map(r.id, s.name, NULL);
END $$;

-- The children of a map that somebody cancels. True: none is left. Else whoever ends the last one may have looked before this commits.
CREATE FUNCTION underway_internal.stop_map(t underway_internal.task) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    r underway_internal.run;
BEGIN
    SELECT x.* INTO r FROM underway_internal.run x WHERE x.id = t.run_id;
    PERFORM underway_internal.stop_some(r, t.step, 'the map was cancelled');
    IF NOT EXISTS (SELECT FROM underway_internal.task x WHERE x.run_id = t.run_id AND x.step = t.step AND x.item >= 0) THEN
        RETURN true;
    END IF;
    PERFORM underway_internal.nudge(t.run_id);
    RETURN false;
END $$;

-- All children of the map have ended: the array of their outputs, or null when too many failed.
CREATE FUNCTION underway_internal.collect(t underway_internal.task, s underway_internal.step, OUT output jsonb, OUT problem text, OUT sqlstate text)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    failed bigint;
    f underway_internal.step_result;
BEGIN
    SELECT count(*) INTO failed FROM underway_internal.step_result x
        WHERE x.run_id = t.run_id AND x.step = t.step AND x.item >= 0 AND x.state <> 'succeeded';
    IF failed > coalesce(s.tolerate, 0) THEN
        SELECT x.* INTO f FROM underway_internal.step_result x
            WHERE x.run_id = t.run_id AND x.step = t.step AND x.item >= 0 AND x.state <> 'succeeded' ORDER BY x.seq LIMIT 1;
        problem := format('%s of its items failed; the first: item %s: %s', failed, f.item, f.error);
        sqlstate := f.sqlstate;
    ELSE
        SELECT coalesce(jsonb_agg(CASE WHEN x.state = 'succeeded' THEN x.output END ORDER BY x.item), '[]') INTO output
            FROM underway_internal.step_result x WHERE x.run_id = t.run_id AND x.step = t.step AND x.item >= 0;
    END IF;
END $$;
