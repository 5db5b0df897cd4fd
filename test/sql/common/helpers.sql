-- What many tests use: each begins with \i of this file. Loaded without echo, so that it does not stand in the outputs.
-- Waits are on states, with a limit that only a fault reaches.
\pset format unaligned
\pset null '~'
SET client_min_messages = warning;
-- Compiling a query over the views takes longer than running it.
SET jit = off;
SELECT CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'debug_parallel_query' ELSE 'force_parallel_mode' END AS parallel \gset

-- All tests share a database: what the one before has left is gone.
DROP EXTENSION IF EXISTS underway CASCADE;
CREATE EXTENSION underway;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
GRANT USAGE ON SCHEMA public TO PUBLIC;
DROP SCHEMA IF EXISTS test CASCADE;
CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;

-- Waits until the SQL expression is true.
CREATE FUNCTION test.until(condition text, seconds int DEFAULT 120) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ends timestamptz := clock_timestamp() + make_interval(secs => seconds);
    met bool;
BEGIN
    LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        EXIT WHEN met;
        IF clock_timestamp() > ends THEN
            RAISE EXCEPTION 'not within % s: %', seconds, condition;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;

-- Waits until the task has ended and says how.
CREATE FUNCTION test.ends(id uuid, OUT state text, OUT attempt int, OUT failures int, OUT reason text, OUT output jsonb,
        OUT sqlstate text, OUT error text)
    LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..4 LOOP
        SELECT a.state, a.attempt, a.failures, a.reason, a.output, a.sqlstate, a.error
            INTO state, attempt, failures, reason, output, sqlstate, error FROM underway.await(id, '30 s') a;
        IF state IN ('succeeded', 'failed', 'cancelled') THEN
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the task has not ended: %', underway.why(id);
END $$;

-- Waits until the task stands as it does after an attempt that is to be retried.
CREATE FUNCTION test.failed_attempts(id uuid, n int) RETURNS void LANGUAGE sql AS $$
    SELECT test.until(format('(SELECT s.failures = %s AND s.state IN (''pending'', ''failed'') FROM underway.status(%L) s)', n, id));
$$;

-- What a statement raises, in one row; ids are written as <id>.
CREATE FUNCTION test.error(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
    LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    code := '00000';
    message := left('no error: ' || coalesce(answer, 'null'), 400);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    message := regexp_replace(left(message, 400), '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<id>', 'g');
    detail := nullif(detail, '');
    hint := nullif(hint, '');
END $$;

-- The same for many, each of which is to raise an error with a hint: one line each.
CREATE FUNCTION test.errors(VARIADIC statements text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    e record;
BEGIN
    FOREACH statement IN ARRAY statements LOOP
        e := test.error(statement);
        RETURN NEXT e.code || ': ' || e.message || coalesce(' [' || e.detail || ']', '') || coalesce(' / ' || e.hint,
            ' / NO HINT');
    END LOOP;
END $$;

-- What the tables of the extension hold, as one number; but for the rings, which the coordinator opens when it likes.
CREATE FUNCTION test.digest() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    name text;
    part text;
    parts text := '';
BEGIN
    FOR name IN SELECT c.oid::regclass::text FROM pg_class c
            WHERE c.relnamespace = 'underway_internal'::regnamespace AND c.relkind = 'r' AND c.relname <> 'ring_slot'
                ORDER BY 1 LOOP
        EXECUTE format('SELECT md5(coalesce(string_agg(t::text, %L ORDER BY t::text), %L)) FROM %s t', '|', '',
            name) INTO part;
        parts := parts || part;
    END LOOP;
    RETURN md5(parts);
END $$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA test TO PUBLIC;
RESET client_min_messages;
