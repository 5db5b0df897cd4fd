-- Rights on queues: what a role without any can do, and what each right gives.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE ROLE regress_owner LOGIN;
CREATE ROLE regress_none LOGIN;
CREATE ROLE regress_enqueue LOGIN;
CREATE ROLE regress_work LOGIN;
CREATE ROLE regress_see LOGIN;
CREATE ROLE regress_manage LOGIN;
CREATE ROLE regress_group NOLOGIN;
CREATE ROLE regress_member LOGIN IN ROLE regress_group;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_owner', current_database()) \gexec
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
CREATE FUNCTION f(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF input = '"fails"' THEN
        RAISE EXCEPTION 'a secret %', input;
    END IF;
    RETURN to_jsonb(current_user || ', session ' || session_user);
END $$;
SELECT underway.create_queue('dead');
SELECT underway.create_queue('q', 'f', dead_letter => 'dead', retry => underway.retry_policy(max_attempts => 1),
    settings => '{"my.secret": "x"}');
SELECT underway.create_queue('external');
SELECT underway.grant_queue('q', 'regress_enqueue'), underway.grant_queue('q', 'regress_work', '{work}'),
    underway.grant_queue('q', 'regress_see', '{see}'),
    underway.grant_queue('q', 'regress_manage', '{manage}'), underway.grant_queue('external', 'regress_enqueue');
SELECT underway.grant_queue('q', 'regress_enqueue');
SELECT underway.enqueue('q', '{"secret": 1}') AS done, underway.enqueue('q', '"fails"', key => 'secret') AS failed,
    underway.enqueue('q', '{"secret": 2}', delay => '1 h') AS pending,
    underway.enqueue('external') AS external \gset
SELECT state, output FROM test.ends(:'done');
SELECT state, error FROM test.ends(:'failed');
RESET ROLE;

-- Everything that a role may try with a queue and its tasks; each attempt is undone. no error: it may.
CREATE FUNCTION tries(done uuid, failed uuid, pending uuid) RETURNS TABLE (what text, answer text)
    LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    e record;
BEGIN
    FOREACH statement IN ARRAY ARRAY['enqueue(''q'')', 'enqueue(''q'', key => ''secret'')',
        'enqueue_many(''q'', ''{1,2}'')', 'create_queue(''new'')',
            'create_queue(''q'', or_replace => true)', 'create_queue(''q'', ''f'', or_replace => true)',
                'alter_queue(''q'', priority => 1)', 'alter_queue(''q'', handler => ''f'')',
            'alter_queue(''q'', reset => ''{handler}'')', 'alter_queue(''q'', settings => ''{}'')',
                'alter_queue(''q'', run_as => current_user)', 'alter_queue(''q'', reset => ''{dead_letter}'')',
            'drop_queue(''q'')', 'drop_queue(''q'', true)', 'pause_queue(''q'')', 'resume_queue(''q'')',
                'purge_queue(''q'')', 'redrive(''q'')', 'redrive(''dead'')',
            'grant_queue(''q'', current_user::text, ''{see}'')',
                'grant_queue(''q'', current_user::text, ''{manage}'')',
                'revoke_queue(''q'', ''regress_see'', ''{see}'')',
            format('status(%L)', done), format('status(%L)', pending), format('await(%L)', done),
                format('await(%L, ''0'')', pending), format('cancel(%L)', pending),
            format('cancel(%L)', done), format('retry(%L)', failed), format('pause(%L)', pending), format('resume(%L)',
                pending), format('why(%L)', failed),
            'dequeue(''q'')', 'adopt()', 'set_clock(now())']
    LOOP
        what := regexp_replace(statement, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<id>');
        BEGIN
            EXECUTE 'SELECT s::text FROM underway.' || statement || ' s' INTO answer;
            answer := CASE WHEN answer IS NULL THEN 'no row' ELSE 'may' END;
            RAISE EXCEPTION USING ERRCODE = 'ZZZZZ', MESSAGE = answer;
        EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
            answer := SQLERRM;
        WHEN OTHERS THEN
            answer := SQLSTATE || ' ' || regexp_replace(SQLERRM, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '<id>');
        END;
        RETURN NEXT;
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION tries TO PUBLIC;
SELECT test.digest() AS before \gset
\set see 'SELECT current_user, (SELECT string_agg(name || coalesce(\' \' || settings::text, \'\'), \', \' ORDER BY name) FROM underway.queues) AS queues, (SELECT count(*) FROM underway.tasks) AS tasks, (SELECT count(*) FROM underway.attempts) AS attempts, (SELECT count(*) FROM underway.check_health()) AS health'
SET ROLE regress_none;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending');
SET ROLE regress_enqueue;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending') WHERE answer NOT LIKE '42501%' AND answer NOT LIKE 'P0002%';
SET ROLE regress_work;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending') WHERE answer NOT LIKE '42501%' AND answer NOT LIKE 'P0002%';
SET ROLE regress_see;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending') WHERE answer NOT LIKE '42501%' AND answer NOT LIKE 'P0002%';
SET ROLE regress_manage;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending');
SET ROLE regress_owner;
:see;
SELECT * FROM tries(:'done', :'failed', :'pending') WHERE answer <> 'may';
RESET ROLE;
SELECT test.digest() = :'before' AS nothing_changed;

-- Who enqueued may see, await and cancel that task; nobody else's.
SET ROLE regress_enqueue;
SELECT underway.enqueue('q', '{"mine": 1}') AS mine, underway.enqueue('q', '"fails"') AS mine_failed,
    underway.enqueue('q', delay => '1 h') AS mine_pending \gset
SELECT state, output FROM test.ends(:'mine');
SELECT state, error FROM test.ends(:'mine_failed');
SELECT input, state, error FROM underway.tasks ORDER BY enqueued_at;
SELECT count(*) FROM underway.attempts WHERE task_id IN (:'mine', :'mine_failed');
SELECT name, pending, settings FROM underway.queues ORDER BY name;
SELECT code, message, hint FROM test.error(format('SELECT underway.retry(%L)', :'mine_failed'));
SELECT code, message FROM test.error(format('SELECT underway.pause(%L)', :'mine_pending'));
SELECT underway.cancel(:'mine_pending');
-- With the key of somebody else's task its id comes back, and not the task.
SELECT underway.enqueue('q', key => 'secret') = :'failed' AS its_id;
SELECT count(*) FROM underway.status(:'failed');
RESET ROLE;

-- Members of a role that has a right; PUBLIC; taken away again.
SET ROLE regress_owner;
SELECT underway.grant_queue('q', 'regress_group', '{enqueue,see}');
SET ROLE regress_member;
SELECT underway.enqueue('q', '{"from": "member"}') AS members \gset
SELECT count(*) > 3 FROM underway.tasks;
SET ROLE regress_owner;
SELECT enqueued_by FROM underway.tasks WHERE id = :'members';
SELECT underway.revoke_queue('q', 'regress_group', '{enqueue,see}');
SELECT underway.revoke_queue('q', 'regress_group', '{enqueue,see}');
SET ROLE regress_member;
SELECT code FROM test.error($$SELECT underway.enqueue('q')$$);
SELECT count(*) FROM underway.tasks;
SET ROLE regress_owner;
SELECT underway.grant_queue('q', 'public', '{see}');
SET ROLE regress_none;
SELECT count(*) > 3 FROM underway.tasks;
SELECT code FROM test.error($$SELECT underway.enqueue('q')$$);
SET ROLE regress_owner;
SELECT underway.revoke_queue('q', 'public', '{see,enqueue}');
-- NOINHERIT: who is a member but has not the rights as its own.
RESET ROLE;
ALTER ROLE regress_member NOINHERIT;
SET ROLE regress_owner;
SELECT underway.grant_queue('q', 'regress_group', '{enqueue}');
SET ROLE regress_member;
SELECT code FROM test.error($$SELECT underway.enqueue('q')$$);
SET ROLE regress_group;
SELECT underway.enqueue('q') IS NOT NULL;
RESET ROLE;
-- Nobody but the superuser reaches the tables, the internal functions and sequences.
SET ROLE regress_owner;
SELECT count(*), string_agg(DISTINCT (test.error(format('SELECT count(*) FROM %s', c.oid::regclass))).code, ' ')
    FROM pg_class c WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'underway_internal')
        AND relkind IN ('r', 'p', 'v', 'S');
SELECT string_agg(DISTINCT (test.error(format('SELECT underway_internal.%I()', proname))).code, ' ')
    FROM pg_proc WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'underway_internal');
SELECT code FROM test.error('CREATE FUNCTION underway.mine() RETURNS int LANGUAGE sql AS ''SELECT 1''');
SELECT code FROM test.error('CREATE TABLE underway_internal.mine (n int)');
RESET ROLE;
SELECT count(underway.drop_queue(name, true)) FROM underway.queues;
DROP OWNED BY regress_owner, regress_none, regress_enqueue, regress_work, regress_see, regress_manage, regress_group,
    regress_member CASCADE;
DROP ROLE regress_owner, regress_none, regress_enqueue, regress_work, regress_see, regress_manage, regress_group,
    regress_member;
