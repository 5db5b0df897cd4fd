"""A private server with production settings: what is not named here is PostgreSQL's default, so fsync,
synchronous_commit and full_page_writes are on."""

import os
import re
import shutil
import subprocess
import tempfile

from .wire import Session

SETTINGS = {
    "shared_preload_libraries": "underway",
    "max_worker_processes": 16,  # 8 workers, their coordinators, the launcher; the default of 8 would leave no room for 8 workers
    "underway.max_workers": 4,
    "listen_addresses": "",
    "timezone": "UTC",
}


class Server:
    def __init__(self, name, copy_of=None):
        self.folder = os.path.join(os.environ["TMPDIR"], name)  # short: a socket's path has at most 107 bytes
        self.data = os.path.join(self.folder, "data")
        self.log = os.path.join(self.folder, "log")
        self.settings = dict(SETTINGS)
        self.running = False
        os.makedirs(self.folder)
        if copy_of:
            shutil.copytree(copy_of.data, self.data)
        else:
            command("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")

    def start(self, **changes):
        self.set(changes)
        command("pg_ctl", "start", "-D", self.data, "-l", self.log, "-w", "-t", "60", "-s")
        self.running = True

    def stop(self, mode="fast"):
        if self.running:
            self.running = False
            subprocess.run(["pg_ctl", "stop", "-D", self.data, "-m", mode, "-w", "-t", "60", "-s"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=90)

    def restart(self, **changes):
        self.stop()
        self.start(**changes)

    def reload(self, **changes):
        """For settings that need no restart; its processes hear of them some milliseconds later."""
        self.set(changes)
        command("pg_ctl", "reload", "-D", self.data, "-s")

    def set(self, changes):
        """Its settings are SETTINGS with these changes; None: not set at all."""
        self.settings = {**SETTINGS, **{name.replace("__", "."): value for name, value in changes.items()}}
        with open(os.path.join(self.data, "postgresql.auto.conf"), "w") as conf:
            for name, value in {**self.settings, "unix_socket_directories": self.folder}.items():
                if value is not None:
                    conf.write(f"{name} = '{value}'\n")

    def remove(self):
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def session(self, database="postgres", options=""):
        return Session(self.folder, database, options)

    def end_of_log(self):
        with open(self.log) as log:
            return "".join(log.readlines()[-20:])

    def pgbench(self, database, script, clients, seconds=None, transactions=None, rate=None, mode="prepared", options=""):
        """One run: transactions per second, without the time to connect. transactions: of each client."""
        started = self.start_pgbench(database, script, clients, seconds, transactions, rate, mode, options)
        return started.tps(timeout=(seconds or 60) + 120)

    def start_pgbench(self, database, script, clients, seconds=None, transactions=None, rate=None, mode="prepared", options="", log=None):
        """log: with which its files begin, which tell when each transaction ended."""
        arguments = ["pgbench", "-n", "-M", mode, "-c", str(clients), "-j", str(min(clients, os.cpu_count()))]
        arguments += ["-t", str(transactions)] if transactions else ["-T", str(seconds)]
        arguments += ["-R", str(rate)] if rate else []
        arguments += ["-l", "--log-prefix", log] if log else []
        if script != "tpcb-like":
            with tempfile.NamedTemporaryFile("w", suffix=".sql", dir=self.folder, delete=False) as file:
                file.write(script)
            script = file.name
            arguments += ["-f"]
        else:
            arguments += ["-b"]
        environment = {**os.environ, "PGHOST": self.folder, "PGUSER": "postgres", "PGOPTIONS": options}
        return Pgbench(subprocess.Popen([*arguments, script, database], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))


class Pgbench:
    def __init__(self, process):
        self.process = process

    def tps(self, timeout):
        try:
            out, errors = self.process.communicate(timeout=timeout)
        finally:
            self.end()
        tps = re.search(r"^tps = ([\d.]+) \(without", out, re.M)
        if self.process.returncode != 0 or not tps:
            raise RuntimeError(f"pgbench failed: {errors.strip()[-2000:]}")
        return float(tps.group(1))

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=30)


def command(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-2000:]}")
