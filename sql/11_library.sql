-- What SQL asks of the library: the clock, ids, wake-ups at commit, handlers and settings.
-- Owner only; none of them checks rights.

CREATE FUNCTION underway_internal.clock() RETURNS timestamptz
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_clock';
CREATE FUNCTION underway_internal.new_id() RETURNS uuid
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_new_id';
CREATE FUNCTION underway_internal.note(queue_id int, priority int, run_at timestamptz, id uuid, tasks int DEFAULT 1) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_note';
CREATE FUNCTION underway_internal.note_expiry(expires_at timestamptz) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_note_expiry';
CREATE FUNCTION underway_internal.queue_changed(queue_id int) RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_queue_changed';
CREATE FUNCTION underway_internal.finished(VARIADIC ids uuid[]) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_finished';
CREATE FUNCTION underway_internal.resolve_handler(handler text) RETURNS jsonb
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_resolve_handler';
CREATE FUNCTION underway_internal.find_handler(schema text, name text, args text[]) RETURNS oid
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_find_handler';
CREATE FUNCTION underway_internal.check_settings(settings jsonb, role oid) RETURNS bool
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'underway_check_settings';
CREATE FUNCTION underway_internal.caller_search_path() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_caller_search_path';
CREATE FUNCTION underway_internal.system_identifier() RETURNS bigint
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_system_identifier';
CREATE FUNCTION underway_internal.workers(
        OUT slot int, OUT pid int, OUT database oid, OUT role oid, OUT state text, OUT queue_id int, OUT task_id uuid,
        OUT attempt int, OUT tasks int, OUT started_at timestamptz, OUT task_started_at timestamptz, OUT generation int, OUT progress jsonb)
    RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_workers';
