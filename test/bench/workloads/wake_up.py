"""16 clients enqueueing while all workers are busy.

Limit: the same without the wake-up: a switch in shared memory makes enqueue note nothing for the commit, which then lowers
no mark and sets no latch. 20 pairs, each in the order that the one before did not have. All workers sleep in a long task; the
same database, table and workers serve both."""

import time

from lib.measure import Row

PAIRS = 20
ENQUEUE = """SELECT underway.enqueue('q', '{"x": 1}');"""
UNHEARD = 1 << 10  # src/waitpoint.hpp


def run(bench):
    bench.configure(underway__max_workers=4)
    row = Row("16 clients enqueue, workers busy", "/s", [], [], most_loss=0.02, limit="the same without the wake-up", note=f"{PAIRS} pairs")
    with bench.database("wake_up") as db:
        db.run("CREATE FUNCTION sleep(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(86400)'")
        db.queue("busy", "sleep", timeout="1 day")
        db.queue("q", "nothing")

        def arm(mask):
            db.run(f"SELECT underway_internal.arm_waitpoints({mask})")

        def measure():
            return db.pgbench(ENQUEUE, 16, transactions=bench.pick(60, 2000))

        db.fill("busy", 4)
        wait_until_busy(db, 4)
        measure()
        for pair in range(PAIRS):
            for first in (True, False):
                if first == (pair % 2 == 0):
                    arm(0)
                    row.figures.append(measure())
                else:
                    arm(UNHEARD)
                    row.limits.append(measure())
            db.run("DELETE FROM underway_internal.task WHERE state = 'pending'")
            db.run("VACUUM underway_internal.task")
    yield row


def wait_until_busy(db, workers):
    deadline = time.monotonic() + 60
    while int(db.value("SELECT count(*) FROM underway.tasks WHERE state = 'in_progress'")) < workers:
        if time.monotonic() > deadline:
            raise RuntimeError("the workers did not take the long tasks")
        time.sleep(0.1)
