"""Measure how long a client waits while other clients hold connections open and send little.

    python -m bench.connections [--idle 1000] [--slow 200] [--samples 1000]

The endpoint runs as under StackStorm, in a process patched by eventlet, and then on plain threads.
The idle clients have received a response and keep their connections open. Half of the slow clients
send a header, the others a body, one byte every half second. The measured client posts webhooks,
half of them on new connections. max_connections is first high enough for all clients, and then has
its default, so that the endpoint closes the connections that have been idle longest. The exit code
is 1 if the client's p99 among the other clients is 100 ms or more, or if the status of a response
is not 202.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Iterator, Sequence

from poundcake.config import Config
from tests.lib.endpoints import Patched, Unpatched, message
from tests.lib.samples import alert, webhook

LIMIT_MS = 100
WEBHOOK = "/api/v1/webhook"
LIVE = "/api/v1/health/live"
HEADERS = {"Content-Type": "application/json"}


def main() -> None:
    """Measure with eventlet and with threads, each with both limits."""
    parser = argparse.ArgumentParser("python -m bench.connections", description=__doc__)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    is_over_limit = False
    print(f"{'milliseconds':<40}{'p50':>10}{'p99':>10}{'max':>10}")
    for endpoint_class, name in ((Patched, "eventlet"), (Unpatched, "threads")):
        for limit in (options.idle + options.slow + 100, Config.max_connections):
            with tempfile.TemporaryDirectory() as folder:
                endpoint = endpoint_class(pathlib.Path(folder), max_connections=limit).start()
                try:
                    endpoint.ready()
                    label = f"{name}, max_connections {limit}"
                    report(label + ", alone", measure(endpoint, options.samples))
                    with hold_connections(endpoint, options.idle, options.slow) as count_open:
                        under_load = measure(endpoint, options.samples)
                        report(label + ", among the others", under_load)
                        print(f"  {count_open()} of the other connections are still open")
                    is_over_limit = is_over_limit or p99(under_load) >= LIMIT_MS
                finally:
                    endpoint.stop()
    sys.exit(f"over {LIMIT_MS} ms" if is_over_limit else 0)


@contextlib.contextmanager
def hold_connections(endpoint: Any, idle: int, slow: int) -> Iterator[Callable[[], int]]:
    """Hold idle and slow connections, and yield a function that counts the open ones."""
    clients, stop = [], threading.Event()
    try:
        for _ in range(idle):
            client = endpoint.client()
            client.send(message("GET", LIVE))
            assert client.read().status == 200
            clients.append(client)
        slow_clients = [endpoint.client() for _ in range(slow)]
        clients += slow_clients
        for number, client in enumerate(slow_clients):
            if number % 2:
                client.send(message("POST", WEBHOOK, b"", Content_Length="100000"))
            else:
                client.send(b"POST /api/v1/webhook HTTP/1.1\r\nX-Slow: ")

        def send_slowly() -> None:
            while not stop.wait(0.5):
                for client in slow_clients:
                    with contextlib.suppress(OSError):
                        client.send(b"x")

        threading.Thread(target=send_slowly, daemon=True).start()
        yield lambda: sum(is_open(client) for client in clients)
    finally:
        stop.set()
        for client in clients:
            client.socket.close()


def is_open(client: Any) -> bool:
    """Return True if the endpoint has not closed the connection."""
    client.socket.setblocking(False)
    try:
        return bool(client.socket.recv(1) != b"")
    except BlockingIOError:
        return True
    except OSError:
        return False


def measure(endpoint: Any, samples: int) -> list[float]:
    """Return how many milliseconds each webhook took, up to the end of its response."""
    body = json.dumps(webhook(alert())).encode()
    kept_connection = new_connection(endpoint)
    milliseconds = []
    for number in range(samples):
        is_new = number % 2
        client = new_connection(endpoint) if is_new else kept_connection
        started = time.perf_counter()
        client.request("POST", WEBHOOK, body, HEADERS)
        response = client.getresponse()
        response.read()
        milliseconds.append((time.perf_counter() - started) * 1000)
        if response.status != 202:
            sys.exit(f"the response has status {response.status}, not 202")
        if is_new:
            client.close()
    kept_connection.close()
    return milliseconds


def new_connection(endpoint: Any) -> http.client.HTTPConnection:
    """Return a new connection to the endpoint."""
    return http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=20)


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(values, n=100)[98]


def report(label: str, values: Sequence[float]) -> None:
    """Print the median, the p99 and the maximum of the values, in one line."""
    figures = f"{statistics.median(values):>10.1f}{p99(values):>10.1f}{max(values):>10.1f}"
    print(f"{label:<40}{figures}", flush=True)


if __name__ == "__main__":
    main()
