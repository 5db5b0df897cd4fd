"""Draining a queue with batch => 100 whose handler does nothing; finished tasks are kept.

Limit: hand-written set-based claim and finish of 100 rows, in two commits, in tables of the same shape and indexes:
CLAIM_100 and finish() of lib/plain.py, by pgbench with prepared statements, as many clients as workers. It calls no
handler and keeps nothing that the extension would not keep."""

from lib.measure import Row
from lib.plain import CLAIM_100, COPIES, finish, insert_many

WORKERS = (2, 4)


def run(bench):
    with bench.database("drain_batch") as db:
        db.queue("q", "nothing", batch=100)
        db.run(COPIES)
        workers, rounds, tried = bench.best_of(WORKERS, 4, lambda workers: measure(bench, db, bench.pick(20_000, 400_000), workers))
    figures, limits = zip(*rounds)
    yield Row("drain, batch => 100, kept", "/s", figures, limits, at_least=0.9,
              limit="hand-written claim and finish of 100 rows, two commits", note=f"{workers} workers", detail=tried)


def measure(bench, db, tasks, workers):
    bench.configure(underway__max_workers=workers)
    db.warm("q", workers)
    return db.drain("q", tasks), by_hand(db, tasks, workers)


def by_hand(db, tasks, clients):
    # A tenth more rows than are taken: the last claims would find less than 100.
    db.run(insert_many(tasks + tasks // 10))
    db.settle()
    script = f"{CLAIM_100.format(change='slot = :client_id')};\n{finish(db.main, 'slot = :client_id')};\n"
    rate = db.pgbench(script, clients, transactions=tasks // 100 // clients)
    db.run("DELETE FROM plain_task")
    return 100 * rate
