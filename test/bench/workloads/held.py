"""2,000 tasks a second while somebody holds a transaction open.

Limit: the same load without it, run just before. pgbench enqueues at that rate (Poisson) from 8 connections, with the
time in the input; the handler records the time between, in a table without autovacuum: analyzing it would disturb the
second half more, where more stands in it. The transaction has an id and a snapshot, so nothing that ends
meanwhile can be vacuumed. 8 workers, so that neither side is at its limit: of 4, more than three are busy at any
time, mostly with the flush of a commit, and a moment of slower flushes makes a queue of seconds. Then it is released under the same
load, and second by second it is looked for when the p99 is back within 1.5 times that of the limit, for 5 seconds on
end."""

import time

from lib.measure import Row

RATE = 2000
WORKERS = 8
HANDLER = """CREATE TABLE seen (at timestamptz, delay float8) WITH (autovacuum_enabled = off);
CREATE FUNCTION see(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE now timestamptz := clock_timestamp();
    BEGIN INSERT INTO seen VALUES (now, extract(epoch FROM now) - (input ->> 't')::float8); END $$"""
ENQUEUE = "SELECT underway.enqueue('q', jsonb_build_object('t', extract(epoch FROM clock_timestamp())));"


def run(bench):
    # Ten times as often as by default, so that it falls into short runs too.
    bench.configure(underway__max_workers=WORKERS, underway__safety_check_interval="30s")
    seconds = bench.seconds(3, 30)
    after = max(8, min(60, seconds))
    with bench.database("held") as db:
        db.run(HANDLER)
        db.queue("q", "see")
        db.warm("q", WORKERS)
        db.pgbench(ENQUEUE, 8, seconds=1, rate=RATE)
        free = load(db, seconds)
        limit = look(db, *free)
        holder = db.session()
        holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(), count(*) FROM underway_internal.queue")
        began, ended, background = load(db, seconds, more=after)
        sizes = db.run("""SELECT pg_table_size('underway_internal.task'), pg_indexes_size('underway_internal.task'),
            n_dead_tup FROM pg_stat_all_tables WHERE relid = 'underway_internal.task'::regclass""")[0]
        released = time.time()
        holder.run("COMMIT")
        holder.close()
        background.tps(timeout=after + 120)
        drained(db)
        held = look(db, began, ended)
        normal = back_to_normal(db, released, released + after - 2, 1.5 * limit["p99"])
    detail = {"seconds": seconds, "held at its end": dict(zip(("table bytes", "index bytes", "dead rows known"), map(int, sizes)))}
    meant = limit["rate"] > 0.95 * RATE  # else the load is more than the machine can do, and nothing can be said
    yield Row("2,000/s, transaction held open: throughput", "/s", [held["rate"]], [limit["rate"]], at_least=0.95 if meant else None,
              limit="the same without it", detail=detail,
              note=f"{seconds} s each, {WORKERS} workers" + ("" if meant else "; the machine does not do 2,000/s even without it: not judged"))
    yield Row("2,000/s, transaction held open: p99", "ms", [1000 * held["p99"]], [1000 * limit["p99"]], at_most=2 if meant else None,
              limit="the same without it", detail={"p50 ms": 1000 * held["p50"], "p50 ms without": 1000 * limit["p50"],
                      "p99 ms of each tenth of the time": held["tenths"], "the same without": limit["tenths"],
                      "p99 ms of the worst seconds, by their number": held["worst"], "the worst without": limit["worst"]})
    yield Row("normal again after its release", "s", [normal], at_most=60 if meant else None, note=f"looked at for {after} s; infinite: not within them")


def load(db, seconds, more=None):
    """The time span of the load, at whose end everything has run; with more: which goes on as a background process."""
    began = time.time()
    process = db.start_pgbench(ENQUEUE, 8, seconds=seconds + (more or 0), rate=RATE)
    if more:
        time.sleep(seconds)
        return began, time.time(), process
    process.tps(timeout=seconds + 120)
    ended = time.time()
    drained(db)
    return began, ended


def drained(db):
    db.wait_for(db.value("SELECT underway.enqueue('q', jsonb_build_object('t', extract(epoch FROM clock_timestamp())), priority => 15)"), 300)


def look(db, began, ended):
    times = f"FROM seen WHERE at BETWEEN to_timestamp({began}) AND to_timestamp({ended})"
    # From the first to the last: the start of the clients would count in a short run.
    (rate, p50, p99), = db.run(f"SELECT count(*) / extract(epoch FROM max(at) - min(at)), {disc(0.5)}, {disc(0.99)} {times}")
    tenths = db.run(f"SELECT {disc(0.99)} {times} GROUP BY width_bucket(extract(epoch FROM at), {began}, {ended + 1e-3}, 10) ORDER BY min(at)")
    worst = db.run(f"SELECT floor(extract(epoch FROM at) - {began}) AS second, {disc(0.99)} {times} GROUP BY second ORDER BY 2 DESC LIMIT 20")
    return {"rate": float(rate), "p50": float(p50), "p99": float(p99),
            "tenths": [round(1000 * float(value), 2) for (value,) in tenths],
            "worst": {int(float(second)): round(1000 * float(value)) for second, value in worst}}


def disc(share):
    return f"percentile_disc({share}) WITHIN GROUP (ORDER BY delay)"


def back_to_normal(db, released, until, most):
    p99 = [float(value) for (value,) in db.run(f"""SELECT {disc(0.99)} FROM seen
        WHERE at >= to_timestamp({released}) AND at < to_timestamp({until})
        GROUP BY floor(extract(epoch FROM at) - {released}) ORDER BY floor(extract(epoch FROM at) - {released})""")]
    good = 0
    for second, value in enumerate(p99, 1):
        good = good + 1 if value <= most else 0
        if good == 5:
            return second - 5 if second > 5 else 0
    return float("inf")
