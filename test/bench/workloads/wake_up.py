"""16 clients enqueueing while all workers are busy.

Limit: the same without the wake-up: a switch in shared memory makes enqueue note nothing for the commit, which then lowers
no mark and sets no latch. 20 pairs, each of four spans with and four without, in turn: the speed of a disk changes within a
second, and so meets both. All workers sleep in a long task; the same database, table, workers and clients serve both."""

import time

from lib.load import Load
from lib.measure import Row

PAIRS = 20
ENQUEUE = """SELECT underway.enqueue('q', '{"x": 1}');"""
UNHEARD = 1 << 10  # src/waitpoint.hpp


def run(bench):
    bench.configure(underway__max_workers=4)
    spans = {0: [], UNHEARD: []}
    with bench.database("wake_up") as db:
        db.run("CREATE FUNCTION sleep(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(86400)'")
        db.queue("busy", "sleep", timeout="1 day")
        db.queue("q", "nothing")
        db.fill("busy", 4)
        wait_until_busy(db, 4)
        with Load(db.server, db.name, ENQUEUE, 16) as load:
            for mask in 2 * PAIRS * (0, UNHEARD, UNHEARD, 0):
                db.run(f"SELECT underway_internal.arm_waitpoints({mask})")
                spans[mask].append(load.span(bench.pick(0.05, 1.25)))
    figures, limits = (load.rates(some, PAIRS) for some in spans.values())
    yield Row("16 clients enqueue, workers busy", "/s", figures, limits, most_loss=0.02, limit="the same without the wake-up",
              note=f"{PAIRS} pairs")


def wait_until_busy(db, workers):
    deadline = time.monotonic() + 60
    while int(db.value("SELECT count(*) FROM underway.tasks WHERE state = 'in_progress'")) < workers:
        if time.monotonic() > deadline:
            raise RuntimeError("the workers did not take the long tasks")
        time.sleep(0.1)
