-- Dead letters: what they carry, redrive, and what becomes of them when their originals go another way.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE open (queue text);
CREATE FUNCTION fails(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF (input ->> 'ok')::bool OR EXISTS (SELECT FROM open) THEN
        RETURN to_jsonb(underway.attempt());
    END IF;
    RAISE EXCEPTION 'it failed' USING ERRCODE = 'P0009', DETAIL = 'a detail', HINT = 'a hint';
END $$;
CREATE FUNCTION gives_up(input jsonb) RETURNS underway.transition LANGUAGE sql AS $$
    SELECT underway.give_up('no use', '{"some": "output"}') $$;
CREATE FUNCTION reads_letter(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('input', input, 'queue', underway.headers() -> 'dead_letter' -> 'queue', 'message',
        underway.headers() -> 'dead_letter' -> 'message',
        'trace', underway.headers() -> 'trace')
$$;
CREATE VIEW letters AS
    SELECT t.id, t.queue, t.state, t.input, t.headers - 'dead_letter' AS headers,
        (t.headers -> 'dead_letter') - '{task,context}'::text[] AS letter,
        (t.headers -> 'dead_letter' ->> 'task')::uuid = t.source AS same_task, t.source, t.key, t.group_key,
            t.enqueued_by, t.priority, t.reason, t.error
    FROM underway.tasks t WHERE t.queue LIKE '%dead%';
SELECT underway.create_queue('dead', priority => 5);
SELECT underway.create_queue('q', 'fails', dead_letter => 'dead', retry => underway.retry_policy(max_attempts => 2,
    initial_interval => '0'));
SELECT underway.create_queue('up', 'gives_up', dead_letter => 'dead');

-- One that fails for good; what succeeds leaves none.
SELECT underway.enqueue('q', '{"n": 1}', priority => 1, key => 'k', group_key => 'g',
    headers => '{"trace": "t"}') AS task, underway.enqueue('q', '{"ok": true}') AS good \gset
SELECT * FROM test.ends(:'task');
SELECT state FROM test.ends(:'good');
SELECT queue, state, input, headers, letter, same_task, source = :'task' AS about_it, key, group_key, enqueued_by,
    priority FROM letters;
SELECT headers -> 'dead_letter' ->> 'context' FROM underway.tasks WHERE queue = 'dead';
-- One that gives up; one that expires; not one that is cancelled.
SELECT underway.enqueue('up') AS up \gset
SELECT state FROM test.ends(:'up');
SELECT underway.pause_queue('q');
SELECT underway.enqueue('q', '"expires"', ttl => '1 ms') AS expires, underway.enqueue('q',
    '"cancelled"') AS cancelled \gset
SELECT underway.cancel(:'cancelled');
SELECT state FROM test.ends(:'expires');
SELECT input, letter FROM letters WHERE source IN (:'up', :'expires', :'cancelled') ORDER BY source;
SELECT severity, object, regexp_replace(problem, 'since .*', 'since <time>'), hint FROM underway.check_health();
SELECT count(underway.cancel(id)) FROM letters WHERE source IN (:'up', :'expires');
SELECT underway.resume_queue('q');

-- redrive: the originals run again under their own ids, keys and attempts; the letters end.
SELECT underway.enqueue_many('q', '{"{\"n\": 2}","{\"n\": 3}"}') AS ids \gset
SELECT count(*) FROM unnest(:'ids'::uuid[]) id, test.ends(id) WHERE state = 'failed';
INSERT INTO open VALUES ('q');
SELECT underway.redrive('dead', 1);
SELECT state, attempt, failures, output FROM test.ends(:'task');
SELECT key, group_key, priority, headers, (SELECT count(*) FROM underway.attempts WHERE task_id = t.id) AS attempts
    FROM underway.tasks t WHERE id = :'task';
SELECT underway.enqueue('q', key => 'k') = :'task' AS key_is_taken;
SELECT state, reason, error FROM letters WHERE source = :'task';
SELECT underway.redrive('dead');
SELECT e.state, e.attempt, e.output FROM unnest(:'ids'::uuid[]) id, test.ends(id) e;
SELECT state, count(*) FROM letters GROUP BY state ORDER BY state;
SELECT underway.redrive('dead');

-- Of a queue that is nobody's dead letter queue: its own failed tasks.
TRUNCATE open;
SELECT underway.create_queue('plain', 'fails', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue_many('plain', '{1,2,3}') AS ids \gset
SELECT count(*) FROM unnest(:'ids'::uuid[]) id, test.ends(id) WHERE state = 'failed';
SELECT underway.enqueue('plain', '{"ok": true}') AS good, underway.enqueue('plain', delay => '1 h') AS cancelled \gset
SELECT state FROM test.ends(:'good');
SELECT underway.cancel(:'cancelled');
INSERT INTO open VALUES ('plain');
SELECT underway.redrive('plain', max_tasks => 2);
SELECT test.until(format('(SELECT count(*) = 2 FROM unnest(%L::uuid[]) id, underway.status(id) WHERE state = ''succeeded'')', :'ids'));
SELECT underway.redrive('plain');
SELECT count(*) FROM unnest(:'ids'::uuid[]) id, test.ends(id) WHERE state = 'succeeded';
SELECT underway.redrive('plain');
SELECT state FROM underway.status(:'cancelled');

-- A letter whose original went another way: retried by hand, re-enqueued under the same key, its queue dropped.
TRUNCATE open;
SELECT underway.enqueue('q', '"by hand"') AS by_hand, underway.enqueue('q', '"new key"', key => 'n') AS new_key \gset
SELECT count(*) FROM unnest(ARRAY[:'by_hand', :'new_key']::uuid[]) id, test.ends(id) WHERE state = 'failed';
INSERT INTO open VALUES ('q');
SELECT underway.retry(:'by_hand');
SELECT state FROM test.ends(:'by_hand');
SELECT underway.redrive('dead');
SELECT state FROM test.ends(:'new_key');
SELECT source = :'by_hand' AS by_hand, state, reason FROM letters WHERE source IN (:'by_hand', :'new_key') ORDER BY 1;
TRUNCATE open;
SELECT underway.create_queue('dropped', 'fails', dead_letter => 'dead',
    retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('dropped', '"dropped"') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT underway.drop_queue('dropped');
SELECT underway.redrive('dead');
SELECT state, letter ->> 'queue' AS queue FROM letters WHERE source = :'task';
SELECT underway.purge_queue('dead');

-- A queue that keeps nothing: the letter has enough to go by.
SELECT underway.create_queue('forgets', 'fails', keep => 'none', dead_letter => 'dead',
    retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('forgets', '{"n": 4}', headers => '{"trace": "t"}') AS task \gset
SELECT test.until(format('EXISTS (SELECT FROM letters WHERE source = %L)', :'task'));
SELECT count(*) FROM underway.status(:'task');
SELECT underway.alter_queue('forgets', keep => 'all');
INSERT INTO open VALUES ('q');
SELECT underway.redrive('dead');
SELECT state, output FROM test.ends(:'task');
SELECT input, headers FROM underway.tasks WHERE id = :'task';
TRUNCATE open;

-- A queue that keeps only what fails: what was re-opened and has succeeded since is known no more, and is not run once more.
SELECT underway.create_queue('failures', 'fails', keep => 'failed', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue_many('failures', '{5,6}') AS ids, underway.enqueue('failures', key => 'f') AS keyed \gset
SELECT count(*) FROM unnest(:'ids'::uuid[] || :'keyed'::uuid) id, test.ends(id) WHERE state = 'failed';
INSERT INTO open VALUES ('failures');
SELECT underway.redrive('failures');
SELECT test.until($$NOT EXISTS (SELECT FROM underway_internal.any_task WHERE queue_id = (SELECT id FROM underway_internal.queue WHERE name = 'failures'))$$);
SELECT underway.redrive('failures');
SELECT count(*) FROM underway.tasks WHERE queue = 'failures';
SELECT count(*) FROM underway.status(:'keyed');
SELECT test.errors(format('SELECT underway.retry(%L)', :'keyed'), format('SELECT underway.why(%L)', :'keyed'));
SELECT outcome, count(*) FROM underway.attempts WHERE queue = 'failures' GROUP BY 1;
TRUNCATE open;
-- Its key is free for another, which is re-opened as often as it fails.
SELECT underway.enqueue('failures', key => 'f') AS other \gset
SELECT :'other' <> :'keyed' AS another;
SELECT state FROM test.ends(:'other');
SELECT underway.redrive('failures', 1);
SELECT state, attempt FROM test.ends(:'other');
SELECT underway.redrive('failures');
SELECT state, attempt FROM test.ends(:'other');
-- A letter about one that somebody has retried since.
SELECT underway.alter_queue('failures', dead_letter => 'dead');
SELECT underway.enqueue('failures') AS task \gset
SELECT state FROM test.ends(:'task');
INSERT INTO open VALUES ('failures');
SELECT underway.retry(:'task');
SELECT test.until(format('NOT EXISTS (SELECT FROM underway_internal.task WHERE id = %L)', :'task'));
SELECT underway.redrive('dead');
SELECT state, reason FROM letters WHERE source = :'task';
SELECT count(*) FROM underway_internal.task WHERE id = :'task';
TRUNCATE open;
-- A letter about a failure that is not kept, of a task that was re-opened from one that is.
SELECT underway.alter_queue('failures', keep => 'all');
SELECT underway.enqueue('failures', '{"n": 7}') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT underway.alter_queue('failures', keep => 'none');
SELECT underway.redrive('dead');
SELECT test.until(format('(SELECT count(*) = 2 FROM letters WHERE source = %L)', :'task'));
INSERT INTO open VALUES ('failures');
SELECT underway.alter_queue('failures', keep => 'all');
SELECT underway.redrive('dead');
SELECT state, attempt FROM test.ends(:'task');
-- A letter that was redriven is not retried: its original would run once more.
SELECT replace(e, :'task', '<task>') FROM test.errors(format('SELECT underway.retry(%L)', (SELECT id FROM letters WHERE source = :'task' LIMIT 1))) e;
TRUNCATE open;

-- Dead letters are not dead-lettered again, even by queues that name each other; a dead letter queue may have a
-- handler.
SELECT underway.create_queue('dead end', 'fails', dead_letter => 'q',
    retry => underway.retry_policy(max_attempts => 1));
SELECT underway.alter_queue('q', dead_letter => 'dead end', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.enqueue('q', '"round"') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT test.until('(SELECT state = ''failed'' FROM letters WHERE queue = ''dead end'')');
SELECT queue, state FROM underway.tasks WHERE source IS NOT NULL AND input = '"round"' ORDER BY queue;
SELECT underway.create_queue('dead handled', 'reads_letter');
SELECT underway.alter_queue('q', dead_letter => 'dead handled');
SELECT underway.enqueue('q', '"read"', headers => '{"trace": "t"}') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT test.until('(SELECT state = ''succeeded'' FROM letters WHERE queue = ''dead handled'')');
SELECT output FROM underway.tasks WHERE queue = 'dead handled';

-- A dead letter queue that was dropped by force takes nothing, and nothing breaks.
SELECT underway.drop_queue('dead handled', force => true);
SELECT underway.enqueue('q', '"gone"') AS task \gset
SELECT state FROM test.ends(:'task');
SELECT count(*) FROM underway.tasks WHERE source = :'task';
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
