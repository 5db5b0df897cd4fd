-- Batches: several tasks in one transaction; what one of them does wrong is its own affair.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE TABLE effect (n serial, task uuid, xid xid8 DEFAULT pg_current_xact_id(), at timestamptz DEFAULT now(),
    input jsonb, headers jsonb, attempt int);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE SEQUENCE tries;
CREATE FUNCTION f(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (task, input, headers, attempt)
        VALUES (underway.task_id(), input, underway.headers(), underway.attempt());
    RAISE NOTICE 'n is %', input -> 'n';
    CASE input ->> 'do'
        WHEN 'fail' THEN RAISE EXCEPTION 'failed n %', input -> 'n';
        WHEN 'fail once' THEN
            IF underway.attempt() = 1 THEN RAISE EXCEPTION 'failed n %', input -> 'n'; END IF;
        WHEN 'again' THEN RETURN underway.again('0', input - 'do');
        WHEN 'give up' THEN RETURN underway.give_up('gave up n ' || (input ->> 'n'));
        WHEN 'orphan' THEN INSERT INTO child VALUES ((input ->> 'n')::int);
        WHEN 'sleep' THEN PERFORM pg_sleep(60);
        WHEN 'serialize' THEN
            IF nextval('tries') < 3 THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END IF;
        ELSE NULL;
    END CASE;
    RETURN NULL;
END $$;
SELECT underway.create_queue('q', 'f', batch => 50, concurrency => 50, timeout => '500 ms',
    retry => underway.retry_policy(max_attempts => 2, initial_interval => '0'));

-- Enqueues n tasks of which some do something special, in one transaction: they are claimed together.
CREATE TABLE run (id uuid, n bigint);
CREATE FUNCTION enqueue(n int, special jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
    TRUNCATE run, effect;
    INSERT INTO run SELECT u.id, u.n FROM unnest(underway.enqueue_many('q',
        ARRAY(SELECT jsonb_build_object('n', i, 'do', special ->> i::text)
            FROM generate_series(1, n) i), headers => '{"h": 1}')) WITH ORDINALITY u(id, n)
$$;
CREATE FUNCTION ended() RETURNS text LANGUAGE sql AS $$ SELECT count(e.state) || ' ended' FROM run, test.ends(id) e $$;
-- How they ended; effects: rows that stand per task; together: how many of the tasks share a transaction with another.
CREATE VIEW ends AS
    SELECT e.input ->> 'do' AS do, e.state, e.attempt, e.failures, e.reason, e.error, count(*) AS tasks,
        sum(effects) AS effects, bool_and(e.notices = 'NOTICE: n is ' || r.n) AS own_notices
    FROM run r, underway.status(r.id) e, LATERAL (SELECT count(*) AS effects FROM effect f WHERE f.task = r.id) f
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1 NULLS FIRST, 2, 3;
CREATE VIEW together AS SELECT count(DISTINCT xid) AS transactions, max(per) AS most
    FROM (SELECT xid, count(*) OVER (PARTITION BY xid) AS per FROM effect) s;

SELECT enqueue(100);
SELECT ended();
SELECT * FROM ends;
SELECT * FROM together;
-- One transaction: one now(), and each still sees its own task.
SELECT count(DISTINCT at) = count(DISTINCT xid) AS one_now, bool_and(r.n = (f.input ->> 'n')::int
    AND f.headers = '{"h": 1}' AND f.attempt = 1) AS own_context
    FROM effect f JOIN run r ON r.id = f.task;
-- One fails, for good; the others are not charged for it.
SELECT enqueue(40, '{"17": "fail"}');
SELECT ended();
SELECT * FROM ends;
SELECT most >= 20 AS still_together FROM together;
-- The first, the last, several, all.
SELECT enqueue(20, '{"1": "fail", "20": "fail"}');
SELECT ended();
SELECT * FROM ends;
SELECT enqueue(30, '{"3": "fail once", "4": "fail", "17": "fail once", "30": "fail"}');
SELECT ended();
SELECT * FROM ends;
SELECT enqueue(10, (SELECT jsonb_object_agg(n, 'fail') FROM generate_series(1, 10) n));
SELECT ended();
SELECT * FROM ends;
-- again and give_up within a batch: everything else goes on in it.
SELECT enqueue(30, '{"5": "again", "6": "give up", "7": "again"}');
SELECT ended();
SELECT * FROM ends;
-- A deferred constraint that fails at the commit names nobody: found by halves.
SELECT enqueue(30, '{"11": "orphan"}');
SELECT ended();
SELECT * FROM ends;
SELECT count(*) FROM child;
SELECT enqueue(9, '{"1": "orphan", "5": "fail", "9": "orphan"}');
SELECT ended();
SELECT * FROM ends;
-- One that takes too long; a serialization failure.
SELECT enqueue(10, '{"4": "sleep"}');
SELECT ended();
SELECT * FROM ends;
SELECT enqueue(10, '{"4": "serialize"}');
SELECT ended();
SELECT * FROM ends;
-- Hundreds, with a subtransaction in each.
CREATE FUNCTION nested(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        INSERT INTO effect (task, input) VALUES (underway.task_id(), input);
        PERFORM 1 / (input ->> 'n')::int % 2;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
    RETURN input -> 'n';
END $$;
SELECT underway.alter_queue('q', handler => 'nested', batch => 1000, reset => '{concurrency,timeout}');
SELECT enqueue(2000);
SELECT ended();
SELECT state, count(*), bool_and(output = to_jsonb(n)) AS right_output FROM run, test.ends(id) GROUP BY state;
SELECT count(*), count(DISTINCT task) FROM effect;
-- What a handler makes of itself holds for the next task of its batch.
CREATE FUNCTION turns(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'do' = 'configure' THEN
        ALTER FUNCTION turns(jsonb) SET work_mem = '7MB';
    ELSIF input ->> 'do' = 'replace' THEN
        CREATE OR REPLACE FUNCTION turns(input jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''replaced''';
    END IF;
    RETURN current_setting('work_mem');
END $$;
SELECT underway.alter_queue('q', handler => 'turns', batch => 10, concurrency => 10);
SELECT enqueue(10, '{"4": "configure", "7": "replace"}');
SELECT ended();
SELECT n, output FROM run, test.ends(id) ORDER BY n;
-- And what it makes of a table, for one whose statements are planned by their text.
CREATE TABLE part (n int) PARTITION BY LIST (n);
CREATE FUNCTION add_part(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'do' = 'add' THEN
        CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
        INSERT INTO part VALUES (1);
    END IF;
END $$;
CREATE FUNCTION counts(input jsonb) RETURNS bigint LANGUAGE sql AS 'SELECT add_part($1); SELECT count(*) FROM part';
SELECT underway.alter_queue('q', handler => 'counts');
SELECT enqueue(10, '{"4": "add"}');
SELECT ended();
SELECT n < 4 AS before, output, count(*) FROM run, test.ends(id) WHERE n <> 4 GROUP BY 1, 2 ORDER BY 1;
-- A procedure that commits, in a batch.
CREATE PROCEDURE commits(input jsonb) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect (task, input) VALUES (underway.task_id(), input);
    COMMIT;
    IF input ->> 'do' = 'fail' THEN
        RAISE EXCEPTION 'after the commit';
    END IF;
END $$;
SELECT underway.alter_queue('q', handler => 'commits', batch => 10, reset => '{concurrency}', retry => underway.retry_policy(max_attempts => 1));
SELECT enqueue(10, '{"3": "fail"}');
SELECT ended();
SELECT e.input ->> 'do' AS do, e.state, count(*), bool_and(EXISTS (SELECT FROM effect f
    WHERE f.task = r.id)) AS at_least_once
    FROM run r, underway.status(id) e GROUP BY 1, 2 ORDER BY 1 NULLS FIRST;

-- durability => async, and batches of it: the same to see.
SELECT underway.alter_queue('q', handler => 'f', durability => 'async',
    retry => underway.retry_policy(max_attempts => 2, initial_interval => '0'));
SELECT enqueue(30, '{"3": "fail", "4": "fail once"}');
SELECT ended();
SELECT * FROM ends;
CREATE FUNCTION shows(input jsonb) RETURNS text LANGUAGE sql AS $$ SELECT current_setting('synchronous_commit') $$;
SELECT underway.alter_queue('q', handler => 'shows', reset => '{batch}');
SELECT underway.enqueue('q') AS task \gset
SELECT state, output FROM test.ends(:'task');
SELECT underway.alter_queue('q', durability => 'sync');
SELECT underway.enqueue('q') AS task \gset
SELECT state, output FROM test.ends(:'task');
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
