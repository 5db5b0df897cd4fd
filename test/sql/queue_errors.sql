-- Nonsense to the functions about queues: an error with SQLSTATE and hint, and nothing changed.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE FUNCTION f(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION g(jsonb, text) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION with_default(jsonb, text DEFAULT 'x') RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION only_default(jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION of_text(text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION of_json(json) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION many(VARIADIC jsonb[]) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION a_set(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION a_table(jsonb) RETURNS TABLE (x int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION a_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION an_event_trigger() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION out_args(jsonb, OUT a int, OUT b int) LANGUAGE sql AS 'SELECT 1, 2';
CREATE PROCEDURE out_procedure(jsonb, INOUT a int DEFAULT 1) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE only_out(OUT a int) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE an_aggregate(jsonb) (sfunc = jsonb_concat, stype = jsonb);
CREATE FUNCTION pg_temp.in_temp(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION polymorphic(anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT $1';
SELECT underway.create_queue('q', 'f');
SELECT underway.create_queue('dead');
SELECT underway.enqueue('q', '{"kept": 1}', key => 'k') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT test.digest() AS before \gset

-- Names.
SELECT test.errors(
    $$SELECT underway.create_queue(NULL)$$,
    $$SELECT underway.create_queue('')$$,
    $$SELECT underway.create_queue(' x')$$,
    $$SELECT underway.create_queue('x ')$$,
    $$SELECT underway.create_queue(E'a\nb')$$,
    $$SELECT underway.create_queue(E'a\x7Fb')$$,
    $$SELECT underway.create_queue(E'a\u0085b')$$,
    $$SELECT underway.create_queue(repeat('x', 129))$$,
    $$SELECT underway.create_queue(repeat('x', 10000000))$$,
    $$SELECT underway.create_queue('q')$$,
    $$SELECT underway.create_queue('q', or_replace => NULL)$$);
-- The name of a queue is checked alike by all of them.
SELECT count(*), left(e, 200) || right(e, 60) AS error
    FROM unnest('{alter_queue($),drop_queue($),"drop_queue($,force=>true)",pause_queue($),resume_queue($),purge_queue($),redrive($),
        "grant_queue($,''public'')","revoke_queue($,''public'')"}'::text[]) WITH ORDINALITY c(call, n),
    unnest(ARRAY['NULL', '''''', '''no such''', '''Q''', '''q'''' or 1=1''', 'repeat(''x'',1000000)', '''"q"''']) name,
    test.errors(format('SELECT underway.%s', replace(call, '$', name))) e
    GROUP BY 2 ORDER BY 2;

-- Handlers.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.create_queue(%L, %L)', 'new', handler)
    FROM unnest(ARRAY[
    '', ' ', 'no_such', 'no_such()', 'no_such.f', 'no_such.f(jsonb)', 'a.b.c', 'a.b.c.d(jsonb)', 'f(', 'f)', 'f()',
        '()', 'f(text)', 'f(no_such_type)',
    'f(jsonb, jsonb)', 'f(jsonb) ; drop table x', 'g', 'g(jsonb,text)', 'with_default', 'with_default(jsonb,text)',
        'of_text', 'of_text(text)',
    'of_json(json)', 'many', 'many(jsonb[])', 'a_set', 'a_table', 'a_trigger', 'an_event_trigger',
        'out_procedure(jsonb,int)', 'only_out(int)',
    'only_out()', 'an_aggregate', 'pg_temp.in_temp', 'in_temp', 'polymorphic', 'polymorphic(anyelement)', '"f',
        '"f"""', 'F"', '.f', 'f.', 'public..f',
    '"public.f"', repeat('x', 100), repeat('x', 1000) || '.f(jsonb)']) handler));

-- Numbers, intervals, words, policies, settings, roles.
CREATE FUNCTION with_each(argument text, VARIADIC vals text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT test.errors(VARIADIC ARRAY(
        SELECT format('SELECT underway.%s, %s => %s)', call, argument, value)
        FROM unnest(vals) WITH ORDINALITY v(value, k), unnest(ARRAY['create_queue(''new''',
            'alter_queue(''q''']) WITH ORDINALITY c(call, n)
        ORDER BY k, n))
$$;
SELECT with_each('concurrency', '0', '-1', '1000001', '2147483647', '-2147483648');
SELECT with_each('priority', '-1', '16', '2147483647');
SELECT with_each('group_concurrency', '0', '-1', '1000001');
SELECT with_each('batch', '0', '-1', '1001');
SELECT with_each('timeout', '''0''', '''-1 s''', '''25 days''', '''1 month''', '''178000000 years''', '''0.0001 s''');
SELECT with_each('heartbeat', '''0''', '''-1 s''', '''25 days''');
SELECT with_each('ttl', '''0''', '''-1 s''', '''1001 years''', '''-178000000 years''');
SELECT with_each('keep', '''''', '''ALL''', '''some''', 'repeat(''x'', 1000000)');
SELECT with_each('durability', '''''', '''off''');
SELECT with_each('dead_letter', '''''', '''no such''', '''DEAD''', 'repeat(''x'', 1000000)');
SELECT test.errors($$SELECT underway.alter_queue('q', dead_letter => 'q')$$, $$SELECT underway.create_queue('new',
    dead_letter => 'new')$$);
SELECT with_each('run_as', '''''', '''no such''', '''"postgres"''', 'repeat(''x'', 1000000)', '''public''', '''none''');
SELECT with_each('retry', '''[]''', '''null''', '''5''', '''"x"''', '''{"max_attempts": 0}''',
    '''{"max_attempts": 1.5}''', '''{"max_attempts": "5"}''',
    '''{"max_attempts": 1e400}''', '''{"attempts": 5}''', '''{"max_interval": -1}''', '''{"jitter": 2}''',
        '''{"never": "23505"}''', '''{"never": [1]}''',
    '''{"never": ["x"]}''', '''{"only_on": []}''', '''{"backoff": 0.5}''',
        '''{"initial_interval": 10, "max_interval": 1}''', '''{"max_attempts": null}''');
SELECT with_each('settings', '''[]''', '''null''', '''5''', '''"x"''', '''{"no_such_setting": 1}''',
    '''{"work_mem": "x"}''', '''{"work_mem": null}''',
    '''{"work_mem": [1]}''', '''{"work_mem": {"a": 1}}''', '''{"work_mem": -5}''', '''{"shared_buffers": "1GB"}''',
        '''{"port": 1}''',
    '''{"server_version": "1"}''', '''{"role": "x"}''', '''{"ROLE": "x"}''',
        '''{"session_authorization": "postgres"}''', '''{"": "x"}''',
    '''{"a b.c d": "x"}''', '''{"work_mem": ""}''', '''{"log_connections": true}''',
        '''{"transaction_isolation": "serializable"}''',
    '''{"transaction_read_only": "on"}''', '''{"is_superuser": "on"}''', '''{"underway.no_such": 1}''',
        '''{"seed": 0.5}''', '''{"client_encoding": "x"}''', '''{"exit_on_error": true}''', '''{"Exit_On_Error": "off"}''',
    '''{"transaction_timeout": "1min"}''');
SELECT test.errors(
    $$SELECT underway.alter_queue('q', reset => '{run_as}')$$,
    $$SELECT underway.alter_queue('q', reset => '{name}')$$,
    $$SELECT underway.alter_queue('q', reset => '{NULL}')$$,
    $$SELECT underway.alter_queue('q', reset => '{batch,Batch}')$$,
    $$SELECT underway.alter_queue('q', reset => ARRAY[repeat('x', 1000000)])$$,
    $$SELECT underway.alter_queue('q', batch => 2, reset => '{batch}')$$,
    $$SELECT underway.alter_queue('q', reset => array_fill('x'::text, '{1000000}'))$$);

-- grant_queue, revoke_queue.
SELECT test.errors(VARIADIC ARRAY(
    SELECT format('SELECT underway.%s(''q'', %s)', call, arguments)
    FROM unnest(ARRAY['grant_queue', 'revoke_queue']) WITH ORDINALITY c(call, n), unnest(ARRAY['NULL', '''''',
        '''no such''', 'repeat(''x'', 1000000)',
        '''public'', NULL', '''public'', ''{}''', '''public'', ''{NULL}''', '''public'', ''{all}''',
            '''public'', ''{Enqueue}''', '''public'', ''{enqueue,""}''',
        '''public'', array_fill(''x''::text, ''{1000000}'')', '''public'', ''{{enqueue},{x}}''', '''PUBLIC''',
            '''"public"''']) WITH ORDINALITY a(arguments, k)
    ORDER BY n, k));
SELECT test.errors($$SELECT underway.redrive('q', 0)$$, $$SELECT underway.redrive('q', -1)$$,
    $$SELECT underway.redrive('q', -2147483648)$$);

-- retry_policy.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.retry_policy(%s)', arguments) FROM unnest(ARRAY[
    'max_attempts => 0', 'max_attempts => -1', 'max_attempts => 1000001', 'initial_interval => ''-1 s''',
        'initial_interval => ''366 days''',
    'initial_interval => ''178000000 years''', 'max_interval => ''-1 s''', 'max_interval => ''-178000000 years''',
    'initial_interval => ''1 min'', max_interval => ''1 s''', 'backoff => 0.5', 'backoff => -1', 'backoff => ''NaN''',
        'backoff => ''Infinity''', 'backoff => 1001',
    'jitter => -0.1', 'jitter => 1.1', 'jitter => ''NaN''', 'never => ''{2350}''', 'never => ''{23505,NULL}''',
        'never => ''{""}''', 'never => ''{235051}''',
    'never => ''{2350a}''', 'only_on => ''{}''', 'only_on => ''{x}''',
        'only_on => array_fill(''x''::text, ''{1000000}'')',
    'never => array_fill(''23505''::text, ''{1000000}'')', 'never => ARRAY[repeat(''2'', 1000000)]']) arguments));
-- As all of ours, without a CONTEXT of ours.
DO $$
DECLARE
    c text;
BEGIN
    PERFORM underway.retry_policy(max_attempts => 0);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS c = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE 'context: %', c;
END $$;
SELECT underway.retry_policy();
SELECT underway.retry_policy(1, '0', '0', 1, 0, '{}', '{23,40001}');
SELECT underway.retry_policy(1000000, '365 days', '365 days', 1000, 1, '{23505}');

SELECT test.digest() = :'before' AS nothing_changed;

-- These are fit.
SELECT underway.create_queue('fit', 'only_default');
SELECT underway.alter_queue('fit', handler => 'out_args');
SELECT underway.drop_queue('fit');
SELECT count(underway.drop_queue(name)) FROM underway.queues;
