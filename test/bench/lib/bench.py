"""What every workload is given: the server, fresh databases on it, and the form (short or long) of the run."""

import os
import statistics
import subprocess
import time
from contextlib import contextmanager

from .server import Server

# A row for each client of pgbench, so that none waits for another's.
UPDATED = "CREATE TABLE updated (client int PRIMARY KEY, n int) WITH (fillfactor = 50)"
UPDATE_ONE = "UPDATE updated SET n = n + 1 WHERE client = :client_id;"


class Bench:
    def __init__(self, long, minutes=None):
        self.long = long
        self.minutes_asked = minutes
        self.server = Server("main")
        self.server.start()
        self.prepare()
        self.others = []
        self.rows = []  # of the workloads before this one

    def pick(self, short, long):
        return long if self.long else short

    @property
    def rounds(self):
        return self.pick(3, 9)

    def best_of(self, numbers, usual, measure):
        """measure(number) is one round and gives a tuple that begins with the figure; the number with the highest median
        figure, its rounds, and all that was tried. The short form tries none but the usual one."""
        tried = {number: [] for number in self.pick((usual,), numbers)}
        for _ in range(self.rounds):
            for number, rounds in tried.items():
                rounds.append(measure(number))
        best = max(tried, key=lambda number: statistics.median(figure for figure, *_ in tried[number]))
        return best, tried[best], tried

    def seconds(self, short, long_minutes):
        """How long a run over time takes; MINUTES overrides both."""
        if self.minutes_asked:
            return round(60 * self.minutes_asked)
        return self.pick(short, round(60 * long_minutes))

    def configure(self, **settings):
        """The server has these settings from now on, and its usual ones else."""
        self.server.reload(**settings)

    def copy_of_server(self, name):
        other = Server(name, copy_of=self.server)
        self.others.append(other)
        return other

    def prepare(self):
        """What each database is a copy of; it has no queue, which would be held in a copy."""
        with self.server.session() as admin:
            admin.run("CREATE DATABASE prepared")
        with self.server.session("prepared") as session:
            session.run("CREATE EXTENSION underway")
            session.run("CREATE FUNCTION nothing(jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'")

    @contextmanager
    def database(self, name):
        """A database of its own for a workload, with the extension; dropped after it."""
        with self.server.session() as admin:
            admin.run(f"CREATE DATABASE {name} TEMPLATE prepared")
        try:
            yield Database(self.server, name)
        finally:
            with self.server.session() as admin:
                admin.run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self):
        for server in [self.server, *self.others]:
            server.remove()


class Database:
    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.main = server.session(name)
        self.run = self.main.run
        self.value = self.main.value

    def session(self, options=""):
        return self.server.session(self.name, options)

    def pgbench(self, script, clients, **more):
        return self.server.pgbench(self.name, script, clients, **more)

    def start_pgbench(self, script, clients, **more):
        return self.server.start_pgbench(self.name, script, clients, **more)

    def queue(self, name, handler=None, **options):
        named = "".join(f", {key} => '{value}'" for key, value in options.items())
        handler = f"'{handler}'" if handler else "NULL"
        self.run(f"SELECT underway.create_queue('{name}', {handler}{named})")

    def fill(self, queue, tasks, more=""):
        """Enqueues so many, in statements of at most 100,000."""
        while tasks > 0:
            part = min(tasks, 100_000)
            self.run(f"""SELECT cardinality(underway.enqueue_many('{queue}',
                array_agg('{{"x": 1}}'::jsonb){more})) FROM generate_series(1, {part})""")
            tasks -= part

    def settle(self):
        """What every timed run of a batch of work begins with: dead rows gone, statistics known, dirty pages written."""
        tables = self.run("""SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND reltuples <> 0
            AND relnamespace IN ('underway_internal'::regnamespace, 'public'::regnamespace)""")
        for (table,) in [*tables, ("underway_internal.task",)]:
            self.run(f"VACUUM (ANALYZE) {table}")
        self.run("CHECKPOINT")

    def wait_for(self, task, seconds):
        """Until this task has ended. By the procedure that holds no snapshot while it waits."""
        self.main.start(f"CALL underway.wait_for('{task}', '{seconds} s')")
        (state,) = self.main.finish(seconds + 30)[0]
        if state != "succeeded":
            raise RuntimeError(f"{task} is {state} after {seconds} s: {self.value(f'''SELECT underway.why('{task}')''')}")

    def warm(self, queue, workers):
        """Until so many workers have started, and what was more of them has left: they stay for a minute after their last task."""
        self.run("CREATE OR REPLACE FUNCTION a_while(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.1)'")
        if self.value("SELECT count(*) FROM underway.queues WHERE name = 'warm_up'") == "0":
            self.queue("warm_up", "a_while")
        deadline = time.monotonic() + 60
        while int(self.value("SELECT count(*) FROM underway.workers WHERE state <> 'starting'")) != workers:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not {workers} workers after a minute")
            self.fill("warm_up", workers)
            self.wait_for(self.value("SELECT underway.enqueue('warm_up', priority => 15)"), 60)
        self.wait_for(self.value(f"SELECT underway.enqueue('{queue}')"), 60)

    def drain(self, queue, tasks):
        """Tasks per second from the moment the full queue is resumed to the end of its last task, which has the least
        urgent priority and is awaited; nothing is counted or polled meanwhile."""
        self.run(f"SELECT underway.pause_queue('{queue}')")
        self.fill(queue, tasks)
        self.settle()
        last = self.value(f"SELECT underway.enqueue('{queue}', priority => 15)")
        began = time.monotonic()
        self.run(f"SELECT underway.resume_queue('{queue}')")
        self.wait_for(last, 120)
        return (tasks + 1) / (time.monotonic() - began)


def processes_of(server):
    """The process ids of the extension's background processes, by type."""
    with server.session() as session:
        return {int(pid): kind for pid, kind in session.run(
            "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'underway %'")}


def about(bench, form):
    """Where the figures come from, and with which settings."""
    with bench.server.session() as session:
        version = session.value("SHOW server_version")
    settings = {name: value for name, value in bench.server.settings.items() if name not in ("listen_addresses", "timezone")}
    filesystem = subprocess.run(["stat", "-f", "-c", "%T", bench.server.folder], text=True, stdout=subprocess.PIPE, check=True)
    return {
        "form": form, "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": os.environ.get("BENCH_COMMIT", "unknown"),
        "PostgreSQL": version,
        "machine": f"{os.cpu_count()} cores, {entry('/proc/cpuinfo', 'model name')}, {entry('/proc/meminfo', 'MemTotal')} memory",
        "kernel, file system": f"{os.uname().release}, {filesystem.stdout.strip()}",
        "settings": ", ".join(f"{name} = {value}" for name, value in settings.items()) + " (the others are PostgreSQL's defaults)",
        "load at the start": os.getloadavg()[0]}


def others_share():
    """How much of the processors and the disk other things use just now, while nothing of ours runs: 0 to 1."""
    def times():
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        return sum(ticks), ticks[3]  # waiting for the disk counts as use
    before = times()
    time.sleep(0.2)
    total, idle = (now - then for now, then in zip(times(), before))
    return 1 - idle / max(total, 1)


def entry(path, name):
    with open(path) as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith(name)), "unknown")
