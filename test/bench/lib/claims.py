"""The cost of a claim: the time of a dequeue of one task, its commit left out, in databases of their own, in turn."""

import statistics
import time


def prepare(db, pending):
    db.queue("q")
    db.fill("q", pending)


def cost(db, claims):
    """The median in milliseconds."""
    times = []
    for _ in range(claims):
        db.run("BEGIN")
        began = time.perf_counter()
        taken = db.value("SELECT count(*) FROM underway.dequeue('q')")
        times.append(1000 * (time.perf_counter() - began))
        db.run("COMMIT")
        if taken != "1":
            raise RuntimeError("a claim took nothing")
    return statistics.median(times)
