-- Storage: hot and small (task), cold and append-only (archive, but that who re-opens says so there; attempt).
-- Invariant: an unfinished task stands in `task` and nowhere else counts; a finished one was moved to `archive` by the
-- statement that finished it. After a retry the same id may stand in both, there with reopened_at.

CREATE SEQUENCE underway_internal.queue_id AS int;

CREATE TABLE underway_internal.queue (
    id                int PRIMARY KEY DEFAULT nextval('underway_internal.queue_id'),
    name              text NOT NULL,
    owner             text NOT NULL,        -- by name: a role that a restore has not made yet must not empty the table
    handler_schema    text,                 -- by name and types: regproc columns stop pg_upgrade
    handler_name      text,
    handler_args      text[],
    handler_owner     text,                 -- when it was set: one of that name that somebody else makes is not run
    concurrency       int,
    priority          smallint NOT NULL DEFAULT 8,
    retry             jsonb,
    timeout           interval,
    heartbeat         interval,
    ttl               interval,
    dead_letter       int,
    keep              text NOT NULL DEFAULT 'all',
    batch             int,
    durability        text,
    group_concurrency int,
    settings          jsonb,
    workflow          bool NOT NULL DEFAULT false,  -- of that name: 18_workflow_storage.sql
    paused_at         timestamptz,
    paused_by         text,
    home_system       bigint NOT NULL,      -- elsewhere the queue is held (promise 12)
    home_database     bigint NOT NULL,
    created_at        timestamptz NOT NULL,
    dropped_at        timestamptz           -- a tombstone: tasks that commit into it late must find out why they end
);
CREATE UNIQUE INDEX queue_name ON underway_internal.queue (name) WHERE dropped_at IS NULL;

CREATE TABLE underway_internal.queue_grant (
    queue_id int NOT NULL,
    role     text NOT NULL,
    "right"  text NOT NULL,
    PRIMARY KEY (queue_id, role, "right")
);

-- No foreign key: it would lock the queue's row in every enqueue. A claim changes no column of an index or of its predicate, and finds room on the
-- row's page, which is why so much is left free: the update is then "heap-only" (README.HOT of the server) and writes to no index. What
-- a claim changes stands at the end, so that the log has only that, and the lock before it.
CREATE TABLE underway_internal.task (
    id          uuid PRIMARY KEY,
    queue_id    int NOT NULL,
    priority    smallint NOT NULL,
    run_at      timestamptz NOT NULL,
    enqueued_at timestamptz NOT NULL,
    failures    int NOT NULL DEFAULT 0,
    crashes     int NOT NULL DEFAULT 0,
    losses      int NOT NULL DEFAULT 0,
    snoozes     int NOT NULL DEFAULT 0,
    expires_at  timestamptz,
    lease       uuid,
    enqueued_by text NOT NULL,
    input       jsonb NOT NULL,
    headers     jsonb,
    key         text,
    group_key   text,
    timeout     interval,
    heartbeat   interval,
    retry       jsonb,
    source      uuid,
    paused_by   text,
    run_id      uuid,       -- these five: the task is a step of a run, of that version; null otherwise
    version     int,
    step        text,       -- null: a nudge, see src/README.md
    item        int,        -- of a map's children, from 0; -1: the step as a whole
    phase       text,       -- map, child: waits for its children; close: what it waited for is there; undo: undoes the step; finally
    waits       bool GENERATED ALWAYS AS (state = 'waiting') STORED,    -- for the predicates of indexes, which must not name what a claim changes
    state       text NOT NULL DEFAULT 'pending',
    attempt     int NOT NULL DEFAULT 0,
    slot        int,
    generation  int,
    boot        bigint,
    claimed_at  timestamptz,
    worker      text
) WITH (fillfactor = 42, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.02,
        -- Under an old snapshot it reads all that ended since, for nothing: not at full speed, whatever the server's setting.
        autovacuum_vacuum_cost_delay = 2, autovacuum_vacuum_cost_limit = 200);
-- Pending and in progress, until it ends: claims begin to look behind those.
CREATE INDEX task_pending ON underway_internal.task (queue_id, priority, run_at, id) WHERE NOT waits;
CREATE UNIQUE INDEX task_lease ON underway_internal.task (lease) WHERE lease IS NOT NULL;
-- Not WHERE lease IS NOT NULL, which a lease that is looked for implies: the planner would read all of this one while few are given.
CREATE INDEX task_leased ON underway_internal.task (queue_id) WHERE num_nonnulls(lease) = 1;
CREATE INDEX task_waiting ON underway_internal.task (queue_id) WHERE waits;
CREATE UNIQUE INDEX task_step ON underway_internal.task (run_id, step, item) WHERE run_id IS NOT NULL;
CREATE INDEX task_open_map ON underway_internal.task (run_id) WHERE phase = 'map';
CREATE INDEX task_expires ON underway_internal.task (expires_at) WHERE expires_at IS NOT NULL;    -- until an attempt has ended

-- What each background worker has in hand: the tasks that it claimed last, and perhaps some that have ended since. Written with
-- the claim; how the tasks of one that is gone are found.
CREATE TABLE underway_internal.claim (
    slot  int PRIMARY KEY,
    tasks uuid[] NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 2, autovacuum_vacuum_cost_limit = 200);

-- Keys live beside the tasks, so that a task can move to the archive without a moment in which its key is free.
CREATE TABLE underway_internal.task_key (
    queue_id int NOT NULL,
    key      text NOT NULL,
    task_id  uuid NOT NULL,
    PRIMARY KEY (queue_id, key)
);

-- What external workers say of themselves. Finishing never touches it: a heartbeat from another connection must not make the
-- finishing transaction fail. Rows of leases that have ended stay for an hour, so that a second complete() is told apart.
CREATE TABLE underway_internal.heartbeat (
    lease    uuid PRIMARY KEY,
    task_id  uuid NOT NULL,
    queue_id int NOT NULL,
    attempt  int NOT NULL,
    every    interval NOT NULL,
    beat_at  timestamptz NOT NULL,
    stale_at timestamptz NOT NULL,      -- three intervals without a beat; or the end of the attempt's time, if that is earlier
    ends_at  timestamptz NOT NULL,
    progress jsonb
) WITH (fillfactor = 50);
CREATE INDEX heartbeat_queue ON underway_internal.heartbeat (queue_id, stale_at);

-- Cancels of tasks in progress. Inserted beside the task, whose row nobody but the finishing worker touches.
CREATE TABLE underway_internal.cancel_request (
    task_id      uuid PRIMARY KEY,
    message      text NOT NULL,
    requested_at timestamptz NOT NULL
);

CREATE TABLE underway_internal.archive (
    slot        smallint NOT NULL,
    id          uuid NOT NULL,
    queue_id    int NOT NULL,
    state       text NOT NULL,
    priority    smallint NOT NULL,
    run_at      timestamptz NOT NULL,
    attempt     int NOT NULL,
    failures    int NOT NULL,
    crashes     int NOT NULL,
    losses      int NOT NULL,
    snoozes     int NOT NULL,
    enqueued_at timestamptz NOT NULL,
    started_at  timestamptz,
    finished_at timestamptz NOT NULL,
    enqueued_by text NOT NULL,
    worker      text,
    lease       uuid,
    input       jsonb NOT NULL,
    output      jsonb,
    headers     jsonb,
    key         text,
    group_key   text,
    timeout     interval,
    heartbeat   interval,
    retry       jsonb,
    source      uuid,
    reason      text,
    sqlstate    text,
    message     text,
    detail      text,
    hint        text,
    context     text,
    notices     text,
    run_id      uuid,
    version     int,
    step        text,
    item        int,
    phase       text,
    reopened_at timestamptz             -- null: it ended so, and has not gone on
) PARTITION BY LIST (slot);

CREATE TABLE underway_internal.attempt (
    slot        smallint NOT NULL,
    task_id     uuid NOT NULL,
    attempt     int NOT NULL,
    queue_id    int NOT NULL,
    outcome     text NOT NULL,
    started_at  timestamptz,
    ended_at    timestamptz NOT NULL,
    worker      text,
    sqlstate    text,
    message     text,
    detail      text,
    hint        text,
    context     text,
    notices     text,
    retry_at    timestamptz
) PARTITION BY LIST (slot);

-- Rings of slot tables: retention empties the oldest whole, by TRUNCATE, so that no finished task is ever deleted by row.
CREATE TABLE underway_internal.ring_slot (
    ring      text NOT NULL,            -- succeeded, ended (failed and cancelled), attempt
    slot      smallint NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,              -- null: the slot that rows go to now
    PRIMARY KEY (ring, slot)
);
CREATE UNIQUE INDEX ring_slot_open ON underway_internal.ring_slot (ring) WHERE closed_at IS NULL;

DO $$
BEGIN
    FOR n IN 0..15 LOOP
        EXECUTE format('CREATE TABLE underway_internal.archive_%s PARTITION OF underway_internal.archive FOR VALUES IN (%s)', n, n);
        EXECUTE format('CREATE INDEX archive_%s_id ON underway_internal.archive_%s (id)', n, n);
        -- A publication of all tables would forbid the change of a row that a retry makes.
        EXECUTE format('ALTER TABLE underway_internal.archive_%s REPLICA IDENTITY FULL', n);
        EXECUTE format('CREATE INDEX archive_%s_run ON underway_internal.archive_%s (run_id) WHERE run_id IS NOT NULL', n, n);
        IF n >= 8 THEN
            EXECUTE format('CREATE INDEX archive_%s_queue ON underway_internal.archive_%s (queue_id, finished_at)', n, n);
        END IF;
        PERFORM pg_catalog.pg_extension_config_dump(format('underway_internal.archive_%s', n)::regclass, '');
    END LOOP;
    FOR n IN 0..7 LOOP
        EXECUTE format('CREATE TABLE underway_internal.attempt_%s PARTITION OF underway_internal.attempt FOR VALUES IN (%s)', n, n);
        EXECUTE format('CREATE INDEX attempt_%s_task ON underway_internal.attempt_%s (task_id)', n, n);
        PERFORM pg_catalog.pg_extension_config_dump(format('underway_internal.attempt_%s', n)::regclass, '');
    END LOOP;
END $$;

-- Our own statements find their rows by keys, and need no more than this. ANALYZE of a large table reads 30,000 pages by default,
-- every minute of `task` and `claim` while an old snapshot is held, and tasks wait meanwhile.
DO $$
DECLARE
    changes text;
BEGIN
    FOR changes IN SELECT format('ALTER TABLE %s %s', a.attrelid::regclass, string_agg(format('ALTER COLUMN %I SET STATISTICS 10', a.attname), ', '))
            FROM pg_catalog.pg_attribute a
            WHERE a.attrelid IN ('underway_internal.task'::regclass, 'underway_internal.claim'::regclass,
                'underway_internal.archive'::regclass, 'underway_internal.attempt'::regclass)
              AND a.attnum > 0 AND NOT a.attisdropped
            GROUP BY a.attrelid LOOP
        EXECUTE changes;
    END LOOP;
END $$;

SELECT pg_catalog.pg_extension_config_dump('underway_internal.queue_id', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.queue', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.queue_grant', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.task', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.claim', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.task_key', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.heartbeat', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.cancel_request', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.ring_slot', '');
