-- What SQL asks of the library: the clock, ids, wake-ups at commit, handlers and settings.
-- Owner only; none of them checks rights.

CREATE FUNCTION underway_internal.clock() RETURNS timestamptz
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_clock';
CREATE FUNCTION underway_internal.new_id() RETURNS uuid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_new_id';
CREATE FUNCTION underway_internal.note(queue_id int, priority int, run_at timestamptz, id uuid, tasks int DEFAULT 1) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_note';
CREATE FUNCTION underway_internal.note_locked(queue_id int, priority int, run_at timestamptz, id uuid) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_note_locked';
CREATE FUNCTION underway_internal.note_expiry(expires_at timestamptz) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_note_expiry';
CREATE FUNCTION underway_internal.place_free(queue_id int) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_place_free';
CREATE FUNCTION underway_internal.queue_changed(queue_id int) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_queue_changed';
CREATE FUNCTION underway_internal.queue_created(queue_id int) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_queue_created';
-- Queues that a restore loads are made without a call of ours: held from the start, and the log says so at once.
CREATE FUNCTION underway_internal.queues_loaded() RETURNS trigger
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_queues_loaded';
CREATE TRIGGER loaded AFTER INSERT ON underway_internal.queue FOR EACH STATEMENT EXECUTE FUNCTION underway_internal.queues_loaded();
-- Processes remember queues and rights on them. Always: also where replication or a superuser writes.
CREATE FUNCTION underway_internal.queues_written() RETURNS trigger
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_queues_written';
CREATE TRIGGER written AFTER INSERT OR UPDATE OR DELETE ON underway_internal.queue
    FOR EACH ROW EXECUTE FUNCTION underway_internal.queues_written();
CREATE TRIGGER emptied AFTER TRUNCATE ON underway_internal.queue
    FOR EACH STATEMENT EXECUTE FUNCTION underway_internal.queues_written();
CREATE TRIGGER written AFTER INSERT OR UPDATE OR DELETE ON underway_internal.queue_grant
    FOR EACH ROW EXECUTE FUNCTION underway_internal.queues_written();
CREATE TRIGGER emptied AFTER TRUNCATE ON underway_internal.queue_grant
    FOR EACH STATEMENT EXECUTE FUNCTION underway_internal.queues_written();
ALTER TABLE underway_internal.queue ENABLE ALWAYS TRIGGER written, ENABLE ALWAYS TRIGGER emptied;
ALTER TABLE underway_internal.queue_grant ENABLE ALWAYS TRIGGER written, ENABLE ALWAYS TRIGGER emptied;
CREATE FUNCTION underway_internal.note_cancelled(id uuid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_note_cancelled';
CREATE FUNCTION underway_internal.note_look() RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_note_look';
CREATE FUNCTION underway_internal.note_control() RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_note_control';
CREATE FUNCTION underway_internal.note_deadline(deadline timestamptz) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_note_deadline';
CREATE FUNCTION underway_internal.finished(VARIADIC ids uuid[]) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_finished';
CREATE FUNCTION underway_internal.resolve_handler(handler text) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_resolve_handler';
CREATE FUNCTION underway_internal.resolve_items(handler text) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_resolve_items';
CREATE FUNCTION underway_internal.find_handler(schema text, name text, args text[]) RETURNS oid
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_find_handler';
CREATE FUNCTION underway_internal.check_settings(settings jsonb, role oid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_check_settings';
CREATE FUNCTION underway_internal.caller_search_path() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_caller_search_path';
CREATE FUNCTION underway_internal.system_identifier() RETURNS bigint
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_system_identifier';
-- The advisory lock on a task, of a lock class of its own, until the end of the transaction.
CREATE FUNCTION underway_internal.hold_task(id uuid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_hold_task';
CREATE FUNCTION underway_internal.try_lock_task(id uuid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_try_lock_task';
-- One at a time counts the leases of a queue with a limit on concurrency, until the end of the transaction.
CREATE FUNCTION underway_internal.lock_places(queue_id int) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_lock_places';
-- Has run_inline been called in this transaction?
CREATE FUNCTION underway_internal.has_run_inline() RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_has_run_inline';
-- Whoever keeps in mind which table of a ring is open looks again.
CREATE FUNCTION underway_internal.ring_moved() RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_ring_moved';
-- Was a row with this xmin written by the current transaction?
CREATE FUNCTION underway_internal.is_ours(xmin xid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_is_ours';
-- underway_internal.check_lease() by what is committed now.
CREATE FUNCTION underway_internal.check_lease_now(lease uuid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_check_lease_now';
-- underway_internal.count_leases() by what is committed now.
CREATE FUNCTION underway_internal.leases_now(queue_id int) RETURNS bigint
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_leases_now';
-- When this start of the server began to accept work.
CREATE FUNCTION underway_internal.recovered_at() RETURNS timestamptz
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_recovered_at';
CREATE FUNCTION underway_internal.workers(
        OUT slot int, OUT pid int, OUT database oid, OUT role oid, OUT state text, OUT queue_id int, OUT task_id uuid,
        OUT attempt int, OUT tasks int, OUT started_at timestamptz, OUT task_started_at timestamptz, OUT generation int, OUT progress jsonb)
    RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_workers';
-- What the server knows of its databases, and counts of what our processes did; for tests and for whoever looks into a server.
CREATE FUNCTION underway_internal.databases(
        OUT database oid, OUT coordinator int, OUT wanted bool, OUT wakes_at timestamptz, OUT holds int, OUT blocked bool, OUT waits bool,
        OUT trouble_at timestamptz, OUT trouble text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_databases';
-- underway.enabled, as it is for who works this database.
CREATE FUNCTION underway_internal.is_enabled() RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_is_enabled';
CREATE FUNCTION underway_internal.counters(OUT transactions bigint, OUT pokes bigint)
    RETURNS record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_counters';
