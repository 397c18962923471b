"""Send many malformed requests to an endpoint in a separate process, and watch its memory."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

from tests.fuzz.wild import RequestGenerator
from tests.lib import endpoint_process
from tests.lib.endpoints import Patched, Unpatched
from tests.lib.samples import alert, webhook

KINDS = {"threads": Unpatched, "eventlet": Patched}
TOKEN = "the-token-in-use"
GROWTH = 10 << 20  # the bytes by which the memory may grow
PARTS = 10
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_RESPONSE = re.compile(rb"(?:\A|\n)HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
_MAX_PIPELINED = 16  # the maximum number of requests in a batch
_RESPONSE_SECONDS = 60  # the endpoint gives up on a body after 30


class Flood(threading.Thread):
    """A client that sends many requests.

    Attributes:
        status_counts: How often it got each status code.
        unanswered: How many requests were not answered because their connection had ended.
        timed_out: How many connections got no response in time.
    """

    def __init__(self, port, requests, generator, deadline):
        super().__init__(daemon=True)
        self._port = port
        self._request_count = requests
        self._deadline = deadline
        self._generator = generator
        self._socket = None
        self.sent = 0
        self.status_counts = collections.Counter()
        self.unanswered = 0
        self.timed_out = 0
        self.error = None

    def run(self):
        try:
            while self.sent < self._request_count and time.monotonic() < self._deadline:
                self._send_batch()
        except Exception as error:  # reported by the main thread
            self.error = error
        finally:
            self._close()

    def _send_batch(self):
        count = min(
            self._generator.random_number(_MAX_PIPELINED) + 1, self._request_count - self.sent
        )
        requests = [self._generator.framed_request() for _ in range(count)]
        if count > 1 and self._generator.random_number(2):
            requests[-1] = self._generator.unframed_request()
        self.sent += count
        if not self._socket:
            self._socket = socket.create_connection(("127.0.0.1", self._port), _RESPONSE_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, answered_before = b"", sum(self.status_counts.values())
        try:
            self._socket.sendall(b"".join(request.data for request in requests))
            if requests[-1].ends:
                self._socket.shutdown(socket.SHUT_WR)
            for request in requests:
                if request.ends:
                    break
                buffer = self._read_response(buffer, request.head)
            if requests[-1].ends:
                self._read_until_closed(buffer)
        except socket.timeout:
            self.timed_out += 1
            self._close()
        except (OSError, EOFError):  # the endpoint closed the connection
            self._close()
        # Bytes that the endpoint parses as two requests get two responses.
        self.unanswered += max(0, count - (sum(self.status_counts.values()) - answered_before))

    def _read_response(self, buffer, head):
        """Read one response, which may start in `buffer`, and return the bytes that follow it."""
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end >= 0:
                break
            buffer += self._receive()
        status = _STATUS.match(buffer).group(1)
        self.status_counts[int(status)] += 1
        length = 0 if head else int(_LENGTH.search(buffer, 0, end + 2).group(1))
        while len(buffer) < end + 4 + length:
            buffer += self._receive()
        return buffer[end + 4 + length :]

    def _read_until_closed(self, buffer):
        """Read responses until the endpoint closes the connection."""
        try:
            while True:
                buffer += self._receive()
        except EOFError:
            pass
        finally:
            statuses = [int(status) for status in _RESPONSE.findall(buffer)]
            self.status_counts.update(status for status in statuses if status >= 200)
            self._close()

    def _receive(self):
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise EOFError
        return chunk

    def _close(self):
        if self._socket:
            self._socket.close()
            self._socket = None


class Recorder(threading.Thread):
    """Records announced requests, as StackStorm does, until it is stopped."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self.error = None

    def run(self):
        path, line = self._endpoint.published_path, ""
        try:
            while not os.path.exists(path) and not self._stopping.wait(0.1):
                pass
            with open(path) as file:
                while not self._stopping.is_set():
                    line += file.readline()
                    if not line.endswith("\n"):
                        self._stopping.wait(0.1)
                        continue
                    trigger, payload, _ = json.loads(line)
                    line = ""
                    if trigger == "poundcake.announce":
                        endpoint_process.record(self._endpoint.config, payload)
        except Exception as error:  # reported by the main thread
            self.error = error

    def stop(self):
        self._stopping.set()
        self.join()


def resident_memory(pid):
    """Return the resident set size of a process in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Plan:
    """The requests to send, and the time limit.

    Attributes:
        requests: The number of requests.
        seed: The same seed generates the same requests.
        clients: The number of concurrent connections.
        accepted: The share of requests that should be accepted.
        warm_up: The number of PARTS after which the memory may grow by at most GROWTH.
        minutes: The maximum duration.
    """

    requests: int
    seed: int = 1
    clients: int = 4
    accepted: float = 0.02
    warm_up: int = 1
    minutes: float = 600


def flood(kind, plan, write_line=print):
    """Flood an endpoint.

    Args:
        kind: A key of KINDS.
        plan: The requests to send.
        write_line: Called with each line of the report.

    Returns:
        A sentence for each problem.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-flood-"))
    endpoint = KINDS[kind](folder, auth_tokens=[TOKEN], backlog_limit=10_000_000, log_level="error")
    endpoint.records = False  # recording would use memory in the endpoint's process
    # glibc may create eight arenas per CPU, and does not return the memory that is freed in them.
    # That would look as if the endpoint grew.
    endpoint.prefix = ["env", "MALLOC_ARENA_MAX=1"]
    recorder = Recorder(endpoint.start())
    recorder.start()
    try:
        endpoint.ready()
        run = Run(endpoint, plan)
        run.send()
        problems = run.problems()
    finally:
        recorder.stop()
        endpoint.stop()
    for line in run.report():
        write_line("  " + line)
    if recorder.error:
        problems.append(f"the recorder failed: {recorder.error!r}")
    with open(str(folder / "log"), errors="replace") as file:
        tracebacks = sum("Traceback" in line for line in file)
    if tracebacks:
        problems.append(f"the log has {tracebacks} tracebacks")
    if problems:
        write_line(f"kept for inspection: {folder}")
    else:
        shutil.rmtree(str(folder))
    return problems


class Run:
    """Floods one endpoint, in several parts."""

    def __init__(self, endpoint, plan):
        self._endpoint = endpoint
        self._plan = plan
        self._deadline = time.monotonic() + 60 * plan.minutes
        self._sent = self._unanswered = self._timed_out = 0
        self._status_counts = collections.Counter()
        self._errors = []
        self._seconds = 0.0
        self._memory = []  # the resident set size after each part

    def send(self):
        """Send all parts. Stop early if the endpoint ends or the time limit is reached."""
        for part in range(PARTS):
            self._send_part(part)
            if self._endpoint.is_alive:
                self._memory.append(resident_memory(self._endpoint.process.pid))
            has_time = time.monotonic() < self._deadline
            if not self._endpoint.is_alive or self._errors or not has_time:
                return

    def _send_part(self, part):
        plan = self._plan
        # Divide the remaining requests among the remaining parts and the clients.
        share = (plan.requests - self._sent) // (PARTS - part)
        floods = []
        for n in range(plan.clients):
            generator = RequestGenerator(f"{plan.seed}/{part}/{n}", TOKEN, plan.accepted)
            client_share = share // plan.clients + (n < share % plan.clients)
            floods.append(Flood(self._endpoint.port, client_share, generator, self._deadline))
        started_at = time.monotonic()
        for flood in floods:
            flood.start()
        for flood in floods:
            flood.join()
        self._seconds += time.monotonic() - started_at
        for flood in floods:
            self._sent += flood.sent
            self._unanswered += flood.unanswered
            self._timed_out += flood.timed_out
            self._status_counts += flood.status_counts
            if flood.error:
                self._errors.append(f"a client failed: {flood.error!r}")

    @property
    def _growth(self):
        warm_up = self._plan.warm_up
        return self._memory[-1] - self._memory[warm_up - 1] if len(self._memory) >= warm_up else 0

    def problems(self):
        """Return a sentence for each problem."""
        errors = list(self._errors)
        server_errors = {code: count for code, count in self._status_counts.items() if code >= 500}
        if self._sent < self._plan.requests:
            errors.append(f"{self._sent} of {self._plan.requests} requests were sent")
        if server_errors:
            errors.append(f"5xx responses: {server_errors}")
        if self._timed_out:
            errors.append(f"{self._timed_out} connections got no response in time")
        if self._growth >= GROWTH:
            errors.append(f"the memory of the endpoint grew by {_megabytes(self._growth)} MB")
        if not self._endpoint.is_alive:
            return [*errors, "the endpoint has ended"]
        response = self._endpoint.post(webhook(alert("Last")), Authorization="Bearer " + TOKEN)
        if response.status != 202:
            errors.append(f"a webhook after the flood was answered {response.status}")
        return errors

    def report(self):
        """Return the lines of the report."""
        rate = self._sent / self._seconds
        status_counts = ", ".join(
            f"{code}: {count}" for code, count in sorted(self._status_counts.items())
        )
        return [
            f"{self._sent} requests in {self._seconds:.0f} s, {rate:.0f} per second, "
            f"{self._plan.clients} clients, seed {self._plan.seed}",
            f"responses: {status_counts}",
            f"not answered because their connection had ended: {self._unanswered}",
            "memory in MB after each tenth of the run: " + " ".join(map(_megabytes, self._memory)),
            f"growth: {_megabytes(self._growth)} MB",
        ]


def _megabytes(size):
    return f"{size / (1 << 20):.1f}"


def main():
    parser = argparse.ArgumentParser("python -m tests.fuzz.flood", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--on", choices=sorted(KINDS), action="append", help="default: both")
    parser.add_argument("--minutes", type=float, default=60, help="stop each flood after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4, help="number of concurrent connections")
    parser.add_argument(
        "--accepted",
        type=float,
        default=0.02,
        help="share of requests that the endpoint should accept",
    )
    options = parser.parse_args()
    failed = False
    for kind in options.on or sorted(KINDS, reverse=True):
        print(f"on {kind}:", flush=True)
        problems = flood(
            kind,
            Plan(
                requests=options.requests,
                seed=options.seed,
                clients=options.clients,
                accepted=options.accepted,
                minutes=options.minutes,
            ),
        )
        for problem in problems:
            print("  PROBLEM: " + problem)
        failed = failed or bool(problems)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
