-- What a handler may do to its own queue and session, and to the extension that runs it.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE TABLE effect (what text);
CREATE FUNCTION does(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    INSERT INTO effect VALUES (input ->> 'what');
    IF input ->> 'sql' LIKE 'SELECT%' THEN
        EXECUTE input ->> 'sql' INTO answer;
    ELSE
        EXECUTE input ->> 'sql';
    END IF;
    RETURN to_jsonb(coalesce(answer, 'null'));
END $$;
CREATE FUNCTION run(what text, sql text) RETURNS uuid LANGUAGE sql AS $$
    SELECT underway.enqueue('q', jsonb_build_object('what', what, 'sql', sql))
$$;
CREATE PROCEDURE runs(sql text) LANGUAGE plpgsql AS $$
DECLARE
    task uuid := run(sql, sql);
    ended text;
    a record;
BEGIN
    COMMIT;
    -- Holds no lock while it waits.
    CALL underway.wait_for(task, '2 min', ended);
    SELECT * INTO a FROM underway.status(task);
    RAISE NOTICE '%: % % %, % effects', sql, a.state, a.output, coalesce(a.sqlstate || ' ' || a.error, ''),
        (SELECT count(*) FROM effect WHERE what = sql);
    TRUNCATE effect;
END $$;
SELECT underway.create_queue('q', 'does', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.create_queue('other');
CALL runs('SELECT underway.pause_queue(''q'')');
SELECT state FROM underway.queues WHERE name = 'q';
SELECT underway.resume_queue('q');
CALL runs('SELECT underway.alter_queue(''q'', concurrency => 3, settings => ''{"work_mem": "5MB"}'')');
CALL runs('SELECT current_setting(''work_mem'')');
CALL runs('SELECT underway.alter_queue(''q'', reset => ''{concurrency,settings}'')');
CALL runs('SELECT underway.purge_queue(''q'')');
CALL runs('SELECT underway.enqueue(''q'', key => ''own'', delay => ''1 h'') IS NOT NULL');
CALL runs('SELECT underway.drop_queue(''q'')');
CALL runs('SELECT state FROM underway.status(underway.task_id())');
CALL runs('SELECT state FROM underway.await(underway.task_id(), ''10 ms'')');
CALL runs('SELECT split_part(underway.why(underway.task_id()), '':'', 1)');
CALL runs('SELECT count(*) FROM underway.tasks WHERE id = underway.task_id()');
CALL runs('SELECT underway.set_clock(NULL) IS NOT NULL');
CALL runs('SELECT underway.version() IS NOT NULL');
CALL runs('DISCARD ALL');
CALL runs('DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES');
CALL runs('DEALLOCATE ALL; UNLISTEN *; RESET ALL');
CALL runs('SET search_path = ''''; SET default_transaction_read_only = on; SET transaction_read_only = on');
CALL runs('SET LOCAL ROLE pg_monitor');
CALL runs('SET LOCAL lock_timeout = 1; SET LOCAL statement_timeout = 1; SET LOCAL enable_indexscan = off');
CALL runs('SET LOCAL standard_conforming_strings = off; SET LOCAL quote_all_identifiers = on');
CALL runs('SET CONSTRAINTS ALL DEFERRED');
CALL runs('DECLARE c CURSOR FOR SELECT generate_series(1, 1000000); FETCH 1 FROM c');
CALL runs('SELECT lo_from_bytea(0, ''x'') IS NOT NULL');
CALL runs('ALTER EXTENSION underway UPDATE');
CALL runs('DROP EXTENSION underway CASCADE');
-- It can undo what it is: the queue is blocked from then on.
CALL runs('ALTER FUNCTION does(jsonb) RENAME TO did');
SELECT state, problem FROM underway.queues WHERE name = 'q';
ALTER FUNCTION did(jsonb) RENAME TO does;
CALL runs('DROP FUNCTION does(jsonb)');
SELECT state, problem FROM underway.queues WHERE name = 'q';
