"""A map over 100, 1,000 and 10,000 items with a handler that does nothing: what a child costs, from the start of the run to its end.

No limit but its own figure with 100 items: the cost of a child must not grow with their number. Of 100 items 5 (long: 10) runs, of 1,000 items
2 (long: 5) runs are measured one after the other, so that each figure is of many children. Outputs are collected, in order."""

import time

from lib.measure import Row


def run(bench):
    bench.configure(underway__max_workers=4)
    runs_of = {100: bench.pick(5, 10), 1_000: bench.pick(2, 5), 10_000: 1}
    figures = {items: [] for items in runs_of}
    with bench.database("fan_out") as db:
        db.queue("q", "nothing")
        db.run("CREATE FUNCTION items(input jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT generate_series(1, ($1)::int)'")
        db.run("SELECT underway.create_workflow('fan', ARRAY[underway.map('m', 'nothing', over => 'items')])")
        for _ in range(bench.pick(1, 15)):
            db.warm("q", 4)
            for items, runs in runs_of.items():
                db.settle()
                began = time.monotonic()
                for _ in range(runs):
                    db.wait_for(db.value(f"SELECT underway.start('fan', '{items}')"), 120)
                figures[items].append(1e6 * (time.monotonic() - began) / runs / items)
    yield Row("fan-out of 100, per child", "us", figures[100], note="4 workers, durable")
    for items in (1_000, 10_000):
        yield Row(f"fan-out of {items:,}, per child", "us", figures[items], figures[100], at_most=1.25, limit="the same with 100")
