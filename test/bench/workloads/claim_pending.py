"""The cost of a claim with 1,000, 100,000 and 10,000,000 pending tasks (short form: 300,000) on the queue.

Limit: the same with 1,000. Each number has a database of its own; they are measured in turn."""

from contextlib import ExitStack

from lib.claims import cost, prepare
from lib.measure import Row


def run(bench):
    sizes = [1_000, 100_000, bench.pick(300_000, 10_000_000)]
    with ExitStack() as stack:
        dbs = {}
        for size in sizes:
            dbs[size] = stack.enter_context(bench.database(f"claim_{size}"))
            prepare(dbs[size], size)
            dbs[size].settle()
        for db in dbs.values():
            cost(db, 20)
        rounds = [{size: cost(db, 50) for size, db in dbs.items()} for _ in range(5)]
    for size in sizes[1:]:
        yield Row(f"claim cost, {size:,} pending", "ms", [one[size] for one in rounds], [one[sizes[0]] for one in rounds],
                  at_most=2, limit=f"with {sizes[0]:,} pending")
