"""What an idle database costs, with 1, 100 and 1,000 queues (short: 1 and 1,000).

No limit but nothing at all: the processor time of the extension's processes, and how often they woke up (their
voluntary context switches, which no transaction can do without), both per minute. A second is left for things to
come to rest first. The safety check, every 5 minutes, is in it if it falls into the time."""

import os
import time

from lib.bench import processes_of
from lib.measure import Row


def run(bench):
    bench.configure(underway__max_workers=4)
    seconds = bench.seconds(2, 6)
    with bench.database("idle") as db:
        made = 0
        for queues in bench.pick((1, 1000), (1, 100, 1000)):
            db.run(f"SELECT underway.create_queue('q' || n, 'nothing') FROM generate_series({made + 1}, {queues}) n")
            made = queues
            db.wait_for(db.value("SELECT underway.enqueue('q1')"), 60)
            time.sleep(1)
            before = cost(bench.server)
            time.sleep(seconds)
            after = cost(bench.server)
            spent = [sum(after[pid][n] - before.get(pid, (0, 0))[n] for pid in after) for n in (0, 1)]
            ends = f"{len(after)} processes, {seconds} s"
            yield Row(f"idle, {queues:,} queues: processor", "ms/min", [1000 * spent[0] * 60 / seconds], note=ends)
            yield Row(f"idle, {queues:,} queues: wake-ups", "/min", [spent[1] * 60 / seconds], at_most=1,
                      detail={"each": [(after[pid][2], after[pid][1] - before.get(pid, (0, 0))[1]) for pid in after]})


def cost(server):
    costs = {}
    for pid, kind in processes_of(server).items():
        with open(f"/proc/{pid}/schedstat") as file:
            seconds = int(file.read().split()[0]) / 1e9
        with open(f"/proc/{pid}/status") as file:
            switches = next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
        costs[pid] = seconds, switches, kind
    return costs
