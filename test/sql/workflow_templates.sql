-- What steps get, whether they run, and the items of a map: as the server works it out from the run's input and the outputs before.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE SCHEMA templates;
SET search_path = templates;
CREATE FUNCTION f(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SET client_min_messages = warning;
\set run '{"id": 7, "user": {"name": "Ann", "a.b": [10, 20, {"x": null}]}, "flag": false, "limit": 5, "day": "2026-01-01", "none": null}'
\set results '{"a": {"ok": true, "n": 3}, "my \\"b\\"": [1, 2], "c": null}'

-- Templates: the same as the workflow's own steps would be given.
CREATE FUNCTION gets(template jsonb, run jsonb, results jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
    answer jsonb;
BEGIN
    PERFORM underway.create_workflow('t', array[underway.step('a', 'f'), underway.step('my "b"', 'f'), underway.step('c', 'f'),
        underway.step('s', 'f', input => template)]);
    SELECT x.* INTO s FROM underway_internal.step x JOIN underway_internal.workflow w USING (queue_id, version)
        JOIN underway_internal.queue q ON q.id = w.queue_id WHERE q.name = 't' AND q.dropped_at IS NULL AND x.name = 's';
    answer := underway_internal.eval_input(s, run, (SELECT jsonb_object_agg(key, value) FROM jsonb_each(results) WHERE key = ANY (s.needs)));
    PERFORM underway.drop_workflow('t');
    RETURN answer;
END $$;
SELECT t AS template, gets(t, :'run', :'results') FROM unnest(ARRAY[
    'null', '1', '"x"', '"$$run"', '"$$"', '"$$$5"', '"a $run"', '{}', '[]', '{"$run": "$run.id"}', '"$run"', '"$run.user.name"',
    '"$run.user[0]"', '"$run.user.\"a.b\"[1]"', '"$run.user.\"a.b\"[-1].x"', '"$run.user.\"a.b\".0"', '"$run.user.\"a.b\"[99]"', '"$run.no.such"', '"$run.none"',
    '"$run.flag"', '"$steps.a"', '"$steps.a.n"', '"$steps.\"my \\\"b\\\"\"[0]"', '"$steps.c"', '"$steps.c.x"',
    '{"to": "$run.user.name", "n": ["$steps.a.n", 1, {"deep": {"er": "$steps.\"my \\\"b\\\"\""}}], "dollar": "$$5"}'
    ]::jsonb[]) WITH ORDINALITY u(t, n) ORDER BY n;
-- Without a template.
SELECT underway_internal.eval_input(jsonb_populate_record(NULL::underway_internal.step, s), :'run', :'results') - 'user'
    FROM unnest('{"{\"after\": []}", "{\"after\": [\"a\"]}", "{\"after\": [\"a\", \"c\"]}", "{\"after\": [\"a\", \"lost\"]}"}'::jsonb[]) s;

CREATE FUNCTION runs(condition jsonpath, run jsonb, results jsonb) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
BEGIN
    PERFORM underway.step('s', 'f', run_if => condition);
    s.run_if := condition::text;
    RETURN underway_internal.eval_run_if(s, run, results);
END $$;
SELECT c AS condition, runs(c, :'run', :'results') FROM unnest(ARRAY[
    '$run.id == 7', '$run.id > 7', '$.run.id == 7', '$steps.a.ok', '$steps.a.ok == true', '$.steps.a.ok == false', '$run.flag', '$run.none',
    '$run.no.such', '$run.no.such == 1', '!($run.no.such == 1)', '$run.user.name > 5', '$run.user.name starts with "A"', '$run.user', '0', '""', 'true', 'false', 'null',
    '$run.user."a.b"[*] ? (@ > 15)', '$run.user."a.b"[*] ? (@ > $run.limit && @ < 5)', 'exists($steps.c)', 'exists($steps.d)', '$steps.c == null',
    'strict $run.no.such', 'strict $run.no.such == 1', '$run.id / 0 == 1', '$steps.*.ok', '$run.user.name like_regex "^$run"', '$ ? (@.run.id == 7)',
    '$steps."my \"b\""[0] == 1', '$run.day.datetime() < "2030-01-01T00:00:00+00".datetime()'
    ]::jsonpath[]) WITH ORDINALITY u(c, n) ORDER BY n;
SELECT underway_internal.eval_run_if(NULL::underway_internal.step, '{}', NULL);

-- Items.
CREATE FUNCTION items(path jsonpath, input jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    s underway_internal.step;
BEGIN
    s.name := 'm';
    s.items := underway.map('m', 'f', items => path) ->> 'items';
    RETURN (SELECT count(*) || ': ' || coalesce(string_agg(i::text, ' '), '')
        FROM underway_internal.eval_items(s, input, '{"least": 2}', '{"a": [3]}') i);
END $$;
SELECT p AS items, i AS input, items(p, i) FROM (VALUES (NULL::jsonpath, '[]'::jsonb), (NULL, '[1, null, [2, 3], {"x": 1}]'), (NULL, 'null'), (NULL, NULL),
    ('$[*]', '[1, 2]'), ('$[*]', 'null'), ('$[*]', '5'), ('$.x[*]', '{"x": [1, 2]}'), ('$.y[*]', '{"x": [1, 2]}'), ('strict $.y[*]', '{"x": [1, 2]}'),
    ('$[*] ? (@ >= $run.least)', '[1, 2, 3]'), ('$[*] ? (@ == $steps.a[*])', '[1, 2, 3]')) v(p, i);
SELECT test.errors('SELECT templates.items(NULL, ''{"x": []}'')', 'SELECT templates.items(NULL, ''"x"'')');
DROP SCHEMA templates CASCADE;
