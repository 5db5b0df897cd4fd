"""External workers: dequeue 100, complete_many 100, each a transaction of its own.

Limit: the same hand-written, set-based SQL as for the batch drain, with a lease for each row, by which they are
finished. Both by pgbench with prepared statements and 4 clients; the leases go to the client and back."""

from lib.measure import Row
from lib.plain import CLAIM_100, COPIES, finish, insert_many

CLIENTS = 4
OURS = """SELECT array_agg(lease) AS leases FROM underway.dequeue('q', 100) \\gset
SELECT cardinality(underway.complete_many(:leases));
"""


def run(bench):
    row = Row("external, dequeue 100 + complete_many 100", "/s", [], [], at_least=0.8,
              limit="the same by hand-written SQL", note=f"{CLIENTS} clients")
    rounds_each = bench.pick(30, 600)
    tasks = 100 * rounds_each * CLIENTS
    with bench.database("external") as db:
        db.queue("q")
        db.run(COPIES)
        theirs = f"""SELECT array_agg(lease) AS leases FROM taken \\gset
{finish(db.main, "lease = ANY(:leases)")};
"""
        theirs = f"WITH taken AS ({CLAIM_100.format(change='lease = gen_random_uuid()')}) {theirs}"
        for _ in range(bench.rounds):
            db.run("SELECT underway.purge_queue('q')")
            db.fill("q", tasks + tasks // 10)  # a tenth more than are taken: the last would get less than 100
            db.settle()
            row.figures.append(100 * db.pgbench(OURS, CLIENTS, transactions=rounds_each))
            db.run(insert_many(tasks + tasks // 10))
            db.settle()
            row.limits.append(100 * db.pgbench(theirs, CLIENTS, transactions=rounds_each))
            db.run("DELETE FROM plain_task")
    yield row
