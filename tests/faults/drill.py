"""Measure how long the backlog of an outage takes to drain: `python -m tests.faults.drill`.

The drill posts requests to the endpoint while StackStorm is down. Then it starts StackStorm, and
posts new requests at a steady rate while the backlog drains.
"""

from __future__ import annotations

import argparse
import http.client
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time

from tests import services
from tests.faults.faults import DATABASES
from tests.faults.load import PATH
from tests.faults.world import World, wait_for

REQUESTS = 50_000
SENDERS = 8
NEW_RATE = 20  # requests per second
P99_SECONDS = 0.1
DRAIN_SECONDS = 1200
# How many places out of order a request may be recorded. Batches of 500 retries alternate with
# batches of new requests.
MAX_DISPLACEMENT = 1000
TITLES = "{:<8} {:>8} {:>7} {:>8} {:>8} {:>9} {:>7} {:>7} {:>10}".format(
    "on", "requests", "put/s", "drain s", "drain/s", "new sent", "p50 ms", "p99 ms", "displaced"
)


class Sender:
    """Posts alerts that no rule matches, with 200 fingerprints, over one connection."""

    def __init__(self, port, name):
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._name, self._count = name, 0
        self.response_seconds = []

    def post(self):
        self._count += 1
        number = self._count % 200
        alert = {
            "status": "firing",
            "labels": {"alertname": "Drill", "instance": f"host-{number}", "job": "node"},
            "annotations": {"summary": "x" * 200},
            "startsAt": "2024-05-01T10:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": f"{number:016x}",
        }
        group = f"{self._name}-{self._count}"
        body = {"receiver": "drill", "status": "firing", "alerts": [alert], "groupKey": group}
        started_at = time.monotonic()
        self._client.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        response = self._client.getresponse()
        text = response.read()
        self.response_seconds.append(time.monotonic() - started_at)
        if response.status != 202:
            raise RuntimeError(f"{response.status} {text[:200]}")


def drill(kind, broker, mariadb, count, report):
    """Run the drill on one kind of database, and return a sentence for each problem."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-drill-"))
    world = World(folder, broker, mariadb, settings={})
    try:
        world.start_sensor()
        fill_seconds = _fill_backlog(world.port, count)
        is_running = threading.Event()
        is_running.set()
        sender = Sender(world.port, "new")
        sender_thread = threading.Thread(
            target=_send_steadily, args=(sender, is_running), daemon=True
        )
        sender_thread.start()
        world.start_stackstorm()
        started_at = time.monotonic()
        count_recorded = "SELECT count(*) FROM poundcake_api_calls WHERE group_key NOT LIKE 'new-%'"
        wait_for(
            lambda: world.count(count_recorded) >= count or time.sleep(1),
            DRAIN_SECONDS,
            "the backlog is recorded",
        )
        drain_seconds = time.monotonic() - started_at
        is_running.clear()
        sender_thread.join()
        displacement = _greatest_displacement(world)
    finally:
        world.close()
    percentiles = statistics.quantiles(sender.response_seconds, n=100)
    report(
        f"{kind:<8} {count:>8} {count / fill_seconds:>7.0f}"
        f" {drain_seconds:>8.1f} {count / drain_seconds:>8.0f}"
        f" {len(sender.response_seconds):>9}"
        f" {1000 * percentiles[49]:>7.1f} {1000 * percentiles[98]:>7.1f}"
        f" {displacement:>10}"
    )
    problems = []
    if percentiles[98] > P99_SECONDS:
        problems.append(f"{kind}: p99 of new requests over {P99_SECONDS} s")
    if displacement > MAX_DISPLACEMENT:
        problems.append(f"{kind}: a request was recorded {displacement} places out of order")
    return problems


def _fill_backlog(port, count):
    """Post requests over several connections, and return how many seconds that took."""
    senders = [Sender(port, f"old-{i}") for i in range(SENDERS)]

    def send(sender):
        for _ in range(count // SENDERS):
            sender.post()

    threads = [threading.Thread(target=send, args=(s,)) for s in senders]
    started_at = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started_at


def _send_steadily(sender, is_running):
    next_at = time.monotonic()
    while is_running.is_set():
        sender.post()
        next_at += 1 / NEW_RATE
        time.sleep(max(0, next_at - time.monotonic()))


def _greatest_displacement(world):
    """Return the largest number of places by which a request was recorded out of order."""
    rows = world.rows(
        "SELECT created_at FROM poundcake_api_calls WHERE group_key NOT LIKE 'new-%' ORDER BY id"
    )
    times = [str(row[0]) for row in rows]
    order = sorted(range(len(times)), key=lambda i: times[i])
    return max(abs(position - i) for position, i in enumerate(order))


def run(kinds, count, report):
    """Run the drill on each kind of database, and return the problems."""
    report(TITLES)
    problems = []
    for kind in kinds:
        broker = services.RabbitMQ()
        mariadb = services.MariaDB() if kind == "mariadb" else None
        try:
            broker.start()
            if mariadb:
                mariadb.start()
            problems += drill(kind, broker, mariadb, count, report)
        finally:
            broker.close()
            if mariadb:
                mariadb.close()
    for problem in problems:
        report("PROBLEM: " + problem)
    return problems


def main():
    parser = argparse.ArgumentParser("python -m tests.faults.drill", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: both")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args()
    return 1 if run(options.database or DATABASES, options.requests, print) else 0


if __name__ == "__main__":
    sys.exit(main())
