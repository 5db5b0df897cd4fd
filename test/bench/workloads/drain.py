"""Draining a full queue whose handler does nothing, one commit per task, durable and async.

Limit: pgbench, one UPDATE of a row of the client's own per commit, as many clients as workers; for async with
synchronous_commit off. 4 and 8 workers are tried, and that number is taken with which ours does best."""

import statistics

from lib.bench import UPDATED, UPDATE_ONE
from lib.measure import Row

WORKERS = (4, 8)


def run(bench):
    durable = best_of(bench, "sync", bench.pick(6_000, 60_000), "")
    durable_row = Row("drain, one commit per task, durable", "/s", durable["figures"], durable["limits"], at_least=0.8,
                      limit="UPDATE per commit, as many clients", note=f"{durable['workers']} workers", detail=durable["tried"])
    yield durable_row
    quick = best_of(bench, "async", bench.pick(20_000, 200_000), "-c synchronous_commit=off")
    yield Row("drain, one commit per task, async", "/s", quick["figures"], quick["limits"], at_least=0.6,
              limit="the same with synchronous_commit off", note=f"{quick['workers']} workers", detail=quick["tried"])
    yield Row("async over durable", "/s", quick["figures"], durable["figures"], at_least=3, limit="our own durable figure")


def best_of(bench, durability, tasks, options):
    tried = {}
    for workers in WORKERS:
        bench.configure(underway__max_workers=workers)
        figures, limits = [], []
        with bench.database("drain") as db:
            db.queue("q", "nothing", durability=durability)
            db.run(UPDATED)
            db.run("INSERT INTO updated SELECT g, 0 FROM generate_series(0, 63) g")
            for _ in range(bench.rounds):
                db.warm("q", workers)
                figures.append(db.drain("q", tasks))
                db.settle()
                limits.append(db.pgbench(UPDATE_ONE, workers, seconds=bench.pick(1, 10), options=options))
        tried[workers] = {"figures": figures, "limits": limits}
    workers = max(tried, key=lambda n: statistics.median(tried[n]["figures"]))
    return {"workers": workers, "tried": tried, **tried[workers]}
