"""enqueue_many, 100,000 tasks in one statement, which also builds the array.

Limit: INSERT .. SELECT of as many rows into a table of the same shape and indexes. Both timed from the client, commit
included."""

import time

from lib.measure import Row
from lib.plain import COPIES, insert_many

TASKS = 100_000


def run(bench):
    row = Row("enqueue_many, 100,000 in one", "/s", [], [], at_least=0.6, limit="INSERT .. SELECT into a table of the same shape")
    with bench.database("enqueue_many") as db:
        db.queue("q", "nothing")
        db.run("SELECT underway.pause_queue('q')")
        db.run(COPIES)
        for _ in range(bench.rounds):
            db.settle()
            row.figures.append(timed(lambda: db.fill("q", TASKS)))
            db.run("SELECT underway.purge_queue('q')")
            db.settle()
            row.limits.append(timed(lambda: db.run(insert_many(TASKS))))
            db.run("DELETE FROM plain_task")
    yield row


def timed(act):
    began = time.monotonic()
    act()
    return TASKS / (time.monotonic() - began)
