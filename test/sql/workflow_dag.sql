-- Workflows with branches: joins, conditions, templates, jumps.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION breaks(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
CREATE TABLE joined (run uuid DEFAULT underway.run_id(), input jsonb);
CREATE FUNCTION joins(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO joined (input) VALUES ($1) RETURNING joined.input $$;

SELECT underway.create_workflow('diamond', ARRAY[
    underway.step('a', 'same'), underway.step('b', 'nothing', after => '{a}'), underway.step('c', 'same', after => '{a}', input => '{"c": "$steps.a.x"}'),
    underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('diamond', '{"x": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, outcome, input, output FROM underway.history(:'run') ORDER BY step;

-- Several first steps, several last ones; a condition that does not hold; what is skipped gives null, and passes its input on.
SELECT underway.create_workflow('wide', ARRAY[
    underway.step('p', 'same', after => '{}'), underway.step('q', 'same', after => '{}', run_if => '$run.q == true'),
    underway.step('r', 'same', after => '{q}'), underway.step('s', 'same', after => '{p,q}', run_if => '$steps.p.x > 1'),
    underway.step('t', 'same', after => '{s}', input => '{"s": "$steps.s", "whole": "$run", "no": "$steps.p.y.z", "money": "$$5", "deep": [{"x": "$steps.p.x"}]}')]);
SELECT underway.start('wide', '{"x": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.start('wide', '{"x": 2, "q": true}') AS run \gset
SELECT state, output FROM test.ends(:'run');

-- Of several steps that could begin, those of the higher priority do first; where a step gives none, the run's holds.
CREATE TABLE turn (n int GENERATED ALWAYS AS IDENTITY, step text);
CREATE FUNCTION turns(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO turn (step) VALUES (input #>> '{}') $$;
SELECT underway.create_workflow('turns', ARRAY(SELECT underway.step(s, 'turns', after => '{}', input => to_jsonb(s), priority => p)
    FROM (VALUES ('late', 9), ('as run', NULL), ('first', 0), ('second', 1)) v(s, p)), concurrency => 1, priority => 3);
SELECT underway.pause_queue('turns'), underway.start('turns') AS run \gset
SELECT underway.resume_queue('turns');
SELECT state FROM test.ends(:'run');
SELECT string_agg(step, ', ' ORDER BY n) FROM turn;

-- Nothing runs at all.
SELECT underway.create_workflow('idle', ARRAY[underway.step('a', 'same', run_if => '$run.go'), underway.step('b', 'same', run_if => '$run.go')]);
SELECT underway.start('idle', '{"x": 1}') AS run \gset
SELECT state, output FROM underway.status(:'run');

-- Two branches end together: the second waits for the first's commit, and the join begins once, with both. Held at waitpoint 7, after the
-- statement that finishes a step.
CREATE FUNCTION waits_at(class int, object int) RETURNS bool LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::int = class AND objid::int = object AND NOT granted)
$$;
CREATE FUNCTION slow(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711); SELECT '"slow"'::jsonb $$;
CREATE FUNCTION quick(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.until('waits_at(7867, 7)');
    RETURN '"quick"';
END $$;
GRANT EXECUTE ON FUNCTION test.until(text, int) TO PUBLIC;
SELECT underway.create_workflow('together', ARRAY[underway.step('a', 'nothing'), underway.step('slow', 'slow', after => '{a}'),
    underway.step('quick', 'quick', after => '{a}'), underway.step('j', 'joins', after => '{slow,quick}')]);
SELECT pg_advisory_lock(4711), pg_advisory_lock(7867, 7);
SELECT underway.start('together') AS run \gset
SELECT test.until('waits_at(0, 4711)');
SELECT underway_internal.arm_waitpoints(128), pg_advisory_unlock(4711);
SELECT test.until('EXISTS (SELECT FROM pg_locks WHERE locktype = ''transactionid'' AND NOT granted)');
SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock(7867, 7);
SELECT state, output FROM test.ends(:'run');
SELECT input FROM joined WHERE run = :'run';
-- The same where the handlers' snapshots are older than the other's commit: neither waits for the other.
SELECT underway.create_workflow('repeatable', ARRAY[underway.step('a', 'nothing'), underway.step('slow', 'slow', after => '{a}'),
    underway.step('quick', 'quick', after => '{a}'), underway.step('j', 'joins', after => '{slow,quick}')],
    settings => '{"default_transaction_isolation": "repeatable read"}');
SELECT pg_advisory_lock(4711), pg_advisory_lock(7867, 7);
SELECT underway.start('repeatable') AS run \gset
SELECT test.until('waits_at(0, 4711)');
SELECT underway_internal.arm_waitpoints(128), pg_advisory_unlock(4711);
SELECT test.until('(SELECT count(*) = 2 FROM pg_locks WHERE locktype = ''advisory'' AND classid = 7867 AND objid = 7 AND NOT granted)');
SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock(7867, 7);
SELECT state, output FROM test.ends(:'run');
SELECT input FROM joined WHERE run = :'run';
-- There a step cannot say where the run goes, and its attempt fails; what it returns otherwise is passed on.
CREATE FUNCTION jumps(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to('j') $$;
CREATE FUNCTION later(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.next('1', delay => '1 h') $$;
CREATE FUNCTION ends(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.finish() $$;
SELECT underway.create_workflow(what, ARRAY[underway.step('a', what), underway.step('b', 'nothing', after => '{a}'),
    underway.step('c', 'nothing', after => '{a}'), underway.step('j', 'joins', after => '{b,c}')],
    retry => underway.retry_policy(max_attempts => 1), settings => '{"default_transaction_isolation": "serializable"}')
    FROM unnest('{jumps,later,ends}'::text[]) what;
CREATE TABLE decides AS SELECT what, underway.start(what) AS run FROM unnest('{jumps,later,ends}'::text[]) what;
SELECT what, s.state, s.sqlstate, s.error FROM decides, test.ends(run) s ORDER BY what;
-- And many, at every level of isolation.
SELECT underway.create_workflow('many', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'nothing', after => '{a}'), underway.step('c', 'nothing', after => '{a}'),
    underway.step('d', 'nothing', after => '{a}'), underway.step('j', 'joins', after => '{b,c,d}')]);
SELECT underway.create_workflow('many s', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'nothing', after => '{a}'), underway.step('c', 'nothing', after => '{a}'),
    underway.step('d', 'nothing', after => '{a}'), underway.step('j', 'joins', after => '{b,c,d}')], settings => '{"default_transaction_isolation": "serializable"}');
CREATE TABLE many AS SELECT underway.start(w) AS run FROM (VALUES ('many'), ('many s')) v(w), generate_series(1, 100);
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.run r JOIN many m ON m.run = r.id)');
SELECT e.state, count(*), count(DISTINCT j.run) AS joined FROM many m, underway.status(m.run) e, joined j WHERE j.run = m.run GROUP BY 1;

-- Branches of external workers: they join in a transaction of their own.
SELECT underway.create_queue('outside');
SELECT underway.create_workflow('outer', ARRAY[underway.step('a', 'nothing'), underway.step('b', queue => 'outside', after => '{a}'),
    underway.step('c', queue => 'outside', after => '{a}'), underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('outer') AS run \gset
SELECT test.until('(SELECT count(*) = 2 FROM underway.tasks WHERE queue = ''outside'' AND state = ''pending'')');
SELECT count(*) FROM underway.dequeue('outside', 2);
SELECT cardinality(underway.complete_many(array_agg(t.lease), array_agg(to_jsonb(t.step)))) FROM underway_internal.task t WHERE t.lease IS NOT NULL;
SELECT state, output FROM test.ends(:'run');

-- A branch fails: the others are stopped; or the failure is skipped.
SELECT underway.create_workflow('half', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'breaks', after => '{a}', retry => once()),
    underway.sleep('c', '1 hour', after => '{a}'), underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('half') AS run \gset
SELECT state, reason, error FROM test.ends(:'run');
SELECT step, outcome, error FROM underway.history(:'run') ORDER BY step;
SELECT count(*) FROM underway_internal.task WHERE run_id = :'run';
SELECT underway.create_workflow('skipping', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'breaks', after => '{a}', retry => once(), on_failure => 'skip'),
    underway.step('c', 'same', after => '{a}'), underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('skipping', '{"x": 1}') AS run \gset
SELECT state, output FROM test.ends(:'run');
-- One that is running is told to stop.
CREATE FUNCTION endless(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT pg_sleep(3600); SELECT '1'::jsonb $$;
CREATE FUNCTION breaks_later(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND step = ''c'' AND state = ''in_progress'')', underway.run_id()));
    RAISE EXCEPTION 'broken';
END $$;
SELECT underway.create_workflow('told', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'breaks_later', after => '{a}', retry => once()),
    underway.step('c', 'endless', after => '{a}'), underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('told') AS run \gset
SELECT state, reason, error FROM test.ends(:'run');
SELECT step, outcome, error FROM underway.history(:'run') ORDER BY step;

-- finish() in one branch ends the run.
CREATE FUNCTION finishes(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.finish('"enough"') $$;
SELECT underway.create_workflow('enough', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'finishes', after => '{a}'),
    underway.sleep('c', '1 hour', after => '{a}'), underway.step('d', 'joins', after => '{b,c}')]);
SELECT underway.start('enough') AS run \gset
SELECT state, output FROM test.ends(:'run');

-- go_to: back on the same branch, forward over others; not to one beside.
CREATE TABLE rounds (n int);
CREATE FUNCTION round(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rounds VALUES (coalesce((SELECT max(r.n) FROM rounds r), 0) + 1);
    IF (SELECT max(r.n) FROM rounds r) < 3 THEN
        RETURN underway.go_to('b', jsonb_build_object('round', (SELECT max(r.n) FROM rounds r), 'c', underway.step_output('c')));
    END IF;
    RETURN underway.next('"through"');
END $$;
SELECT underway.create_workflow('loop', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'same', after => '{a}'), underway.step('c', 'round', after => '{b}'),
    underway.step('p', 'nothing', after => '{a}'), underway.step('d', 'joins', after => '{c,p}')]);
SELECT underway.start('loop', '{}') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, input, output FROM underway.history(:'run') WHERE step IN ('b', 'c') ORDER BY ended_at;
CREATE FUNCTION goes(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to($1 #>> '{}', '"jumped"') $$;
SELECT underway.create_workflow('jump', ARRAY[underway.step('a', 'goes'), underway.step('b', 'same', after => '{a}'), underway.step('c', 'same', after => '{a}'),
    underway.step('d', 'joins', after => '{b,c}'), underway.step('e', 'joins', after => '{d,b}'), underway.step('f', 'same', after => '{b}')]);
SELECT underway.start('jump', '"d"') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, input, output FROM underway.history(:'run');
SELECT underway.create_workflow('beside', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'goes', after => '{a}', input => '"c"', retry => once()),
    underway.step('c', 'same', after => '{a}')]);
SELECT underway.start('beside') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
-- Nor to one that waits for a step beside: it would begin before that has ended, and once more when it ends.
SELECT underway.create_workflow('early', ARRAY[underway.step('a', 'nothing'), underway.step('b', 'goes', after => '{a}', input => '"j"', retry => once()), underway.step('x', 'same'),
    underway.wait('w', after => '{a}'), underway.step('j', 'joins', after => '{x,w}'), underway.step('z', 'same')]);
SELECT underway.start('early') AS run \gset
SELECT state, sqlstate, error FROM test.ends(:'run');
-- The delay of one branch holds for the join, whichever ends last; also when a step between is skipped.
CREATE FUNCTION tomorrow(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.next('1', delay => '1 day') $$;
SELECT underway.create_workflow('tomorrow', ARRAY[underway.step('a', 'tomorrow', after => '{}'), underway.step('s', 'same', run_if => '$run.no == 1'),
    underway.wait('w', after => '{}'), underway.step('j', 'joins', after => '{s,w}'), underway.step('k', 'joins', after => '{a,w}')]);
SELECT underway.start('tomorrow') AS run \gset
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.step_result WHERE run_id = %L AND step = ''s'')', :'run'));
SELECT underway.signal(:'run', 'w', '"came"');
SELECT test.until(format('(SELECT count(*) = 2 FROM underway.history(%L) WHERE outcome = ''pending'')', :'run'));
SELECT step, due_at - ended_at > '23 hours' AS tomorrow FROM (
    SELECT h.step, h.due_at, max(h.ended_at) OVER () AS ended_at FROM underway.history(:'run') h) h WHERE step IN ('j', 'k') ORDER BY step;
SELECT underway.set_clock(underway_internal.clock() + interval '1 day') IS NOT NULL;
SELECT state, output FROM test.ends(:'run');
SELECT underway.set_clock(NULL) IS NOT NULL;
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
