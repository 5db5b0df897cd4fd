-- Nonsense to the functions about tasks and to those for handlers: an error with SQLSTATE and hint, and nothing
-- changed.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE FUNCTION f(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
SELECT underway.create_queue('q', 'f');
SELECT underway.create_queue('external');
SELECT underway.enqueue('q', '{"kept": 1}', key => 'k') AS done \gset
SELECT state FROM test.ends(:'done');
SELECT underway.enqueue('external', '{"kept": 1}', key => 'k', run_at => '2100-01-01') AS pending \gset
SELECT test.digest() AS before \gset

-- The name of the queue.
SELECT test.errors(VARIADIC ARRAY(SELECT format('SELECT underway.%s', replace(call, '$', name))
    FROM unnest('{enqueue($),"enqueue_many($,''{1}'')"}'::text[]) WITH ORDINALITY c(call, n),
        unnest(ARRAY['NULL', '''''', '''no such''', '''Q''', '''q'''' or 1=1''', '''"q"''', ''' q''',
            'repeat(''x'',1000000)']) WITH ORDINALITY m(name, k)
    ORDER BY n, k));

-- What both of them take.
CREATE FUNCTION with_each(VARIADIC arguments text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT CASE WHEN one = many THEN one ELSE 'enqueue: ' || one || E'\nenqueue_many: ' || many END
    FROM unnest(arguments) argument, test.errors('SELECT underway.enqueue(''q'', ''1'', ' || argument || ')') one,
        test.errors('SELECT underway.enqueue_many(''q'', ''{1,2}'', ' || argument || ')') many
$$;
SELECT with_each('delay => ''-1 s''', 'delay => ''-178000000 years''', 'delay => ''178000000 years''',
    'delay => ''1001 years''', 'delay => ''1 s'', run_at => now()',
    'run_at => ''infinity''', 'run_at => ''-infinity''', 'run_at => ''4714-11-24 00:00+00 BC''',
        'run_at => ''294276-12-31 23:59:59+00''', 'priority => -1', 'priority => 16', 'priority => 2147483647',
        'priority => -2147483648');
SELECT with_each('ttl => ''0''', 'ttl => ''-1 s''', 'ttl => ''1001 years''', 'ttl => ''178000000 years''',
    'ttl => ''1000 years'', run_at => ''294276-01-01''',
    'timeout => ''0''', 'timeout => ''-1 s''', 'timeout => ''25 days''', 'timeout => ''0.0001 s''',
        'heartbeat => ''0''', 'heartbeat => ''-1 s''',
    'heartbeat => ''25 days''', 'heartbeat => ''178000000 years''');
SELECT with_each('retry => ''[]''', 'retry => ''null''', 'retry => ''5''', 'retry => ''{"max_attempts": 0}''',
    'retry => ''{"max_attempt": 1}''',
    'retry => ''{"max_attempts": "x"}''', 'retry => ''{"never": ["x"]}''', 'retry => ''{"max_crashes": 1}''',
        'retry => ''{"initial_interval": 1e300}''');
SELECT with_each('headers => ''[]''', 'headers => ''null''', 'headers => ''5''', 'headers => ''"x"''');
SELECT test.errors(
    $$SELECT underway.enqueue('q', key => '')$$,
    $$SELECT underway.enqueue('q', key => repeat('x', 513))$$,
    $$SELECT underway.enqueue('q', key => repeat('é', 257))$$,
    $$SELECT underway.enqueue('q', key => repeat('x', 10000000))$$,
    $$SELECT underway.enqueue('q', group_key => '')$$,
    $$SELECT underway.enqueue('q', group_key => repeat('x', 513))$$);
-- What is inside its limits.
BEGIN;
SELECT underway.enqueue('external', key => repeat('x', 512), group_key => repeat('y', 512), priority => 15,
    delay => '1000 years') IS NOT NULL;
SELECT underway.enqueue('external', run_at => now() - interval '999 years') IS NOT NULL, underway.enqueue('external',
    run_at => now() + interval '999 years') IS NOT NULL;
SELECT underway.enqueue('external', ttl => '1000 years', timeout => '24 days', heartbeat => '24 days',
    delay => '0') IS NOT NULL;
SELECT underway.enqueue('external', jsonb_build_object('x', repeat('x', 20000000))) IS NOT NULL;
SELECT underway.enqueue('external', (repeat('[', 1000) || repeat(']', 1000))::jsonb) IS NOT NULL;
ROLLBACK;

-- Arrays.
SELECT test.errors(
    $$SELECT underway.enqueue_many('q', NULL)$$,
    $$SELECT underway.enqueue_many('q', '{{1,2},{3,4}}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => '{a}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => '{a,b,c}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => '{}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => '{{a,b}}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => '{a,""}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', keys => ARRAY['a', repeat('x', 513)])$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', group_keys => '{a}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', group_keys => '{{a},{b}}')$$,
    $$SELECT underway.enqueue_many('q', '{1,2}', group_keys => '{a,""}')$$,
    $$SELECT underway.enqueue_many('q', '{}', keys => '{a}')$$,
    $$SELECT underway.enqueue_many('no such', '{}')$$,
    $$SELECT underway.enqueue_many('q', '{}', priority => 16)$$,
    $$SELECT underway.enqueue_many('q', array_fill('1'::jsonb, '{1000000}'), keys => array_fill('x'::text,
        '{999999}'))$$,
    $$SELECT underway.enqueue_many('q', array_fill('1'::jsonb, '{1000000}'), keys => array_fill(''::text,
        '{1000000}'))$$,
    $$SELECT underway.enqueue_many('q', array_fill('1'::jsonb, '{1000,1000}'))$$,
    $$SELECT underway.enqueue_many('q', array_fill('1'::jsonb, '{1000000}'), headers => '[]')$$,
    $$SELECT underway.enqueue_many('q', array_fill(NULL::jsonb, '{70000000}'))$$);

-- Ids: null, unknown, of a task in the wrong state.
SELECT test.errors(VARIADIC ARRAY(SELECT replace(call, '$', id)
    FROM unnest('{"SELECT underway.cancel($)","SELECT underway.retry($)","SELECT underway.pause($)","SELECT underway.resume($)","SELECT underway.why($)",
            "SELECT state FROM underway.await($)"}'::text[]) WITH ORDINALITY c(call, n),
        unnest(ARRAY['NULL', '''00000000-0000-0000-0000-000000000000''',
            '''ffffffff-ffff-ffff-ffff-ffffffffffff''']) WITH ORDINALITY m(id, k)
    ORDER BY n, k));
SELECT count(*) FROM underway.status(NULL);
SELECT count(*) FROM underway.status('00000000-0000-0000-0000-000000000000');
SELECT test.errors(VARIADIC ARRAY(SELECT replace(call, '$', quote_literal(:'done'))
    FROM unnest('{"SELECT underway.cancel($)","SELECT underway.retry($)","SELECT underway.pause($)","SELECT underway.resume($)"}'::text[]) call));
SELECT test.errors(format('SELECT underway.retry(%L)', :'pending'),
    format('SELECT underway.cancel(%L, repeat(''x'', 8193))', :'pending'),
    format('SELECT underway.cancel(%L, repeat(''x'', 100000000))', :'pending'));

-- Waiting.
SELECT test.errors(
    format('SELECT state FROM underway.await(%L, NULL)', :'pending'),
    format('SELECT state FROM underway.await(%L, ''-1 s'')', :'pending'),
    format('SELECT state FROM underway.await(%L, ''-178000000 years'')', :'pending'),
    format('CALL underway.wait_for(%L)', :'pending'),
    'CALL underway.wait_for(NULL)');
CALL underway.wait_for(NULL);
\echo :SQLSTATE
CALL underway.wait_for('00000000-0000-0000-0000-000000000000');
\echo :SQLSTATE
CALL underway.wait_for(:'pending', '-1 s');
\echo :SQLSTATE
CALL underway.wait_for(:'pending', NULL);
\echo :SQLSTATE
SELECT state FROM underway.await(:'pending', '0');
CALL underway.wait_for(:'pending', '0', NULL);
SELECT state FROM underway.await(:'done', '178000000 years');
CALL underway.wait_for(:'done', '178000000 years', NULL);

-- In a handler, and outside.
SELECT underway.task_id(), underway.attempt(), underway.last_attempt(), underway.headers(),
    underway.progress('{"done": 5}'), underway.progress(NULL);
SELECT test.errors(
    $$SELECT underway.again(NULL)$$,
    $$SELECT underway.again('-1 s')$$,
    $$SELECT underway.again('1001 years')$$,
    $$SELECT underway.again('-178000000 years')$$,
    $$SELECT underway.give_up(NULL)$$,
    $$SELECT underway.give_up('')$$);
SELECT underway.again('1 min'), underway.again('0', '{"n": 1}'), underway.give_up('no use'), underway.give_up('no use',
    '{"n": 1}');

-- Operation.
SELECT underway.adopt();
SELECT underway.version() = (SELECT extversion FROM pg_extension WHERE extname = 'underway');
SELECT test.errors($$SELECT underway.set_clock('infinity')$$, $$SELECT underway.set_clock('-infinity')$$);
SELECT * FROM underway.check_health();

SELECT test.digest() = :'before' AS nothing_changed;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
