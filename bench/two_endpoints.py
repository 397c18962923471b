"""Measure two endpoints behind HAProxy: how much they accept, and what each failure costs.

    python -m bench.two_endpoints [--requests 5000] [--rounds 4] [--times 2] [--only killed]

HAProxy with etc/haproxy.cfg, two endpoints as StackStorm runs them, MariaDB and RabbitMQ run on
this machine. First, StackStorm is down, and a sender posts requests over 16 connections as fast as
they are answered, by turns to one and to both endpoints behind HAProxy. The CPU time of the
endpoints and of HAProxy for each request shows what they could accept on machines of their own.
Then the stand-in of StackStorm starts and records what has accumulated.

After that, 20 requests are posted in a second, some of them about new incidents, while one thing
after another fails: the output shows the longest time in which no request was answered 202, and how
often a sender had to send a request again. The exit code is 1 if a request was lost or recorded
twice, or if a remediation was lost or ran twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import selectors
import socket
import statistics
import sys
import tempfile
import time
from typing import Any, Iterator

from tests import services
from tests.faults.load import PATH, Notifications
from tests.faults.run import Run
from tests.faults.two_endpoints import FAULTS
from tests.faults.world import World, wait_for
from tests.lib.samples import alert, webhook

CONNECTIONS = 16
DRAIN_SECONDS = 600
RATE = 20  # requests per second while something fails
SEED = 1
MEASURED = (
    "the first endpoint killed",
    "the second endpoint killed",
    "both endpoints killed",
    "an endpoint hangs",
    "HAProxy killed",
    "MariaDB stopped",
    "RabbitMQ stopped",
    "StackStorm killed",
)


class MostlyRepeats(Notifications):
    """Mostly repeats of one alert that no rule matches, so that remediations use little CPU."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._repeated = self._fire(f"{20:016x}")
        self._count = 0

    def next(self) -> dict[str, Any]:
        """Return a repeat, and every tenth time one of the usual notifications."""
        self._count += 1
        if self._count % 10 == 0:
            notification: dict[str, Any] = super().next()
            return notification
        with self._lock:
            return dict(self._notification([self._repeated]))


class Connection:
    """A connection that posts the same body again and again, and the response times."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request, self._response = request, b""
        self._sent_at = 0.0

    def send(self) -> None:
        """Send the next request."""
        self._response, self._sent_at = b"", time.monotonic()
        self.socket.sendall(self._request)

    def read(self) -> float | None:
        """Read what has arrived. Return the seconds since send() if the response is complete."""
        self._response += self.socket.recv(65536)
        head, separator, body = self._response.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not separator or len(body) < int(length):
            return None
        if b" 202 " not in head.partition(b"\r\n")[0]:
            sys.exit(f"not answered 202: {self._response[:300]!r}")
        return time.monotonic() - self._sent_at


def post(port: int, count: int) -> tuple[float, list[float]]:
    """Post requests over several connections. Return how long all and each of them took."""
    body = json.dumps(webhook(alert("Bench", labels={"instance": "bench:9100"}))).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    connections = [Connection(port, request) for _ in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    seconds: list[float] = []
    started_at = time.monotonic()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()
    while len(seconds) < count:
        for key, _ in selector.select(30):
            response_seconds = key.data.read()
            if response_seconds is not None:
                seconds.append(response_seconds)
                key.data.send()
    total = time.monotonic() - started_at
    for connection in connections:
        connection.socket.close()
    return total, seconds


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_capacity(broker: Any, mariadb: Any, requests: int, rounds: int) -> bool:
    """Measure how much one and both endpoints accept. Return True if all of it is recorded once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-two-endpoints-"))
    world = World(folder, broker, mariadb, settings={}, endpoints=2)
    print(f"{'endpoints':<12}{'accepted/s':>12}{'p50 ms':>10}{'p99 ms':>10}", end="")
    print(f"{'CPU ms, endpoints':>20}{'HAProxy':>10}{'load':>8}")
    totals: dict[int, list[float]] = {1: [], 2: []}
    try:
        world.start_sensor()
        world.load_balancer.start()
        accepted = 0
        for _ in range(rounds):
            for number in (1, 2):
                with only(world, number):
                    pids = [world.load_balancer.process.pid]
                    pids += [e.process.pid for e in world.endpoints if e.process.is_running]
                    before = [cpu_seconds(pid) for pid in pids]
                    total, seconds = post(world.port, requests)
                    used = [cpu_seconds(pid) - b for pid, b in zip(pids, before)]
                accepted += len(seconds)
                totals[number].append(len(seconds) / total)
                percentiles = statistics.quantiles(seconds, n=100)
                print(
                    f"{number:<12}{totals[number][-1]:>12.0f}{1000 * percentiles[49]:>10.1f}"
                    f"{1000 * percentiles[98]:>10.1f}"
                    f"{1000 * sum(used[1:]) / len(seconds):>20.2f}"
                    f"{1000 * used[0] / len(seconds):>10.2f}{os.getloadavg()[0]:>8.1f}",
                    flush=True,
                )
        ratio = statistics.median(totals[2]) / statistics.median(totals[1])
        print(f"two endpoints accept {ratio:.2f} times as much as one, on this machine")
        return drain(world, accepted)
    finally:
        world.close()


@contextlib.contextmanager
def only(world: World, count: int) -> Iterator[None]:
    """Stop the second endpoint, unless both are measured, until HAProxy has noticed it."""
    endpoint = world.endpoints[1]
    if count == 1:
        with noticed(world, "poundcake-2 is DOWN"):
            endpoint.process.stop()
    yield
    if count == 1:
        with noticed(world, "poundcake-2 is UP"):
            endpoint.start()


@contextlib.contextmanager
def noticed(world: World, text: str) -> Iterator[None]:
    """Wait until HAProxy has logged what happens in the block."""

    def count() -> int:
        return int(world.load_balancer.log(10**9).count(text))

    before = count()
    yield
    wait_for(lambda: count() > before, 60, f"HAProxy logs: {text}")


def drain(world: World, accepted: int) -> bool:
    """Start StackStorm, and measure how fast the requests of both journals are recorded."""
    world.start_stackstorm()
    started_at = time.monotonic()
    statement = "SELECT count(*) FROM poundcake_api_calls"
    wait_for(
        lambda: world.count(statement) >= accepted or time.sleep(0.5),
        DRAIN_SECONDS,
        "the requests are recorded",
    )
    seconds = time.monotonic() - started_at
    wait_for(lambda: not world.pending_work(), DRAIN_SECONDS, "both journals are drained")
    recorded = world.count(statement)
    distinct = world.count("SELECT count(DISTINCT request_id) FROM poundcake_api_calls")
    print(
        f"{accepted} requests were accepted, and {recorded} recorded ({distinct} different ones):"
        f" {accepted / seconds:.0f} in a second"
    )
    # Connections are closed with a request in flight, which may be accepted without an answer.
    return accepted <= recorded == distinct


def measure_failures(broker: Any, mariadb: Any, times: int, only_names: str) -> bool:
    """Measure what each failure costs. Return True if nothing was lost and nothing done twice."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-two-endpoints-"))
    run = Run(
        "mariadb",
        folder,
        broker,
        mariadb,
        SEED,
        report=lambda line: print(line) if "PROBLEM" in line else None,
        endpoints=2,
        notifications=MostlyRepeats(SEED),
        rate=RATE,
    )
    answered_at: list[float] = []
    run.load.on_answer = lambda _: answered_at.append(time.monotonic())
    print(f"\n{'failure':<28}{'times':>6}{'s without a 202':>18}{'answered':>10}", end="")
    print(f"{'sent again':>12}{'lost':>6}{'twice':>7}{'remediated':>12}{'load':>8}")
    try:
        run.start()
        for fault in FAULTS:
            if fault.name not in MEASURED or only_names not in fault.name:
                continue
            gaps, again, cells = [], 0, dict.fromkeys(("answered", "recorded", "remediated"), 0)
            lost = twice = 0
            for _ in range(times):
                first, begun_at = len(run.load.deliveries), time.monotonic()
                result = run.inject(fault.name, [fault])
                moments = sorted([begun_at, *(t for t in answered_at if t > begun_at)])
                gaps.append(max(b - a for a, b in zip(moments, moments[1:])))
                again += sum(d.tries - 1 for d in run.load.deliveries[first:])
                cells = {name: cells[name] + result[name] for name in cells}
                lost += result["lost"] + result["answered"] - result["recorded"]
                twice += result["twice"]
            figures = " ".join(f"{gap:.1f}" for gap in sorted(gaps))
            print(
                f"{fault.name:<28}{times:>6}{figures:>18}{cells['answered']:>10}{again:>12}"
                f"{lost:>6}{twice:>7}{cells['remediated']:>12}{os.getloadavg()[0]:>8.1f}",
                flush=True,
            )
        return not run.problems
    finally:
        run.close()


def main() -> None:
    """Measure the capacity, and then the failures."""
    parser = argparse.ArgumentParser("python -m bench.two_endpoints", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="requests in each round")
    parser.add_argument("--rounds", type=int, default=4, help="0 skips this part")
    parser.add_argument("--times", type=int, default=2, help="of each failure; 0 skips this part")
    parser.add_argument("--only", default="", help="only failures with this text in their name")
    options = parser.parse_args()
    broker, mariadb = services.RabbitMQ(), services.MariaDB()
    is_ok = True
    try:
        broker.start()
        mariadb.start()
        print(f"{os.cpu_count()} CPUs, a load of {os.getloadavg()[0]:.1f}")
        if options.rounds:
            is_ok = measure_capacity(broker, mariadb, options.requests, options.rounds)
        if options.times:
            is_ok = measure_failures(broker, mariadb, options.times, options.only) and is_ok
    finally:
        broker.close()
        mariadb.close()
    sys.exit(not is_ok)


if __name__ == "__main__":
    main()
