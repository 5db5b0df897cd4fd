"""Dead rows and table sizes under a steady 1,000 tasks a second, with the default autovacuum.

No limit: the highest figures of the first and of the second half are shown; bounded means that the second half is no
higher than 1.5 times the first. Runs of less than 3 minutes are too short to tell, and only show. The archive grows by
what it keeps and is not part of this."""

import time

from lib.measure import Row

RATE = 1000
LOOK = """SELECT pg_relation_size(c.oid), pg_indexes_size(c.oid), s.n_dead_tup, s.autovacuum_count
    FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = 'underway_internal.task'::regclass"""


def run(bench):
    bench.configure(underway__max_workers=4)
    seconds = bench.seconds(5, 60)
    with bench.database("growth") as db:
        db.queue("q", "nothing")
        db.warm("q", 4)
        process = db.start_pgbench("SELECT underway.enqueue('q', '{\"x\": 1}');", 4, seconds=seconds, rate=RATE)
        looks, began = [], time.time()
        try:
            while process.process.poll() is None:
                looks.append((time.time() - began, *(int(value) for value in db.run(LOOK)[0])))
                time.sleep(min(1, seconds / 20))
            rate = process.tps(timeout=60)
        finally:
            process.end()
        db.wait_for(db.value("SELECT underway.enqueue('q', priority => 15)"), 120)
    halves = [look for look in looks if look[0] < seconds / 2], [look for look in looks if look[0] >= seconds / 2]
    for column, what, unit in ((1, "table", "MB"), (2, "indexes", "MB"), (3, "dead rows known", "rows")):
        scale = 1 / 2**20 if unit == "MB" else 1
        first, second = (max(look[column] for look in half) * scale for half in halves)
        yield Row(f"1,000/s for {seconds} s: {what}", unit, [second], [max(first, 0.01)], at_most=1.5 if seconds >= 180 else None,
                  limit="highest of the first half" if column == 1 else "",
                  note=f"{rate:,.0f}/s enqueued; autovacuum ran {looks[-1][4] - looks[0][4]} times" if column == 1 else "",
                  detail={"seconds, value": [(round(look[0], 1), look[column] * scale) for look in looks]})
