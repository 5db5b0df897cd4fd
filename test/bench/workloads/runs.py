"""Runs of a workflow of three steps that do nothing: runs per second, durable and async.

Limit: what the machine commits, divided by the three commits that such a run needs: pgbench, one UPDATE of a row of the client's own
per commit, as many clients as workers, durable. That number of workers is taken with which ours does best (short: 8, and
4 for async)."""

import time

from lib.bench import UPDATED, UPDATE_ONE
from lib.measure import Row

WORKERS = (4, 8)


def run(bench):
    with bench.database("runs") as db:
        db.queue("q", "nothing")
        db.run(UPDATED)
        db.run("INSERT INTO updated SELECT g, 0 FROM generate_series(0, 63) g")
        for durability in ("sync", "async"):
            db.run(f"""SELECT underway.create_workflow('{durability}', ARRAY(SELECT underway.step(n, 'nothing')
                FROM unnest('{{a,b,c}}'::text[]) n), durability => '{durability}')""")
        workers, rounds, tried = bench.best_of(WORKERS, 8, lambda workers: durable(bench, db, bench.pick(2_000, 40_000), workers))
        figures, limits = zip(*rounds)
        yield Row("3-step runs, durable", "/s", figures, limits, at_least=0.7, limit="UPDATE per commit, as many clients, divided by 3",
                  note=f"{workers} workers", detail=tried)
        limits = figures
        workers, rounds, tried = bench.best_of(WORKERS, 4, lambda workers: [drain(bench, db, "async", bench.pick(4_000, 80_000), workers)])
        (figures,) = zip(*rounds)
        yield Row("3-step runs, async over durable", "/s", figures, limits, at_least=3, limit="our own durable figure",
                  note=f"{workers} workers", detail=tried)


def durable(bench, db, runs, workers):
    figure = drain(bench, db, "sync", runs, workers)
    db.run("CHECKPOINT")
    return figure, db.pgbench(UPDATE_ONE, workers, seconds=bench.pick(1, 10)) / 3


def drain(bench, db, workflow, runs, workers):
    """As that of a queue: from the moment the workflow is resumed to the end of its last run, which is the least urgent."""
    bench.configure(underway__max_workers=workers)
    db.warm("q", workers)
    db.run(f"SELECT underway.pause_queue('{workflow}')")
    db.run(f"SELECT count(underway.start('{workflow}')) FROM generate_series(1, {runs})")
    db.settle()
    last = db.value(f"SELECT underway.start('{workflow}', priority => 15)")
    began = time.monotonic()
    db.run(f"SELECT underway.resume_queue('{workflow}')")
    db.wait_for(last, 120)
    return (runs + 1) / (time.monotonic() - began)
