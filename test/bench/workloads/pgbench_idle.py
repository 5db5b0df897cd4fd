"""pgbench's own workload (TPC-B) with the extension loaded, created in that database, and idle.

Limit: a second server, a copy of the first one's files, that does not load it. 20 pairs, each in the order that the one
before did not have; half-way the two servers exchange their roles, so that neither one's place on the disk counts."""

from lib.measure import Row
from lib.server import command

PAIRS = 20
CLIENTS = 8


def run(bench):
    row = Row("pgbench TPC-B, extension idle", "/s", [], [], most_loss=0.01, limit="the same without the extension loaded",
              note=f"{PAIRS} pairs")
    with bench.database("tpcb") as db:
        command("pgbench", "-i", "-q", "-s", "10", "-h", bench.server.folder, "-U", "postgres", db.name)
        db.main.close()
        bench.server.stop()
        other = bench.copy_of_server("other")
        try:
            for half in range(2):
                ours, theirs = (bench.server, other) if half == 0 else (other, bench.server)
                prepare(ours, theirs)
                for pair in range(PAIRS // 2):
                    for first in (True, False):
                        server, figures = (ours, row.figures) if first == (pair % 2 == 0) else (theirs, row.limits)
                        figures.append(server.pgbench(db.name, "tpcb-like", CLIENTS, transactions=bench.pick(30, 4000)))
        finally:
            other.remove()
            bench.server.restart()
    yield row


def prepare(ours, theirs):
    ours.restart()
    theirs.restart(shared_preload_libraries="", underway__max_workers=None)
    for server in (ours, theirs):
        server.pgbench("tpcb", "tpcb-like", CLIENTS, transactions=50)
        with server.session("tpcb") as session:
            session.run("VACUUM pgbench_branches")
            session.run("CHECKPOINT")
