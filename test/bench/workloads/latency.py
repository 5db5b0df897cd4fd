"""From commit to handler: an idle server with a warm worker, and one with 300 tasks a second.

The client notes the time, sends the COMMIT of a transaction that has enqueued a task, and notes the time of the answer;
the handler records its clock. The figure counts from the sending, so it holds the flush of the enqueue, with which the task is
claimed too where a worker is idle; counted from the answer it is in the detail. Limit: one commit of an UPDATE, sending to answer, on the same
connection, measured in the same rounds after the same pauses, since a disk and a processor that have rested are slower
(one commit right after the other took less than half of it on a virtual machine). The handler records only its number
and the time."""

import random
import time

from lib.bench import UPDATED
from lib.measure import Row, percentile

HANDLER = """CREATE TABLE seen (n int, at timestamptz);
CREATE FUNCTION see(input jsonb) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO seen VALUES ((input ->> 'n')::int, clock_timestamp()); END $$"""


def run(bench):
    bench.configure(underway__max_workers=4)
    found = {"idle": ([], []), "300/s": ([], [])}
    with bench.database("latency") as db:
        db.run(HANDLER)
        db.run(UPDATED)
        db.run("INSERT INTO updated VALUES (0, 0)")
        db.queue("q", "see")
        sample(db, [0.005] * 50)  # the first ones fill caches
        for _ in range(bench.rounds):
            # No task comes before the last one has ended; how long after it varies, so as to beat in no rhythm.
            rolls = random.Random(1)
            pauses = {"idle": [rolls.uniform(0.004, 0.01) for _ in range(bench.pick(80, 2000))],
                      "300/s": [rolls.expovariate(300) for _ in range(bench.pick(240, 18000))]}
            for how, (samples, flushes) in found.items():
                samples.append(sample(db, pauses[how], open_loop=how == "300/s"))
                flushes.append(commits(db, pauses[how][:bench.pick(80, 2000)]))
    for how, shares in (("idle", ((0.5, 1), (0.99, 5))), ("300/s", ((0.5, 1), (0.95, 4.5)))):
        samples, flushes = found[how]
        for share, most in shares:
            figures = [1000 * percentile([seen - sent for sent, _, seen in one], share) for one in samples]
            answered = [1000 * percentile([seen - answered for _, answered, seen in one], share) for one in samples]
            limits = [1000 * percentile(times, share) for times in flushes]
            yield Latency(f"commit to handler, {how}, p{100 * share:g}", "ms", figures, limits, at_most=most,
                          limit="one commit after such a pause", detail={"counted from the answer to the commit": answered})


class Latency(Row):
    """The figure is judged and not its ratio to the limit, which is shown."""

    @property
    def judged(self):
        return self.figures


def sample(db, gaps, open_loop=False):
    """(sent, answered, seen) of one task after each gap. open_loop: at times fixed beforehand, whatever the answers take."""
    db.run("DELETE FROM seen")
    taken = []
    due = time.time()
    for n, gap in enumerate(gaps):
        due = due + gap if open_loop else time.time() + gap
        time.sleep(max(0, due - time.time()))
        db.run("BEGIN")
        task = db.value(f"""SELECT underway.enqueue('q', '{{"n": {n}}}')""")
        sent = time.time()
        db.run("COMMIT")
        taken.append((sent, time.time()))
    db.wait_for(task, 60)
    deadline = time.time() + 60
    while int(db.value("SELECT count(*) FROM seen")) < len(gaps):
        if time.time() > deadline:
            raise RuntimeError("some tasks have not run after a minute")
        time.sleep(0.05)
    seen = {int(n): float(at) for n, at in db.run("SELECT n, extract(epoch FROM at) FROM seen")}
    return [(*times, seen[n]) for n, times in enumerate(taken)]


def commits(db, pauses):
    times = []
    for pause in pauses:
        time.sleep(pause)
        db.run("BEGIN; UPDATE updated SET n = n + 1")
        began = time.time()
        db.run("COMMIT")
        times.append(time.time() - began)
    return times
