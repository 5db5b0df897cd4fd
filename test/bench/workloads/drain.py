"""Draining a full queue whose handler does nothing, one commit per task, durable and async.

Limit: pgbench, one UPDATE of a row of the client's own per commit, as many clients as workers; for async with
synchronous_commit off. 4 and 8 workers are tried, and that number is taken with which ours does best (short: 8,
and 4 for async)."""

from lib.bench import UPDATED, UPDATE_ONE
from lib.measure import Row

WORKERS = (4, 8)


def run(bench):
    with bench.database("drain") as db:
        db.run(UPDATED)
        db.run("INSERT INTO updated SELECT g, 0 FROM generate_series(0, 63) g")
        for durability in ("sync", "async"):
            db.queue(durability, "nothing", durability=durability)
        workers, rounds, tried = bench.best_of(WORKERS, 8, lambda workers: measure(bench, db, "sync", bench.pick(6_000, 60_000), workers))
        durable, limits = zip(*rounds)
        yield Row("drain, one commit per task, durable", "/s", durable, limits, at_least=0.8,
                  limit="UPDATE per commit, as many clients", note=f"{workers} workers", detail=tried)
        workers, rounds, tried = bench.best_of(WORKERS, 4, lambda workers: measure(bench, db, "async", bench.pick(20_000, 200_000), workers))
        figures, limits = zip(*rounds)
        yield Row("drain, one commit per task, async", "/s", figures, limits, at_least=0.6,
                  limit="the same with synchronous_commit off", note=f"{workers} workers", detail=tried)
        yield Row("async over durable", "/s", figures, durable, at_least=3, limit="our own durable figure")


def measure(bench, db, durability, tasks, workers):
    bench.configure(underway__max_workers=workers)
    db.warm(durability, workers)
    figure = db.drain(durability, tasks)
    db.run("CHECKPOINT")
    options = "-c synchronous_commit=off" if durability == "async" else ""
    return figure, db.pgbench(UPDATE_ONE, workers, seconds=bench.pick(1, 10), options=options)
