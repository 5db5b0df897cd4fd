-- What a handler may ask about the attempt that it is; null outside.
CREATE FUNCTION underway.task_id() RETURNS uuid LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_task_id';
COMMENT ON FUNCTION underway.task_id() IS 'In a handler: the id of its task, the same at each attempt: a key for effects outside the database. Null elsewhere.';

CREATE FUNCTION underway.attempt() RETURNS int LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_attempt';
COMMENT ON FUNCTION underway.attempt() IS 'In a handler: the number of this attempt, from 1. Null elsewhere.';

CREATE FUNCTION underway.last_attempt() RETURNS bool LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_last_attempt';
COMMENT ON FUNCTION underway.last_attempt() IS 'In a handler: whether the task fails for good if this attempt fails. Null elsewhere.';

CREATE FUNCTION underway.headers() RETURNS jsonb LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'underway_headers';
COMMENT ON FUNCTION underway.headers() IS 'In a handler: the headers that the task was enqueued with; in a dead letter also dead_letter, with queue, task and error of the original. Null elsewhere.';

CREATE FUNCTION underway.progress(progress jsonb) RETURNS jsonb LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_progress';
COMMENT ON FUNCTION underway.progress IS
'In a handler: shows how far it is, at once and to everybody who may see the task, in status() (in no transaction: it is not undone). At most 500 bytes as text. Returns its argument.
Errors: 22023 when too long. Outside a handler it does nothing.';
