"""enqueue, one per transaction, 10 clients.

Limit: the INSERT of the same values into a table of the same shape and indexes, one per transaction, 10 clients.
Both by pgbench with prepared statements. The queue has a handler and is paused, so that nothing runs beside it."""

from lib.measure import Row
from lib.plain import COPIES, INSERT_ONE

ENQUEUE = """SELECT underway.enqueue('q', '{"x": 1}');"""


def run(bench):
    row = Row("enqueue, 10 clients", "/s", [], [], at_least=0.85, limit="INSERT into a table of the same shape, 10 clients")
    with bench.database("enqueue") as db:
        db.queue("q", "nothing")
        db.run("SELECT underway.pause_queue('q')")
        db.run(COPIES)
        seconds = bench.pick(1, 10)
        for _ in range(bench.rounds):
            db.settle()
            row.figures.append(db.pgbench(ENQUEUE, 10, seconds=seconds))
            db.run("SELECT underway.purge_queue('q')")
            db.settle()
            row.limits.append(db.pgbench(INSERT_ONE, 10, seconds=seconds))
            db.run("DELETE FROM plain_task")
    yield row
