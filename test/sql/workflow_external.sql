-- Steps of external workers, sleeps, waits and signals.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION twice() RETURNS jsonb LANGUAGE sql AS $$ SELECT underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0) $$;
CREATE FUNCTION same(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT input';
CREATE FUNCTION ready(queue text) RETURNS void LANGUAGE sql AS $$
    SELECT test.until(format('EXISTS (SELECT FROM underway.tasks WHERE queue = %L AND state = ''pending'')', queue))
$$;
CREATE FUNCTION at(run uuid, step text) RETURNS void LANGUAGE sql AS $$
    SELECT test.until(format('EXISTS (SELECT FROM underway.history(%L) WHERE step = %L AND outcome = ''waiting'')', run, step))
$$;
SELECT underway.create_queue('mail', heartbeat => '1 hour');

-- The task of an external step stands in its queue, with the step's settings over the workflow's over the queue's.
SELECT underway.create_workflow('signup', ARRAY[
    underway.step('register', 'same'),
    underway.step('send', queue => 'mail', input => '{"to": "$run.mail", "name": "$steps.register.name"}', retry => twice(), timeout => '7 min'),
    underway.step('note', 'same')]);
SELECT underway.start('signup', '{"mail": "a@b", "name": "Ann"}', headers => '{"trace": "t"}') AS run \gset
SELECT ready('mail');
SELECT state, progress FROM underway.status(:'run');
SELECT lease, attempt, input, headers, run_id = :'run' AS mine, step, last_attempt, deadline - now() > interval '6 min' AS minutes FROM underway.dequeue('mail') \gset
\echo :attempt :input :headers :mine :step :last_attempt :minutes
SELECT underway.fail(:'lease', 'no route', details => '{"code": 451}');
SELECT lease, attempt, last_attempt FROM underway.dequeue('mail') \gset
\echo :attempt :last_attempt
SELECT underway.heartbeat(:'lease'), underway.complete(:'lease', '{"id": "m1"}');
SELECT state, output FROM test.ends(:'run');
SELECT test.errors(format('SELECT underway.complete(%L)', :'lease'));
SELECT step, attempt, outcome, worker LIKE 'external%' AS external, input, output, error, detail FROM underway.history(:'run');
-- The worker's own writes and the hand-off are one transaction.
CREATE TABLE sent (id text);
SELECT underway.start('signup', '{"mail": "a@b", "name": "Bob"}') AS run \gset
SELECT ready('mail');
SELECT lease FROM underway.dequeue('mail') \gset
BEGIN;
INSERT INTO sent VALUES ('m2');
SELECT underway.complete(:'lease', '{"id": "m2"}');
ROLLBACK;
SELECT state, progress -> 'under_way' AS under_way FROM underway.status(:'run');
BEGIN;
INSERT INTO sent VALUES ('m2');
SELECT underway.complete(:'lease', '{"id": "m2"}');
COMMIT;
SELECT state, output FROM test.ends(:'run');
-- It fails for good; or its queue goes.
SELECT underway.start('signup', '{"mail": "a@b"}') AS run \gset
SELECT ready('mail');
SELECT lease FROM underway.dequeue('mail') \gset
SELECT underway.fail(:'lease', 'unknown mailbox', retryable => false);
SELECT state, reason, error FROM test.ends(:'run');
SELECT underway.create_queue('doomed');
SELECT underway.create_workflow('doomed wf', ARRAY[underway.step('a', queue => 'doomed')]);
SELECT underway.start('doomed wf') AS run \gset
SELECT ready('doomed');
SELECT underway.drop_queue('doomed', force => true);
SELECT state, reason, error FROM test.ends(:'run');
-- A queue with a dead letter queue: the run fails, and nothing is written there.
SELECT underway.create_queue('letters');
SELECT underway.create_queue('lettered', dead_letter => 'letters');
SELECT underway.create_workflow('lettered wf', ARRAY[underway.step('a', queue => 'lettered')]);
SELECT underway.start('lettered wf') AS run \gset
SELECT ready('lettered');
SELECT lease FROM underway.dequeue('lettered') \gset
SELECT underway.fail(:'lease', 'no', retryable => false);
SELECT state, error FROM test.ends(:'run');
SELECT pending FROM underway.queues WHERE name = 'letters';
-- Many at once, of several runs and of none.
SELECT underway.start('signup', jsonb_build_object('name', n)) FROM generate_series(1, 3) n \g /dev/null
SELECT underway.enqueue('mail') IS NOT NULL AS plain;
SELECT test.until('(SELECT count(*) = 4 FROM underway.tasks WHERE queue = ''mail'' AND state = ''pending'')');
SELECT count(*) FROM underway.dequeue('mail', 10);
SELECT cardinality(underway.complete_many(array_agg(t.lease), array_agg(t.input))) FROM underway_internal.task t WHERE t.lease IS NOT NULL;
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.run r JOIN underway_internal.queue q ON q.id = r.queue_id WHERE q.name = ''signup'')');

-- Sleep: no process, no transaction; the input is passed on.
SELECT underway.create_workflow('sleeps', ARRAY[underway.sleep('nap', '1 hour'), underway.step('up', 'same'), underway.sleep('none', '0')]);
SELECT underway.start('sleeps', '{"x": 1}') AS run \gset
SELECT state, progress FROM underway.status(:'run');
SELECT step, kind, outcome, due_at > now() + interval '50 min' AS due FROM underway.history(:'run');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL AS moved;
SELECT state, output FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, output FROM underway.history(:'run');
SELECT underway.set_clock(NULL) IS NOT NULL AS moved;

-- Wait: a signal after, before, both; in order; keys; other names.
SELECT underway.create_workflow('waits', ARRAY[underway.step('a', 'same'), underway.wait('first', 's'), underway.wait('second', 's'), underway.wait('other'),
    underway.step('b', 'same', input => '["$steps.first", "$steps.second", "$steps.other"]')]);
SELECT underway.start('waits') AS run \gset
SELECT at(:'run', 'first');
SELECT state FROM underway.status(:'run');
SELECT underway.signal(:'run', 's', '1');
SELECT at(:'run', 'second');
SELECT underway.signal(:'run', 'other', '"o"'), underway.signal(:'run', 's', '2');
SELECT state, output FROM test.ends(:'run');
BEGIN;
SELECT underway.start('waits') AS run \gset
SELECT underway.signal(:'run', 's', '1', key => 'k'), underway.signal(:'run', 's', '7', key => 'k'), underway.signal(:'run', 's', '2'),
    underway.signal(:'run', 's', '3'), underway.signal(:'run', 'other');
COMMIT;
SELECT state, output FROM test.ends(:'run');
SELECT step, kind, attempt, outcome, input, output FROM underway.history(:'run');
-- A key counts as long as the run goes on, also after its signal was taken.
SELECT underway.start('waits') AS run \gset
SELECT at(:'run', 'first');
SELECT underway.signal(:'run', 's', '1', key => 'k');
SELECT at(:'run', 'second');
SELECT underway.signal(:'run', 's', '1', key => 'k');
-- A signal that is rolled back never was.
BEGIN;
SELECT underway.signal(:'run', 's', '5');
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT underway.signal(:'run', 's', '6');
ROLLBACK TO a;
COMMIT;
SELECT test.until(format('(SELECT s.state = ''waiting'' FROM underway.status(%L) s)', :'run'));
SELECT state, progress -> 'under_way' AS under_way FROM underway.status(:'run');
SELECT underway.signal(:'run', 's', '2'), underway.signal(:'run', 'other', 'null');
SELECT state, output FROM test.ends(:'run');
SELECT test.errors(format('SELECT underway.signal(%L, ''s'')', :'run'), 'SELECT underway.signal(NULL, ''s'')',
    'SELECT underway.signal(''00000000-0000-0000-0000-000000000000'', ''s'')', format('SELECT underway.signal(%L, NULL)', :'run'),
    format('SELECT underway.signal(%L, ''s'', key => '''')', :'run'));

-- Timeouts: the wait fails, or goes on without output.
SELECT underway.create_workflow('late', ARRAY[underway.wait('w', timeout => '1 hour')]);
SELECT underway.create_workflow('goes on', ARRAY[underway.wait('w', timeout => '1 hour', on_timeout => 'continue'), underway.step('b', 'same', input => '{"w": "$steps.w", "got": "$run"}')]);
SELECT underway.start('late') AS late, underway.start('goes on', '{"x": 1}') AS goes_on, underway.start('goes on', '{"x": 2}') AS in_time \gset
SELECT underway.signal(:'in_time', 'w', '"ok"');
SELECT state, output FROM test.ends(:'in_time');
SELECT underway.set_clock(underway_internal.clock() + interval '2 hours') IS NOT NULL AS moved;
SELECT state, sqlstate, error FROM test.ends(:'late');
SELECT state, output FROM test.ends(:'goes_on');
SELECT underway.set_clock(NULL) IS NOT NULL AS moved;

-- Who started a run may signal it, and who manages the workflow.
CREATE ROLE wf_starter LOGIN;
CREATE ROLE wf_stranger LOGIN;
SELECT underway.grant_queue('waits', 'wf_starter'), underway.grant_queue('waits', 'wf_stranger', '{enqueue,see}');
SET ROLE wf_starter;
SELECT underway.start('waits') AS run \gset
RESET ROLE;
SET ROLE wf_stranger;
SELECT test.errors(format('SELECT underway.signal(%L, ''s'')', :'run'));
RESET ROLE;
SET ROLE wf_starter;
SELECT underway.signal(:'run', 's', '1');
RESET ROLE;
SELECT underway.signal(:'run', 's', '2'), underway.signal(:'run', 'other', '3');
SELECT state, output FROM test.ends(:'run');
SELECT underway.revoke_queue('waits', 'wf_starter'), underway.revoke_queue('waits', 'wf_stranger');
DROP ROLE wf_starter, wf_stranger;
SELECT count(underway.drop_workflow(name, true)) > 0 AS dropped FROM underway.workflows;
SELECT count(underway.drop_queue(name, true)) >= 0 AS dropped FROM underway.queues;
