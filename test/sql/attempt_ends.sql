-- What a handler leaves for the commit, what it says while it runs, and how long it may take.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE effect (task uuid, what text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION one_attempt(name text, timeout interval DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT underway.create_queue(name, name, timeout => timeout, retry => underway.retry_policy(max_attempts => 1))
$$;

-- A deferred constraint that fails at the commit is the task's error.
CREATE FUNCTION orphan(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), 'orphan');
    INSERT INTO child VALUES (1, (input ->> 'parent')::int);
    RETURN '"looks well"';
END $$;
SELECT one_attempt('orphan');
SELECT underway.enqueue('orphan', '{"parent": 7}') AS task \gset
SELECT * FROM test.ends(:'task');
SELECT detail FROM underway.status(:'task');
SELECT count(*) FROM effect;
INSERT INTO parent VALUES (7);
SELECT underway.retry(:'task');
SELECT * FROM test.ends(:'task');
SELECT count(*) FROM effect;
-- A deferred trigger too: it runs as the owner, knows its task, may do things, and its errors are the task's.
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.what = 'fails at the commit' THEN
        RAISE EXCEPTION 'at the commit of attempt %', underway.attempt() USING ERRCODE = 'UW010';
    ELSIF NEW.what = 'goes on' THEN
        INSERT INTO effect VALUES (underway.task_id(), 'by the trigger');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT
    ON effect DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
CREATE FUNCTION triggers(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), input ->> 'what');
    RETURN 'returned';
END $$;
SELECT one_attempt('triggers');
SELECT underway.enqueue('triggers', '{"what": "fails at the commit"}') AS bad, underway.enqueue('triggers',
    '{"what": "goes on"}') AS good \gset
SELECT * FROM test.ends(:'bad');
SELECT * FROM test.ends(:'good');
SELECT task = :'good' AS good, what FROM effect WHERE task IN (:'bad', :'good') ORDER BY what;

-- Tasks that a handler enqueues are there if and only if it succeeds.
SELECT underway.create_queue('outbox');
CREATE FUNCTION sends(input jsonb) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE id uuid := underway.enqueue('outbox', input);
BEGIN
    PERFORM underway.enqueue('outbox', input, key => 'same');
    IF input = '"bad"' THEN
        RAISE EXCEPTION 'bad';
    END IF;
    RETURN id;
END $$;
SELECT one_attempt('sends');
SELECT underway.enqueue('sends', '"bad"') AS bad, underway.enqueue('sends', '"good"') AS good \gset
SELECT state, error FROM test.ends(:'bad');
SELECT state, output IS NOT NULL AS has_output FROM test.ends(:'good');
SELECT input, key, enqueued_by FROM underway.tasks WHERE queue = 'outbox' ORDER BY key;

-- Notices: the first 8 kB, cut between characters, in the database's encoding whatever the client's would be.
CREATE FUNCTION talks(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE input #>> '{}';
END $$;
SELECT one_attempt('talks');
CREATE TABLE talk (n serial, sql text, task uuid);
INSERT INTO talk (sql) VALUES
    ('DO $d$ BEGIN FOR n IN 1..3 LOOP RAISE NOTICE ''%'', n; END LOOP; RAISE INFO ''info''; RAISE WARNING ''warning''; RAISE LOG ''log''; RAISE DEBUG ''debug''; END $d$'),
    ('DO $d$ BEGIN RAISE NOTICE ''%'', repeat(''é'', 5000); RAISE NOTICE ''no room''; END $d$'),
    ('DO $d$ BEGIN FOR n IN 1..100000 LOOP RAISE NOTICE ''%'', n; END LOOP; END $d$'),
    ('SET client_encoding = ''LATIN1''; DO $d$ BEGIN RAISE NOTICE ''é and aéb''; END $d$'),
    ('SET client_encoding = ''LATIN1''; DO $d$ BEGIN RAISE NOTICE ''€ and 漢''; END $d$'),
    ('SET client_min_messages = ''error''; DO $d$ BEGIN RAISE NOTICE ''not wanted''; END $d$'),
    ('SET client_min_messages = ''debug1''; DO $d$ BEGIN RAISE DEBUG ''wanted''; END $d$; SET client_min_messages = ''error'''),
    ('DO $d$ BEGIN RAISE NOTICE ''''; END $d$'),
    ('DROP TABLE IF EXISTS no_such_table'),
    ('NOTIFY channel, ''nobody hears''');
UPDATE talk SET task = underway.enqueue('talks', to_jsonb(sql));
SELECT n, e.state, e.sqlstate, left(t.notices, 60) AS notices, octet_length(t.notices), right(t.notices, 3) AS ends
    FROM talk, test.ends(task) e, underway.status(task) t ORDER BY n;
-- One that fails: what it said until then.
SELECT underway.enqueue('talks', to_jsonb('DO $d$ BEGIN RAISE NOTICE ''é''; PERFORM 1/0; END $d$'::text)) AS task \gset
SELECT state FROM test.ends(:'task');
SELECT notices FROM underway.status(:'task');
-- The next task of the same worker has none of it.
SELECT underway.enqueue('talks', '"SELECT 1"') AS task \gset
SELECT e.state, t.notices FROM test.ends(:'task') e, underway.status(:'task') t;

-- Errors with much text are cut too.
SELECT underway.enqueue('talks',
    to_jsonb('DO $d$ BEGIN RAISE EXCEPTION USING MESSAGE = repeat(''é'', 1000000), DETAIL = repeat(''x'', 1000000); END $d$'::text)) AS task \gset
SELECT state, octet_length(error) AS error FROM test.ends(:'task');
SELECT octet_length(detail) AS detail, octet_length(error) AS error FROM underway.status(:'task');
-- A recursion without an end.
CREATE FUNCTION recurses(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RETURN recurses(input); END $$;
SELECT one_attempt('recurses');
SELECT underway.enqueue('recurses') AS task \gset
SELECT state, sqlstate, error, length(context) <= 16384 AS cut FROM test.ends(:'task'), LATERAL (SELECT context
    FROM underway.status(:'task')) c;

-- Progress is seen while the task runs, by no commit of anybody.
CREATE TABLE gate (open bool);
CREATE FUNCTION works(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE said jsonb;
BEGIN
    said := underway.progress('{"percent": 50}');
    PERFORM underway.progress(NULL);
    WHILE NOT EXISTS (SELECT FROM gate) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    BEGIN
        PERFORM underway.progress(to_jsonb(repeat('x', 600)));
    EXCEPTION WHEN invalid_parameter_value THEN
        RAISE NOTICE '% / %', SQLERRM, (SELECT hint
            FROM test.error($e$SELECT underway.progress(to_jsonb(repeat('x', 600)))$e$));
    END;
    PERFORM underway.progress(to_jsonb(repeat('x', 498)));
    RETURN said;
END $$;
SELECT one_attempt('works');
SELECT underway.enqueue('works') AS task \gset
SELECT test.until(format('(SELECT progress IS NOT NULL FROM underway.status(%L))', :'task'));
SELECT state, progress FROM underway.status(:'task');
SELECT w.state, w.queue, w.task_id = :'task' AS task, w.attempt, w.task_started_at IS NOT NULL AS started,
    a.backend_type, a.query ~ 'works' AS in_activity
    FROM underway.workers w JOIN pg_stat_activity a USING (pid) WHERE w.task_id = :'task';
SELECT state, in_progress FROM underway.queues WHERE name = 'works';
SELECT regexp_replace(regexp_replace(underway.why(:'task'), ' since .*\)', ' since <time>'), 'worker \d+ \(pid \d+',
    'worker <n> (pid <n>');
INSERT INTO gate VALUES (true);
SELECT state, output FROM test.ends(:'task');
SELECT progress, notices FROM underway.status(:'task');

-- Timeouts: the task's over the queue's; it is a failure like others.
CREATE FUNCTION sleeps(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), 'slept');
    PERFORM pg_sleep((input ->> 's')::float8);
    RETURN '"awake"';
END $$;
SELECT one_attempt('sleeps', '50 ms');
SELECT underway.enqueue('sleeps', '{"s": 600}') AS by_queue, underway.enqueue('sleeps', '{"s": 600}',
    timeout => '20 ms') AS by_task,
    underway.enqueue('sleeps', '{"s": 0.1}', timeout => '1 h') AS long \gset
SELECT * FROM test.ends(:'by_queue');
SELECT hint, detail, notices FROM underway.status(:'by_queue');
SELECT * FROM test.ends(:'by_task');
SELECT * FROM test.ends(:'long');
SELECT count(*) FROM effect WHERE what = 'slept';
-- Whatever the handler does with statement_timeout itself, and whatever else it catches.
CREATE FUNCTION catches(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    SET statement_timeout = 0;
    BEGIN
        PERFORM pg_sleep(600);
    EXCEPTION WHEN OTHERS THEN
        RAISE NOTICE 'caught';
    END;
    RETURN NULL;
END $$;
SELECT one_attempt('catches', '50 ms');
SELECT underway.enqueue('catches') AS task \gset
SELECT state, sqlstate FROM test.ends(:'task');
SELECT notices FROM underway.status(:'task');
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
