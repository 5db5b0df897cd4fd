-- Handlers of every kind, and what of them becomes the output.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE seen (handler text, input jsonb, task uuid);
CREATE FUNCTION see(handler text, input jsonb DEFAULT NULL) RETURNS void
    LANGUAGE sql AS 'INSERT INTO seen VALUES ($1, $2, underway.task_id())';
CREATE TABLE person (name text, age int);
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'happy');

CREATE FUNCTION h_jsonb(input jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN PERFORM see('jsonb', input); RETURN input || '{"done": true}'; END $$;
CREATE FUNCTION h_no_arg() RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM see('no arg'); RETURN '[1]'; END $$;
CREATE FUNCTION h_void(jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM see('void', $1); END $$;
CREATE FUNCTION h_null(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION h_json_null(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT 'null'::jsonb $$;
CREATE FUNCTION h_json(jsonb) RETURNS json LANGUAGE sql AS $$ SELECT '{"b":  1, "a": 2, "b": 3}'::json $$;
CREATE FUNCTION h_int(jsonb) RETURNS int LANGUAGE sql AS 'SELECT 42';
CREATE FUNCTION h_bigint(jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT 9223372036854775807';
CREATE FUNCTION h_numeric(jsonb) RETURNS numeric LANGUAGE sql AS 'SELECT 0.1234567890123456789012345';
CREATE FUNCTION h_float(jsonb) RETURNS float8 LANGUAGE sql AS $$ SELECT 'NaN'::float8 $$;
CREATE FUNCTION h_bool(jsonb) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION h_text(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT E'with "quotes", \\ and é\n' $$;
CREATE FUNCTION h_time(jsonb) RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2026-01-01 00:00+00'::timestamptz $$;
CREATE FUNCTION h_array(jsonb) RETURNS int[] LANGUAGE sql AS $$ SELECT '{{1,2},{3,NULL}}'::int[] $$;
CREATE FUNCTION h_row(jsonb) RETURNS person LANGUAGE sql AS $$ SELECT 'Ada', 36 $$;
CREATE FUNCTION h_pair(jsonb) RETURNS pair LANGUAGE sql AS $$ SELECT 1, 'x' $$;
CREATE FUNCTION h_out(input jsonb, OUT first int, OUT second text) LANGUAGE sql AS $$ SELECT 1, 'x' $$;
CREATE FUNCTION h_record(jsonb) RETURNS record LANGUAGE sql AS $$ SELECT 1 AS a, 'x'::text AS b $$;
CREATE FUNCTION h_domain(jsonb) RETURNS positive LANGUAGE sql AS $$ SELECT 5::positive $$;
CREATE FUNCTION h_enum(jsonb) RETURNS mood LANGUAGE sql AS $$ SELECT 'happy'::mood $$;
CREATE FUNCTION h_range(jsonb) RETURNS int4range LANGUAGE sql AS $$ SELECT '[1,5)'::int4range $$;
CREATE FUNCTION h_bytea(jsonb) RETURNS bytea LANGUAGE sql AS $$ SELECT '\x00ff'::bytea $$;
CREATE FUNCTION h_default(input jsonb DEFAULT '{"never": "used"}') RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION h_strict(input jsonb) RETURNS jsonb STRICT LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION h_atomic(input jsonb) RETURNS jsonb BEGIN ATOMIC SELECT input -> 'x'; END;
CREATE FUNCTION h_immutable(input jsonb) RETURNS jsonb IMMUTABLE PARALLEL SAFE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION h_inlined(input jsonb) RETURNS jsonb STABLE LANGUAGE sql AS 'SELECT $1 -> ''x''';
CREATE FUNCTION h_definer(input jsonb) RETURNS jsonb SECURITY DEFINER SET search_path = public
    LANGUAGE sql AS 'SELECT to_jsonb(current_user)';
CREATE FUNCTION h_huge(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('x', repeat('y', 3000000)) $$;
CREATE PROCEDURE h_procedure(input jsonb) LANGUAGE plpgsql AS $$ BEGIN CALL h_sub(); PERFORM see('procedure', input);
    END $$;
CREATE PROCEDURE h_sub() LANGUAGE plpgsql AS $$ BEGIN PERFORM see('sub'); END $$;
CREATE PROCEDURE h_inout(INOUT input jsonb) LANGUAGE plpgsql AS $$ BEGIN COMMIT; input := input || '{"y": 2}'; END $$;
CREATE PROCEDURE h_commits(input jsonb) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..3 LOOP
        PERFORM see('commits', to_jsonb(n));
        COMMIT;
    END LOOP;
    PERFORM see('rolled back');
    ROLLBACK;
    PERFORM see('commits', to_jsonb(underway.attempt()));
END $$;
CREATE FUNCTION "Ünusual ""name"".(jsonb)"(jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';

-- A queue for each, named like it.
SELECT count(underway.create_queue(proname, quote_ident(proname), retry => underway.retry_policy(max_attempts => 1)))
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND (proname LIKE 'h\_%' AND proname <> 'h_sub'
        OR proname LIKE 'Ü%');
CREATE TABLE task AS SELECT name, underway.enqueue(name, '{"x": 1}') AS id FROM underway.queues;
SELECT name, e.state, e.attempt, CASE WHEN length(e.output::text) < 100 THEN e.output
    ELSE to_jsonb(length(e.output::text)) END AS output, e.sqlstate, e.error
    FROM task, test.ends(id) e ORDER BY name COLLATE "C";
SELECT handler, input, count(*), count(task) AS with_id FROM seen GROUP BY handler, input ORDER BY handler, input;

-- Once more on the same workers, as their plans are kept.
TRUNCATE seen;
UPDATE task SET id = underway.enqueue(name, '{"x": 2}');
SELECT e.state, count(*), count(e.output), string_agg(name, ' ') FILTER (WHERE e.state = 'failed') AS failed
    FROM task, test.ends(id) e GROUP BY 1;
SELECT handler, input, count(*) FROM seen GROUP BY handler, input ORDER BY handler, input;

-- Whatever plan the queue's settings make of the call: a new one each time, with a parallel worker.
CREATE TABLE known AS SELECT name, e.state, e.output FROM task, test.ends(id) e;
CREATE VIEW as_known AS SELECT count(*) FROM task t JOIN known k USING (name), test.ends(t.id) e
    WHERE (e.state, e.output) IS NOT DISTINCT FROM (k.state, k.output);
SELECT count(underway.alter_queue(name, settings => '{"plan_cache_mode": "force_custom_plan"}')) FROM underway.queues;
UPDATE task SET id = underway.enqueue(name, '{"x": 2}');
TABLE as_known;
SELECT count(underway.alter_queue(name, settings => jsonb_build_object('plan_cache_mode', 'force_generic_plan', :'parallel', 'on')))
    FROM underway.queues;
UPDATE task SET id = underway.enqueue(name, '{"x": 2}');
TABLE as_known;
SELECT count(underway.alter_queue(name, reset => '{settings}')) FROM underway.queues;
-- Calls are counted where the server counts those of functions: each here says how many of its batch were before it.
CREATE FUNCTION counted(jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
    BEGIN RETURN (SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'counted'); END $$;
SELECT underway.create_queue('counted', 'counted', batch => 3, concurrency => 3, settings => '{"track_functions": "all"}');
CREATE TABLE calls AS SELECT * FROM unnest(underway.enqueue_many('counted', '{1,2,3}')) WITH ORDINALITY t(id, n);
SELECT e.output FROM calls, test.ends(id) e ORDER BY n;

-- Where statements have ids, the call has its own: else that of what it runs first would be seen, which is the same in both.
CREATE FUNCTION id_a(jsonb) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN RETURN (SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid()); END $$;
CREATE FUNCTION id_b(jsonb) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN RETURN (SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid()); END $$;
SELECT underway.create_queue(n, n, settings => '{"compute_query_id": "on"}') FROM unnest('{id_a,id_b}'::text[]) n;
CREATE TABLE with_id AS SELECT underway.enqueue(n) AS id FROM unnest('{id_a,id_b}'::text[]) n;
SELECT count(DISTINCT e.output) FROM with_id, test.ends(id) e;

-- A handler that is replaced is seen with the next task; so is one with another result type, and one that changes its
-- kind.
SELECT underway.create_queue('changing', 'public.changing(jsonb)');
\echo :SQLSTATE
CREATE FUNCTION changing(jsonb) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT underway.create_queue('changing', 'changing');
SELECT underway.enqueue('changing') AS task \gset
SELECT output FROM test.ends(:'task');
CREATE OR REPLACE FUNCTION changing(jsonb) RETURNS int LANGUAGE sql AS 'SELECT 2';
SELECT underway.enqueue('changing') AS task \gset
SELECT output FROM test.ends(:'task');
BEGIN;
DROP FUNCTION changing(jsonb);
CREATE FUNCTION changing(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'three' $$;
COMMIT;
SELECT underway.enqueue('changing') AS task \gset
SELECT output FROM test.ends(:'task');
BEGIN;
DROP FUNCTION changing(jsonb);
CREATE PROCEDURE changing(jsonb) LANGUAGE sql AS $$ INSERT INTO seen VALUES ('as a procedure') $$;
SELECT underway.enqueue('changing') AS task \gset
COMMIT;
SELECT state, output FROM test.ends(:'task');
SELECT handler FROM seen WHERE handler = 'as a procedure';
ALTER TABLE person ADD COLUMN city text DEFAULT 'London';
CREATE OR REPLACE FUNCTION h_row(jsonb) RETURNS person LANGUAGE sql AS $$ SELECT 'Ada', 36, 'London' $$;
SELECT underway.enqueue('h_row') AS task \gset
SELECT output FROM test.ends(:'task');
-- From f() to f(jsonb): found by name and types, so it stays f(), until it is named again.
CREATE FUNCTION h_no_arg(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'with' $$;
SELECT underway.enqueue('h_no_arg') AS task \gset
SELECT output FROM test.ends(:'task');
SELECT underway.alter_queue('h_no_arg', handler => 'h_no_arg');
SELECT underway.enqueue('h_no_arg') AS task \gset
SELECT output FROM test.ends(:'task');
SELECT count(underway.drop_queue(name)) FROM underway.queues;
