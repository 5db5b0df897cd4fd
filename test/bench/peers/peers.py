#!/usr/bin/python3
"""make bench-peers: enqueue, drain and latency of pg-boss and graphile-worker beside ours, in the same run.

To be run in a workspace. Installs them by npm into a folder of that; if the machine's Node is too old for them, also a
Node, from its npm package. LONG=1: longer. Leaves peers.json and peers.svg in $RESULTS."""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
sys.dont_write_bytecode = True

from lib import plot, report  # noqa: E402
from lib.bench import Bench, about, others_share  # noqa: E402
from lib.measure import percentile  # noqa: E402
from lib.server import command  # noqa: E402

PACKAGES = ("pg-boss@12", "graphile-worker@0.18")
NODE_WANTED = (22, 18)  # what both of them ask for
SYSTEMS = {"underway": "underway", "pgboss": "pg-boss", "graphile": "graphile-worker"}
WORKLOADS = {"enqueue": ("enqueue, 10 callers", "/s"), "drain": ("drain", "/s"), "p50": ("enqueue to handler, p50", "ms"),
             "p99": ("enqueue to handler, p99", "ms")}
CONFIGURATIONS = ("default", "best")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    long = os.environ.get("LONG", "") not in ("", "0")
    node = install()
    bench = Bench(long)
    try:
        facts = about(bench, "long" if long else "short")
        facts["node"] = subprocess.run([node, "--version"], text=True, stdout=subprocess.PIPE, check=True).stdout.strip()
        found = measure(bench, node, facts)
        facts["load at the end"] = os.getloadavg()[0]
    finally:
        bench.close()
    groups = list(grouped(found))
    print("\n" + table(groups))
    print(f"\nload average at the start {facts['load at the start']:.1f}, at the end {facts['load at the end']:.1f}")
    if facts["load at the start"] > 1.5 or facts["most in use before a round"] > 0.2:
        print("The machine was busy with other things: do not believe these figures.")
    as_json = json.dumps({"about": facts, "rows": [{"workload": title, "configuration": configuration, "unit": unit, "figures": figures}
                                                   for title, configuration, unit, figures in groups]}, indent=1)
    picture = plot.systems(facts, [(f"{title}, {configuration} configuration ({'more' if unit == '/s' else 'less'} is better)", unit,
                                    {system: statistics.median(values) for system, values in figures.items()})
                                   for title, configuration, unit, figures in groups])
    for name, content in (("peers.json", as_json + "\n"), ("peers.svg", picture)):
        with open(os.path.join(os.environ["RESULTS"], name), "w") as file:
            file.write(content)


def grouped(found):
    for what, (title, unit) in WORKLOADS.items():
        for configuration in CONFIGURATIONS:
            yield title, configuration, unit, {name: found[what, system, configuration] for system, name in SYSTEMS.items()}


def table(groups):
    lines = [("workload", "configuration", "unit", *SYSTEMS.values(), "ours over the best of the others", "to reach", "reached")]
    for title, configuration, unit, figures in groups:
        others = zip(*(values for system, values in figures.items() if system != "underway"))
        over = statistics.median(ours / (max if unit == "/s" else min)(theirs) for ours, theirs in zip(figures["underway"], others))
        aim = 2.5 if title == "drain" and configuration == "best" else None
        lines.append((title, configuration, unit, *(report.spread(values) for values in figures.values()), f"{over:.2f}",
                      f">= {aim}" if aim else "shown", "" if aim is None else "yes" if over >= aim else "NO"))
    return report.aligned(lines, (0, 1, 2, 7, 8))


def install():
    """The Node to use."""
    with open(os.path.join(HERE, "package.json"), "w") as file:
        file.write('{"private": true, "type": "module"}\n')
    try:
        version = subprocess.run(["node", "--version"], text=True, stdout=subprocess.PIPE).stdout.strip()[1:]
        enough = tuple(int(part) for part in version.split(".")[:2]) >= NODE_WANTED
    except (FileNotFoundError, ValueError):
        enough = False
    own = [] if enough else [f"node-linux-{ {'x86_64': 'x64', 'aarch64': 'arm64'}[platform.machine()] }@22"]
    print(f"npm install {' '.join([*PACKAGES, *own])}", flush=True)
    command("npm", "install", "--prefix", HERE, "--no-audit", "--no-fund", "--no-save", "--loglevel=error", *PACKAGES, *own)
    return "node" if enough else os.path.join(HERE, "node_modules", own[0].split("@")[0], "bin", "node")


def measure(bench, node, facts):
    kinds = [(system, configuration) for system in SYSTEMS for configuration in CONFIGURATIONS]

    def drive(system, configuration, workload, **options):
        environment = {**os.environ, "PGHOST": bench.server.folder, "PGUSER": "postgres", "PGDATABASE": f"peer_{system}"}
        done = subprocess.run([node, os.path.join(HERE, "driver.mjs"), system, configuration, workload, json.dumps(options)], env=environment,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"{system}, {configuration}, {workload}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def prepare(*kind):
        bench.configure(underway__max_workers=min(os.cpu_count(), 8) if kind == ("underway", "best") else 4)

    def settle(system):
        with bench.server.session(f"peer_{system}") as session:
            session.run("VACUUM (ANALYZE)")
            session.run("CHECKPOINT")

    with bench.server.session() as admin:
        for system in SYSTEMS:
            admin.run(f"CREATE DATABASE peer_{system}")
    for system, configuration in kinds:
        told = drive(system, configuration, "setup")
        facts[f"{SYSTEMS[system]}, {configuration}"] = f"{told['version']}, settings: {told['settings']}"
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)

    found = {(what, *kind): [] for what in WORKLOADS for kind in kinds}

    def enqueue(*kind):
        settle(kind[0])
        found["enqueue", *kind].append(drive(*kind, "enqueue", seconds=bench.pick(2, 10)))
        drive(*kind, "clear")

    def drain(*kind):
        # The others take a job at a time by default: what has run after some seconds tells their rate as well.
        jobs = bench.pick(100_000, 500_000) // (1 if kind[1] == "best" else 10)
        drive(*kind, "fill", jobs=jobs)
        settle(kind[0])
        found["drain", *kind].append(drive(*kind, "drain", jobs=jobs, seconds=bench.pick(6, 60)))
        drive(*kind, "clear")

    def latency(*kind):
        seen = drive(*kind, "latency", jobs=bench.pick(300, 3000), seconds=bench.pick(5, 60))
        found["p50", *kind].append(percentile(seen, 0.5))
        found["p99", *kind].append(percentile(seen, 0.99))

    # What is judged has rounds of its own: they are short, and the more of them the less one slow moment of the machine says.
    judged = [kind for kind in kinds if kind[1] == "best"]
    rounds = [(kinds, (enqueue, latency), n) for n in range(bench.pick(2, 7))]
    rounds += [([kind for kind in kinds if kind not in judged], (drain,), n) for n in range(bench.pick(2, 7))]
    rounds += [(judged, (drain,), n) for n in range(bench.pick(6, 7))]
    for of, workloads, number in rounds:
        for kind in of if number % 2 == 0 else reversed(of):
            facts["most in use before a round"] = max(facts.get("most in use before a round", 0), others_share())
            began = time.monotonic()
            prepare(*kind)
            for workload in workloads:
                workload(*kind)
            print(f"  round {number + 1}, {' and '.join(w.__name__ for w in workloads)}, {', '.join(kind)}: {time.monotonic() - began:.0f} s",
                  file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
