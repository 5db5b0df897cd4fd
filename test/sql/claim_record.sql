-- Whatever way a worker came by a task, it stands on the record of what it has in hand while it runs: that is how it is found when the
-- worker is gone.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
CREATE FUNCTION is_recorded(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT to_jsonb(EXISTS (SELECT FROM underway_internal.claim c JOIN underway_internal.task t ON t.id = ANY (c.tasks)
        WHERE t.id = underway.task_id() AND t.slot = c.slot AND t.state = 'in_progress'))
$$;
CREATE FUNCTION fails_once(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF underway.attempt() = 1 THEN
        RAISE EXCEPTION 'once';
    END IF;
    RETURN is_recorded(input);
END $$;
SELECT underway.create_queue('single', 'is_recorded'), underway.create_queue('async', 'is_recorded', durability => 'async'),
    underway.create_queue('batch', 'is_recorded', batch => 7),
    underway.create_queue('again', 'fails_once', retry => underway.retry_policy(max_attempts => 2, initial_interval => '0', jitter => 0));
-- Plain steps, steps that end by a statement, and children of a map that begin one after the other.
SELECT underway.create_workflow('chain', ARRAY[underway.step('a', 'is_recorded'), underway.step('b', 'is_recorded'), underway.step('c', 'is_recorded')]),
    underway.create_workflow('by statement', ARRAY[underway.step('a', 'is_recorded'), underway.step('b', 'is_recorded', after => '{a}'),
        underway.step('c', 'is_recorded', after => '{a}'), underway.step('d', 'is_recorded', after => '{b,c}')]),
    underway.create_workflow('read only', ARRAY[underway.step('a', 'is_recorded'), underway.step('b', 'is_recorded')],
        settings => '{"default_transaction_read_only": "on", "default_transaction_isolation": "repeatable read"}'),
    underway.create_workflow('map', ARRAY[underway.map('each', 'is_recorded', concurrency => 2), underway.step('end', 'is_recorded')]);
SELECT q, cardinality(underway.enqueue_many(q, array_agg('{}'::jsonb))) FROM unnest('{single,async,batch,again}'::text[]) q, generate_series(1, 100) GROUP BY q ORDER BY q;
SELECT w, count(underway.start(w, '[1, 2, 3, 4, 5]')) FROM unnest('{chain,by statement,read only,map}'::text[]) w, generate_series(1, 10) GROUP BY w ORDER BY w;
SELECT test.until('NOT EXISTS (SELECT FROM underway_internal.task) AND NOT EXISTS (SELECT FROM underway_internal.run)');
SELECT queue, state, output, count(*) FROM underway.tasks WHERE output IN ('true', 'false') OR state <> 'succeeded' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
