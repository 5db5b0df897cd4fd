"""The cost of a claim with many tasks around that are not due: delayed, failed and archived ones.

Limit: the same claim in a database with none of them. Both have 1,000 due tasks and are measured in turn. All of them
are made by the public functions: archived ones were dequeued and completed, failed ones failed for good."""

from lib.claims import cost, prepare
from lib.measure import Row


def run(bench):
    delayed, failed, archived = bench.pick((100_000, 5_000, 50_000), (10_000_000, 1_000_000, 10_000_000))
    with bench.database("claim_bare") as bare, bench.database("claim_around") as full:
        full.queue("q")
        end(full, archived, "underway.complete_many(array_agg(lease))")
        end(full, failed, "count(underway.fail(lease, 'no', false))")
        full.fill("q", delayed, ", delay => '1 day'")
        full.fill("q", 1_000)
        prepare(bare, 1_000)
        for db in (bare, full):
            db.settle()
            cost(db, 20)
        rounds = [(cost(full, 50), cost(bare, 50)) for _ in range(5)]
    yield Row("claim cost, others around", "ms", [one for one, _ in rounds], [other for _, other in rounds], at_most=1.5,
              limit="with none around", note=f"{delayed:,} delayed, {failed:,} failed, {archived:,} archived")


def end(db, tasks, how):
    db.fill("q", tasks)
    db.run("CREATE TEMP TABLE IF NOT EXISTS taken (lease uuid)")
    for _ in range(0, tasks, 10_000):
        db.run("INSERT INTO taken SELECT lease FROM underway.dequeue('q', 10000)")
        db.run(f"SELECT {how} FROM taken")
        db.run("TRUNCATE taken")
