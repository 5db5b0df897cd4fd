-- enqueue and enqueue_many: what stands in the task, what comes back, keys, priorities, times by the clock.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE ran (n serial, what text, task uuid);
CREATE FUNCTION note(input jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO ran (what, task)
    VALUES (input #>> '{}', underway.task_id())$$;
SELECT underway.create_queue('q', 'note', concurrency => 1);
SELECT underway.create_queue('external', priority => 3);

-- What a call leaves out, and all that it can say.
SELECT underway.enqueue('external') AS task \gset
SELECT queue, state, priority, attempt, failures, crashes, losses, snoozes, run_at = enqueued_at AS now, expires_at,
    started_at, finished_at, enqueued_by,
    worker, key, group_key, input, headers, output, reason, timeout, heartbeat, retry, source FROM underway.tasks
        WHERE id = :'task';
SELECT kind, queue, state, attempt, failures, crashes, losses, run_at = enqueued_at AS now, started_at, finished_at,
    worker, last_heartbeat, progress, input,
    output, reason, sqlstate, error, detail, hint, context, notices FROM underway.status(:'task');
SELECT underway.enqueue('external', '{"a": [1, null]}', '1 hour', NULL, 15, 'the key', 'the group', '2 hours', '1 min',
    '5 s',
    underway.retry_policy(max_attempts => 1), '{"trace": "x"}') AS task \gset
SELECT state, priority, run_at - enqueued_at AS delay, expires_at - run_at AS ttl, key, group_key, input, headers,
    timeout, heartbeat, retry
    FROM underway.tasks WHERE id = :'task';
SELECT underway.enqueue('external', run_at => '2100-01-01 00:00+00') AS task \gset
SELECT run_at FROM underway.tasks WHERE id = :'task';
-- SQL NULL becomes {}; any JSON goes, null too.
SELECT underway.enqueue('external', NULL) AS sql_null, underway.enqueue('external', 'null') AS json_null,
    underway.enqueue('external', '"x"') AS text \gset
SELECT input FROM underway.tasks WHERE id IN (:'sql_null', :'json_null', :'text') ORDER BY input;
-- Ids are of version 7 and grow.
SELECT substr(:'task', 15, 1) AS version, :'sql_null'::uuid < :'json_null'::uuid
    AND :'json_null'::uuid < :'text'::uuid AS grow;
SELECT underway.purge_queue('external') > 0 AS purged;

-- Priorities first, then by time; more urgent ones overtake.
SELECT underway.pause_queue('q');
SELECT count(underway.enqueue('q', to_jsonb('p' || p || ' ' || n), priority => p))
    FROM generate_series(1, 2) n, unnest('{15,0,8,3}'::int[]) p;
SELECT count(underway.enqueue('q', '"default"'));
SELECT count(underway.enqueue('q', '"earlier"', run_at => '2001-01-01', ttl => '1000 years'));
SELECT underway.resume_queue('q');
SELECT test.until('(SELECT count(*) FROM ran) = 10');
SELECT string_agg(what, ', ' ORDER BY n) FROM ran;
TRUNCATE ran;

-- Due tomorrow: nothing until the clock says so.
SELECT underway.enqueue('q', '"tomorrow"', delay => '1 day') AS tomorrow, underway.enqueue('q', '"later"',
    delay => '25 hours') AS later,
    underway.enqueue('q', '"now"') AS now \gset
SELECT state FROM test.ends(:'now');
SELECT state FROM underway.status(:'tomorrow');
SELECT underway.set_clock(clock_timestamp() + '24 hours 1 minute') > clock_timestamp() AS moved;
SELECT state FROM test.ends(:'tomorrow');
SELECT state, started_at >= run_at AS after FROM underway.status(:'tomorrow');
SELECT state FROM underway.status(:'later');
SELECT underway.set_clock(clock_timestamp() + '26 hours') > clock_timestamp() AS moved;
SELECT state FROM test.ends(:'later');
SELECT underway.set_clock(NULL) - clock_timestamp() < '1 s' AS real;
SELECT string_agg(what, ', ' ORDER BY n) FROM ran;
TRUNCATE ran;
-- A delay of some milliseconds, by a timer.
SELECT underway.enqueue('q', '"soon"', delay => '50 ms') AS soon \gset
SELECT state FROM test.ends(:'soon');
SELECT started_at - run_at < '5 s' AND started_at >= run_at AS at_its_time FROM underway.status(:'soon');

-- The same key gives the same task, also after it ended, as long as it is kept; keys are of one queue.
SELECT underway.enqueue('q', '"first"', key => 'k') AS first \gset
SELECT underway.enqueue('q', '"second"', key => 'k') = :'first' AS same;
SELECT state FROM test.ends(:'first');
SELECT underway.enqueue('q', '"third"', key => 'k') = :'first' AS same;
SELECT underway.enqueue('external', '"other"', key => 'k') <> :'first' AS other;
SELECT underway.enqueue('q', '"fourth"', key => 'K') AS fourth \gset
SELECT :'fourth' <> :'first' AS other, state FROM test.ends(:'fourth');
-- In one transaction, and in one that rolls back.
BEGIN;
SELECT underway.enqueue('external', key => 'again') AS one \gset
SELECT underway.enqueue('external', key => 'again') = :'one' AS same;
ROLLBACK;
SELECT underway.enqueue('external', key => 'again') = :'one' AS same;
BEGIN;
SAVEPOINT s;
SELECT underway.enqueue('external', key => 'savepoint') AS one \gset
ROLLBACK TO s;
SELECT underway.enqueue('external', key => 'savepoint') <> :'one' AS fresh;
COMMIT;
SELECT key, count(*) FROM underway.tasks WHERE queue = 'external' GROUP BY key ORDER BY key;
-- The queue's own end of a key: not kept, cancelled, purged.
SELECT underway.create_queue('keeps nothing', 'note', keep => 'none');
SELECT underway.enqueue('keeps nothing', '"kept"', key => 'k') AS one \gset
SELECT test.until(format('NOT EXISTS (SELECT FROM underway.status(%L))', :'one'));
SELECT underway.enqueue('keeps nothing', '"kept"', key => 'k') <> :'one' AS fresh;

-- enqueue_many: ids in the order of inputs.
SELECT underway.purge_queue('external') > 0 AS purged;
SELECT underway.enqueue_many('external', '{1,2,NULL,"\"x\"","null"}') AS ids \gset
SELECT n, input, t.run_at = t.enqueued_at AS now FROM unnest(:'ids'::uuid[]) WITH ORDINALITY u(id, n)
    JOIN underway.tasks t USING (id) ORDER BY n;
SELECT underway.enqueue_many('external', '{}');
SELECT underway.enqueue_many('external', '{}', keys => '{}', group_keys => '{}', delay => '1 s', priority => 1,
    headers => '{}');
SELECT underway.enqueue_many('external', '{1,2}', '1 hour', NULL, 15, '{a,b}', '{x,NULL}', '2 hours', '1 min', '5 s',
    underway.retry_policy(3), '{"trace": 1}') AS ids \gset
SELECT n, state, priority, run_at - enqueued_at AS delay, expires_at - run_at AS ttl, key, group_key, input, headers,
    timeout, heartbeat, retry
    FROM unnest(:'ids'::uuid[]) WITH ORDINALITY u(id, n) JOIN underway.tasks t USING (id) ORDER BY n;
-- Keys that are taken, that come twice, that are null.
SELECT underway.enqueue_many('external', '{3,4,5,6,7,8}', keys => '{c,a,c,NULL,NULL,d}') AS more \gset
SELECT u.n, (:'ids'::uuid[])[1] = u.id AS is_a, (:'more'::uuid[])[1] = u.id AS is_c, t.input, t.key
    FROM unnest(:'more'::uuid[]) WITH ORDINALITY u(id, n) JOIN underway.tasks t USING (id) ORDER BY n;
SELECT underway.enqueue_many('external', '{1,2,3}', keys => '{a,b,c}') = ARRAY[(:'ids'::uuid[])[1],
    (:'ids'::uuid[])[2], (:'more'::uuid[])[1]] AS all_known;
SELECT count(*) FROM underway.tasks WHERE queue = 'external';
-- More than are written at once: some with keys, of which some come twice or are taken; inputs small, large and null.
SELECT underway.purge_queue('external') > 0 AS purged;
SELECT underway.enqueue('external', '"first"', key => '9') AS ninth \gset
CREATE TABLE ordered AS SELECT n, CASE WHEN n % 10 > 0 THEN to_jsonb(repeat(md5(n::text), CASE n % 7 WHEN 0 THEN 300 ELSE 1 END)) END AS input,
    CASE n % 3 WHEN 0 THEN (n % 120)::text END AS key FROM generate_series(1, 300) n;
CREATE TABLE many AS SELECT o.*, u.id FROM ordered o JOIN unnest(underway.enqueue_many('external',
    (SELECT array_agg(input ORDER BY n) FROM ordered), keys => (SELECT array_agg(key ORDER BY n) FROM ordered))) WITH ORDINALITY u(id, n) USING (n);
SELECT count(*), count(DISTINCT m.id) AS tasks, count(m.key) AS with_key, count(DISTINCT m.key) AS keys,
    count(*) FILTER (WHERE m.id = :'ninth') AS taken_before,
    bool_and(t.key IS NOT DISTINCT FROM m.key) AS right_keys, bool_and(t.input = coalesce(f.input, '{}') OR m.id = :'ninth') AS right_inputs
    FROM many m JOIN underway.tasks t USING (id) LEFT JOIN many f ON f.n = (SELECT min(n) FROM many x WHERE x.id = m.id);
-- Each index has them, and the claim finds all.
SELECT count(DISTINCT d.id) = 240 AS all_of_them, bool_and(d.input = t.input) AS right_inputs
    FROM underway.dequeue('external', 1000) d JOIN underway.tasks t USING (id);
-- Arrays that PL/pgSQL has in a form of its own.
CREATE FUNCTION built(n int, prefix text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    a text[] := '{}';
BEGIN
    FOR i IN 1 .. n LOOP
        a := a || (prefix || i);
    END LOOP;
    RETURN a;
END $$;
CREATE TABLE lot AS SELECT n, id FROM unnest(underway.enqueue_many('external', array_fill('1'::jsonb, '{3000}'),
    keys => built(3000, 'key '), group_keys => built(3000, 'group '))) WITH ORDINALITY u(id, n);
SELECT count(*), bool_and(t.key = 'key ' || n) AS keys, bool_and(t.group_key = 'group ' || n) AS group_keys, bool_and(t.input = '1') AS inputs
    FROM lot JOIN underway.tasks t USING (id);
DO $$
DECLARE
    inputs jsonb[] := '{}';
    keys text[] := built(100, 'own ');
    ids uuid[];
BEGIN
    FOR i IN 1 .. 100 LOOP
        inputs := inputs || to_jsonb(i);
    END LOOP;
    ids := underway.enqueue_many('external', inputs, keys => keys);
    IF underway.enqueue_many('external', inputs, keys => keys) <> ids OR (inputs[100], keys[100]) <> ('100', 'own 100') THEN
        RAISE 'not the same';
    END IF;
END $$;
-- Slices and arrays that do not begin at 1.
SELECT cardinality(underway.enqueue_many('external', ('[5:6]={1,2}'::jsonb[]))),
    cardinality(underway.enqueue_many('external', ('{1,2,3}'::jsonb[])[2:3], keys => '[0:1]={y,z}'));
SELECT input, key FROM underway.tasks WHERE queue = 'external' AND key IN ('y', 'z') ORDER BY key;
-- Large ones, of which fewer are written together, and some are kept apart.
CREATE TEMP TABLE large AS SELECT n, to_jsonb((SELECT string_agg(md5(n || ' ' || g), '') FROM generate_series(1, CASE WHEN n % 3 = 0 THEN 300 ELSE 55 END) g)) AS input
    FROM generate_series(1, 200) n;
SELECT underway.enqueue_many('external', array_agg(input ORDER BY n)) AS ids FROM large \gset
SELECT count(*), bool_and(t.input = l.input) AS right_ones, bool_and(EXISTS (SELECT FROM underway.status(u.id))) AS are_found
    FROM unnest(:'ids'::uuid[]) WITH ORDINALITY u(id, n) JOIN large l USING (n) JOIN underway.tasks t USING (id);
-- They run.
TRUNCATE ran;
SELECT underway.enqueue_many('q', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 500) n)) AS ids \gset
SELECT test.until('(SELECT count(*) FROM ran) = 500');
SELECT count(*), count(DISTINCT task), bool_and(r.what::int = u.n) AS right_ones, bool_and(r.n - (SELECT min(n)
    FROM ran) = u.n - 1) AS in_order
    FROM ran r JOIN unnest(:'ids'::uuid[]) WITH ORDINALITY u(id, n) ON u.id = r.task;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
