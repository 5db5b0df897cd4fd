-- A step's function that is changed, or gone, under runs in flight: on_change.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
CREATE FUNCTION state(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT s.state FROM underway.status(run) s $$;
CREATE FUNCTION becomes(run uuid, wanted text) RETURNS void LANGUAGE sql AS $$ SELECT test.until(format('(SELECT state(%L) = %L)', run, wanted)) $$;
CREATE FUNCTION resumes(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.resume(run) $$;
CREATE FUNCTION retries(run uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'asked' FROM underway.retry(run) $$;
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
-- One of each way to write a body; a set, an undo, a finally.
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT '"f"'::jsonb; END;
CREATE FUNCTION items(input jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT to_jsonb(n) FROM generate_series(1, 2) n $$;
CREATE TABLE effect (n int GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('undone') $$;
CREATE FUNCTION cleans(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('clean') $$;
CREATE FUNCTION breaks(input jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
CREATE FUNCTION define(policy text) RETURNS int LANGUAGE sql AS $$
    SELECT underway.create_workflow('w', ARRAY[underway.wait('w'), underway.step('a', 'f', retry => once()), underway.step('b', 'same')], on_change => policy);
$$;

-- Nothing is changed: under each policy it runs. Also in a session that sees other schemas, and after a change that means the same.
SELECT define('continue'), define('pause'), define('fail');
SELECT underway.start('w') AS run \gset
CREATE OR REPLACE FUNCTION public.f(input jsonb) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT '"f"'::jsonb; END;
SELECT underway.signal(:'run', 'w');
SELECT state, output FROM test.ends(:'run');

-- continue, the default: the run takes it as it is.
SELECT define(NULL);
SELECT underway.start('w') AS run \gset
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"f 2"'::jsonb $$;
SELECT underway.signal(:'run', 'w');
SELECT state, output FROM test.ends(:'run');

-- pause: it waits there, until somebody resumes it; what it would have got is kept.
SELECT define('pause');
SELECT underway.start('w') AS run, underway.start('w') AS other \gset
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_array('f 3', input) $$;
SELECT underway.signal(:'run', 'w', '"payload"'), underway.signal(:'other', 'w');
SELECT becomes(:'run', 'paused'), becomes(:'other', 'paused');
SELECT state, reason, error FROM underway.status(:'run');
SELECT step, kind, attempt, outcome, input FROM underway.history(:'run');
SELECT resumes(:'run');
SELECT state, output FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input FROM underway.history(:'run');
-- Put back as it was it would have run; a new run of the version that is defined now does.
SELECT define('pause');
SELECT underway.start('w') AS new \gset
SELECT underway.signal(:'new', 'w');
SELECT state, output FROM test.ends(:'new');
-- A function that is gone counts as changed; resumed without it the step fails.
DROP FUNCTION f(jsonb);
SELECT underway.start('w', version => 2) AS gone \gset
SELECT underway.signal(:'gone', 'w');
SELECT becomes(:'gone', 'paused');
SELECT reason FROM underway.status(:'gone');
SELECT resumes(:'gone'), resumes(:'other');
SELECT state, sqlstate, error FROM test.ends(:'gone');
SELECT state, sqlstate, error FROM test.ends(:'other');

-- fail: the run fails there, whatever the step's policy; what it did is undone.
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"f 4"'::jsonb $$;
SELECT underway.create_workflow('w', ARRAY[underway.step('o', 'same', undo => 'undoes'), underway.wait('w'), underway.step('a', 'f', on_failure => 'skip'), underway.step('b', 'same'),
    underway.finally('z', 'cleans')], on_change => 'fail');
SELECT underway.start('w') AS run \gset
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"f 5"'::jsonb $$;
SELECT underway.signal(:'run', 'w');
SELECT state, reason, sqlstate, error FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, sqlstate, error, hint FROM underway.history(:'run');
SELECT what FROM effect ORDER BY n;
-- The first step; in start() itself.
SELECT underway.create_workflow('first', ARRAY[underway.step('a', 'f'), underway.step('b', 'same')], on_change => 'fail');
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"f 6"'::jsonb $$;
SELECT underway.start('first') AS run \gset
SELECT state, error FROM test.ends(:'run');
-- Settings of a function are part of what it does.
SELECT underway.create_workflow('first', ARRAY[underway.step('a', 'f'), underway.step('b', 'same')], on_change => 'fail');
ALTER FUNCTION f(jsonb) SET work_mem = '1MB';
SELECT underway.start('first') AS run \gset
SELECT state, error FROM test.ends(:'run');

-- A map: its items' function, and its handler.
SELECT underway.create_workflow('m', ARRAY[underway.wait('w'), underway.map('m', 'f', over => 'items')], on_change => 'pause');
SELECT underway.start('m') AS run \gset
CREATE OR REPLACE FUNCTION items(input jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT to_jsonb(n) FROM generate_series(1, 3) n $$;
SELECT underway.signal(:'run', 'w');
SELECT becomes(:'run', 'paused');
SELECT reason FROM underway.status(:'run');
SELECT resumes(:'run');
SELECT state, output FROM test.ends(:'run');
-- Gone to, with what it was given.
CREATE FUNCTION jumps(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to('c', '"given"') $$;
SELECT underway.create_workflow('j', ARRAY[underway.wait('w'), underway.step('b', 'jumps'), underway.step('x', 'same'), underway.step('c', 'f')], on_change => 'pause');
SELECT underway.start('j') AS run \gset
CREATE OR REPLACE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_array('f 7', input) $$;
SELECT underway.signal(:'run', 'w');
SELECT becomes(:'run', 'paused');
SELECT resumes(:'run');
SELECT state, output FROM test.ends(:'run');

-- An undo and a finally: paused there; or, under fail, an undo cannot be done, which parks the run, and a finally has failed.
SELECT underway.create_workflow('u', ARRAY[underway.step('a', 'same', undo => 'undoes'), underway.wait('w'), underway.step('b', 'breaks', retry => once()), underway.finally('z', 'cleans')], on_change => 'pause');
TRUNCATE effect;
SELECT underway.start('u') AS run \gset
CREATE OR REPLACE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('undone 2') $$;
CREATE OR REPLACE FUNCTION cleans(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('clean 2') $$;
SELECT underway.signal(:'run', 'w');
SELECT becomes(:'run', 'paused');
SELECT reason, error FROM underway.status(:'run');
SELECT underway_internal.nudge(:'run');
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.task WHERE run_id = %L AND step IS NULL)', :'run'));
SELECT resumes(:'run');
SELECT test.until(format('(SELECT reason LIKE ''%%"z"%%'' FROM underway.status(%L))', :'run'));
SELECT state, reason, error FROM underway.status(:'run');
SELECT resumes(:'run');
SELECT state, reason, error FROM test.ends(:'run');
SELECT what FROM effect ORDER BY n;
SELECT underway.create_workflow('u', ARRAY[underway.step('a', 'same', undo => 'undoes'), underway.wait('w'), underway.step('b', 'breaks', retry => once(), run_if => '$run.breaks == true'), underway.finally('z', 'cleans')], on_change => 'fail');
SELECT underway.start('u', '{"breaks": true}') AS run, underway.start('u') AS other \gset
CREATE OR REPLACE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('undone 3') $$;
CREATE OR REPLACE FUNCTION cleans(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('clean 3') $$;
SELECT underway.signal(:'run', 'w'), underway.signal(:'other', 'w');
SELECT becomes(:'run', 'parked');
SELECT sqlstate, error FROM underway.status(:'run');
SELECT retries(:'run');
SELECT test.until(format('(SELECT count(*) = 2 FROM underway.history(%L) WHERE kind = ''undo'')', :'run'));
SELECT becomes(:'run', 'parked');
CREATE OR REPLACE FUNCTION undoes(input jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (what) VALUES ('undone 2') $$;
SELECT retries(:'run');
SELECT state, reason, error FROM test.ends(:'run');
SELECT state, reason, error FROM test.ends(:'other');
SELECT step, kind, outcome, error FROM underway.history(:'run');
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
-- A nudge that somebody left in a run's last moment may outlive it.
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.task)');
SELECT (SELECT count(*) FROM underway_internal.run) AS runs, (SELECT count(*) FROM underway_internal.task) AS tasks;
