-- What users would test of their own queues, with pgTAP: a handler that works, one that fails, who may do what.
BEGIN;
SELECT plan(16);

SELECT has_schema('underway');
SELECT has_function('underway', 'enqueue', 'enqueue is there');
SELECT has_view('underway', 'tasks', 'tasks is there');
SELECT function_privs_are('underway_internal', 'may', '{oid,underway_internal.queue,text}', 'public', '{}'::text[],
    'internal functions are for nobody');
COMMIT;

CREATE TABLE sent (task uuid PRIMARY KEY, address text);
CREATE FUNCTION send(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'to' IS NULL THEN
        RAISE EXCEPTION 'no address';
    END IF;
    INSERT INTO public.sent VALUES (underway.task_id(), input ->> 'to');
    RETURN jsonb_build_object('sent', input ->> 'to');
END $$;
SELECT is(underway.create_queue('failed mails'), 'failed mails', 'a queue for what fails');
SELECT is(underway.create_queue('mails', 'public.send', dead_letter => 'failed mails',
    retry => underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0)), 'mails', 'a queue with a handler');

SELECT underway.enqueue('mails', '{"to": "a@example.org"}', key => 'welcome-a') AS good \gset
SELECT is(underway.enqueue('mails', '{"to": "a@example.org"}', key => 'welcome-a'), :'good'::uuid, 'the same key is the same task');
SELECT results_eq(format('SELECT state, attempt, output FROM underway.await(%L, ''60 s'')', :'good'),
    $$VALUES ('succeeded', 1, '{"sent": "a@example.org"}'::jsonb)$$, 'it succeeds, with its output');
SELECT results_eq(format('SELECT task, address FROM sent'), format('VALUES (%L::uuid, %L)', :'good', 'a@example.org'),
    'its effect is there once');

SELECT underway.enqueue('mails', '{}') AS bad \gset
SELECT results_eq(format('SELECT state, attempt, failures, error FROM underway.await(%L, ''60 s'')', :'bad'),
    $$VALUES ('failed', 2, 2, 'no address')$$, 'a bad one fails after two attempts');
SELECT results_eq(format('SELECT outcome FROM underway.attempts WHERE task_id = %L ORDER BY attempt', :'bad'),
    $$VALUES ('failed'), ('failed')$$, 'each attempt is recorded');
SELECT is((SELECT count(*) FROM underway.tasks WHERE queue = 'failed mails' AND source = :'bad'), 1::bigint, 'and it is dead-lettered');

BEGIN;
SELECT underway.enqueue('mails', '{"to": "never@example.org"}') AS never \gset
ROLLBACK;
SELECT is_empty(format('SELECT * FROM underway.status(%L)', :'never'), 'what is rolled back was never enqueued');

SELECT throws_ok($$SELECT underway.enqueue('no such queue')$$, '42704', NULL, 'an unknown queue is refused');
SELECT throws_ok($$SELECT underway.enqueue('mails', delay => '-1 s')$$, '22023', NULL, 'so is a negative delay');

CREATE ROLE pgtap_stranger;
SET ROLE pgtap_stranger;
SELECT throws_ok($$SELECT underway.enqueue('mails')$$, '42501', NULL, 'and a stranger');
RESET ROLE;
DROP ROLE pgtap_stranger;
SELECT underway.drop_queue('mails', true), underway.drop_queue('failed mails', true);
SELECT * FROM finish();
