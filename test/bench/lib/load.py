"""A load that goes on while what it meets is changed, and is counted in spans of time: a pgbench of its own for each span would,
of a short one, mostly time the first transactions of new connections."""

import os
import signal
import tempfile
import time
from bisect import bisect


class Load:
    def __init__(self, server, database, script, clients):
        self.folder = tempfile.mkdtemp(dir=server.folder)
        self.pgbench = server.start_pgbench(database, script, clients, seconds=86400, log=os.path.join(self.folder, "log"))
        self.ends = []  # of all transactions, when it is over

    def __enter__(self):
        time.sleep(1)  # the first transactions fill caches
        return self

    def __exit__(self, *_):
        self.pgbench.process.send_signal(signal.SIGALRM)  # as if its time were over
        self.pgbench.tps(timeout=60)
        for name in os.listdir(self.folder):  # one of each thread
            with open(os.path.join(self.folder, name)) as log:
                self.ends += [int(words[4]) + int(words[5]) / 1e6 for words in map(str.split, log)]
        self.ends.sort()

    def span(self, seconds):
        began = time.time()
        time.sleep(seconds)
        return began, time.time()

    def rates(self, spans, groups):
        """Transactions per second in so many groups of successive spans."""
        def ended_in(began, ended):
            return bisect(self.ends, ended) - bisect(self.ends, began)
        size = len(spans) // groups
        parts = [spans[n:n + size] for n in range(0, len(spans), size)]
        return [sum(ended_in(*span) for span in part) / sum(ended - began for began, ended in part) for part in parts]
