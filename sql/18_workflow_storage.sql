-- Storage of workflows: definitions in versions; unfinished runs (hot), ended ones (archive, emptied with the tasks'); what the
-- steps of unfinished runs gave; signals; and what a person asked of a run.
-- A workflow is a queue: workflow.queue_id is queue.id, where name, owner, rights, settings and home stand.
-- Invariant: a version never changes. An unfinished run stands in `run`, an ended one in `run_archive`; after a retry in both,
-- there with reopened_at. Only `run`'s rows have step_result, signal and run_control rows.

CREATE TABLE underway_internal.workflow (
    queue_id    int PRIMARY KEY,
    version     int NOT NULL,           -- the current one, which new runs get
    on_change   text NOT NULL DEFAULT 'continue',
    on_failure  text NOT NULL DEFAULT 'fail',
    run_timeout interval
);

CREATE TABLE underway_internal.workflow_version (
    queue_id   int NOT NULL,
    version    int NOT NULL,
    steps      jsonb NOT NULL,          -- an array, as given, in one form
    digest     text NOT NULL,           -- of steps and function bodies: the same content is the same version
    linear     bool NOT NULL,           -- each step comes after the one before, none fans out: no join, so no lock
    created_at timestamptz NOT NULL,
    PRIMARY KEY (queue_id, version)
);

-- Handlers by schema, name and types, as in queue. Null where the kind has no such thing, or the workflow's or default holds.
CREATE TABLE underway_internal.step (
    queue_id       int NOT NULL,
    version        int NOT NULL,
    "position"     int NOT NULL,        -- from 1, as given
    name           text NOT NULL,
    kind           text NOT NULL,       -- step, map, wait, sleep, child, finally
    handler_schema text,
    handler_name   text,
    handler_args   text[],
    handler_owner  text,                -- as in queue: one of that name that somebody else makes is not run
    body_digest    text,                -- of the handler's body when this version was made
    target_queue   int,                 -- external steps: the queue that its task goes to
    input          jsonb,               -- a template, see 75_template.sql
    after          text[] NOT NULL,     -- names; empty: the run begins with it. Of finally: empty, it comes last
    run_if         text,
    undo_schema    text,
    undo_name      text,
    undo_args      text[],
    undo_owner     text,
    undo_digest    text,
    undo_queue     int,
    retry          jsonb,
    timeout        interval,            -- of an attempt; of wait: of the waiting
    priority       smallint,
    on_failure     text,
    over_schema    text,
    over_name      text,
    over_args      text[],
    over_owner     text,
    over_digest    text,
    items          text,
    concurrency    int,
    tolerate       int,
    signal         text,
    on_timeout     text,
    duration       interval,
    child_queue    int,
    needs          text[] NOT NULL,     -- steps whose outputs its input, run_if and items are made from
    PRIMARY KEY (queue_id, version, name)
);

CREATE TABLE underway_internal.run (
    id          uuid PRIMARY KEY,
    queue_id    int NOT NULL,
    version     int NOT NULL,
    state       text NOT NULL,          -- running, waiting, paused, undoing, parked
    input       jsonb NOT NULL,
    headers     jsonb,
    priority    smallint NOT NULL,
    key         text,
    group_key   text,
    parent      uuid,
    parent_step text,
    started_by  text NOT NULL,
    started_at  timestamptz NOT NULL,
    timeout     interval,
    deadline    timestamptz,            -- that after it was to begin, or was retried
    paused_by   text,
    ending      text,                   -- succeeded, failed, cancelled: what it will be once what is left to do has been done
    undo        bool NOT NULL DEFAULT true,
    reason      text,
    error       text,
    sqlstate    text,
    output      jsonb,
    forked_from uuid,                   -- the run that it took results over from
    cause       jsonb                   -- of one that is parked because an undo failed: the error and sqlstate that it ends with
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX run_queue ON underway_internal.run (queue_id, started_at);
CREATE INDEX run_parent ON underway_internal.run (parent) WHERE parent IS NOT NULL;
CREATE INDEX run_deadline ON underway_internal.run (deadline) WHERE deadline IS NOT NULL AND ending IS NULL AND state <> 'parked';
CREATE INDEX run_unusual ON underway_internal.run (queue_id, state) WHERE state NOT IN ('running', 'waiting');

CREATE TABLE underway_internal.run_archive (
    slot        smallint NOT NULL,
    id          uuid NOT NULL,
    queue_id    int NOT NULL,
    version     int NOT NULL,
    state       text NOT NULL,          -- succeeded, failed, cancelled
    input       jsonb NOT NULL,
    headers     jsonb,
    priority    smallint NOT NULL,
    key         text,
    group_key   text,
    parent      uuid,
    parent_step text,
    started_by  text NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    reason      text,
    error       text,
    sqlstate    text,
    output      jsonb,
    results     jsonb,                  -- what its steps gave, of one that did not succeed: for retry and fork
    timeout     interval,
    forked_from uuid,
    reopened_at timestamptz             -- as in archive
) PARTITION BY LIST (slot);

-- What the steps of an unfinished run gave: hot, so that it outlives the retention of the tasks. Deleted with the run's end.
CREATE SEQUENCE underway_internal.step_result_seq AS bigint;

CREATE TABLE underway_internal.step_result (
    run_id   uuid NOT NULL,
    step     text NOT NULL,
    item     int NOT NULL DEFAULT -1,   -- of a map's children, from 0; -1: the step as a whole; below: earlier ones that can be undone
    state    text NOT NULL,             -- succeeded, failed, skipped, cancelled, undone
    input    jsonb,                     -- of a map's children, and of what did not succeed
    output   jsonb,                     -- of a step that gave none, and of one that was skipped: what it passes on, its input
    error    text,
    sqlstate text,
    task_id  uuid,
    ended_at timestamptz NOT NULL,
    seq      bigint NOT NULL DEFAULT nextval('underway_internal.step_result_seq'),   -- undo goes backwards
    undo     text,                      -- null: there is nothing to undo. due; stuck: its undo failed, with this error
    next_at  timestamptz,               -- what comes next, where that waits for others too, begins no sooner
    PRIMARY KEY (run_id, step, item)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX step_result_undo ON underway_internal.step_result (run_id, seq) WHERE undo IS NOT NULL;

CREATE SEQUENCE underway_internal.signal_id AS bigint;

-- Signals that no step has taken yet, and those with a key, which tells duplicates for as long as the run goes on.
CREATE TABLE underway_internal.signal (
    run_id  uuid NOT NULL,
    id      bigint NOT NULL DEFAULT nextval('underway_internal.signal_id'),
    name    text NOT NULL,
    payload jsonb,
    key     text,
    taken   bool NOT NULL DEFAULT false, -- by a step; stays for its key alone
    sent_by text NOT NULL,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX signal_key ON underway_internal.signal (run_id, name, key) WHERE key IS NOT NULL;

CREATE SEQUENCE underway_internal.run_control_id AS bigint;

-- What somebody asked of a run: inserted beside its row, which no session of a user locks; the coordinator obeys, in the order of id. Each has
-- a number of its own: who asks must not wait for another who asks, as for a key.
CREATE TABLE underway_internal.run_control (
    run_id       uuid NOT NULL,
    id           bigint NOT NULL DEFAULT nextval('underway_internal.run_control_id'),
    kind         text NOT NULL,         -- cancel, pause, resume, retry; by ourselves: deadline; look: one that was seen may be settled now
    seen         bool NOT NULL DEFAULT false, -- stands in the run's row; stays until everything under way follows it
    undo         bool,
    message      text,                  -- of a cancel: the error that the run ends with
    asked_by     text NOT NULL,
    requested_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, id)
);
CREATE INDEX run_control_new ON underway_internal.run_control (id) WHERE NOT seen;
CREATE INDEX run_control_seen ON underway_internal.run_control (id) WHERE seen;

DO $$
BEGIN
    FOR n IN 0..15 LOOP
        EXECUTE format('CREATE TABLE underway_internal.run_archive_%s PARTITION OF underway_internal.run_archive FOR VALUES IN (%s)', n, n);
        EXECUTE format('CREATE INDEX run_archive_%s_id ON underway_internal.run_archive_%s (id)', n, n);
        EXECUTE format('ALTER TABLE underway_internal.run_archive_%s REPLICA IDENTITY FULL', n);       -- as archive
        EXECUTE format('CREATE INDEX run_archive_%s_queue ON underway_internal.run_archive_%s (queue_id, finished_at)', n, n);
        PERFORM pg_catalog.pg_extension_config_dump(format('underway_internal.run_archive_%s', n)::regclass, '');
    END LOOP;
END $$;

SELECT pg_catalog.pg_extension_config_dump('underway_internal.workflow', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.workflow_version', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.step', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.run', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.step_result_seq', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.step_result', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.signal_id', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.signal', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.run_control_id', '');
SELECT pg_catalog.pg_extension_config_dump('underway_internal.run_control', '');
