"""Runs of a workflow of three steps that do nothing: runs per second, durable and async.

Limit: what the machine commits, divided by the three commits that such a run needs: pgbench, one UPDATE of a row of the client's own
per commit, as many clients as workers, durable. That number of workers is taken with which ours does best."""

import time

from lib.bench import UPDATED, UPDATE_ONE
from lib.measure import Row

WORKERS = (4, 8)


def run(bench):
    workers, figures, limits, tried = bench.best_of(WORKERS, lambda *how: measure(bench, "sync", bench.pick(2_000, 40_000), *how))
    yield Row("3-step runs, durable", "/s", figures, limits, at_least=0.7, limit="UPDATE per commit, as many clients, divided by 3",
              note=f"{workers} workers", detail=tried)
    durable = figures
    workers, figures, limits, tried = bench.best_of(WORKERS, lambda *how: measure(bench, "async", bench.pick(4_000, 80_000), *how))
    yield Row("3-step runs, async over durable", "/s", figures, durable, at_least=3, limit="our own durable figure",
              note=f"{workers} workers", detail=tried)


def measure(bench, durability, runs, workers, rounds):
    bench.configure(underway__max_workers=workers, max_worker_processes=workers + 8)
    figures, limits = [], []
    with bench.database("runs") as db:
        db.queue("q", "nothing")
        db.run(f"""SELECT underway.create_workflow('three', ARRAY(SELECT underway.step(n, 'nothing') FROM unnest('{{a,b,c}}'::text[]) n),
            durability => '{durability}')""")
        db.run(UPDATED)
        db.run("INSERT INTO updated SELECT g, 0 FROM generate_series(0, 63) g")
        for _ in range(rounds):
            db.warm("q", workers)
            figures.append(drain(db, runs))
            db.run("CHECKPOINT")
            limits.append(db.pgbench(UPDATE_ONE, workers, seconds=bench.pick(1, 10)) / 3)
    return figures, limits


def drain(db, runs):
    """As that of a queue: from the moment the workflow is resumed to the end of its last run, which is the least urgent."""
    db.run("SELECT underway.pause_queue('three')")
    db.run(f"SELECT count(underway.start('three')) FROM generate_series(1, {runs})")
    db.settle()
    last = db.value("SELECT underway.start('three', priority => 15)")
    began = time.monotonic()
    db.run("SELECT underway.resume_queue('three')")
    db.wait_for(last, 120)
    return (runs + 1) / (time.monotonic() - began)
