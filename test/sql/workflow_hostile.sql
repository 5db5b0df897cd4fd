-- Definitions and data that nobody sane would give, run to their ends; and functions, rights and definitions that change under runs in flight.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION once() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 1) $$;
-- The first retry is due in an hour: what is awaited before comes from something else.
CREATE FUNCTION patient() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 3, initial_interval => '1 hour', jitter => 0) $$;
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
CREATE FUNCTION nothing(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION add(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(input::int + 1)';
CREATE FUNCTION at(run uuid, step text) RETURNS void LANGUAGE sql AS $$
    SELECT test.until(format('EXISTS (SELECT FROM underway.history(%L) WHERE step = %L AND outcome = ''waiting'')', run, step))
$$;

-- Names: of the workflow, of steps in after, templates, conditions, go_to and step_output.
\set name 'o''clock "x"; DROP TABLE t; --'
CREATE FUNCTION by_name(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$ SELECT underway.go_to('a.b "c" $run %s', input) $$;
CREATE FUNCTION asks(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('got', input, 'asked', underway.step_output('a.b "c" $run %s'), 'run', underway.run_input())
$$;
SELECT underway.create_workflow(:'name', ARRAY[
    underway.step('-1', 'by_name'),
    underway.step('between', 'nothing'),
    underway.step('a.b "c" $run %s', 'same'),
    underway.step(repeat('ü', 64), 'same', run_if => '$steps."a.b \"c\" $run %s".x == 1'),
    underway.wait('{}', signal => 'it''s "here"'),
    underway.step('null', 'asks', after => array['{}', 'a.b "c" $run %s', repeat('ü', 64)],
        input => format('["$steps.\"a.b \\\"c\\\" $run %%s\".x", "$steps.%s", "$steps.\"{}\""]', repeat('ü', 64))::jsonb)]);
SELECT underway.start(:'name', '{"x": 1, "y''\"": "\\"}', key => E'\t''"', headers => '{"": ""}') AS run \gset
SELECT underway.signal(:'run', 'it''s "here"', '"\"''"', key => ''' --');
SELECT state, output FROM test.ends(:'run');
SELECT left(step, 20) AS step, outcome FROM underway.history(:'run');
SELECT underway.explain_workflow(:'name', format => 'mermaid');
SELECT test.errors(format('SELECT underway.create_workflow(%L, ARRAY[underway.sleep(%L, ''0'')])', 'a' || chr(10), 'a'),
    format('SELECT underway.create_workflow(''a'', ARRAY[underway.sleep(%L, ''0'')])', repeat('ü', 65)));

-- Inputs of every JSON type; what is not there is null; what a condition cannot compare is not true.
SELECT underway.create_workflow('odd', ARRAY[
    underway.step('a', 'same', run_if => '$run.n > 1'),
    underway.step('b', 'same', after => '{a}', run_if => 'strict $run.x.y / 0 > 1'),
    underway.step('c', 'same', after => '{a,b}', input => '{"a": "$steps.a", "b": "$steps.b.c[7]", "run": "$run.n", "deep": "$run[0].x[-1]", "$run": "$$run"}')]);
CREATE TABLE odd AS SELECT n, input, underway.start('odd', input) AS run FROM unnest(ARRAY[
    'null', '0', '""', '"$run"', 'false', '[]', '{}', '{"n": null}', '{"n": "2"}', '{"n": 2}', '{"n": 1e40}', '{"n": [0, 2]}', '[{"x": [1, 2]}]']::jsonb[])
    WITH ORDINALITY u(input, n);
SELECT o.input, e.state, e.output FROM odd o, test.ends(o.run) e ORDER BY o.n;
-- Deep, and wide.
SELECT underway.start('odd', (repeat('{"n":', 2000) || '2' || repeat('}', 2000))::jsonb) AS deep,
    underway.start('odd', (SELECT jsonb_object_agg('key ' || n, n) FROM generate_series(1, 50000) n)) AS wide \gset
SELECT state, length((output -> 'run')::text) FROM test.ends(:'deep');
SELECT state, output FROM test.ends(:'wide');

-- Maps: rows that are null, arrays in arrays, maps of maps, limits beyond the number of items; a path that finds no array.
CREATE FUNCTION nulls(input jsonb) RETURNS SETOF text LANGUAGE sql AS $$ VALUES (NULL), ('a'), (NULL) $$;
CREATE FUNCTION no_rows() RETURNS TABLE (a int, b int) LANGUAGE sql AS $$ SELECT 1, 2 WHERE false $$;
CREATE FUNCTION wraps(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_array(input, underway.run_input()) $$;
SELECT underway.create_workflow('maps', ARRAY[
    underway.map('nulls', 'same', over => 'nulls', concurrency => 1000000, tolerate => 1000000000),
    underway.map('none', 'same', over => 'no_rows', concurrency => 1),
    underway.map('nested', 'same', input => '[[1, []], [], [[2]]]'),
    underway.map('again', 'same', items => '$[*][*]'),
    underway.map('wraps', 'wraps', input => '{"x": {"y": 5}}', items => '$.x.*'),
    underway.map('nowhere', 'same', items => '$.no.such[*]'),
    underway.step('all', 'same', input => '["$steps.nulls", "$steps.none", "$steps.nested", "$steps.again", "$steps.wraps", "$steps.nowhere"]')]);
SELECT underway.start('maps', '"in"') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT underway.create_workflow('no array', ARRAY[underway.map('m', 'same', retry => once())]);
CREATE TABLE no_array AS SELECT n, underway.start('no array', input) AS run FROM unnest(ARRAY['null', '1', '"x"', '{}', '[]']::jsonb[]) WITH ORDINALITY u(input, n);
SELECT e.state, e.sqlstate, e.output, e.error FROM no_array o, test.ends(o.run) e ORDER BY o.n;

-- 1,000 steps, one after the other, and side by side with one after them all.
SELECT underway.create_workflow('long', ARRAY(SELECT underway.step('s' || n, 'add') FROM generate_series(1, 1000) n));
SELECT underway.create_workflow('wide', ARRAY(SELECT underway.step('s' || n, 'add', after => '{}') FROM generate_series(1, 998) n)
    || underway.step('last', 'same', after => ARRAY(SELECT 's' || n FROM generate_series(1, 998) n)));
SELECT underway.start('long', '0') AS long, underway.start('wide', '0') AS wide \gset
SELECT state, output FROM test.ends(:'long');
SELECT state, (SELECT count(*) FROM jsonb_each(output) WHERE value = '1') AS outputs FROM test.ends(:'wide');

-- A loop of 300 rounds through a sleep; one that goes to itself; a jump over what would never end.
CREATE FUNCTION loops(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    SELECT CASE WHEN $1::int < 300 THEN underway.go_to('add', $1) ELSE underway.next($1) END
$$;
CREATE FUNCTION itself(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    SELECT CASE WHEN $1::int < 400 THEN underway.go_to('itself', to_jsonb($1::int + 1)) ELSE underway.go_to('last', $1) END
$$;
SELECT underway.create_workflow('loops', ARRAY[underway.step('add', 'add'), underway.sleep('nap', '0'), underway.step('loops', 'loops'),
    underway.step('itself', 'itself'), underway.wait('never'), underway.step('last', 'same')]);
SELECT underway.start('loops', '0') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, count(*) FROM underway.history(:'run') GROUP BY 1 ORDER BY 1;

-- An output of 100 MB is handed on.
CREATE FUNCTION huge(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('size', $1, 'text', repeat('0123456789', $1::int / 10)) $$;
CREATE FUNCTION measures(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('bytes', length(input ->> 'text'), 'size', input -> 'size') $$;
SELECT underway.create_workflow('huge', ARRAY[underway.step('a', 'huge'), underway.step('b', 'measures')]);
SELECT underway.start('huge', '100000000') AS run \gset
SELECT state, output FROM test.ends(:'run');
SELECT step, length(output::text) > 100000000 AS large FROM underway.history(:'run');

-- Two versions in flight. A run that sleeps stays on its definition, in which steps had other meanings, when a new one is made, and another after that.
CREATE FUNCTION says(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(concat_ws(' ', $1 #>> '{}', 'says')) $$;
CREATE FUNCTION shouts(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(concat_ws(' ', $1 #>> '{}', 'SHOUTS')) $$;
SELECT underway.create_workflow('changes', ARRAY[underway.sleep('nap', '1 hour'), underway.step('a', 'says'), underway.step('b', 'says')]);
SELECT underway.start('changes', '"first"') AS first \gset
SELECT underway.create_workflow('changes', ARRAY[underway.step('b', 'shouts'), underway.wait('nap', timeout => '1 hour', on_timeout => 'continue'),
    underway.step('c', 'shouts', input => '"$steps.b"')]);
SELECT underway.start('changes', '"second"') AS second, underway.start('changes', '"old"', version => 1) AS old \gset
SELECT at(:'second', 'nap');
SELECT underway.create_workflow('changes', ARRAY[underway.map('nap', 'says')]);
SELECT underway.start('changes', '["third"]') AS third \gset
SELECT state, output FROM test.ends(:'third');
SELECT test.errors('SELECT underway.drop_workflow(''changes'')');
SELECT name, version, unfinished FROM underway.workflows WHERE name = 'changes';
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL AS moved;
SELECT state, output FROM test.ends(:'first');
SELECT state, output FROM test.ends(:'second');
SELECT state, output FROM test.ends(:'old');
SELECT step, kind, outcome FROM underway.history(:'second');
SELECT underway.set_clock(NULL) IS NOT NULL AS moved;

-- The function of a step that comes later is replaced: the new one runs. It is dropped: the attempt fails, and the next one finds what was made
-- instead. The owner's right to it is revoked, and given again.
CREATE ROLE hostile_owner LOGIN;
GRANT CREATE ON DATABASE :DBNAME TO hostile_owner;
CREATE FUNCTION later(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"as it was"'::jsonb $$;
SELECT underway.create_workflow('functions', ARRAY[underway.wait('go'), underway.step('later', 'later', retry => patient())], run_as => 'hostile_owner');
SELECT underway.start('functions') AS replaced, underway.start('functions') AS dropped, underway.start('functions') AS revoked,
    underway.start('functions') AS given \gset
CREATE OR REPLACE FUNCTION later(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"replaced"'::jsonb $$;
SELECT underway.signal(:'replaced', 'go');
SELECT state, output FROM test.ends(:'replaced');
CREATE FUNCTION failed_once(run uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.until(format('EXISTS (SELECT FROM underway.history(%L) WHERE step = ''later'' AND outcome = ''failed'')', run));
    RETURN (SELECT sqlstate || ': ' || error FROM underway.history(run) WHERE outcome = 'failed');
END $$;
DROP FUNCTION later(jsonb);
SELECT underway.signal(:'dropped', 'go');
SELECT failed_once(:'dropped');
CREATE FUNCTION later(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"made again"'::jsonb $$;
REVOKE EXECUTE ON FUNCTION later FROM PUBLIC;
SELECT underway.signal(:'revoked', 'go');
SELECT failed_once(:'revoked');
GRANT EXECUTE ON FUNCTION later TO hostile_owner;
SELECT underway.signal(:'given', 'go');
SELECT state, output FROM test.ends(:'given');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL AS moved;
SELECT state, output FROM test.ends(:'dropped');
SELECT state, output FROM test.ends(:'revoked');
SELECT step, attempt, outcome, sqlstate FROM underway.history(:'revoked');
SELECT underway.set_clock(NULL) IS NOT NULL AS moved;
-- Another function of another role in its place does not run.
SELECT underway.start('functions') AS run \gset
DROP FUNCTION later(jsonb);
CREATE ROLE hostile_other;
GRANT ALL ON SCHEMA public TO hostile_other;
SET ROLE hostile_other;
CREATE FUNCTION later(input jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"theirs"'::jsonb $$;
RESET ROLE;
SELECT underway.signal(:'run', 'go');
SELECT failed_once(:'run');
SELECT problem FROM underway.workflows WHERE name = 'functions';
SET client_min_messages = warning;
DROP OWNED BY hostile_owner, hostile_other;
DROP ROLE hostile_owner, hostile_other;
