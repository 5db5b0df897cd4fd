#!/usr/bin/python3
"""A worker with psycopg 3. The connection comes from PGHOST and friends. Ends when nothing has come for a second."""
import threading
import psycopg
from psycopg.types.json import Jsonb


def connect():
    # Behind a pooler in transaction mode nothing may be prepared.
    return psycopg.connect(autocommit=True, prepare_threshold=None)


def beat(lease):
    return heart.execute("SELECT underway.heartbeat(%s, %s)", (lease, Jsonb({"at": "envelope"}))).fetchone()[0]


def keep_beating(lease, stop):
    while not stop.wait(10) and beat(lease) == "ok":
        pass


# Heartbeats need a connection of their own: the other one is in its transaction.
with connect() as conn, connect() as heart:
    while conn.execute("CALL underway.wait_for_work('{letters}', '1 s')").fetchone()[0]:
        tasks = conn.execute("SELECT id, lease, input ->> 'to' FROM underway.dequeue('letters', 1, 'psycopg')").fetchall()
        for task, lease, recipient in tasks:
            if beat(lease) != "ok":  # lost, or cancelled
                continue
            stop = threading.Event()
            threading.Thread(target=keep_beating, args=(lease, stop), daemon=True).start()
            if recipient == "nobody":
                conn.execute("SELECT underway.fail(%s, 'no such recipient', retryable => false)", (lease,))
            else:
                with conn.transaction():
                    conn.execute("SELECT underway.lock_task(%s)", (lease,))
                    conn.execute("INSERT INTO sent VALUES (%s, %s, 'psycopg')", (task, recipient))
                    conn.execute("SELECT underway.complete(%s, %s)", (lease, Jsonb({"sent": True})))
            stop.set()
