#!/usr/bin/python3
"""make bench: runs the workloads one after the other on a private server and prints their table.

To be run in a workspace (test/setup/workspace). Options by environment: LONG=1 the long form; ONLY="drain latency" some
workloads; MINUTES=n the length of runs over time. Leaves bench.json, bench.md and bench.svg in $RESULTS."""

import importlib
import os
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from lib import plot, report  # noqa: E402
from lib.bench import Bench, about, others_share  # noqa: E402

# The first one copies the server's files, which the others make many.
WORKLOADS = ("pgbench_idle", "enqueue", "enqueue_many", "drain", "drain_batch", "external", "latency", "held", "claim_pending",
             "claim_around", "growth", "wake_up", "idle", "runs", "fan_out", "sleeping")
MOST_SECONDS = {False: 300, True: 4 * 3600}  # of one workload: what takes longer hangs


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    signal.signal(signal.SIGALRM, too_long)
    long = os.environ.get("LONG", "") not in ("", "0")
    minutes = float(os.environ["MINUTES"]) if os.environ.get("MINUTES") else None
    only = os.environ.get("ONLY", "").split() or WORKLOADS
    unknown = [name for name in only if name not in WORKLOADS]
    if unknown:
        sys.exit(f"no workload is called {' or '.join(unknown)}; there are {', '.join(WORKLOADS)}")

    began = time.monotonic()
    bench = Bench(long, minutes)
    failed = []
    others = {}  # before each workload
    try:
        facts = about(bench, "long" if long else "short")
        print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
        print()
        for name in only:
            others[name] = round(others_share(), 2)
            started = time.monotonic()
            signal.alarm(round(MOST_SECONDS[long] + 240 * (minutes or 0)))
            try:
                bench.rows += importlib.import_module(f"workloads.{name}").run(bench)
            except Exception:
                failed.append(name)
                traceback.print_exc()
                print(bench.server.end_of_log(), file=sys.stderr)
                bench.server.restart()
            finally:
                signal.alarm(0)
            print(f"  {name}: {time.monotonic() - started:.0f} s (before it, {others[name]:.0%} of the machine was in use)", file=sys.stderr, flush=True)
        facts["load at the end"] = os.getloadavg()[0]
        facts["in use before each workload"] = others
    finally:
        bench.close()

    print()
    print(report.table(bench.rows))
    print(f"\n{time.monotonic() - began:.0f} s in all; load average at the start {facts['load at the start']:.1f}, at the end {facts['load at the end']:.1f}")
    if facts["load at the start"] > 1.5 or max(others.values()) > 0.2:
        print("The machine was busy with other things: do not believe these figures.")
    with open(os.path.join(os.environ["RESULTS"], "bench.json"), "w") as file:
        file.write(report.as_json(facts, bench.rows))
    with open(os.path.join(os.environ["RESULTS"], "bench.md"), "w") as file:
        file.write(report.as_markdown(facts, bench.rows))
    with open(os.path.join(os.environ["RESULTS"], "bench.svg"), "w") as file:
        file.write(plot.limits(facts, bench.rows))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def too_long(*_):
    raise TimeoutError("this workload has taken too long")


if __name__ == "__main__":
    main()
