-- Enqueue: pending rows, in the caller's transaction; workers are woken at its commit.
-- Both are enqueue.cpp, which calls what stands here only for more than queue and input.
-- Invariant: note() is called in the transaction that makes a row pending, and note_locked() before a pending row is locked, which
-- may come free again: so the low-water mark never passes it.

-- What enqueueing has to know of a queue, for a role that may; by what is committed now, whatever the isolation level. Processes
-- remember it (targets.cpp) until a queue, a right or a role changes, so it must not depend on anything else.
CREATE FUNCTION underway_internal.read_target(
        caller oid, queue text, OUT queue_id int, OUT priority int, OUT ttl interval, OUT unattended bool)
    STABLE LANGUAGE plpgsql AS $$
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'enqueue');
BEGIN
    IF q.workflow THEN
        PERFORM underway_internal.refuse_workflow(q, format('A run of it: select underway.start(%L, ''{}'');', q.name));
    END IF;
    queue_id := q.id;
    priority := q.priority;
    ttl := q.ttl;
    unattended := q.paused_at IS NOT NULL OR q.handler_name IS NULL;
END $$;

-- When a task with these options is due, and when it has lapsed if it has a ttl of its own.
CREATE FUNCTION underway_internal.check_task_options(
        now timestamptz, delay interval, run_at timestamptz, priority int, ttl interval, timeout interval, heartbeat interval,
        retry jsonb, headers jsonb, OUT due timestamptz, OUT expires timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    IF delay IS NOT NULL AND run_at IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'delay and run_at cannot both be given',
            HINT = 'Give delay, counted from now, or run_at, a point in time.';
    END IF;
    IF run_at IN ('infinity', '-infinity') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'run_at must be a finite point in time',
            HINT = 'A task that is to wait for a person can be paused: underway.pause(id).';
    END IF;
    IF run_at > now + interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('run_at must be at most 1000 years from now, not %s', run_at),
            HINT = 'A task that is to wait for a person can be paused: underway.pause(id).';
    ELSIF run_at < now - interval '1000 years' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('run_at must be at most 1000 years ago, not %s', run_at),
            HINT = 'Leave it out to have the task run at once.';
    END IF;
    PERFORM underway_internal.check_interval(delay, 'delay', '0', '1000 years'),
        underway_internal.check_int(priority, 'priority', 0, 15),
        underway_internal.check_interval(ttl, 'ttl', '1 millisecond', '1000 years'),
        underway_internal.check_interval(timeout, 'timeout', '1 millisecond', '24 days'),
        underway_internal.check_interval(heartbeat, 'heartbeat', '1 millisecond', '24 days');
    IF headers IS NOT NULL AND jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('headers must be a JSON object, not %s', jsonb_typeof(headers)),
            HINT = 'For example headers => ''{"trace": "abc"}''.';
    END IF;
    PERFORM underway_internal.check_retry(retry, 'retry');
    due := coalesce(run_at, now + delay, now);
    expires := greatest(due, now) + ttl;
END $$;

CREATE FUNCTION underway_internal.check_key(key text, argument text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF key = '' OR octet_length(key) > 512 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s must have 1 to 512 bytes, not %s', argument, octet_length(key)),
            HINT = 'A long key can be hashed: md5(key).';
    END IF;
    RETURN true;
END $$;

-- Takes the key for a new task. Returns the task that has it now: another one where it was taken.
CREATE FUNCTION underway_internal.take_key(queue_id int, key text, task_id uuid) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    holder uuid;
BEGIN
    LOOP
        INSERT INTO underway_internal.task_key AS k (queue_id, key, task_id) VALUES (queue_id, key, task_id)
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN task_id;
        END IF;
        SELECT k.task_id INTO holder FROM underway_internal.task_key k WHERE k.queue_id = queue_id AND k.key = key;
        IF FOUND THEN
            RETURN holder;
        END IF;
    END LOOP;
END $$;

-- What enqueue() asks for when it is given more than queue and input. holder: the task that has the key.
CREATE FUNCTION underway_internal.prepare_task(
        task_id uuid, queue_id int, now timestamptz, delay interval, run_at timestamptz, priority int, key text, group_key text,
        ttl interval, timeout interval, heartbeat interval, retry jsonb, headers jsonb,
        OUT due timestamptz, OUT expires timestamptz, OUT holder uuid) LANGUAGE plpgsql AS $$
BEGIN
    IF num_nonnulls(delay, run_at, priority, ttl, timeout, heartbeat, retry, headers) > 0 THEN
        SELECT o.due, o.expires INTO due, expires FROM underway_internal.check_task_options(
            now, delay, run_at, priority, ttl, timeout, heartbeat, retry, headers) o;
    ELSE
        due := now;
    END IF;
    IF group_key IS NOT NULL THEN
        PERFORM underway_internal.check_key(group_key, 'group_key');
    END IF;
    holder := task_id;
    IF key IS NOT NULL THEN
        PERFORM underway_internal.check_key(key, 'key');
        holder := underway_internal.take_key(queue_id, key, task_id);
    END IF;
END $$;

CREATE FUNCTION underway.enqueue(
        queue text, input jsonb DEFAULT '{}', delay interval DEFAULT NULL, run_at timestamptz DEFAULT NULL,
        priority int DEFAULT NULL, key text DEFAULT NULL, group_key text DEFAULT NULL, ttl interval DEFAULT NULL,
        timeout interval DEFAULT NULL, heartbeat interval DEFAULT NULL, retry jsonb DEFAULT NULL, headers jsonb DEFAULT NULL)
    RETURNS uuid LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_enqueue';
COMMENT ON FUNCTION underway.enqueue IS
'Enqueues one task in the caller''s transaction; a worker is woken when that commits.
queue: its name. input: given to the handler; NULL becomes {}. delay: from now, or run_at: when it is due. priority: 0 (first) to 15. key: with a key that a kept task of the queue has, that task''s id comes back and nothing is enqueued. group_key: stored. ttl: a task that has not started this long after it was due, or enqueued if that is later, ends failed. timeout: of one attempt. heartbeat: interval for external workers. retry: retry_policy(). headers: a JSON object carried along.
Returns the task''s id. Errors: 42704 no such queue, 42501 not allowed, 22023 bad value.';

-- The same for enqueue_many(). dimensions: of its inputs, null if they are. ids: that its tasks would have. holders: the tasks
-- that have them instead, where a key was taken; null: there are no keys.
CREATE FUNCTION underway_internal.prepare_tasks(
        ids uuid[], queue_id int, now timestamptz, dimensions int, delay interval, run_at timestamptz, priority int, keys text[],
        group_keys text[], ttl interval, timeout interval, heartbeat interval, retry jsonb, headers jsonb,
        OUT due timestamptz, OUT expires timestamptz, OUT holders uuid[]) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    n int := cardinality(ids);
    bad text;
BEGIN
    IF dimensions IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'inputs must not be null',
            HINT = 'Give an array of jsonb, one element for each task; an empty array enqueues nothing.';
    END IF;
    IF dimensions > 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('inputs must have one dimension, not %s', dimensions),
            HINT = 'A JSON array as the input of one task is one jsonb element.';
    END IF;
    IF keys IS NOT NULL AND (cardinality(keys) <> n OR array_ndims(keys) > 1)
            OR group_keys IS NOT NULL AND (cardinality(group_keys) <> n OR array_ndims(group_keys) > 1) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must have as many elements as inputs (%s)',
                CASE WHEN cardinality(keys) <> n OR array_ndims(keys) > 1 THEN 'keys' ELSE 'group_keys' END, n),
            HINT = 'An element may be null, for a task that has none.';
    END IF;
    SELECT o.due, o.expires INTO due, expires FROM underway_internal.check_task_options(
        now, delay, run_at, priority, ttl, timeout, heartbeat, retry, headers) o;
    SELECT k INTO bad FROM unnest(keys) k WHERE k = '' OR octet_length(k) > 512 LIMIT 1;
    IF FOUND THEN
        PERFORM underway_internal.check_key(bad, 'each of keys');
    END IF;
    SELECT k INTO bad FROM unnest(group_keys) k WHERE k = '' OR octet_length(k) > 512 LIMIT 1;
    IF FOUND THEN
        PERFORM underway_internal.check_key(bad, 'each of group_keys');
    END IF;
    IF keys IS NULL OR n = 0 THEN
        RETURN;
    END IF;
    -- In the order of the keys, so that two callers with the same keys in another order cannot deadlock.
    LOOP
        INSERT INTO underway_internal.task_key (queue_id, key, task_id)
            SELECT queue_id, u.key, (array_agg(u.id ORDER BY u.ord))[1]
            FROM unnest(ids, keys) WITH ORDINALITY u(id, key, ord)
            WHERE u.key IS NOT NULL GROUP BY u.key ORDER BY u.key
            ON CONFLICT DO NOTHING;
        SELECT array_agg(CASE WHEN u.key IS NULL THEN u.id ELSE k.task_id END ORDER BY u.ord) INTO holders
            FROM unnest(ids, keys) WITH ORDINALITY u(id, key, ord)
            LEFT JOIN underway_internal.task_key k ON k.queue_id = queue_id AND k.key = u.key;
        -- Null where a key went between the two statements (its task is not kept): once more.
        EXIT WHEN array_position(holders, NULL) IS NULL;
    END LOOP;
END $$;

CREATE FUNCTION underway.enqueue_many(
        queue text, inputs jsonb[], delay interval DEFAULT NULL, run_at timestamptz DEFAULT NULL, priority int DEFAULT NULL,
        keys text[] DEFAULT NULL, group_keys text[] DEFAULT NULL, ttl interval DEFAULT NULL, timeout interval DEFAULT NULL,
        heartbeat interval DEFAULT NULL, retry jsonb DEFAULT NULL, headers jsonb DEFAULT NULL)
    RETURNS uuid[] LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_enqueue_many';
COMMENT ON FUNCTION underway.enqueue_many IS
'Enqueues one task for each element of inputs, in one statement.
keys and group_keys have as many elements as inputs; an element may be null. Everything else as in enqueue, for all of them.
Returns the ids in the order of inputs; where a key was taken, the id of the task that has it. Errors: 42704 no such queue, 42501 not allowed, 22023 bad value.';
