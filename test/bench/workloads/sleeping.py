"""1,000,000 sleeping runs (short: 10,000): starting them, what they cost while they sleep, and waking 1,000 that are due.

They sleep for 30 days; the others for an hour. These are woken by setting the clock an hour ahead, which makes 1,000 due at once: timed to
the end of the last. Limit of that: the same in an empty database. Idle cost as in idle.py."""

import time

from lib.measure import Row
from workloads.idle import cost

WOKEN = 1_000


def run(bench):
    bench.configure(underway__max_workers=4)
    runs = bench.pick(10_000, 1_000_000)
    with bench.database("sleeping") as db:
        prepare(db)
        limits = [wake(db) for _ in range(bench.pick(2, 9))]
        before = int(db.value("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'underway_internal'::regnamespace"))
        began = time.monotonic()
        for _ in range(0, runs, 10_000):
            db.run("SELECT count(underway.start('long')) FROM generate_series(1, 10000)")
        yield Row(f"starting {runs:,} runs that sleep", "/s", [runs / (time.monotonic() - began)], note="10,000 in a transaction")
        after = int(db.value("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'underway_internal'::regnamespace"))
        yield Row("a sleeping run on disk", "bytes", [(after - before) / runs], note="with indexes")
        db.settle()
        time.sleep(1)
        seconds = bench.seconds(2, 2)
        before = cost(bench.server)
        time.sleep(seconds)
        after = cost(bench.server)
        spent = [sum(after[pid][n] - before.get(pid, (0, 0))[n] for pid in after) for n in (0, 1)]
        yield Row(f"{runs:,} runs asleep: processor", "ms/min", [1000 * spent[0] * 60 / seconds], note=f"{seconds} s")
        yield Row(f"{runs:,} runs asleep: wake-ups", "/min", [spent[1] * 60 / seconds], at_most=1)
        figures = [wake(db) for _ in range(bench.pick(2, 9))]
        yield Row(f"waking {WOKEN:,} among {runs:,}", "/s", figures, limits, at_least=0.8, limit="the same with none around")


def prepare(db):
    db.queue("q", "nothing")
    for name, span in (("long", "30 days"), ("short", "1 hour")):
        db.run(f"SELECT underway.create_workflow('{name}', ARRAY[underway.sleep('nap', '{span}'), underway.step('up', 'nothing')])")


def wake(db):
    """The last one has the least urgent priority, so that it is claimed when the others are."""
    db.warm("q", 4)
    db.run(f"SELECT count(underway.start('short')) FROM generate_series(1, {WOKEN - 1})")
    last = db.value("SELECT underway.start('short', priority => 15)")
    db.settle()
    began = time.monotonic()
    db.run("SELECT underway.set_clock(underway_internal.clock() + interval '61 minutes')")
    db.wait_for(last, 120)
    took = time.monotonic() - began
    db.run("SELECT underway.set_clock(NULL)")
    return WOKEN / took
