"""The hand-written SQL that the limits are made of: tables of exactly the extension's shape (same columns, defaults, indexes
and storage settings, copied from it at run time) without the extension's code."""

COPIES = """
CREATE TABLE plain_task (LIKE underway_internal.task INCLUDING ALL);
CREATE TABLE plain_archive (LIKE underway_internal.archive_0 INCLUDING ALL);
DO $$
BEGIN
    EXECUTE (SELECT format('ALTER TABLE plain_task SET (%s)', array_to_string(reloptions, ', '))
        FROM pg_class WHERE oid = 'underway_internal.task'::regclass);
END $$;
"""

# What enqueue() sets, by the same generator of ids: random ones would make the limit slower.
COLUMNS = "id, queue_id, priority, run_at, enqueued_at, enqueued_by, input"
VALUES = """underway_internal.new_id(), 1, 8, clock_timestamp(), clock_timestamp(), current_user, '{"x": 1}'"""

INSERT_ONE = f"INSERT INTO plain_task ({COLUMNS}) VALUES ({VALUES}) RETURNING id;"


def insert_many(tasks):
    return f"INSERT INTO plain_task ({COLUMNS}) SELECT {VALUES} FROM generate_series(1, {tasks})"


# Set-based, in the order of the same index.
CLAIM_100 = """UPDATE plain_task t SET state = 'in_progress', attempt = attempt + 1, claimed_at = now(), {change}
    FROM (SELECT id FROM plain_task WHERE queue_id = 1 AND priority = 8 AND NOT waits AND state = 'pending' AND run_at <= now()
        ORDER BY run_at, id LIMIT 100 FOR UPDATE SKIP LOCKED) due
    WHERE t.id = due.id RETURNING t.id, t.attempt, t.lease, t.input"""


def finish(session, condition):
    """Moves what fulfils the condition from the one table to the other, each column to the one of its name."""
    ours = {name for (name,) in session.run("SELECT attname FROM pg_attribute WHERE attrelid = 'plain_task'::regclass AND attnum > 0")}
    set_here = {"slot": "0", "state": "'succeeded'", "started_at": "claimed_at", "finished_at": "now()"}
    columns = [name for (name,) in session.run("SELECT attname FROM pg_attribute WHERE attrelid = 'plain_archive'::regclass AND attnum > 0")
               if name in ours or name in set_here]
    return f"""WITH done AS (DELETE FROM plain_task WHERE {condition} AND state = 'in_progress' RETURNING *)
        INSERT INTO plain_archive ({', '.join(columns)}) SELECT {', '.join(set_here.get(name, name) for name in columns)} FROM done"""
