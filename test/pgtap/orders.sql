-- As an application would test it: an order and the task to bill it are one transaction, and the bill is written once.
\set ECHO none
\set QUIET on
\pset tuples_only on
\pset format unaligned
SELECT plan(14);
CREATE SCHEMA shop;
CREATE TABLE shop."order" (id int PRIMARY KEY, amount numeric NOT NULL);
CREATE TABLE shop.bill (order_id int PRIMARY KEY REFERENCES shop."order", amount numeric NOT NULL);
CREATE FUNCTION shop.write_bill(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    o shop."order";
BEGIN
    SELECT * INTO STRICT o FROM shop."order" WHERE id = (input ->> 'order')::int;
    INSERT INTO shop.bill VALUES (o.id, o.amount);
    RETURN jsonb_build_object('amount', o.amount);
END $$;

SELECT lives_ok($$SELECT underway.create_queue('bills', 'shop.write_bill',
    retry => underway.retry_policy(max_attempts => 2, initial_interval => '0'))$$, 'a queue with a handler');
SELECT results_eq($$SELECT name, handler, state
    FROM underway.queues$$, $$VALUES ('bills', 'shop.write_bill(jsonb)', 'active')$$, 'it is active');

BEGIN;
INSERT INTO shop."order" VALUES (1, 9.90);
SELECT underway.enqueue('bills', '{"order": 1}') AS task \gset
SELECT is((SELECT state
    FROM underway.status(:'task')), 'pending', 'in its own transaction the task is there, and pending');
SELECT throws_ok(format('SELECT underway.await(%L)', :'task'), '25001', NULL, 'and cannot be awaited');
ROLLBACK;
SELECT is_empty(format('SELECT underway.status(%L)', :'task'), 'rolled back, it never was');
SELECT is_empty('SELECT * FROM shop.bill', 'and nothing was billed');

BEGIN;
INSERT INTO shop."order" VALUES (1, 9.90);
SELECT underway.enqueue('bills', '{"order": 1}', key => 'order 1') AS task \gset
COMMIT;
SELECT results_eq(format('SELECT state, output FROM underway.await(%L)', :'task'), $$VALUES ('succeeded',
    '{"amount": 9.90}'::jsonb)$$, 'committed, it succeeds');
SELECT results_eq('SELECT * FROM shop.bill', 'VALUES (1, 9.90)', 'and the bill is there');
SELECT is(underway.enqueue('bills', '{"order": 1}', key => 'order 1'), :'task'::uuid,
    'the same key gives the same task');

SELECT underway.enqueue('bills', '{"order": 1}') AS again \gset
SELECT results_eq(format('SELECT state, sqlstate, attempt FROM underway.await(%L)', :'again'), $$VALUES ('failed',
    '23505', 2)$$, 'without the key it fails, after two attempts');
SELECT results_eq('SELECT * FROM shop.bill', 'VALUES (1, 9.90)', 'and the bill is there once');
SELECT matches(underway.why(:'again'), '^failed: 2 of 2 attempts failed: duplicate key', 'why() tells it in a line');
SELECT throws_ok($$SELECT underway.drop_queue('no such')$$, '42704', 'queue "no such" does not exist',
    'errors have codes');
SELECT is(underway.drop_queue('bills'), 'bills', 'finished tasks do not keep a queue from being dropped');
SELECT * FROM finish();
SET client_min_messages = warning;
DROP SCHEMA shop CASCADE;
