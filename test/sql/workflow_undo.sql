-- Undo: a run that fails or is cancelled undoes its steps, the last one first; one at a time; what cannot be undone parks the run.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION soon() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 3, initial_interval => '0', jitter => 0) $$;
CREATE TABLE effect (n int GENERATED ALWAYS AS IDENTITY, what text, got jsonb);
-- Steps, and what undoes them.
CREATE FUNCTION does(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    INSERT INTO effect (what, got) VALUES ('does', input) RETURNING jsonb_build_object('done', input)
$$;
CREATE FUNCTION does_void(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what, got) VALUES ('does void', input) $$;
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what, got) VALUES ('undoes', input) $$;
CREATE FUNCTION breaks(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('breaks', input);
    RAISE EXCEPTION USING ERRCODE = 'XX123', MESSAGE = 'broken';
END $$;
-- What a run has left, in order, and its history.
CREATE FUNCTION effects(OUT what text, OUT got jsonb) RETURNS SETOF record LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM effect RETURNING *) SELECT what, got FROM gone ORDER BY n
$$;
CREATE FUNCTION cancels(run uuid, undo bool DEFAULT true) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.cancel(run, undo => undo) $$;
CREATE FUNCTION state(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT s.state FROM underway.status(run) s $$;

-- In reverse order; each gets its step's output; of one that gave none, its input. Steps without undo are left out.
SELECT underway.create_workflow('trip', ARRAY[
    underway.step('flight', 'does', undo => 'undoes'), underway.step('hotel', 'does_void', undo => 'undoes'), underway.step('note', 'does'),
    underway.step('skipped', 'does', undo => 'undoes', run_if => '$run.no == true'), underway.step('car', 'does', undo => 'undoes'),
    underway.step('pay', 'breaks', undo => 'undoes', retry => once())]);
SELECT underway.start('trip', '"paris"') AS run \gset
SELECT state, reason, sqlstate, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, kind, attempt, outcome, input, error FROM underway.history(:'run');
SELECT (SELECT count(*) FROM underway_internal.task WHERE run_id = :'run') AS tasks, (SELECT count(*) FROM underway_internal.run WHERE id = :'run') AS runs,
    (SELECT count(*) FROM underway_internal.step_result WHERE run_id = :'run') AS results;
SELECT r.r ->> 'step' AS step, r.r ->> 'state' AS state, r.r ->> 'undo' AS undo FROM underway_internal.run_archive a, jsonb_array_elements(a.results) r(r) WHERE a.id = :'run';

-- A run that succeeds undoes nothing.
SELECT underway.create_workflow('good', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does')]);
SELECT underway.start('good', '1') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT * FROM effects();

-- Cancelled while it waits: with and without undo.
SELECT underway.create_workflow('waits', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.wait('w'), underway.step('b', 'does')]);
SELECT underway.start('waits', '1') AS run, underway.start('waits', '2') AS other \gset
SELECT test.until(format('(SELECT bool_and(state(r) = ''waiting'') FROM unnest(%L::uuid[]) r)', ARRAY[:'run', :'other']));
SELECT cancels(:'run'), cancels(:'other', false);
SELECT state, reason, error FROM test.ends(:'run');
SELECT state, reason, error FROM test.ends(:'other');
SELECT step, kind, outcome FROM underway.history(:'run');
SELECT step, kind, outcome FROM underway.history(:'other');
SELECT what, got FROM effects() ORDER BY what, got;

-- An undo that fails is tried again by the step's policy; its effects are not doubled.
CREATE FUNCTION undoes_late(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('undoes late', to_jsonb(underway.attempt()));
    IF underway.attempt() < 3 THEN
        RAISE 'not yet';
    END IF;
END $$;
SELECT underway.create_workflow('late', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', undo => 'undoes_late', retry => soon()),
    underway.step('c', 'breaks', retry => once())]);
SELECT underway.start('late', '1') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, kind, attempt, outcome, error FROM underway.history(:'run');

-- One that fails for good parks the run. It can be tried again; or the run ends without.
CREATE TABLE door (open bool);
INSERT INTO door VALUES (false);
CREATE FUNCTION undoes_behind_door(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (SELECT open FROM door) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX321', MESSAGE = 'the door is shut';
    END IF;
    INSERT INTO effect (what, got) VALUES ('undoes behind door', input);
END $$;
SELECT underway.create_workflow('stuck', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', undo => 'undoes_behind_door', retry => once()),
    underway.step('c', 'does', undo => 'undoes'), underway.step('d', 'breaks', retry => once())]);
SELECT underway.start('stuck', '1') AS run, underway.start('stuck', '2') AS other \gset
SELECT test.until(format('(SELECT bool_and(state(r) = ''parked'') FROM unnest(%L::uuid[]) r)', ARRAY[:'run', :'other']));
SELECT state, reason, sqlstate, error FROM underway.status(:'run');
SELECT step, kind, attempt, outcome, error FROM underway.history(:'run');
-- It does not go on by itself.
SELECT underway_internal.nudge(:'run');
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L)', :'run'));
SELECT state(:'run');
CREATE FUNCTION retries(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.retry(run) $$;
SELECT retries(:'run');
SELECT test.until(format('(SELECT count(*) = 2 AND state(%L) = ''parked'' FROM underway.history(%L) WHERE kind = ''undo'' AND outcome = ''failed'')', :'run', :'run'));
UPDATE door SET open = true;
SELECT retries(:'run');
SELECT state, reason, sqlstate, error FROM test.ends(:'run');
SELECT cancels(:'other', false);
SELECT state, reason, sqlstate, error FROM test.ends(:'other');
SELECT what, got FROM effects() WHERE what LIKE 'undoes%' ORDER BY got -> 'done' -> 'done' IS NOT NULL, got;
SELECT step, kind, attempt, outcome FROM underway.history(:'run') WHERE kind = 'undo';
SELECT r.r ->> 'step' AS step, r.r ->> 'state' AS state, r.r ->> 'undo' AS undo FROM underway_internal.run_archive a, jsonb_array_elements(a.results) r(r) WHERE a.id = :'other';

-- What an attempt that did not succeed may have left: of procedures, of give_up, of again; not of functions that failed.
CREATE PROCEDURE proceeds(input jsonb) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (what, got) VALUES ('proceeds', input);
    COMMIT;
    RAISE EXCEPTION 'half way';
END $$;
CREATE FUNCTION gives_up(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    INSERT INTO effect (what, got) VALUES ('gives up', input);
    SELECT underway.give_up('enough', '{"so far": 1}')
$$;
CREATE FUNCTION comes_again(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'more' IS NOT NULL THEN
        RAISE 'too late';
    END IF;
    INSERT INTO effect (what, got) VALUES ('comes again', input);
    RETURN underway.again('0', '{"more": true}');
END $$;
SELECT underway.create_workflow('procedure', ARRAY[underway.step('a', 'proceeds', undo => 'undoes', retry => once())]);
SELECT underway.create_workflow('gives up', ARRAY[underway.step('a', 'gives_up', undo => 'undoes', retry => once())]);
SELECT underway.create_workflow('again', ARRAY[underway.step('a', 'comes_again', undo => 'undoes', retry => once())]);
SELECT underway.start('procedure', '{"n": 1}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT underway.start('gives up', '{"n": 2}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT underway.start('again', '{"n": 3}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
-- Also when the run goes on without such a step, and fails later.
SELECT underway.create_workflow('skips', ARRAY[underway.step('a', 'gives_up', undo => 'undoes', on_failure => 'skip'), underway.step('b', 'breaks', retry => once())]);
SELECT underway.start('skips', '{"n": 4}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();

-- Maps: each child, not the map; what failed within `tolerate` was undone by its own transaction.
CREATE FUNCTION odd(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input::int % 4 = 3 THEN
        RAISE 'no';
    END IF;
    RETURN to_jsonb(input::int * 10);
END $$;
SELECT underway.create_workflow('map', ARRAY[underway.step('a', 'does', undo => 'undoes'),
    underway.map('m', 'odd', items => '$.done[*]', concurrency => 1, tolerate => 1, undo => 'undoes', retry => once()), underway.step('b', 'breaks', retry => once())]);
SELECT underway.start('map', '[1, 2, 3, 4]') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, item, kind, outcome, input FROM underway.history(:'run') WHERE kind = 'undo';
-- Too many failed: those that succeeded are undone.
SELECT underway.start('map', '[1, 2, 3, 7, 8]') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();

-- A loop: every pass.
CREATE FUNCTION loops(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    SELECT CASE WHEN count(*) < 3 THEN underway.go_to('a', to_jsonb(count(*))) ELSE underway.give_up('round and round') END FROM effect WHERE what = 'does'
$$;
SELECT underway.create_workflow('loop', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'loops', undo => 'undoes')]);
SELECT underway.start('loop', '0') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT step, item, kind, outcome, input, output FROM underway.history(:'run');

-- Branches, under each isolation level; the undo knows its run and may not say what comes next.
CREATE FUNCTION asks(input jsonb) RETURNS void LANGUAGE sql SET default_transaction_isolation = 'serializable' AS $$
    INSERT INTO effect (what, got) VALUES ('undoes', jsonb_build_object('input', underway.run_input(), 'a', underway.step_output('a'), 'undo', underway.headers()))
$$;
CREATE FUNCTION next_undo(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to('a') $$;
SELECT underway.create_workflow('dag', ARRAY[underway.step('a', 'does', undo => 'asks'), underway.step('b', 'does', after => '{a}', undo => 'undoes'),
    underway.step('c', 'does', after => '{a}', undo => 'undoes'), underway.step('d', 'breaks', after => '{b,c}', retry => once())]);
SELECT underway.start('dag', '{"n": 1}', headers => '{"trace": 7}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT underway.drop_workflow('dag');
SELECT underway.create_workflow('dag', ARRAY[underway.step('a', 'does', undo => 'asks'), underway.step('b', 'does', after => '{a}', undo => 'undoes'),
    underway.step('c', 'does', after => '{a}', undo => 'undoes'), underway.step('d', 'breaks', after => '{b,c}', retry => once())],
    settings => '{"default_transaction_isolation": "repeatable read"}');
SELECT underway.start('dag', '{"n": 2}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT underway.create_workflow('late', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', undo => 'undoes'), underway.step('c', 'breaks', retry => once())],
    settings => '{"default_transaction_isolation": "serializable"}');
SELECT underway.start('late', '{"n": 3}') AS run \gset
SELECT state, error FROM test.ends(:'run');
SELECT count(*) FILTER (WHERE what LIKE 'does%') AS does, count(*) FILTER (WHERE what LIKE 'undoes%') AS undoes FROM effect;
SELECT what, got FROM effects() WHERE got ? 'a' ORDER BY got;
SELECT underway.create_workflow('says', ARRAY[underway.step('a', 'does', undo => 'next_undo', retry => once()), underway.step('b', 'breaks', retry => once())]);
SELECT underway.start('says') AS run \gset
SELECT test.until(format('(SELECT state(%L) = ''parked'')', :'run'));
SELECT sqlstate, error FROM underway.status(:'run');
SELECT cancels(:'run', false);
SELECT state, error FROM test.ends(:'run');
TRUNCATE effect;

-- Outside: the undo goes to a queue, which may be that of the step. What was begun there is undone however it ended; what nobody took is not.
SELECT underway.create_queue('outside', retry => once());
SELECT underway.create_workflow('external', ARRAY[underway.step('a', queue => 'outside', undo_queue => 'outside'),
    underway.step('b', queue => 'outside', undo => 'undoes', on_failure => 'skip'), underway.step('c', queue => 'outside', undo_queue => 'outside')]);
SELECT underway.start('external', '{"n": 1}') AS run \gset
CREATE FUNCTION takes(OUT lease uuid, OUT seen text) LANGUAGE sql AS $$
    SELECT lease, concat_ws(' ', step, input, headers) FROM underway.dequeue('outside')
$$;
SELECT * FROM takes() \gset a_
SELECT :'a_seen' AS seen;
SELECT underway.complete(:'a_lease', '{"id": "A"}');
SELECT lease FROM underway.dequeue('outside') \gset b_
SELECT underway.fail(:'b_lease', 'no room', false);
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND step = ''c'')', :'run'));
SELECT lease, attempt FROM underway.dequeue('outside') \gset c_
SELECT underway.fail(:'c_lease', 'broken');
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND phase = ''undo'')', :'run'));
SELECT state(:'run'), test.errors(format('SELECT underway.complete(%L)', :'c_lease'));
SELECT * FROM takes() \gset u_
SELECT :'u_seen' AS seen;
SELECT underway.complete(:'u_lease');
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND step = ''a'' AND phase = ''undo'')', :'run'));
SELECT * FROM takes() \gset u_
SELECT :'u_seen' AS seen;
SELECT underway.complete(:'u_lease', '"refunded"');
SELECT state, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, output, error FROM underway.history(:'run');
SELECT * FROM effects();
-- Cancelled before anybody took it; between two attempts; and while it is being worked: that one may still be completed.
SELECT underway.alter_queue('outside', retry => underway.retry_policy(max_attempts => 5, initial_interval => '1 h'));
SELECT underway.create_workflow('external', ARRAY[underway.step('a', queue => 'outside', undo => 'undoes')]);
SELECT underway.start('external', '{"n": 2}') AS run \gset
SELECT cancels(:'run');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.start('external', '{"n": 3}') AS run \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT underway.fail(:'lease', 'later');
SELECT cancels(:'run');
SELECT state, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, error FROM underway.history(:'run');
SELECT * FROM effects();
SELECT underway.start('external', '{"n": 4}') AS run \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT cancels(:'run');
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT underway.complete(:'lease', '{"id": "D"}');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.start('external', '{"n": 5}') AS run \gset
SELECT lease FROM underway.dequeue('outside') \gset
SELECT cancels(:'run');
SELECT test.until(format('underway.heartbeat(%L) = ''cancel''', :'lease'));
SELECT underway.fail(:'lease', 'stopped');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();

-- A child of a map outside, which is completed after the cancel: the coordinator finds that it was the last.
SELECT underway.create_workflow('external map', ARRAY[underway.map('m', queue => 'outside', undo => 'undoes', concurrency => 2), underway.step('z', 'does')]);
SELECT underway.start('external map', '[1, 2, 3]') AS run \gset
SELECT test.until(format('(SELECT count(*) = 2 FROM underway_internal.task WHERE run_id = %L AND item >= 0 AND state = ''pending'')', :'run'));
SELECT array_agg(lease ORDER BY input) AS leases FROM underway.dequeue('outside', 5) \gset
SELECT cancels(:'run');
SELECT test.until(format('underway.heartbeat((%L::uuid[])[1]) = ''cancel''', :'leases'));
SELECT underway.complete((:'leases'::uuid[])[1], '"one"'), underway.complete((:'leases'::uuid[])[2], '"two"');
SELECT state, error FROM test.ends(:'run');
SELECT what, got FROM effects() ORDER BY got;

-- A cancel without undo, while a run undoes, stops that.
CREATE FUNCTION undoes_held(input jsonb) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock_shared(4711); INSERT INTO effect (what, got) VALUES ('undoes held', input) $$;
SELECT underway.create_workflow('held', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does', undo => 'undoes_held'), underway.step('c', 'breaks', retry => once())]);
SELECT pg_advisory_lock(4711);
SELECT underway.start('held', '1') AS run \gset
SELECT test.until(format('EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND phase = ''undo'' AND state = ''in_progress'')', :'run'));
SELECT state, reason, error, progress FROM underway.status(:'run');
SELECT cancels(:'run', false);
SELECT state, reason, error FROM test.ends(:'run');
SELECT pg_advisory_unlock(4711);
SELECT * FROM effects();
SELECT step, kind, outcome FROM underway.history(:'run');
-- Retried once it has ended: what was undone begins again, what was not is undone if it fails again. What a fork took over is not its own.
TRUNCATE effect;
CREATE FUNCTION does_behind_door(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (SELECT open FROM door) THEN
        RAISE EXCEPTION 'the door is shut';
    END IF;
    RETURN input;
END $$;
SELECT underway.create_workflow('retried', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.step('b', 'does_behind_door', retry => once()), underway.step('c', 'breaks', retry => once())]);
UPDATE door SET open = false;
SELECT underway.start('retried', '1') AS run \gset
SELECT state, error FROM test.ends(:'run');
UPDATE door SET open = true;
SELECT underway.retry(:'run');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT underway.create_workflow('cancelled', ARRAY[underway.step('a', 'does', undo => 'undoes'), underway.wait('w'), underway.step('c', 'breaks', retry => once())]);
SELECT underway.start('cancelled', '2') AS run \gset
SELECT test.until(format('(SELECT state(%L) = ''waiting'')', :'run'));
SELECT cancels(:'run', false);
SELECT state, error FROM test.ends(:'run');
SELECT underway.fork(:'run', 'w') AS fork \gset
SELECT underway.signal(:'fork', 'w');
SELECT state, error FROM test.ends(:'fork');
SELECT * FROM effects();
SELECT underway.retry(:'run');
SELECT underway.signal(:'run', 'w');
SELECT state, error FROM test.ends(:'run');
SELECT * FROM effects();
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
SELECT (SELECT count(*) FROM underway_internal.task) AS tasks, (SELECT count(*) FROM underway_internal.step_result) AS results;
