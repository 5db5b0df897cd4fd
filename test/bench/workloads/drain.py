"""Draining a full queue whose handler does nothing, one commit per task, durable and async.

Limit: pgbench, one UPDATE of a row of the client's own per commit, as many clients as workers; for async with
synchronous_commit off. 4 and 8 workers are tried, and that number is taken with which ours does best."""

from lib.bench import UPDATED, UPDATE_ONE
from lib.measure import Row

WORKERS = (4, 8)


def run(bench):
    workers, figures, limits, tried = bench.best_of(WORKERS, lambda *how: measure(bench, "sync", bench.pick(6_000, 60_000), *how))
    yield Row("drain, one commit per task, durable", "/s", figures, limits, at_least=0.8,
              limit="UPDATE per commit, as many clients", note=f"{workers} workers", detail=tried)
    durable = figures
    workers, figures, limits, tried = bench.best_of(WORKERS, lambda *how: measure(bench, "async", bench.pick(20_000, 200_000), *how))
    yield Row("drain, one commit per task, async", "/s", figures, limits, at_least=0.6,
              limit="the same with synchronous_commit off", note=f"{workers} workers", detail=tried)
    yield Row("async over durable", "/s", figures, durable, at_least=3, limit="our own durable figure")


def measure(bench, durability, tasks, workers, rounds):
    bench.configure(underway__max_workers=workers)
    figures, limits = [], []
    options = "-c synchronous_commit=off" if durability == "async" else ""
    with bench.database("drain") as db:
        db.queue("q", "nothing", durability=durability)
        db.run(UPDATED)
        db.run("INSERT INTO updated SELECT g, 0 FROM generate_series(0, 63) g")
        for _ in range(rounds):
            db.warm("q", workers)
            figures.append(db.drain("q", tasks))
            db.run("CHECKPOINT")
            limits.append(db.pgbench(UPDATE_ONE, workers, seconds=bench.pick(1, 10), options=options))
    return figures, limits
